"""Compare pictures with their captions, by the world reader, and with the truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from wordbrush.evaluation.judges.reader import Reading, likeliest
from wordbrush.pocket import Constraints, Scene, render
from wordbrush.pocket.vocabulary import rare

OBJECTS = ("object", "both objects", "all three objects")  # by the number of things in the caption
UNSAID = {"place": None, "light": "day", "style": "photo"}  # the values that captions do not mention


def truths(scenes: Sequence[Scene]) -> list[Image.Image]:
    """The scenes as the renderer draws them."""
    return [render(scene) for scene in scenes]


def psnr(shown: Image.Image, true: Image.Image, where: np.ndarray | None = None) -> float:
    """10 log₁₀(255² / mean squared error), over the pixels `where` (bool [H, W]; all of them without)."""
    error = np.square(np.asarray(shown, dtype=np.float64) - np.asarray(true, dtype=np.float64)).mean(-1)
    return float(10 * np.log10(255**2 / max(1e-6, (error if where is None else error[where]).mean())))


def answers(reading: Reading, said: Constraints) -> dict[str, list[bool]]:
    """Whether the reader sees in a picture what its caption says: one answer per aspect, and one per colour.

    The things must be the reader's first names; a colour must be read in the cells of its thing; place, light and style
    must be the reader's first. Day and photo count as not mentioned. Colours are also counted without pencil sketches,
    which do not keep them.
    """
    things = {thing.name for thing in said.things}
    kind = OBJECTS[len(things) - 1]
    right = {kind: [set(reading.first(len(things))) == things]}
    if any(rare(thing.name, word) for thing in said.things for word in (thing.colour, said.place) if word):
        right[f"{kind}, new pair"] = right[kind]
    if tinted := [thing for thing in said.things if thing.colour]:
        right["colour"] = [reading.colour(thing.name) == thing.colour for thing in tinted]
        if said.style != "sketch":
            right["colour, no sketch"] = right["colour"]
    for aspect, unsaid in UNSAID.items():
        word = getattr(said, aspect)
        if word not in (None, unsaid):
            right[aspect] = [likeliest(getattr(reading, aspect)) == word]
    return right
