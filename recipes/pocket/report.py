"""The model's report card: what it draws, where its words look, what its edits do. All on held-out scenes.

    python recipes/pocket/report.py --minutes 12

A scene is a value, so everything here has a true answer: pictures are compared with what the renderer draws, and
beside every figure that the judge gives stands what the judge makes of the true renderings of the same scenes.

Writes `runs/pocket/report.json`, `runs/pocket/figures.json` (for the model card), the table in `docs/pocket.md` and
three sheets in `docs/gallery`. What has been painted is kept in `runs/pocket/report/<hash of the weights>`: started
again, it goes on where it was. When the minutes are spent it counts what is there, and says how much that is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import figures
import judge
import numpy as np
import torch
from data import RUNS, coverage
from judge import Judge
from PIL import Image
from torch import Tensor

from wordbrush.api import edit, invert
from wordbrush.denoise import denoise
from wordbrush.images import to_image, to_tensor
from wordbrush.model import POCKET, Model
from wordbrush.pocket import Constraints, Scene, caption, caption_parts, change, mask, parse, render, sample
from wordbrush.pocket.vocabulary import COLOURS, COMMON, LIGHTS, PLACES, STYLES, rare
from wordbrush.source import initial_latents
from wordbrush.word_map import word_map

STEPS = 50
CHUNK = 20  # prompts painted at once, hence twice as many rows
RECONSTRUCTED, WHOLE = 512, 32  # pictures through the autoencoder, and as many at once

# Each part has held-out scenes of its own: the seed of the first. What is painted has its scene's seed.
AUTOENCODER, SWEEP, ONE, TWO, EDITS = 0, 10_000, 20_000, 30_000, 40_000

SWEEP_PROMPTS, SWEEP_STEPS = 40, 20
EDITED = 40  # scenes whose thing is swapped; the first half of them also change place and colour
SHOWN = 0.4  # a word's map, cut at this share of its maximum, is compared with what is truly there


# The scenes --------------------------------------------------------------------------------------------------


def held_out(first: int, count: int, things: int | None = None) -> list[Scene]:
    """Scenes of the test split; half of them pair a thing with a colour or a place that training never does."""
    return [sample(seed, things=things, split="test") for seed in range(first, first + count)]


def edit_scenes() -> list[Scene]:
    """The first held-out scenes that are photos by day of one thing, not small, whose captions say the place."""
    found: list[Scene] = []
    seed = EDITS
    while len(found) < EDITED:
        scene = sample(seed, things=1, split="test")
        plain = scene.style == "photo" and scene.light == "day" and scene.things[0].size != "small"
        if plain and parse(caption(scene)).place is not None:
            found.append(scene)
        seed += 1
    return found


def changes(i: int, scene: Scene) -> dict[str, Scene]:
    """What becomes of edit scene `i`: the true answers, by the kind of edit."""
    rng = random.Random(i)
    thing = scene.things[0]
    changed = {"swap": change(scene, name=rng.choice(sorted(COMMON - {thing.name})))}
    if i < EDITED // 2:
        places = [place for place in PLACES if place != scene.place and "background" not in place]
        colours = [
            colour for colour in COLOURS if colour != thing.colour and not scene.place.startswith(colour)
        ]
        changed["place"] = change(scene, place=rng.choice(places))
        changed["colour"] = change(scene, colour=rng.choice(colours))
    return changed


# What the workers do -----------------------------------------------------------------------------------------


@cache
def loaded(weights: Path, dtype: torch.dtype) -> Model:
    """The model, once in each worker."""
    torch.set_num_threads(1)
    return Model.load(weights, device="cpu", dtype=dtype)


def reconstruct(weights: Path, first: int, count: int) -> dict[str, np.ndarray]:
    """Held-out renderings through the autoencoder and back."""
    model = loaded(weights, torch.float32)
    true = torch.cat([to_tensor(render(scene)) for scene in held_out(AUTOENCODER + first, count)])
    return {"pictures": pixels(model.decode(model.encode_image(true)))}


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


def edit_scene(weights: Path, i: int, guidance: float) -> dict[str, np.ndarray]:
    """One rendering, inverted and edited as anyone would with the defaults; and where its words look.

    `kept` is the autoencoder's own reconstruction, `edits` one picture per change, `masks` the latent cells that
    each was free to change, `maps` the map of each of `words_of`.
    """
    model = loaded(weights, torch.float32)
    scene = edit_scenes()[i]
    prompt, targets = caption(scene), [caption(changed) for changed in changes(i, scene).values()]
    source = invert(model, render(scene), prompt, options={"guidance_scale": guidance})
    results = edit(model, source, targets)
    free = [(result.trajectory[-1] != source.trajectory[-1]).any(0) for result in results]
    maps = [word_map(model, prompt, word, source.trajectory, source.schedule) for _, word in words_of(scene)]
    return {
        "kept": np.asarray(source.image(model)),
        "edits": np.stack([np.asarray(result.image) for result in results]),
        "masks": torch.stack(free).numpy(),
        "maps": torch.stack(maps).numpy(),
    }


def words_of(scene: Scene) -> list[tuple[str, str]]:
    """(class, words) of what a one-thing caption says that has a place of its own in the picture."""
    classes = {"place": "place", 0: "object"}
    parts = [(text, classes[referent]) for text, referent in caption_parts(scene) if referent in classes]
    return [
        ("colour" if text in COLOURS else kind, text)
        for text, kind in parts
        if text not in ("small", "large")
    ]


def pixels(pictures: Tensor) -> np.ndarray:
    """uint8 [N, H, W, 3]."""
    return np.stack([np.asarray(to_image(picture)) for picture in pictures])


# Handing out the work ----------------------------------------------------------------------------------------


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


def captions(first: int, count: int, things: int) -> list[str]:
    """The captions of held-out scenes."""
    return [caption(scene) for scene in held_out(first, count, things)]


# Measuring ---------------------------------------------------------------------------------------------------


def psnr(made: Image.Image, true: Image.Image, where: np.ndarray | None = None) -> float:
    """10 log₁₀(255² / mean squared error), over the pixels `where` (bool [H, W]; all of them without)."""
    error = np.square(np.asarray(made, dtype=np.float64) - np.asarray(true, dtype=np.float64)).mean(-1)
    return float(10 * np.log10(255**2 / max(1e-6, (error if where is None else error[where]).mean())))


def truths(scenes: Sequence[Scene]) -> list[Image.Image]:
    """The scenes as the renderer draws them."""
    return [render(scene) for scene in scenes]


def answers(
    asked: Judge, pictures: Sequence[Image.Image], said: Sequence[Constraints]
) -> list[dict[str, bool]]:
    """Whether the judge sees in each picture what was said of it, for every aspect that was said.

    The things must be the first of all names, the colour the first of nine (a thing's own among them), place, light
    and style the first of all. Day and photo count as unsaid.
    """
    tables = {"name": judge.things(), "place": judge.PLACES, "light": judge.LIGHTS, "style": judge.STYLES}
    likely = judge.ask(asked, pictures, [answer for table in tables.values() for answer in table])
    ranked = dict(zip(tables, likely.split([len(table) for table in tables.values()], dim=1), strict=True))
    first = {kind: chances.argmax(1).tolist() for kind, chances in ranked.items()}
    names = ranked["name"].argsort(1, descending=True).tolist()

    found: list[dict[str, bool]] = []
    for i, one in enumerate(said):
        things = {thing.name for thing in one.things}
        seen = {judge.NAMES[k] for k in names[i][: len(things)]} == things
        right = {"object" if len(things) == 1 else "both objects": seen}
        if any(rare(thing.name, word) for thing in one.things for word in (thing.colour, one.place) if word):
            right |= {f"{aspect}, new pair": value for aspect, value in right.items()}
        for kind, table, unsaid in (
            ("place", PLACES, None),
            ("light", LIGHTS, "day"),
            ("style", STYLES, "photo"),
        ):
            word = getattr(one, kind)
            if word not in (None, unsaid):
                right[kind] = list(table)[first[kind][i]] == word
        found.append(right)

    tinted: dict[str, list[int]] = {}
    for i, one in enumerate(said):
        if len(one.things) == 1 and one.things[0].colour:
            tinted.setdefault(one.things[0].name, []).append(i)
    for name, rows in tinted.items():
        best = judge.ask(asked, [pictures[i] for i in rows], judge.colours(name)).argmax(1).tolist()
        for i, k in zip(rows, best, strict=True):
            found[i]["colour"] = judge.TINTS[k] == said[i].things[0].colour
    return found


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


def best_guidance(sweep: dict[float, dict[str, Any]]) -> float:
    """The scale whose objects, colours and places are right most often; the lowest of equals."""
    return max(
        sorted(sweep), key=lambda scale: sum(sweep[scale][a]["right"] for a in ("object", "colour", "place"))
    )


def measure_maps(scenes: Sequence[Scene], edited: Sequence[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Mean intersection over union of words' maps and what they name, in latent cells, by class of word.

    everywhere: what a map that covers the whole picture would have.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for scene, arrays in zip(scenes, edited, strict=False):
        covered = coverage(scene)[0] > 127
        for (kind, _), heat in zip(words_of(scene), arrays["maps"], strict=True):
            true, shown = ~covered if kind == "place" else covered, heat > SHOWN
            found.setdefault(kind, []).append(((shown & true).sum() / (shown | true).sum(), true.mean()))
    means = {kind: np.mean(pairs, axis=0) for kind, pairs in sorted(found.items())}
    return {
        kind: {"iou": float(iou), "everywhere": float(everywhere), "of": len(found[kind])}
        for kind, (iou, everywhere) in means.items()
    }


WANTED = {"swap": ("object",), "place": ("object", "place"), "colour": ("object", "colour")}


def measure_edits(
    asked: Judge,
    scenes: Sequence[Scene],
    edited: Sequence[dict[str, np.ndarray]],
    plain: Sequence[Image.Image],
) -> dict[str, Any]:
    """How edits fare against their true answers.

    right: the judge sees what the target says (for a swap, the new thing; else the same thing, changed). judge: it
    sees it in the true answer. kept: PSNR of what the change truly leaves alone; bound: the autoencoder's own,
    there. nearer: the share of edits that, where the change truly is, are nearer to its answer than the source was.
    Swaps also have drawn_right: the share of targets that the model draws right by themselves (`plain`), and
    right_of_drawn: how many of these the edit gets right.
    """
    report: dict[str, Any] = {}
    for kind, wanted in WANTED.items():
        rows: list[dict[str, float]] = []
        for i, (scene, arrays) in enumerate(zip(scenes, edited, strict=False)):
            kinds = changes(i, scene)
            if kind not in kinds:
                continue
            changed, made = kinds[kind], Image.fromarray(arrays["edits"][list(kinds).index(kind)])
            source, true, where = render(scene), render(changed), mask(scene, changed)
            pictures = [made, true, *plain[i : i + 1]]
            seen = answers(asked, pictures, [parse(caption(changed))] * len(pictures))
            right = [all(one[aspect] for aspect in wanted) for one in seen]
            row = {
                "right": right[0],
                "judge": right[1],
                "kept": psnr(made, true, ~where),
                "bound": psnr(Image.fromarray(arrays["kept"]), true, ~where),
                "nearer": psnr(made, true, where) > psnr(source, true, where),
            }
            if kind == "swap" and len(right) == 3:
                row |= {"drawn_right": right[2]}
            rows.append(row)
        report[kind] = {"of": len(rows)} | {
            key: float(np.mean([row[key] for row in rows if key in row])) for key in rows[0]
        }
        if kind == "swap":
            drawn = [row["right"] for row in rows if row.get("drawn_right")]
            report[kind]["right_of_drawn"] = float(np.mean(drawn)) if drawn else 0.0
    return report


Cells = list[tuple[Image.Image, str]]


def shown_edits(scenes: Sequence[Scene], edited: Sequence[dict[str, np.ndarray]], each: int = 8) -> Cells:
    """The first few edits of every kind, as source, true answer, edit and mask."""
    cells: Cells = []
    for kind in WANTED:
        shown = 0
        for i, (scene, arrays) in enumerate(zip(scenes, edited, strict=False)):
            kinds = changes(i, scene)
            if kind in kinds and shown < each:
                shown += 1
                at = list(kinds).index(kind)
                free = Image.fromarray(np.uint8(255 * arrays["masks"][at]))
                cells += [
                    (render(scene), caption(scene)),
                    (render(kinds[kind]), "the true answer"),
                    (Image.fromarray(arrays["edits"][at]), caption(kinds[kind])),
                    (free.resize((128, 128), Image.Resampling.NEAREST), "where it was free to change"),
                ]
    return cells


def measure(
    desk: Desk, asked: Judge, count: int, scales: Sequence[float]
) -> tuple[dict[str, Any], dict[str, Cells]]:
    """The whole report, and its sheets by name."""
    pieces = [Piece(f"autoencoder-{i}", reconstruct, (i, WHOLE)) for i in range(0, RECONSTRUCTED, WHOLE)]
    reconstructions = desk.pictures(pieces)

    sweep: dict[float, dict[str, Any]] = {}
    for scale in scales:
        made = desk.pictures(painting(SWEEP, captions(SWEEP, SWEEP_PROMPTS, 1), scale, SWEEP_STEPS))
        sweep[scale] = measure_paintings(asked, made, SWEEP, 1)
    guidance = best_guidance(sweep)

    scenes = edit_scenes()
    edited = desk.read([Piece(f"edit-{i}-{guidance:g}", edit_scene, (i, guidance)) for i in range(EDITED)])
    targets = [caption(changes(i, scene)["swap"]) for i, scene in enumerate(scenes)]
    plain = desk.pictures(painting(EDITS, targets, guidance))
    one_thing = painting(ONE, captions(ONE, count, 1), guidance)
    two_things = painting(TWO, captions(TWO, count * 2 // 5, 2), guidance)
    # In turns, so that little time means fewer of both.
    turns = [(i / len(pieces), piece) for pieces in (two_things, one_thing) for i, piece in enumerate(pieces)]
    desk.have([piece for _, piece in sorted(turns, key=lambda turn: turn[0])])
    one, two = desk.pictures(one_thing), desk.pictures(two_things)

    report = {
        "autoencoder": measure_autoencoder(reconstructions),
        "guidance": {"best": guidance, "prompts": SWEEP_PROMPTS, "steps": SWEEP_STEPS, "tried": sweep},
        "one": measure_paintings(asked, one, ONE, 1),
        "two": measure_paintings(asked, two, TWO, 2),
        "maps": measure_maps(scenes, edited),
        "edits": measure_edits(asked, scenes, edited, plain),
    }
    samples = [*zip(one, captions(ONE, 44, 1), strict=False), *zip(two, captions(TWO, 20, 2), strict=False)]
    pairs: Cells = []
    for true, made in zip(truths(held_out(AUTOENCODER, 16)), reconstructions, strict=False):
        pairs += [(true, "rendered"), (made, "through the autoencoder")]
    return report, {"autoencoder": pairs, "samples": samples, "edits": shown_edits(scenes, edited)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=POCKET)
    parser.add_argument("--judge", type=Path, help="its folder, where it is not the model's own")
    parser.add_argument("--minutes", type=float, default=12, help="for painting; counting comes on top")
    parser.add_argument("--count", type=int, default=500, help="one-thing prompts; two fifths as many of two")
    parser.add_argument("--guidance", type=float, nargs="+", default=[2, 3, 4, 5, 7.5], help="to choose from")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--docs", type=Path, default=figures.DOCS, help="where the table and the sheets go")
    options = parser.parse_args()

    began = time.time()
    torch.set_num_threads(options.workers)
    asked = judge.load(options.judge or options.model / "judge")
    weights = Model.load(options.model, device="cpu").hash
    folder = RUNS / "report" / weights[:12]
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as workers:
        desk = Desk(folder, options.model, workers, began + 60 * options.minutes)
        report, sheets = measure(desk, asked, options.count, options.guidance)

    report = {"weights": weights} | report
    (RUNS / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (RUNS / "figures.json").write_text(json.dumps(figures.card(report), indent=2) + "\n")
    figures.write_table(report, options.docs / "pocket.md")
    for name, cells in sheets.items():
        figures.sheet(cells).save(options.docs / "gallery" / f"pocket-{name}.png", optimize=True)
    print(f"{figures.markdown(report)}\n\n{time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
