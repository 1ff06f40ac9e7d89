"""What a method spends, in a unit that every machine shares: rows of the UNet's batch.

Seconds tell of the machine as well; a row is one latent at one timestep with one text through the UNet, whatever
batch it came in. An edit says its own number before it runs; an inversion that optimises until it is satisfied
does not know it, so rows are counted where they pass.
"""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wordbrush.model import Model


@dataclass
class RowCount:
    """Rows that went through the UNet so far.

    rows: all of them. with_gradient: those of them whose outcome can be differentiated; where that is done, each
    takes the way back through the UNet as well, which is not counted.
    """

    rows: int = 0
    with_gradient: int = 0


@contextmanager
def counting(model: Model) -> Generator[RowCount, None, None]:
    """Count the rows that the model's UNet computes while the block is open; the model stays as it was.

    Contexts nest, and each counts what passes while it is open.

        with counting(model) as count:
            source = invert(model, "cat.png", "a cat on a beach", method="null_text")
        print(count.rows, count.with_gradient)
    """
    count = RowCount()

    def passed(_: Any, given: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        rows = given[0].shape[0]
        count.rows += rows
        count.with_gradient += rows if output[0].requires_grad else 0

    hook = model.denoiser.unet.register_forward_hook(passed)
    try:
        yield count
    finally:
        hook.remove()
