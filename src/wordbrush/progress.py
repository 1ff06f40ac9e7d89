"""Progress of long computations.

Every long computation is a generator: it yields a `Progress` after each step and returns its result. The caller adds
progress bars, previews, time limits and cancellation (stop iterating, or `close()`).
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
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
    """The current work, in a word or two for the user: "inverting", "editing"."""
    step: int
    """Steps done so far in this stage, 0 … `total`."""
    total: int
    """Steps of this stage."""
    preview: Callable[[], Image.Image] | None = None
    """Decodes the current picture; slow, so call it only when needed."""
    rows: int = 0
    """Rows that the UNet has computed since this computation's last `Progress`."""
    gradient_rows: int = 0
    """The rows of these that were differentiated; the backward pass itself is not counted."""
    says: str = ""
    """What else to show of it, such as a training's loss."""


def drain(steps: Generator[Progress, None, T], on_progress: Callable[[Progress], object] | None = None) -> T:
    """Run a computation to its end and return its result; `on_progress` is called after every step.

    If `on_progress` raises (or Ctrl-C arrives), the generator is closed at once: it leaves every context that it holds
    on the model before the exception reaches the caller.

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


def staged(steps: Generator[Progress, None, T], stage: Callable[[str], str]) -> Generator[Progress, None, T]:
    """A computation whose stages are called what `stage` makes of their names."""
    try:
        while True:
            try:
                progress = next(steps)
            except StopIteration as end:
                return end.value
            yield replace(progress, stage=stage(progress.stage))
    finally:
        steps.close()
