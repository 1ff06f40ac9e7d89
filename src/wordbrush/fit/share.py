"""Which part of every batch a process computes, where `accelerate launch` or torchrun has started several."""

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as distributed
from torch import Tensor

from wordbrush.errors import OptionsError, WordbrushError

_PATIENCE = timedelta(minutes=10)  # for the others: one may be drawing samples, or class pictures
_BUCKET = 16 * 1024**2  # numbers that are sent at once


@dataclass(frozen=True)
class Share:
    """One process of `world`: it computes every `world`-th row, from its own `rank` on. The first one writes."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes checkpoints, logs and samples."""
        return self.rank == 0

    def rows(self, count: int) -> range:
        """Its rows of a batch. Raises `OptionsError` for a batch that cannot be shared equally: the mean of the
        processes' gradients would not be the batch's."""
        if count % self.world:
            raise OptionsError(
                f"option 'batch_size': expected a multiple of the {self.world} processes, got {count}: "
                "choose another --batch-size"
            )
        return range(self.rank, count, self.world)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, of one type and device, by their means over all processes.

        Raises `WordbrushError` if another process has stopped, or does not answer for ten minutes.
        """
        for bucket in _buckets(tensors) if self.world > 1 else ():
            joined = torch.cat([each.flatten() for each in bucket])
            self._reduce(joined, distributed.ReduceOp.SUM)
            first = 0
            for each in bucket:
                each.copy_(joined[first : first + each.numel()].view_as(each) / self.world)
                first += each.numel()

    def require_same(self, step: int) -> None:
        """Raise `OptionsError` unless all processes begin at this step."""
        if self.world > 1:
            ends = torch.tensor([step, -step])
            self._reduce(ends, distributed.ReduceOp.MAX)
            if ends[0] != -ends[1]:
                raise OptionsError(
                    f"expected all processes to go on from one checkpoint, got steps {-int(ends[1])} to "
                    f"{int(ends[0])}: choose an --out that all of them see"
                )

    def _reduce(self, tensor: Tensor, how: distributed.ReduceOp.RedOpType) -> None:
        try:
            distributed.all_reduce(tensor, how)
        except RuntimeError as error:
            raise WordbrushError(
                f"expected the other {self.world - 1} of {self.world} processes to go on, but one has stopped or does "
                "not answer: look at what it said, and start again"
            ) from error


ALONE = Share()


@contextmanager
def shared_out() -> Generator[Share, None, None]:
    """The share of this process: from the launcher's environment, or all of it."""
    begun = distributed.is_available() and distributed.is_initialized()
    if not begun and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if not begun:
        has_cuda = torch.cuda.is_available()
        if has_cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if has_cuda else "gloo", timeout=_PATIENCE)
    try:
        yield Share(distributed.get_rank(), distributed.get_world_size())
    finally:
        if not begun:
            distributed.destroy_process_group()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors in a row, as many at once as are not too large together: each message takes its time."""
    bucket: list[Tensor] = []
    for each in tensors:
        if bucket and sum(own.numel() for own in bucket) + each.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(each)
    if bucket:
        yield bucket
