"""Render the training pictures once, so that training steps only read them.

    python recipes/pocket/data/data.py                       # 60,000 and 40,000 to train on, 1,000 held out
    python recipes/pocket/data/data.py --train 300000 --threes 200000 --workers 16

Writes to `runs/pocket/train` and `runs/pocket/test`. Row i is `sample(i, split=...)`; the scenes of three things are at
the end of the training rows:

    pictures.npy   uint8 [N, 128, 128, 3]
    coverage.npy   uint8 [N, 3, 16, 16]: the share of each latent cell that thing 0, 1, 2 covers; 255 is all of it
    scenes.jsonl   {"scene": ..., "caption": "a red cat on a beach", "parts": [["a", null], ["red", 0], ...]}

If stopped, it continues where it was; files with the names above exist only once all rows are written.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from wordbrush.pocket import Scene, caption, caption_parts, render, sample, segment

RUNS = Path(__file__).parents[3] / "runs" / "pocket"
PICTURE = 128
CELL = 8  # pixels of a picture per latent cell
CHUNK = 250  # scenes a worker renders at a time
THREES = 1_000_000  # the seed of the first scene of three things


def coverage(scene: Scene) -> np.ndarray:
    """The share of each latent cell that each thing covers: uint8 [3, 16, 16], zeros for things that do not exist."""
    labels = segment(scene, PICTURE)
    seen = labels == np.arange(1, 4, dtype=np.uint8)[:, None, None]
    cells = seen.reshape(3, PICTURE // CELL, CELL, PICTURE // CELL, CELL).mean((2, 4))
    return np.round(255 * cells).astype(np.uint8)


def rendered(first: int, last: int, split: str, plain: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The rows first … last - 1 of the three files; rows from `plain` on are scenes of three things."""
    scenes = [
        # Separate seeds. A model that never saw three things paints two.
        sample(row, split=split) if row < plain else sample(THREES + row - plain, things=3, split=split)
        for row in range(first, last)
    ]
    lines = [
        json.dumps(
            {"scene": json.loads(scene.to_json()), "caption": caption(scene), "parts": caption_parts(scene)}
        )
        for scene in scenes
    ]
    return (
        np.stack([np.asarray(render(scene, PICTURE)) for scene in scenes]),
        np.stack([coverage(scene) for scene in scenes]),
        lines,
    )


def _rendered_chunk(
    first: int, count: int, split: str, plain: int
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    return rendered(first, min(first + CHUNK, count), split, plain)


def write(split: str, plain: int, threes: int, workers: int, again: bool = False) -> None:
    """Render `plain` scenes of a split and `threes` of three things.

    Does nothing if as many are there already, unless `again`.
    """
    count = plain + threes
    folder = RUNS / split
    folder.mkdir(parents=True, exist_ok=True)
    names = ("pictures.npy", "coverage.npy", "scenes.jsonl")
    there = all((folder / name).exists() for name in names)
    if there and not again and len(np.load(folder / names[0], mmap_mode="r")) == count:
        return
    parts = [folder / f"{count}.part.{name}" for name in names]
    pictures = _array(parts[0], (count, PICTURE, PICTURE, 3))
    cells = _array(parts[1], (count, 3, PICTURE // CELL, PICTURE // CELL))
    # A chunk's lines are written after its arrays, so the complete chunks of lines show what is done.
    lines = parts[2].read_text().splitlines(keepends=True) if parts[2].exists() else []
    done = len(lines) // CHUNK * CHUNK
    parts[2].write_text("".join(lines[:done]))
    starts = range(done, count, CHUNK)
    with multiprocessing.Pool(workers) as pool, parts[2].open("a") as scenes:
        chunks = pool.imap(partial(_rendered_chunk, count=count, split=split, plain=plain), starts)
        for first, (some_pictures, some_cells, some_lines) in zip(starts, chunks, strict=True):
            pictures[first : first + CHUNK] = some_pictures
            cells[first : first + CHUNK] = some_cells
            scenes.writelines(line + "\n" for line in some_lines)
            scenes.flush()
            print(f"\r{split}: {first + len(some_lines)} of {count}", end="", flush=True)
    print()
    pictures.flush()
    cells.flush()
    for part, name in zip(parts, names, strict=True):
        os.replace(part, folder / name)


def _array(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    mode = "r+" if path.exists() else "w+"
    return np.lib.format.open_memmap(path, mode=mode, dtype=np.uint8, shape=shape)


def pictures(split: str) -> np.ndarray:
    """All pictures of a split, memory-mapped: uint8 [N, 128, 128, 3]."""
    return np.load(RUNS / split / "pictures.npy", mmap_mode="r")


def rows(split: str) -> Iterator[dict[str, Any]]:
    """The lines of a split's `scenes.jsonl`."""
    with (RUNS / split / "scenes.jsonl").open() as lines:
        yield from map(json.loads, lines)


def samples_of(weights: Path) -> int:
    """The number of samples that the model in a folder written by `export.py` was trained on."""
    return int(json.loads((weights / "manifest.json").read_text())["samples"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--train", type=int, default=60_000, help="pictures to train on, of one or two things"
    )
    parser.add_argument("--threes", type=int, default=40_000, help="and of three")
    parser.add_argument("--test", type=int, default=1_000, help="how many held-out pictures")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that render")
    parser.add_argument(
        "--again", action="store_true", help="replace existing files, after the world has changed"
    )
    arguments = parser.parse_args()
    write("test", arguments.test, 0, arguments.workers, arguments.again)
    write("train", arguments.train, arguments.threes, arguments.workers, arguments.again)


if __name__ == "__main__":
    main()
