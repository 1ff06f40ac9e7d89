"""Examples for ELITE's mappers, rendered and encoded once: `world.example` of seed after seed, in shards.

    python recipes/pocket/elite/examples.py --count 12288 --out runs/pocket/elite

A shard is a file of `SHARD` examples: of the target its latents, its caption and the share of each latent cell that the
thing covers; of the picture what the image encoder sees of the thing. A shard that is there is not made again.
The last sprites, `world.VALIDATION`, have a shard of their own, `validation.pt`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from wordbrush import images
from wordbrush.model import Model
from wordbrush.training.elite.features import Eye

sys.path.append(str(Path(__file__).parents[1] / "data"))

from data import RUNS
from world import TRAINED, VALIDATION, example

SHARD, BATCH = 256, 16
LEVELS = (-1, 2, 1)  # the encoder's last stage, its middle one, and its first
GRID = 16
VALIDATION_SEED = 10**9


def shard(model: Model, eye: Eye, first: int, names: tuple[str, ...]) -> dict[str, Any]:
    """The examples of the seeds first … first + SHARD − 1."""
    found: dict[str, list[Any]] = {name: [] for name in ("latents", "regions", "shown")}
    levels: list[list[torch.Tensor]] = [[] for _ in LEVELS]
    maps: list[list[torch.Tensor]] = [[] for _ in LEVELS]
    captions: list[str] = []
    for start in range(first, first + SHARD, BATCH):
        made = [example(seed, names) for seed in range(start, start + BATCH)]
        captions += [one.caption for one in made]
        targets = torch.cat([images.to_tensor(one.target) for one in made])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found["latents"].append(model.encode_image(targets).half())
        found["regions"].append(_shares([one.region for one in made]))
        framed = [eye.framed(one.picture, one.mask) for one in made]
        seen = eye.see([picture for picture, _ in framed], [region for _, region in framed], LEVELS)
        found["shown"].append(_shares([region for _, region in framed]))
        for i in range(len(LEVELS)):
            levels[i].append(seen.levels[i])
            maps[i].append(F.adaptive_avg_pool2d(seen.maps[i], min(GRID, seen.maps[i].shape[-1])).half())
    return {
        **{name: torch.cat(some) for name, some in found.items()},
        "levels": [torch.cat(some) for some in levels],
        "maps": [torch.cat(some) for some in maps],
        "captions": captions,
    }


def _shares(regions: list[np.ndarray]) -> torch.Tensor:
    """The share of each of 16 × 16 cells."""
    return F.adaptive_avg_pool2d(torch.from_numpy(np.stack(regions)).float()[:, None], GRID)[:, 0].half()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=12288)
    parser.add_argument("--out", type=Path, default=RUNS / "elite")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    model, eye = Model.load("pocket", device="cpu"), Eye.load("pocket")
    wanted: list[tuple[str, int, tuple[str, ...]]] = [("validation", VALIDATION_SEED, VALIDATION)]
    wanted += [(f"shard-{i:04d}", i * SHARD, TRAINED) for i in range(asked.count // SHARD)]
    for name, first, names in wanted:
        path = asked.out / f"{name}.pt"
        if not path.exists():
            part = path.with_suffix(".part")
            torch.save(shard(model, eye, first, names), part)
            os.replace(part, path)
            print(path, flush=True)


if __name__ == "__main__":
    main()
