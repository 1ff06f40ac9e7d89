"""Pictures in pieces: painted by workers, kept on disk, so that a report that was stopped goes on where it was."""

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
from data import RUNS
from PIL import Image
from torch import Tensor

from wordbrush.denoise import denoise
from wordbrush.images import to_image
from wordbrush.model import Model
from wordbrush.source import initial_latents

STEPS = 50
CHUNK = 20  # prompts painted at once, hence twice as many rows


@dataclass(frozen=True)
class Piece:
    """A file of the report, and the call that makes it."""

    name: str
    call: Callable[..., dict[str, np.ndarray]]
    arguments: tuple[Any, ...]


def make(folder: Path, weights: Path, piece: Piece, deadline: float) -> None:
    """Make one piece, unless it is there or time is up."""
    path = folder / f"{piece.name}.npz"
    if path.exists() or time.time() > deadline:
        return
    arrays = piece.call(weights, *piece.arguments)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(part, path)


class Desk:
    """Has pieces made by the workers, and reads them."""

    def __init__(self, folder: Path, weights: Path, workers: ProcessPoolExecutor, deadline: float) -> None:
        self.folder, self.weights, self.workers, self.deadline = folder, weights, workers, deadline

    @staticmethod
    def of(model: Model, weights: Path, workers: ProcessPoolExecutor, deadline: float) -> Desk:
        """The desk of a model and its folder; what it paints is kept in `runs/pocket/report/<hash>`."""
        folder = RUNS / "report" / model.hash[:12]
        folder.mkdir(parents=True, exist_ok=True)
        return Desk(folder, weights, workers, deadline)

    def have(self, pieces: Sequence[Piece]) -> None:
        """Have the pieces made, in order, as far as time suffices."""
        waiting = [self.workers.submit(make, self.folder, self.weights, p, self.deadline) for p in pieces]
        for made in waiting:
            made.result()

    def read(self, pieces: Sequence[Piece]) -> list[dict[str, np.ndarray]]:
        """The leading pieces, up to the first that time did not suffice for."""
        began = time.time()
        self.have(pieces)
        found: list[dict[str, np.ndarray]] = []
        for piece in pieces:
            path = self.folder / f"{piece.name}.npz"
            if not path.exists():
                break
            with np.load(path) as arrays:
                found.append(dict(arrays))
        print(f"{pieces[0].name} …: {len(found)} of {len(pieces)}, {time.time() - began:.0f} s", flush=True)
        if not found:
            raise SystemExit("No time was left to begin with this; start again, and it goes on from here.")
        return found

    def pictures(self, pieces: Sequence[Piece]) -> list[Image.Image]:
        """All "pictures" of the leading pieces."""
        return [Image.fromarray(row) for arrays in self.read(pieces) for row in arrays["pictures"]]


# What workers do


@cache
def loaded(weights: Path, dtype: torch.dtype) -> Model:
    """The model, once in each worker."""
    torch.set_num_threads(1)
    return Model.load(weights, device="cpu", dtype=dtype)


def paint(
    weights: Path, prompts: Sequence[str], first: int, guidance: float, steps: int
) -> dict[str, np.ndarray]:
    """Pictures of prompts, from the noise of the seeds `first`, `first` + 1, …

    In bfloat16, which is half as fast again as float32 on a CPU; its errors are far below what a judge sees.
    """
    model = loaded(weights, torch.bfloat16)
    seeds = range(first, first + len(prompts))
    latents = torch.cat([initial_latents(model, seed, *model.image_size) for seed in seeds])
    text, null = model.encode_text(prompts), model.encode_text([""])
    for step in denoise(model, latents, text, null, model.schedule(steps), guidance_scale=guidance):
        latents = step.latents
    return {"pictures": pixels(model.decode(latents))}


def pixels(pictures: Tensor) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    return np.stack([np.asarray(to_image(picture)) for picture in pictures])


def painting(first: int, prompts: Sequence[str], guidance: float, steps: int = STEPS) -> list[Piece]:
    """The pieces that paint prompts, from the seeds `first`, `first` + 1, …"""
    return [
        Piece(
            f"paint-{first + i}-{min(CHUNK, len(prompts) - i)}-{guidance:g}-{steps}",
            paint,
            (prompts[i : i + CHUNK], first + i, guidance, steps),
        )
        for i in range(0, len(prompts), CHUNK)
    ]
