"""What null-text inversion costs to reach its quality: PSNR of the reconstruction over evaluations of the network.

    python benchmarks/null_text.py --out DIR             # about ten minutes; goes on where it was
    python benchmarks/null_text.py --out DIR --figure null-text.webp
    python benchmarks/null_text.py --out DIR --ablations --figure null-text-ablations.webp

The published loop by the number of its inner steps, and Gauss–Newton by the error that ends a step, on scenes that no
figure of the bench is reported of; guidance 7.5 and 50 steps, as published. An evaluation is a forward pass of one
row; a backward pass counts as two.

--ablations: the paper's, by the number of iterations, with 20 steps.
"""

import argparse
import json
from itertools import pairwise
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

ABLATED = 20  # steps
_INNER = (1, 3, 10)
ABLATIONS: dict[str, list[dict[str, Any]]] = {
    "null-text": [{"inner_steps": n, "early_stop": 0, "early_stop_growth": 0} for n in _INNER],
    "random caption": [
        {"ablation": "random-caption", "inner_steps": n, "early_stop": 0, "early_stop_growth": 0}
        for n in _INNER
    ],
    "global null-text": [{"ablation": "global-null", "inner_steps": n, "early_stop": 0} for n in _INNER],
    "random pivot": [
        {"ablation": "random-pivot", "inner_steps": n, "early_stop": 0, "early_stop_growth": 0}
        for n in _INNER
    ],
    "pivotal caption": [{"ablation": "pivotal-caption", "inner_steps": n, "early_stop": 0} for n in _INNER],
    "textual inversion": [{"ablation": "textual-inversion", "inner_steps": n} for n in _INNER],
    "no iteration: DDIM inversion": [{"inner_steps": 0}],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=2)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--ablations", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    name = "null-text-ablations" if options.ablations else "null-text"
    ways, steps, x = (ABLATIONS, ABLATED, "iterations") if options.ablations else (WAYS, STEPS, "evaluations")
    rows = measured(options.out / f"{name}.jsonl", options.pictures, ways, steps)
    for way in ways:
        for run in ways[way]:
            found = [row for row in rows if row["way"] == way and row["options"] == run]
            mean = {key: sum(row[key] for row in found) / len(found) for key in (x, "psnr", "bound")}
            print(f"{way}, {run}: {mean[x]:.0f} {x}, {mean['psnr']:.2f} dB of {mean['bound']:.2f}")
    if options.figure:
        drawn(rows, options.out / f"{name}.png", options.figure, ways, x)


Ways = dict[str, list[dict[str, Any]]]


def measured(file: Path, pictures: int, ways: Ways, steps: int) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    torch.set_num_threads(1)
    model = Model.load("pocket", device="cpu")
    cases = {case.scene: case for case in reversed(split(SEED, 10 * (pictures + 1)))}
    scenes = list(cases)[::-1]
    for scene, other in list(pairwise(scenes))[:pictures]:
        picture = to_tensor(cases[scene].picture)
        for way, runs in ways.items():
            for run in runs:
                if any((row["scene"], row["way"], row["options"]) == (scene, way, run) for row in rows):
                    continue
                rows.append({"scene": scene, "way": way, "options": run})
                # A caption that has nothing to do with the picture is another picture's.
                caption = cases[other].source_prompt if way == "random caption" else ""
                rows[-1] |= one(model, picture, cases[scene].source_prompt, run, steps, caption)
                print(rows[-1], flush=True)
                file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return rows


def one(
    model: Model, picture: torch.Tensor, prompt: str, run: dict[str, Any], steps: int, caption: str
) -> dict[str, float]:
    """One inversion: its evaluations and its iterations, and PSNR to the picture of what it and the autoencoder alone
    make of it."""
    given = {"steps": steps, "guidance_scale": SCALE, "ablation_caption": caption, **run}
    options = method.decided(parse(Options, given))
    up = drain(walk_up(model, picture, caption or prompt, "null_text", options))
    evaluations, iterations = steps, 0

    def see(progress: Progress) -> None:
        nonlocal evaluations, iterations
        evaluations += progress.rows + 2 * progress.gradient_rows
        iterations += progress.gradient_rows

    source = drain(method.found(model, up, options), see)
    found, bound = model.decode(source.z_0), model.decode(up.z_0)
    return {
        "evaluations": evaluations,
        "iterations": iterations,
        "psnr": psnr(found, picture),
        "bound": psnr(bound, picture),
    }


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10(((a - b) / 2).square().mean()))


def drawn(rows: list[dict[str, Any]], png: Path, webp: Path, ways: Ways, x: str) -> None:
    what = (
        "evaluations of the network"
        if x == "evaluations"
        else "iterations, each of which differentiates one row"
    )
    figure, axes = plots.blank(f"{what} (log)", "PSNR of the reconstruction, dB")
    scenes = list(dict.fromkeys(row["scene"] for row in rows))
    for number, (way, colour) in enumerate(zip(ways, plots.COLOURS, strict=False)):
        for place, scene in enumerate(scenes):
            own = [row for row in rows if (row["way"], row["scene"]) == (way, scene)]
            own.sort(key=lambda row: row[x])
            label = way if place == 0 else None
            if len(own) == 1 and own[0][x] == 0:  # no place on a logarithmic axis
                axes.axhline(own[0]["psnr"], color=colour, linestyle=":", linewidth=1, label=label)
                continue
            axes.plot(
                [row[x] for row in own],
                [row["psnr"] for row in own],
                color=colour,
                marker=plots.MARKS[place if len(scenes) > 1 else number],
                label=label,
            )
    for scene in scenes:
        bound = next(row["bound"] for row in rows if row["scene"] == scene)
        label = "the autoencoder alone" if scene == scenes[0] else None
        axes.axhline(bound, color=plots.FAINT, linestyle="--", linewidth=1, label=label)
    axes.set_xscale("log")
    if x == "iterations":
        counts = sorted({int(row[x]) for row in rows} - {0})
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.set_xticks([], minor=True)
        figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    else:
        axes.legend(frameon=False, fontsize=9)
    plots.save(figure, png)
    Image.open(png).convert("RGB").save(webp, quality=80)


if __name__ == "__main__":
    main()
