"""Jobs that worker processes run and whose arrays are kept on disk, so that a stopped report can be resumed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data import RUNS
from precision import numbers
from wordbrush.denoise import denoise
from wordbrush.guidance import TextGuidance
from wordbrush.images import to_image
from wordbrush.model import Conditioning, Model
from wordbrush.sampling import initial_latents
from wordbrush.schedule import Schedule

STEPS = 50
CHUNK = 20  # prompts painted at once; guidance makes it twice as many rows


@dataclass(frozen=True)
class Job:
    """The name of a result file, and the call that computes it."""

    name: str
    call: Callable[..., dict[str, np.ndarray]]
    arguments: tuple[Any, ...]


def compute(folder: Path, weights: Path, job: Job, deadline: float) -> None:
    """Run one job and write its arrays, unless the file exists or the time is up."""
    path = folder / f"{job.name}.npz"
    if path.exists() or time.time() > deadline:
        return
    arrays = job.call(weights, *job.arguments)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(part, path)


class JobRunner:
    """Runs jobs on the workers and reads their results."""

    def __init__(self, folder: Path, weights: Path, workers: ProcessPoolExecutor, deadline: float) -> None:
        self.folder, self.weights, self.workers, self.deadline = folder, weights, workers, deadline

    @staticmethod
    def of(model: Model, weights: Path, workers: ProcessPoolExecutor, deadline: float) -> JobRunner:
        """The runner for a model and its folder; results are kept in `runs/pocket/report/<hash>`."""
        folder = RUNS / "report" / model.hash[:12]
        folder.mkdir(parents=True, exist_ok=True)
        return JobRunner(folder, weights, workers, deadline)

    def run(self, jobs: Sequence[Job]) -> None:
        """Run the jobs in order, as many as the time allows."""
        waiting = [
            self.workers.submit(compute, self.folder, self.weights, job, self.deadline) for job in jobs
        ]
        for future in waiting:
            future.result()

    def read(self, jobs: Sequence[Job]) -> list[dict[str, np.ndarray]]:
        """Results of the jobs in order, up to the first for which there was no time."""
        began = time.time()
        self.run(jobs)
        found: list[dict[str, np.ndarray]] = []
        for job in jobs:
            path = self.folder / f"{job.name}.npz"
            if not path.exists():
                break
            with np.load(path) as arrays:
                found.append(dict(arrays))
        print(f"{jobs[0].name} …: {len(found)} of {len(jobs)}, {time.time() - began:.0f} s", flush=True)
        if not found:
            raise SystemExit(
                "No time was left to start this part; run the command again to continue from here."
            )
        return found

    def pictures(self, jobs: Sequence[Job]) -> list[Image.Image]:
        """The arrays "pictures" of those results, as images."""
        return [Image.fromarray(row) for arrays in self.read(jobs) for row in arrays["pictures"]]


# What the workers run


@cache
def loaded(weights: Path, dtype: torch.dtype) -> Model:
    """The model, loaded once in each worker."""
    torch.set_num_threads(1)
    return Model.load(weights, device="cpu", dtype=dtype)


def paint(
    weights: Path, prompts: Sequence[str], first: int, guidance: float, steps: int
) -> dict[str, np.ndarray]:
    """Pictures of prompts, from the noise of the seeds `first`, `first` + 1, …

    In bfloat16 where it is fast: its errors are far below what a judge can see.
    """
    model = loaded(weights, numbers("cpu"))
    seeds = range(first, first + len(prompts))
    latents = torch.cat([initial_latents(model, seed, *model.image_size) for seed in seeds])
    return {"pictures": painted(model, latents, prompts, model.schedule(steps), guidance)}


def painted(
    model: Model, latents: Tensor, prompts: Sequence[str], schedule: Schedule, guidance: float
) -> np.ndarray:
    """Pictures of prompts from z_T, one row each: uint8 [N, H, W, 3]."""
    conditions = {
        "text": Conditioning(model.encode_text(prompts)),
        "null": Conditioning(model.encode_text([""])),
    }
    for step in denoise(model, latents, conditions, schedule, TextGuidance(guidance)):
        latents = step.latents
    return pixels(model.decode(latents))


def pixels(pictures: Tensor) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    return np.stack([np.asarray(to_image(picture)) for picture in pictures])


def painting(first: int, prompts: Sequence[str], guidance: float, steps: int = STEPS) -> list[Job]:
    """Jobs that paint prompts, from the seeds `first`, `first` + 1, …"""
    return [
        Job(
            f"paint-{first + i}-{min(CHUNK, len(prompts) - i)}-{guidance:g}-{steps}",
            paint,
            (prompts[i : i + CHUNK], first + i, guidance, steps),
        )
        for i in range(0, len(prompts), CHUNK)
    ]
