"""Scenes as pictures and label maps, and the true mask of the difference between two scenes."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from wordbrush.errors import InputError
from wordbrush.pocket import looks, places, sprites
from wordbrush.pocket.scene import Scene, Thing


def render(scene: Scene, size: int = 128) -> Image.Image:
    """The scene as an RGB picture, `size` pixels square. Raises `InputError` below 32 pixels."""
    _check(size)
    picture = places.paint(scene.place, scene.place_seed, size).copy()
    for thing in reversed(scene.things):
        patch, corner = _patch(thing, size)
        picture.paste(patch, corner, patch)
    return looks.styled(looks.lit(picture, scene.light), scene.style)


def segment(scene: Scene, size: int = 128) -> UInt8[np.ndarray, "{size} {size}"]:
    """The thing visible at each pixel: 0 is the place, 1 + i is thing i where it is more than half opaque."""
    _check(size)
    labels = np.zeros((size, size), dtype=np.uint8)
    for i in reversed(range(len(scene.things))):
        labels[_opacity(scene.things[i], size) > 127] = 1 + i
    return labels


def mask(scene: Scene, other: Scene, size: int = 128) -> Bool[np.ndarray, "{size} {size}"]:
    """Where two scenes truly differ (True: edit here).

    Things: wherever a thing that only one scene has is visible, including its shadow. Another place: everything
    except what unchanged things cover. Another light or style: everything. Photos are identical outside the mask,
    in any light; in other styles, pictures are identical further than `looks.REACH` from it.
    """
    _check(size)
    if (scene.light, scene.style) != (other.light, other.style):
        return np.ones((size, size), dtype=bool)
    place_differs = (scene.place, scene.place_seed) != (other.place, other.place_seed)
    shared = [thing for thing in scene.things if thing in other.things]
    if shared != [thing for thing in other.things if thing in scene.things]:
        shared = []  # the same things in another order of overlap
    differing = np.zeros((size, size), dtype=bool)
    for one in (scene, other):
        uncovered = np.ones((size, size), dtype=bool)
        for thing in one.things:  # nearest first
            opacity = _opacity(thing, size)
            if thing not in shared:
                differing |= uncovered & (opacity > 0)
            uncovered &= opacity < 255
        if place_differs:
            differing |= uncovered
    return differing


def _check(size: int) -> None:
    if size < 32:
        raise InputError(f"expected a picture of at least 32 pixels, got {size}.")


def _patch(thing: Thing, size: int) -> tuple[Image.Image, tuple[int, int]]:
    """The thing with its shadow, and the position of its upper left corner."""
    wide, high = sprites.extent(thing.name, thing.size)
    width, height = max(1, round(wide * size)), max(1, round(high * size))
    patch, margin = sprites.grounded(thing.name, thing.colour, width, height, thing.flip)
    return patch, (round(thing.x * size - width / 2) - margin, round(thing.y * size - height / 2) - margin)


def _opacity(thing: Thing, size: int) -> UInt8[np.ndarray, "{size} {size}"]:
    patch, corner = _patch(thing, size)
    page = Image.new("L", (size, size))
    page.paste(patch.getchannel("A"), corner)
    return np.asarray(page)
