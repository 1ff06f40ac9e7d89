"""The model's report card: what it draws, where its words look, what its edits do. All on held-out scenes.

    python recipes/pocket/report.py --minutes 12

A scene is a value, so everything here has a true answer: pictures are compared with what the renderer draws, and
beside every figure that the judge gives stands what the judge makes of the true renderings of the same scenes.

Writes `runs/pocket/report.json`, `runs/pocket/figures.json` (for the model card), the tables in `docs/pocket.md` and
`docs/benchmarks/edits.md`, and the sheets of both in `docs/gallery`. What has been painted is kept in
`runs/pocket/report/<hash of the weights>`: started again, it goes on where it was. When the minutes are spent it
counts what is there, and says how much that is.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import edits
import figures
import judge
import numpy as np
import torch
from data import RUNS
from desk import Desk, Piece, loaded, painting, pixels
from figures import Cells
from judge import Judge
from PIL import Image
from reading import answers, psnr, truths

from wordbrush.images import to_tensor
from wordbrush.model import POCKET, Model
from wordbrush.pocket import Scene, caption, parse, render, sample

RECONSTRUCTED, WHOLE = 512, 32  # pictures through the autoencoder, and as many at once

# Each part has held-out scenes of its own: the seed of the first. What is painted has its scene's seed.
AUTOENCODER, SWEEP, ONE, TWO = 0, 10_000, 20_000, 30_000

SWEEP_PROMPTS, SWEEP_STEPS = 40, 20


def held_out(first: int, count: int, things: int | None = None) -> list[Scene]:
    """Scenes of the test split; half of them pair a thing with a colour or a place that training never does."""
    return [sample(seed, things=things, split="test") for seed in range(first, first + count)]


def captions(first: int, count: int, things: int) -> list[str]:
    """The captions of held-out scenes."""
    return [caption(scene) for scene in held_out(first, count, things)]


def reconstruct(weights: Path, first: int, count: int) -> dict[str, np.ndarray]:
    """Held-out renderings through the autoencoder and back."""
    model = loaded(weights, torch.float32)
    true = torch.cat([to_tensor(render(scene)) for scene in held_out(AUTOENCODER + first, count)])
    return {"pictures": pixels(model.decode(model.encode_image(true)))}


def measure_autoencoder(made: Sequence[Image.Image]) -> dict[str, Any]:
    """PSNR of the reconstructions: the mean over pictures, and of the mean squared error of them all."""
    each = [psnr(a, b) for a, b in zip(made, truths(held_out(AUTOENCODER, len(made))), strict=True)]
    mean_error = np.mean([10 ** (-one / 10) for one in each])
    return {
        "pictures": len(made),
        "psnr": float(np.mean(each)),
        "psnr_of_mean_error": float(-10 * np.log10(mean_error)),
    }


def measure_paintings(asked: Judge, made: Sequence[Image.Image], first: int, things: int) -> dict[str, Any]:
    """How often each thing that a caption says was drawn right, and was seen right in the true renderings."""
    scenes = held_out(first, len(made), things)
    said = [parse(caption(scene)) for scene in scenes]
    drawn, seen = answers(asked, made, said), answers(asked, truths(scenes), said)
    aspects = {aspect for one in drawn for aspect in one}
    return {"prompts": len(made)} | {
        aspect: {
            "right": float(np.mean([one[aspect] for one in drawn if aspect in one])),
            "judge": float(np.mean([one[aspect] for one in seen if aspect in one])),
            "of": sum(aspect in one for one in drawn),
        }
        for aspect in sorted(aspects)
    }


def measure(
    desk: Desk, asked: Judge, count: int, guidance: float, scales: Sequence[float]
) -> tuple[dict[str, Any], dict[str, Cells]]:
    """The whole report, and its sheets by name."""
    reconstructions = desk.pictures(
        [Piece(f"autoencoder-{i}", reconstruct, (i, WHOLE)) for i in range(0, RECONSTRUCTED, WHOLE)]
    )
    sweep: dict[float, dict[str, Any]] = {}
    for scale in scales:
        made = desk.pictures(painting(SWEEP, captions(SWEEP, SWEEP_PROMPTS, 1), scale, SWEEP_STEPS))
        sweep[scale] = measure_paintings(asked, made, SWEEP, 1)

    edited, alone = edits.made(desk, guidance)
    one_thing = painting(ONE, captions(ONE, count, 1), guidance)
    two_things = painting(TWO, captions(TWO, count * 2 // 5, 2), guidance)
    # In turns, so that little time means fewer of both.
    turns = [(i / len(pieces), piece) for pieces in (two_things, one_thing) for i, piece in enumerate(pieces)]
    desk.have([piece for _, piece in sorted(turns, key=lambda turn: turn[0])])
    one, two = desk.pictures(one_thing), desk.pictures(two_things)

    report = {
        "autoencoder": measure_autoencoder(reconstructions),
        "guidance": {"used": guidance, "prompts": SWEEP_PROMPTS, "steps": SWEEP_STEPS, "tried": sweep},
        "one": measure_paintings(asked, one, ONE, 1),
        "two": measure_paintings(asked, two, TWO, 2),
        "maps": edits.measured_maps(edited),
        "edits": edits.measured(asked, edited, alone),
    }
    samples = [*zip(one, captions(ONE, 44, 1), strict=False), *zip(two, captions(TWO, 20, 2), strict=False)]
    pairs: Cells = []
    for true, made in zip(truths(held_out(AUTOENCODER, 16)), reconstructions, strict=False):
        pairs += [(true, "rendered"), (made, "through the autoencoder")]
    sheets = {"pocket-autoencoder": pairs, "pocket-samples": samples}
    return report, sheets | {"edits": edits.cells(edited, 4), "edits-first": edits.cells(edited, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=POCKET)
    parser.add_argument("--judge", type=Path, help="its folder, where it is not the model's own")
    parser.add_argument("--minutes", type=float, default=12, help="for painting; counting comes on top")
    parser.add_argument("--count", type=int, default=500, help="one-thing prompts; two fifths as many of two")
    parser.add_argument("--guidance", type=float, nargs="+", default=[2, 3, 4, 5, 7.5], help="to try")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--docs", type=Path, default=figures.DOCS, help="where the tables and the sheets go")
    options = parser.parse_args()

    began = time.time()
    torch.set_num_threads(options.workers)
    asked = judge.load(options.judge or options.model / "judge")
    model = Model.load(options.model, device="cpu")
    folder = RUNS / "report" / model.hash[:12]
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as workers:
        desk = Desk(folder, options.model, workers, began + 60 * options.minutes)
        report, sheets = measure(desk, asked, options.count, model.defaults.guidance_scale, options.guidance)

    report = {"weights": model.hash} | report
    (RUNS / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (RUNS / "figures.json").write_text(json.dumps(figures.card(report), indent=2) + "\n")
    tables = {"pocket.md": figures.model_table(report), "benchmarks/edits.md": figures.edits_table(report)}
    for page, table in tables.items():
        figures.write(table, options.docs / page)
        print(f"{table}\n")
    for name, cells in sheets.items():
        figures.sheet(cells).save(options.docs / "gallery" / f"{name}.png", optimize=True)
    print(f"{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
