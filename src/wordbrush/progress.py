"""Progress belongs to the caller.

Every long computation here is a generator: it yields a `Progress` after each step and returns its result.
Bars, previews, time limits and cancellation (stop iterating, or `close()`) are built outside of it.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from PIL import Image

T = TypeVar("T")


@dataclass(frozen=True)
class Progress:
    """How far a computation is.

    >>> def tell(progress):
    ...     print(f"{progress.stage}: {progress.step} of {progress.total}")
    >>> picture = generate(Model.load("pocket"), "a cat on a beach", steps=2, on_progress=tell)
    generating: 1 of 2
    generating: 2 of 2
    """

    stage: str
    """What is being done, in a word or two a user understands: "inverting", "editing"."""
    step: int
    """Steps done so far in this stage, 0 … `total`."""
    total: int
    """Steps of this stage."""
    preview: Callable[[], Image.Image] | None = None
    """Decodes the picture as it is now; costs time, so it is computed only when called."""
    rows: int = 0
    """Rows that the UNet has computed since the last progress of this computation."""
    gradient_rows: int = 0
    """Those of them whose outcome was differentiated; the way back through the UNet is not counted."""


def drain(steps: Generator[Progress, None, T], on_progress: Callable[[Progress], object] | None = None) -> T:
    """Run a computation to its end and return its result, telling `on_progress` of every step.

    When `on_progress` raises (or Ctrl-C arrives) the generator is closed at once, so that every context it
    holds on the model is left before the exception goes on to the caller.

        image = drain(denoise(...), on_progress=lambda p: print(f"{p.stage} {p.step}/{p.total}"))
    """
    try:
        while True:
            progress = next(steps)
            if on_progress is not None:
                on_progress(progress)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()
