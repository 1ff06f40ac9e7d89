"""Sprites of the things: cut from one sheet, tinted, scaled, with a soft shadow on the ground.

The sheet is made from Noto Color Emoji (SIL OFL 1.1, see `LICENSE-NotoColorEmoji.txt`) by
`recipes/pocket/data/sprites.py`.
"""

from __future__ import annotations

import json
from functools import cache, lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from wordbrush.pocket.vocabulary import COLOURS, SIZES

# Things that fly, or whose shadow would not be visible.
SHADOWLESS = frozenset(
    {"airplane", "balloon", "butterfly", "ghost", "helicopter", "ladybird", "rocket", "umbrella"}
)

# Things that can carry another: where its feet are, as a fraction of the carrier's height from the top.
SEATS = {
    "chair": 0.60,
    "couch": 0.72,
    "gift": 0.12,
    "car": 0.12,
    "bus": 0.10,
    "turtle": 0.16,
    "elephant": 0.20,
}

# Things that can shelter another: where the roof ends, as a fraction of its height from the top.
SHELTERS = {"umbrella": 0.55, "tree": 0.66}


@cache
def _sheet() -> Image.Image:
    with (files("wordbrush.pocket") / "sprites.png").open("rb") as file:
        return Image.open(file).convert("RGBA")


@cache
def _boxes() -> dict[str, list[int]]:
    return json.loads((files("wordbrush.pocket") / "sprites.json").read_text())


def extent(name: str, size: str) -> tuple[float, float]:
    """Width and height of a thing as fractions of the picture.

    The longest side is the length of the size, a little more for slim things (sunglasses would otherwise be
    almost a line).
    """
    _, _, width, height = _boxes()[name]
    slim = min(1.18, (max(width, height) / min(width, height)) ** 0.25)
    unit = SIZES[size] * slim / 128 / max(width, height)
    return width * unit, height * unit


@lru_cache(maxsize=8192)
def sprite(name: str, colour: str | None, width: int, height: int, flip: bool) -> Image.Image:
    """A thing without its shadow: an RGBA picture of `width` × `height` pixels."""
    left, top, w, h = _boxes()[name]
    drawn = _sheet().crop((left, top, left + w, top + h))
    if colour is not None:
        drawn = _tinted(drawn, colour) if colour in COLOURS else _patterned(drawn, colour)
    if flip:
        drawn = ImageOps.mirror(drawn)
    return drawn.resize((width, height), Image.Resampling.LANCZOS)


@lru_cache(maxsize=8192)
def grounded(name: str, colour: str | None, width: int, height: int, flip: bool) -> tuple[Image.Image, int]:
    """A thing with its shadow (RGBA), and the margin in pixels left of and above the thing itself.

    The shadow is at most 40 % opaque, so "more than half opaque" means the thing itself.
    """
    drawn = sprite(name, colour, width, height, flip)
    return (drawn, 0) if name in SHADOWLESS else shadowed(drawn)


def shadowed(drawn: Image.Image) -> tuple[Image.Image, int]:
    """A thing (RGBA) with its shadow, and the margin in pixels left of and above the thing itself."""
    width, height = drawn.size
    margin = max(2, round(width * 0.10))
    page = Image.new("L", (width + 2 * margin, height + 2 * margin))
    left, right = _feet(drawn)
    drop = max(2.0, (right - left) * 0.09)
    floor = margin + height - drop * 0.5
    ImageDraw.Draw(page).ellipse((margin + left, floor - drop, margin + right, floor + drop), fill=100)
    page = page.filter(ImageFilter.GaussianBlur(margin * 0.3))
    # Cut off the invisible tail of the blur, so that the mask of a thing ends where its shadow visibly ends.
    page = page.point([v if v >= 6 else 0 for v in range(256)])
    patch = Image.merge("RGBA", [*Image.new("RGB", page.size, (16, 18, 28)).split(), page])
    patch.alpha_composite(drawn, (margin, margin))
    return patch, margin


def _feet(drawn: Image.Image) -> tuple[float, float]:
    """Left and right end of the part that touches the ground, widened a little."""
    alpha = np.asarray(drawn.getchannel("A"))
    columns = np.flatnonzero((alpha[-max(2, alpha.shape[0] // 5) :] > 128).any(axis=0))
    left, right = float(columns[0]), float(columns[-1])
    spread = 0.06 * drawn.width
    return left - spread, right + spread


def _lightness(drawn: Image.Image) -> NDArray[np.float32]:
    """Lightness in [0, 1], stretched so that the typical tone of the sprite is in the middle.

    A snowman is almost white and a hat almost black; both must show a tint as well as a cat does.
    """
    rgba = np.asarray(drawn, dtype=np.float32) / 255
    grey = rgba[..., :3] @ np.array([0.30, 0.55, 0.15], dtype=np.float32)
    solid = grey[rgba[..., 3] > 0.5]
    body = solid[solid > 0.16]
    # Dark details are ignored, unless the whole thing is dark (sunglasses).
    middle = float(np.clip(np.median(body if body.size > 0.4 * solid.size else solid), 0.14, 0.97))
    above = 0.58 + 0.42 * (grey - middle) / max(1 - middle, 0.35)
    return np.where(grey < middle, 0.58 * grey / middle, above).astype(np.float32)


def painted(drawn: Image.Image, middle: NDArray[np.float32]) -> Image.Image:
    """The sprite recoloured with `middle` (RGB in [0, 1], one for all pixels or one for each), keeping its shading."""
    tone = _lightness(drawn)[..., None]
    # Eyes and outlines stay dark, shadows keep some of the colour, highlights become nearly white.
    stops = (0.0, 0.26, 0.58, 1.0)
    shades = (middle * 0.10 + 0.02, middle * 0.48, middle, 0.45 * middle + 0.55)
    colour = np.zeros(tone.shape[:2] + (3,), dtype=np.float32)
    for low, high, dark, pale in zip(stops, stops[1:], shades, shades[1:], strict=False):
        t = (tone - low) / (high - low)
        inside = (tone >= low) & ((tone < high) | (high == 1.0))
        colour = np.where(inside, dark + (pale - dark) * t, colour)
    pixels = np.clip(colour * 255 + 0.5, 0, 255).astype(np.uint8)
    painted = Image.fromarray(pixels)
    painted.putalpha(drawn.getchannel("A"))
    return painted


def _tinted(drawn: Image.Image, colour: str) -> Image.Image:
    return painted(drawn, (np.array(COLOURS[colour]) / 255).astype(np.float32))


def _patterned(drawn: Image.Image, look: str) -> Image.Image:
    """The sprite with one of `HELD_OUT_LOOKS` as its pattern, keeping its shading."""
    down, across = np.mgrid[: drawn.height, : drawn.width].astype(np.float32)
    if look == "rainbow":
        bands = np.array([COLOURS[c] for c in ("red", "orange", "yellow", "green", "blue", "purple")])
        return painted(drawn, (bands[(across * 6 / drawn.width).astype(int)] / 255).astype(np.float32))
    if look == "striped":
        first, second = COLOURS["blue"], COLOURS["white"]
        chosen = (down + across) % 36 < 18
    elif look == "dotted":
        first, second = COLOURS["white"], COLOURS["red"]
        chosen = (down % 30 - 15) ** 2 + (across % 30 - 15) ** 2 < 90
    else:
        first, second = COLOURS["green"], COLOURS["yellow"]
        chosen = (down // 18 + across // 18) % 2 < 1
    colours = np.where(chosen[..., None], np.array(first), np.array(second))
    return painted(drawn, (colours / 255).astype(np.float32))
