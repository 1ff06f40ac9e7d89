"""What pictures show: the judge's answers to what was said of them, and distances from the truth."""

from __future__ import annotations

from collections.abc import Sequence

import judge
import numpy as np
from judge import Judge
from PIL import Image

from wordbrush.pocket import Constraints, Scene, render
from wordbrush.pocket.vocabulary import LIGHTS, PLACES, STYLES, rare


def truths(scenes: Sequence[Scene]) -> list[Image.Image]:
    """The scenes as the renderer draws them."""
    return [render(scene) for scene in scenes]


def psnr(made: Image.Image, true: Image.Image, where: np.ndarray | None = None) -> float:
    """10 log₁₀(255² / mean squared error), over the pixels `where` (bool [H, W]; all of them without)."""
    error = np.square(np.asarray(made, dtype=np.float64) - np.asarray(true, dtype=np.float64)).mean(-1)
    return float(10 * np.log10(255**2 / max(1e-6, (error if where is None else error[where]).mean())))


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
