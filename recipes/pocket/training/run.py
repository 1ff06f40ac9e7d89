"""A resumable training run with a time budget and one or more workers that share its weights."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from threading import Barrier

import numpy as np
import torch
from torch import Tensor, multiprocessing, nn

from data import RUNS
from muon import Muon
from precision import autocast, numbers
from shared import SharedWeights, Updater

CHECKPOINT_SECONDS = 60
LOG_STEPS = 20

# (progress in [0, 1], NumPy random generator, torch random generator) -> the loss, and figures for the log
Loss = Callable[[float, np.random.Generator, torch.Generator], tuple[Tensor, dict[str, float]]]


@dataclass(frozen=True)
class Preset:
    """How a machine is used.

    `batch` counts the pictures of all workers. `minutes` are processor time on a CPU, so a busy machine changes when
    a run ends, not what it learns.
    """

    device: str
    workers: int
    batch: int
    minutes: float

    def clock(self) -> float:
        return time.process_time() if self.device == "cpu" else time.monotonic()


def rate(progress: float, step: int) -> float:
    """The learning rate's factor: 50 steps of warm-up, then a cosine in time down to 3 %."""
    return min(1.0, (step + 1) / 50) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Run:
    """What the workers share: the weights, the checkpoint to resume from, and the time spent."""

    def __init__(self, name: str, preset: Preset, modules: list[nn.Module]) -> None:
        self.name, self.preset = name, preset
        numbers(preset.device)  # measured before there are workers
        self.shared = SharedWeights(modules, preset.workers, preset.device)
        self.seconds = torch.zeros((), dtype=torch.float64).share_memory_()
        if (checkpoint := RUNS / f"{name}.pt").exists():
            saved = torch.load(checkpoint, map_location=preset.device, weights_only=True)
            with torch.no_grad():
                self.shared.load(saved["shared"])
            self.seconds.fill_(saved["seconds"])

    def save(self) -> None:
        part = RUNS / f"{self.name}.part"
        torch.save({"shared": self.shared.saved(), "seconds": self.seconds.item()}, part)
        os.replace(part, RUNS / f"{self.name}.pt")

    def train(
        self,
        worker: int,
        barrier: Barrier | None,
        modules: list[nn.Module],
        loss: Loss,
        muon: float = 0.02,
        adam: float = 1e-3,
    ) -> None:
        """Run one worker's steps until the preset's minutes are spent, including those before a restart.

        `muon` is the learning rate of matrices and kernels, `adam` that of all other parameters. The data of a step
        depend only on (step, worker).
        """
        preset = self.preset
        self.shared.bind(modules, "weights", worker)
        updater = Updater(self.shared, worker, barrier, "muon", lr=adam)
        for optimiser in updater.optimisers:
            if isinstance(optimiser, Muon):
                optimiser.param_groups[0]["full"] = muon
        first = step = int(self.shared.steps.item())
        start, saved = preset.clock() - self.seconds.item(), time.monotonic()
        seen: list[dict[str, float]] = []
        while True:
            if worker == 0:
                self.seconds.fill_(preset.clock() - start)
            if barrier is not None:
                barrier.wait()  # all workers read the same time and stop at the same step
            progress = self.seconds.item() / (60 * preset.minutes)
            if worker == 0 and (progress >= 1 or time.monotonic() - saved > CHECKPOINT_SECONDS):
                self.save()
                saved = time.monotonic()
            if progress >= 1:
                return
            seeds = np.random.SeedSequence([0, step, worker]).spawn(2)
            generator = torch.Generator().manual_seed(int(seeds[1].generate_state(1)[0]))
            with autocast(preset.device):
                value, figures = loss(progress, np.random.default_rng(seeds[0]), generator)
            value.backward()
            # More minutes raise a rate that had fallen; without a warm-up such a step would undo what was learned.
            factor = rate(progress, step - first)
            updater.step(torch.tensor([factor, 0.0]), preset.batch)
            step += 1
            seen.append(figures)
            if step % LOG_STEPS == 0:
                if worker == 0:
                    # The figures may change as training progresses.
                    values = {key: [one[key] for one in seen if key in one] for key in figures}
                    means = {key: sum(some) / len(some) for key, some in values.items()}
                    self._log(step, {"lr": factor, **means})
                seen.clear()

    def _log(self, step: int, figures: dict[str, float]) -> None:
        line = {"step": step, "samples": step * self.preset.batch, "seconds": round(self.seconds.item())}
        line |= {key: round(value, 4) for key, value in figures.items()}
        with (RUNS / f"{self.name}.jsonl").open("a") as log:
            log.write(json.dumps(line) + "\n")


def arguments(description: str | None, presets: Mapping[str, Preset]) -> argparse.ArgumentParser:
    """A command line with the options that all training scripts have; `chosen` reads it."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=presets, default="cpu")
    parser.add_argument("--minutes", type=float, help="how long to train, earlier runs included")
    return parser


def chosen(options: argparse.Namespace, presets: Mapping[str, Preset]) -> Preset:
    """The selected preset, with the values given on the command line."""
    preset = presets[options.preset]
    given = {name: getattr(options, name, None) for name in ("minutes", "workers")}
    return replace(preset, **{name: value for name, value in given.items() if value})


def use_threads(preset: Preset) -> None:
    """One thread for each worker on a CPU: two such workers are faster than one with two threads."""
    if preset.device == "cpu":
        torch.set_num_threads(1)


def compile_all(*networks: nn.Module) -> None:
    """Compile networks in place. Without a compiler they run uncompiled, so that the run does not fail."""
    torch._dynamo.config.suppress_errors = True
    for network in networks:
        network.compile()


def spawn(task: Callable[[int, Run, Barrier | None], None], run: Run) -> None:
    """Run `task(worker, run, barrier)` in every worker and wait for all of them."""
    if run.preset.workers == 1:
        task(0, run, None)
        return
    barrier = multiprocessing.get_context("spawn").Barrier(run.preset.workers)
    multiprocessing.spawn(task, (run, barrier), nprocs=run.preset.workers)
