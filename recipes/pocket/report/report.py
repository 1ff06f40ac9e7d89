"""Measure the model on held-out scenes: what it draws, where its words act, what its edits do.

    python recipes/pocket/report/report.py --minutes 30

Everything here has a true answer: pictures are compared with what the renderer draws, and beside every figure from the
world reader is its figure for the true renderings of the same scenes.

Writes `runs/pocket/report.json` (also used for the model card), the tables in `docs/pocket.md` and
`docs/benchmarks/edits.md`, and the sheets of both in `docs/gallery`. Painted pictures are kept in
`runs/pocket/report/<hash of the weights>`, so a report that was stopped continues where it was. When the minutes are
spent, it evaluates the pictures that exist, and prints how many there are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wordbrush.backbones import load_encoder
from wordbrush.evaluation.judges.reader import Reader
from wordbrush.evaluation.metrics.distribution import kid
from wordbrush.images import to_tensor
from wordbrush.model import POCKET, Model
from wordbrush.pocket import Scene, caption, parse, render, sample

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("data", "training")]

import edits
import figures
import maps
from data import RUNS, samples_of
from figures import Cells
from jobs import Job, JobRunner, loaded, painting, pixels
from reading import answers, psnr, truths

RECONSTRUCTED, WHOLE = 512, 32  # pictures through the autoencoder, and how many per job

# The seed of the first held-out scene of each part; the parts share no scenes. A picture is painted from its scene's
# seed.
AUTOENCODER, SWEEP = 0, 10_000
PARTS = {1: 20_000, 2: 30_000, 3: 60_000}  # by the number of things in the caption
SHARES = {1: 2, 2: 4, 3: 4}  # one in this many captions

SWEEP_PROMPTS, SWEEP_STEPS = 40, 20


def held_out(first: int, count: int, things: int | None = None) -> list[Scene]:
    """Scenes of the test split; half of them combine a thing with a colour or place that training never does."""
    return [sample(seed, things=things, split="test") for seed in range(first, first + count)]


def reconstruct(weights: Path, first: int, count: int) -> dict[str, np.ndarray]:
    """Held-out renderings, encoded and decoded by the autoencoder."""
    model = loaded(weights, torch.float32)
    true = torch.cat([to_tensor(render(scene)) for scene in held_out(AUTOENCODER + first, count)])
    return {"pictures": pixels(model.decode(model.encode_image(true)))}


def measure_autoencoder(decoded: Sequence[Image.Image]) -> dict[str, Any]:
    """PSNR of the reconstructions: the mean over pictures, and that of the overall mean squared error."""
    each = [psnr(a, b) for a, b in zip(decoded, truths(held_out(AUTOENCODER, len(decoded))), strict=True)]
    mean_error = np.mean([10 ** (-one / 10) for one in each])
    return {
        "pictures": len(decoded),
        "psnr": float(np.mean(each)),
        "psnr_of_mean_error": float(-10 * np.log10(mean_error)),
    }


def paint(runner: JobRunner, count: int, guidance: float) -> tuple[list[Scene], list[Image.Image]]:
    """`count` held-out scenes (half of one thing, a quarter each of two and three), and pictures of their captions."""
    scenes = {things: held_out(first, count // SHARES[things], things) for things, first in PARTS.items()}
    jobs = {
        things: painting(PARTS[things], [caption(scene) for scene in some], guidance)
        for things, some in scenes.items()
    }
    # Alternating, so that with little time there are fewer of every kind.
    turns = [(i / len(some), job) for some in jobs.values() for i, job in enumerate(some)]
    runner.run([job for _, job in sorted(turns, key=lambda turn: turn[0])])
    painted = {things: runner.pictures(some) for things, some in jobs.items()}
    return (
        [scene for things in PARTS for scene in scenes[things][: len(painted[things])]],
        [picture for things in PARTS for picture in painted[things]],
    )


def measure_paintings(
    reader: Reader, scenes: Sequence[Scene], painted: Sequence[Image.Image]
) -> dict[str, Any]:
    """How often the aspects of captions are drawn right, and read right in the true renderings."""
    counts: list[dict[str, list[bool]]] = []
    for shown in (painted, truths(scenes)):
        counts.append({})
        for scene, reading in zip(scenes, reader.read(shown), strict=True):
            for aspect, right in answers(reading, parse(caption(scene))).items():
                counts[-1].setdefault(aspect, []).extend(right)
    drawn, seen = counts
    return {"prompts": len(scenes)} | {
        aspect: {"right": float(np.mean(right)), "truth": float(np.mean(seen[aspect])), "of": len(right)}
        for aspect, right in sorted(drawn.items())
    }


def measure_likeness(scenes: Sequence[Scene], painted: Sequence[Image.Image]) -> dict[str, float]:
    """KID ×10³ to true renderings, for the painted pictures and for the true renderings of the same scenes.

    The reference renderings are of other scenes, with equal numbers of one, two and three things, because the same
    scene in both sets would count as similarity. Subsets of 100; features of the encoder, which never saw a caption.
    """
    encoder, subset = load_encoder(device="cpu"), min(100, len(scenes))
    counts = Counter(len(scene.things) for scene in scenes)
    others = truths([s for n, count in counts.items() for s in held_out(PARTS[n] + count, count, n)])
    return {
        name: kid(encoder, pictures, others, subset_size=subset).mean
        for name, pictures in (("painted", painted), ("rendered", truths(scenes)))
    }


def measure(
    runner: JobRunner, count: int, guidance: float, scales: Sequence[float]
) -> tuple[dict[str, Any], dict[str, Cells]]:
    """The whole report, and the cells of its sheets by name."""
    reader = Reader.load(device="cpu")
    reconstructions = runner.pictures(
        [Job(f"autoencoder-{i}", reconstruct, (i, WHOLE)) for i in range(0, RECONSTRUCTED, WHOLE)]
    )
    edited, edit_sheets = measure_edits(runner, guidance)
    mapped = maps.run(runner)
    tried = held_out(SWEEP, SWEEP_PROMPTS, 1)
    sweep = {
        scale: measure_paintings(
            reader,
            tried,
            runner.pictures(painting(SWEEP, [caption(scene) for scene in tried], scale, SWEEP_STEPS)),
        )
        for scale in scales
    }
    scenes, painted = paint(runner, count, guidance)
    report = {
        "autoencoder": measure_autoencoder(reconstructions),
        "guidance": {"used": guidance, "prompts": SWEEP_PROMPTS, "steps": SWEEP_STEPS, "tried": sweep},
        "paintings": measure_paintings(reader, scenes, painted),
        "kid": measure_likeness(scenes, painted),
        "maps": maps.measured(mapped),
    } | edited
    samples: Cells = []
    for things, some in zip(PARTS, (40, 16, 8), strict=True):
        fitting = [(a, caption(b)) for a, b in zip(painted, scenes, strict=True) if len(b.things) == things]
        samples += fitting[:some]
    pairs: Cells = []
    for true, through in zip(truths(held_out(AUTOENCODER, 16)), reconstructions, strict=False):
        pairs += [(true, "rendered"), (through, "through the autoencoder")]
    sheets = {"pocket-autoencoder": pairs, "pocket-samples": samples}
    return report, sheets | edit_sheets


def measure_edits(runner: JobRunner, guidance: float) -> tuple[dict[str, Any], dict[str, Cells]]:
    """The edits' part of the report, and its sheets."""
    edited, alone = edits.run(runner, guidance)
    report = {"edits": edits.measured(Reader.load(device="cpu"), edited, alone)}
    return report, {"edits": edits.cells(edited, 4), "edits-first": edits.cells(edited, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=POCKET)
    parser.add_argument(
        "--minutes", type=float, default=30, help="for painting; evaluation takes additional time"
    )
    parser.add_argument(
        "--count", type=int, default=1000, help="captions: half of one thing, a quarter of two, of three"
    )
    parser.add_argument("--guidance", type=float, nargs="*", default=[2, 3, 4, 5, 7.5], help="to try")
    parser.add_argument("--edits", action="store_true", help="measure the edits alone")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument(
        "--docs", type=Path, default=figures.DOCS, help="the folder for the tables and sheets"
    )
    options = parser.parse_args()

    began = time.time()
    torch.set_num_threads(options.workers)
    model = Model.load(options.model, device="cpu")
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as workers:
        runner = JobRunner.of(model, options.model, workers, began + 60 * options.minutes)
        guidance = model.defaults.guidance_scale
        if options.edits:
            report, sheets = measure_edits(runner, guidance)
        else:
            report, sheets = measure(runner, options.count, guidance, options.guidance)

    tables = {"benchmarks/edits.md": figures.edits_table(report)}
    if not options.edits:
        report = {"weights": model.hash, "samples": samples_of(options.model)} | report
        (RUNS / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        tables["pocket.md"] = figures.model_table(report)
    for page, table in tables.items():
        figures.write(table, options.docs / page)
        print(f"{table}\n")
    for name, cells in sheets.items():
        figures.save(figures.sheet(cells), options.docs / "gallery" / f"{name}.webp")
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
