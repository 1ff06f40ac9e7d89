"""Edits of forty rendered scenes, with six kinds of change and their true answers: the results of Prompt-to-Prompt's
defaults, beside the same noise without the edit.

Used by `report.py`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import figures
from jobs import Job, JobRunner, loaded, painted, painting
from reading import answers, psnr
from wordbrush.api import edit, invert
from wordbrush.evaluation.judges.reader import Reader
from wordbrush.pocket import Scene, caption, change, mask, parse, render, sample
from wordbrush.pocket.vocabulary import COLOURS, COMMON, LIGHTS, PLACES, STYLES

FIRST = 40_000  # the first held-out seed of the search for scenes, and of the noise for the swaps' targets
ALONE, PAIRS = 30, 10  # scenes of one thing, and of two
KINDS = ("swap", "colour", "light", "style", "place", "removal")


# The scenes --------------------------------------------------------------------------------------------------


@cache
def scenes() -> list[Scene]:
    """The first held-out photos by day whose captions name the place: some of one thing, then some of two.

    No thing is small, and of two things neither is on or under the other.
    """
    return _found(1, ALONE) + _found(2, PAIRS)


def _found(things: int, count: int) -> list[Scene]:
    found: list[Scene] = []
    seed = FIRST
    while len(found) < count:
        scene = sample(seed, things=things, split="test")
        plain = scene.style == "photo" and scene.light == "day" and scene.relation not in ("on", "under")
        large = all(thing.size != "small" for thing in scene.things)
        if plain and large and parse(caption(scene)).place is not None:
            found.append(scene)
        seed += 1
    return found


def changes(i: int) -> dict[str, Scene]:
    """The changed scenes of scene `i`, by the kind of change.

    In every scene the first thing is swapped. Scenes of one thing alternate between colour and light, and place and
    style. In scenes of two, the second thing is removed.
    """
    rng = random.Random(i)
    scene = scenes()[i]
    thing = scene.things[0]
    there = {thing.name for thing in scene.things}
    changed = {"swap": change(scene, name=rng.choice(sorted(COMMON - there)))}
    if len(scene.things) == 2:
        return changed | {"removal": change(scene, thing=1, remove=True)}
    if i % 2:
        places = [place for place in PLACES if place != scene.place and "background" not in place]
        return changed | {
            "place": change(scene, place=rng.choice(places)),
            "style": change(scene, style=rng.choice([style for style in STYLES if style != "photo"])),
        }
    colours = [c for c in COLOURS if c != thing.colour and not scene.place.startswith(c)]
    return changed | {
        "colour": change(scene, colour=rng.choice(colours)),
        "light": change(scene, light=rng.choice([light for light in LIGHTS if light != "day"])),
    }


# Making them -------------------------------------------------------------------------------------------------


def edited(weights: Path, i: int, guidance: float) -> dict[str, np.ndarray]:
    """Scene `i`, edited with the default options of everything.

    `kept` is the autoencoder's reconstruction; `edits` has one picture per change; `baseline` has the target prompts
    painted from the same noise without an edit, in the model's own number of steps.
    """
    model = loaded(weights, torch.float32)
    scene = scenes()[i]
    prompt, targets = caption(scene), [caption(changed) for changed in changes(i).values()]
    source = invert(model, render(scene), prompt, method="straight")  # as for "pocket", which has no path
    results = edit(model, source, targets)
    z_T = source.z_T.expand(len(targets), -1, -1, -1)  # noqa: N806
    return {
        "kept": np.asarray(source.image(model)),
        "edits": np.stack([np.asarray(result.rendering) for result in results]),
        "baseline": painted(model, z_T, targets, model.schedule(), guidance),
    }


def run(runner: JobRunner, guidance: float) -> tuple[list[dict[str, np.ndarray]], list[Image.Image]]:
    """The result of `edited` for each scene, and the swaps' target prompts painted from other noise."""
    jobs = [Job(f"edited-{i}-{guidance:g}", edited, (i, guidance)) for i in range(len(scenes()))]
    targets = [caption(changes(i)["swap"]) for i in range(len(scenes()))]
    return runner.read(jobs), runner.pictures(painting(FIRST, targets, guidance))


