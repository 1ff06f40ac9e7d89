"""What null-text inversion costs to reach its quality: PSNR of the reconstruction over evaluations of the network.

    python benchmarks/null_text.py --out DIR             # about ten minutes; goes on where it was
    python benchmarks/null_text.py --out DIR --figure null-text.webp

The published loop by the number of its inner steps, and Gauss–Newton by the error that ends a step, on scenes that no
figure of the bench is reported of; guidance 7.5 and 50 steps, as published. An evaluation is a forward pass of one
row; a backward pass counts as two.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wordbrush.evaluation.bench.cases import split
from wordbrush.evaluation.results import plots
from wordbrush.images import to_tensor
from wordbrush.inversion.null_text import method
from wordbrush.inversion.null_text.options import Options
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.progress import Progress, drain
from wordbrush.sampling import walk_up

SEED, SCALE, STEPS = 777, 7.5, 50
WAYS: dict[str, list[dict[str, Any]]] = {
    "Adam, as published": [{"null_optimizer": "adam", "inner_steps": n} for n in (1, 3, 10)],
    "Gauss–Newton, from the prompt": [{"early_stop": e} for e in (2e-3, 1e-3, 5e-4)],
    "the prompt alone": [{"inner_steps": 0}],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "null-text.jsonl"
    rows = measured(file, options.pictures)
    for way in WAYS:
        for run in WAYS[way]:
            found = [row for row in rows if row["way"] == way and row["options"] == run]
            mean = {
                key: sum(row[key] for row in found) / len(found) for key in ("evaluations", "psnr", "bound")
            }
            print(
                f"{way}, {run}: {mean['evaluations']:.0f} evaluations, {mean['psnr']:.2f} dB of {mean['bound']:.2f}"
            )
    if options.figure:
        drawn(rows, options.out / "null-text.png", options.figure)


def measured(file: Path, pictures: int) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    torch.set_num_threads(1)
    model = Model.load("pocket", device="cpu")
    cases = {case.scene: case for case in reversed(split(SEED, 10 * pictures))}
    for scene in list(cases)[::-1][:pictures]:
        picture = to_tensor(cases[scene].picture)
        for way, runs in WAYS.items():
            for run in runs:
                if any((row["scene"], row["way"], row["options"]) == (scene, way, run) for row in rows):
                    continue
                rows.append({"scene": scene, "way": way, "options": run})
                rows[-1] |= one(model, picture, cases[scene].source_prompt, run)
                print(rows[-1], flush=True)
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def one(model: Model, picture: torch.Tensor, prompt: str, run: dict[str, Any]) -> dict[str, float]:
    """One inversion: its evaluations, and PSNR to the picture of what it and the autoencoder alone make of it."""
    options = method.decided(parse(Options, {"steps": STEPS, "guidance_scale": SCALE, **run}))
    up = drain(walk_up(model, picture, prompt, "null_text", options))
    evaluations = STEPS

    def see(progress: Progress) -> None:
        nonlocal evaluations
        evaluations += progress.rows + 2 * progress.gradient_rows

    source = drain(method.optimised(model, up, options), see)
    found, bound = model.decode(source.z_0), model.decode(up.z_0)
    return {
        "evaluations": evaluations,
        "psnr": psnr(found, picture),
        "bound": psnr(bound, picture),
    }


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


def drawn(rows: list[dict[str, Any]], png: Path, webp: Path) -> None:
    figure, axes = plots.blank("evaluations of the network (log)", "PSNR of the reconstruction, dB")
    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    for way, colour in zip(WAYS, plots.COLOURS, strict=False):
        for scene, mark in zip(scenes, plots.MARKS, strict=False):
            own = [row for row in rows if (row["way"], row["scene"]) == (way, scene)]
            own.sort(key=lambda row: row["evaluations"])
            axes.plot(
                [row["evaluations"] for row in own],
                [row["psnr"] for row in own],
                color=colour,
                marker=mark,
                label=way if scene == scenes[0] else None,
            )
    for scene in scenes:
        bound = next(row["bound"] for row in rows if row["scene"] == scene)
        label = "the autoencoder alone" if scene == scenes[0] else None
        axes.axhline(bound, color=plots.FAINT, linestyle="--", linewidth=1, label=label)
    axes.set_xscale("log")
    axes.legend(frameon=False, fontsize=9)
    plots.save(figure, png)
    Image.open(png).convert("RGB").save(webp, quality=80)


if __name__ == "__main__":
    main()
