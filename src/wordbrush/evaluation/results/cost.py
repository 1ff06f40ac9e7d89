"""What a computation costs, in a unit that is the same on every machine: rows of the UNet's batch.

Seconds depend on the machine as well. A row is one latent at one timestep with one text through the UNet, whatever
the batch it came in. The loops count the rows that they ask for and report them with their progress.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import TypeVar

import torch

from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress

T = TypeVar("T")


@dataclass(frozen=True)
class Cost:
    """What a computation took.

    seconds: wall-clock time of the computation alone, without its caller's. processor_seconds: of all threads of the
    process. rows: of the UNet. with_gradient: those among them whose output was differentiated; the backward pass is
    not counted.
    """

    seconds: float
    processor_seconds: float
    rows: int
    with_gradient: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            self.seconds + other.seconds,
            self.processor_seconds + other.processor_seconds,
            self.rows + other.rows,
            self.with_gradient + other.with_gradient,
        )


def measured(model: Model, run: Generator[Progress, None, T]) -> Generator[Progress, None, tuple[T, Cost]]:
    """Run a computation, passing its progress on; returns its result and its cost.

    The clocks stand still while the caller handles the progress.
    """
    seconds = processor_seconds = 0.0
    rows = with_gradient = 0
    try:
        while True:
            began = time.perf_counter(), time.process_time()
            try:
                progress = next(run)
            except StopIteration as end:
                _wait(model)
                seconds += time.perf_counter() - began[0]
                processor_seconds += time.process_time() - began[1]
                return end.value, Cost(seconds, processor_seconds, rows, with_gradient)
            seconds += time.perf_counter() - began[0]
            processor_seconds += time.process_time() - began[1]
            rows, with_gradient = rows + progress.rows, with_gradient + progress.gradient_rows
            yield progress
    finally:
        run.close()


@torch.no_grad()
def warm_up(model: Model) -> None:
    """Run the UNet once: the first pass prepares what later ones use, and belongs to no measured computation."""
    height, width = model.latent_size(*model.image_size)
    latents = torch.zeros(1, model.latent_channels, height, width, device=model.device)
    text = Conditioning(model.encode_text([""]))
    model.predict(latents.to(model.latent_dtype), model.schedule(1).levels[0], text)
    _wait(model)


def _wait(model: Model) -> None:
    """Wait until an accelerator has finished the work it was given."""
    if model.device.type != "cpu":
        torch.accelerator.synchronize(model.device)