# Measuring them ----------------------------------------------------------------------------------------------


def shows(
    reader: Reader, kind: str, pictures: Sequence[Image.Image], before: Scene, after: Scene
) -> list[bool]:
    """Whether the reader sees the intended change in each picture.

    swap: the new thing is among its first names, as many as there are things. removal: the remaining thing is its first
    name, the other is not among its first two, and where that was, at least two thirds of the squared error to the true
    answer are gone (so that a copy of the remaining thing does not count; the share was set by eye). Otherwise: the
    thing is its first name, and the new colour, place, light or style the first of its kind.
    """
    readings = reader.read(pictures)
    if kind == "swap":
        return [after.things[0].name in reading.first(len(after.things)) for reading in readings]
    if kind == "removal":
        true, where = render(after), mask(before, after)
        enough = psnr(render(before), true, where) + 10 * math.log10(3)
        stays, goes = after.things[0].name, before.things[1].name
        return [
            reading.first(1) == [stays]
            and goes not in reading.first(2)
            and psnr(picture, true, where) > enough
            for picture, reading in zip(pictures, readings, strict=True)
        ]
    found = [answers(reading, parse(caption(after))) for reading in readings]
    return [all(one["object"] + one[kind]) for one in found]


def measured(
    reader: Reader, results: Sequence[dict[str, np.ndarray]], alone: Sequence[Image.Image]
) -> dict[str, dict[str, float]]:
    """The results of the edits, by kind.

    shown, truth, baseline: the share of edits, of true answers and of unedited pictures from the same noise that
    show the change. kept, bound, baseline kept: PSNR of the part that the change leaves untouched (if there is one),
    for the edits, for the autoencoder alone and for the unedited pictures. near, baseline near, source near: PSNR of
    the whole picture to the true answer. For swaps also drawn: the share of targets that the model draws right from
    other noise (`alone`); shown of drawn: the share of these that the edit shows.
    """
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for i, arrays in enumerate(results):
        scene = scenes()[i]
        for k, (kind, after) in enumerate(changes(i).items()):
            ours, baseline = (Image.fromarray(arrays[name][k]) for name in ("edits", "baseline"))
            source, true, stays = render(scene), render(after), ~mask(scene, after)
            pictures = [ours, true, baseline, *(alone[i : i + 1] if kind == "swap" else ())]
            seen = shows(reader, kind, pictures, scene, after)
            row: dict[str, float] = dict(zip(("shown", "truth", "baseline", "drawn"), seen, strict=False))
            if stays.mean() > 0.02:
                row["kept"], row["baseline kept"] = psnr(ours, true, stays), psnr(baseline, true, stays)
                row["bound"] = psnr(Image.fromarray(arrays["kept"]), true, stays)
            row["near"], row["baseline near"] = psnr(ours, true), psnr(baseline, true)
            row["source near"] = psnr(source, true)
            rows[kind].append(row)
    found: dict[str, dict[str, float]] = {}
    for kind, some in rows.items():
        keys = {key: [row[key] for row in some if key in row] for key in some[0]} if some else {}
        found[kind] = {"of": len(some)} | {key: float(np.mean(values)) for key, values in keys.items()}
    if drawn := [row["shown"] for row in rows["swap"] if row.get("drawn")]:
        found["swap"]["shown of drawn"] = float(np.mean(drawn))
    return found


def cells(results: Sequence[dict[str, np.ndarray]], each: int) -> figures.Cells:
    """A few changes of every kind: source, true answer, edit, and the same noise unedited.

    Not hand-picked: for each kind the first scenes that have it and were not shown yet.
    """
    found: figures.Cells = []
    waiting = list(range(len(results)))
    for kind in KINDS:
        for i in [i for i in waiting if kind in changes(i)][:each]:
            waiting.remove(i)
            k, after = list(changes(i)).index(kind), changes(i)[kind]
            found += [
                (render(scenes()[i]), caption(scenes()[i])),
                (render(after), "the true answer"),
                (Image.fromarray(results[i]["edits"][k]), caption(after)),
                (Image.fromarray(results[i]["baseline"][k]), "the same noise, unedited"),
            ]
    return found
