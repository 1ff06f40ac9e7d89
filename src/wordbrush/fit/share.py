"""Which part of every batch a process computes, where `accelerate launch` or torchrun has started several."""

import os
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import Tensor

from wordbrush.errors import OptionsError


@dataclass(frozen=True)
class Share:
    """One process of `world`: it computes every `world`-th row, from its own `rank` on. The first one writes."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints, logs and samples."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Its rows of a batch. Raises `OptionsError` for a batch that cannot be shared equally: the mean of the
        processes' gradients would not be the batch's."""
        if count % self.world:
            raise OptionsError(
                f"expected a batch size that is a multiple of the {self.world} processes, got {count}: "
                "choose another --batch-size"
            )
        return slice(self.rank, None, self.world)

    def averaged(self, gradients: Iterable[Tensor]) -> None:
        """Replace gradients by their mean over all processes."""
        if self.world > 1:
            for gradient in gradients:
                distributed.all_reduce(gradient)
                gradient /= self.world


ALONE = Share()


@contextmanager
def shared_out() -> Generator[Share, None, None]:
    """The share of this process: from the launcher's environment, or all of it."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or not distributed.is_available():
        yield ALONE
        return
    begun = not distributed.is_initialized()
    if torch.cuda.is_available():  # "cuda" is this one from here on
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if begun:
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Share(distributed.get_rank(), distributed.get_world_size())
    finally:
        if begun:
            distributed.destroy_process_group()
