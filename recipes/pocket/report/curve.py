"""The effect of more training: the aspects of `report.py` against the number of training samples.

    python recipes/pocket/training/export.py --checkpoint runs/pocket/diffusion-116k.pt --out runs/pocket/exported/116k
    python recipes/pocket/report/curve.py runs/pocket/exported/* src/wordbrush/pocket/weights

Each model paints the first `--count` captions of `report.py`, which are kept in the same folder. Writes the table in
`docs/pocket.md` and `docs/gallery/pocket-curve.webp`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from wordbrush.evaluation.judges.reader import Reader
from wordbrush.model import Model

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("data", "training")]

import figures
from data import samples_of
from figures import BARS
from jobs import JobRunner
from report import measure_paintings, paint

BEGIN = "<!-- curve: written by recipes/pocket/report/curve.py -->"
# Okabe & Ito 2008: distinguishable with every common kind of colour blindness.
SHOWN = {
    "object": "#0072B2",
    "both objects": "#56B4E9",
    "all three objects": "#009E73",
    "colour, no sketch": "#D55E00",
    "place": "#000000",
    "light": "#E69F00",
    "style": "#CC79A7",
}


@dataclass(frozen=True)
class Point:
    """The results of `measure_paintings` for a model after `samples` training samples."""

    samples: int
    reached: dict[str, Any]


def measured(weights: Path, workers: ProcessPoolExecutor, reader: Reader, count: int, end: float) -> Point:
    """The point of a model, from the pictures that exist when the time is up."""
    model = Model.load(weights, device="cpu")
    runner = JobRunner.of(model, weights, workers, end)
    scenes, painted = paint(runner, count, model.defaults.guidance_scale)
    return Point(samples_of(weights), measure_paintings(reader, scenes, painted))


def table(points: Sequence[Point]) -> str:
    """The curve as a table, one line per model."""
    lines = [
        f"| samples | {' | '.join(SHOWN)} | captions |",
        f"|---:|{'---:|' * (len(SHOWN) + 1)}",
    ]
    for point in points:
        shares = [f"{100 * point.reached[aspect]['right']:.1f} %" for aspect in SHOWN]
        lines.append(f"| {point.samples:,} | {' | '.join(shares)} | {point.reached['prompts']} |")
    bars = [f"{100 * bar:.0f} %" if (bar := BARS[aspect][1]) else "" for aspect in SHOWN]
    truth = [f"{100 * points[-1].reached[aspect]['truth']:.1f} %" for aspect in SHOWN]
    return "\n".join(
        [*lines, f"| the bar | {' | '.join(bars)} | |", f"| true renderings | {' | '.join(truth)} | |"]
    )


def plot(points: Sequence[Point], path: Path) -> None:
    """The curve as a lossless WebP: one line per aspect over the number of samples, on a log₂ axis."""
    figure: Any = Figure(figsize=(7.2, 4.6), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    samples = [point.samples for point in points]
    ends: list[tuple[float, str, str]] = []
    for aspect, colour in SHOWN.items():
        shares = [100 * point.reached[aspect]["right"] for point in points]
        axes.plot(samples, shares, marker="o", markersize=4, color=colour, linewidth=1.6)
        ends.append((shares[-1], aspect, colour))
    # Names are at the ends of the lines, one below the other.
    height = 101.5
    for share, aspect, colour in sorted(ends, reverse=True):
        height = min(height - 5, share)
        axes.annotate(
            f"{aspect} {share:.0f}", (samples[-1], height), (8, 0), textcoords="offset points", va="center",
            color=colour, fontsize=9, annotation_clip=False,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(samples, [f"{n / 1000:.0f},000" for n in samples], fontsize=8)
    axes.minorticks_off()
    axes.set_ylim(0, 102)
    axes.set_xlabel("training samples")
    axes.set_ylabel("right, % of held-out captions")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    figure.savefig(path, pil_kwargs={"lossless": True, "quality": 100, "method": 6})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+", help="folders written by export.py")
    parser.add_argument("--count", type=int, default=160, help="captions, half of them of one thing")
    parser.add_argument("--minutes", type=float, default=30, help="for painting")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--docs", type=Path, default=figures.DOCS)
    options = parser.parse_args()

    end = time.time() + 60 * options.minutes
    torch.set_num_threads(options.workers)
    reader = Reader.load(device="cpu")
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as workers:
        points = [measured(model, workers, reader, options.count, end) for model in options.models]
    points.sort(key=lambda point: point.samples)
    print(table(points))
    figures.write(table(points), options.docs / "pocket.md", BEGIN)
    plot(points, options.docs / "gallery" / "pocket-curve.webp")


if __name__ == "__main__":
    main()
