"""Things that the world does not have, drawn from those that it has: what ELITE's mappers learn from.

    likeness = Likeness.drawn(random.Random(7))
    example(7)  # two renderings of one thing: its picture, and another scene with a caption

A likeness is one of the 63 sprites, or two of them put together, stretched, bent and recoloured. No sprite of
`HELD_OUT` and no pattern of `HELD_OUT_LOOKS` is ever drawn, and nothing here makes stripes, dots, checks or rainbows:
patches are a few large, irregular polygons, fields are smooth and of three colours at most. `VALIDATION` names the
sprites that only measure the training.
"""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from wordbrush.pocket import Scene, caption_parts, looks, places, sample
from wordbrush.pocket.sprites import SHADOWLESS, extent, painted, shadowed, sprite
from wordbrush.pocket.vocabulary import COLOURS, NAMES

VALIDATION = ("panda", "penguin", "motorcycle", "guitar", "teapot")
"""Sprites of the world that are held back from this training, to see what it makes of new ones."""

TRAINED = tuple(name for name in NAMES if name not in VALIDATION)
SIDE = 128  # pixels of a picture, and of the longest side of a sprite before it is placed
WORD = "<thing>"  # what captions call it


@dataclass(frozen=True)
class Likeness:
    """How a thing looks. name: its sprite. top: another sprite, whose upper half it has. paint: how it is coloured,
    with a seed for what that draws. stretch: its width by its height, beside the sprite's. bend: how far its rows are
    moved, as a share of its width."""

    name: str
    top: str | None
    paint: str
    seed: int
    stretch: float
    bend: float

    @staticmethod
    def drawn(rng: random.Random, names: tuple[str, ...] = TRAINED) -> Likeness:
        """A random one."""
        name = rng.choice(names)
        top = rng.choice(names) if rng.random() < 0.25 else None
        paint = rng.choices(list(PAINTS), [each for each, _ in PAINTS.values()])[0]
        stretch = 2 ** rng.uniform(-0.5, 0.5) if rng.random() < 0.4 else 1.0
        bend = rng.uniform(-0.12, 0.12) if rng.random() < 0.25 else 0.0
        return Likeness(name, top, paint, rng.randrange(2**31), stretch, bend)

    @property
    def aspect(self) -> float:
        """Width by height."""
        width, height = extent(self.name, "medium")
        return width / height * self.stretch

    @property
    def is_plain(self) -> bool:
        """Whether it is a thing of the world, in its own colours or in one of its eight."""
        return self.top is None and self.paint in ("own", "tint") and (self.stretch, self.bend) == (1.0, 0.0)


def _own(drawn: Image.Image, rng: random.Random) -> Image.Image:
    return drawn


def _tint(drawn: Image.Image, rng: random.Random) -> Image.Image:
    return painted(drawn, (np.array(COLOURS[rng.choice(list(COLOURS))]) / 255).astype(np.float32))


def _any_tint(drawn: Image.Image, rng: random.Random) -> Image.Image:
    return painted(drawn, _colour(rng))


def _turned(drawn: Image.Image, rng: random.Random) -> Image.Image:
    """Its own colours with other hues, saturation and lightness."""
    alpha = drawn.getchannel("A")
    hue, saturation, value = drawn.convert("RGB").convert("HSV").split()
    turn, strong, bright = rng.randrange(256), rng.uniform(0.2, 1.5), rng.uniform(0.6, 1.25)
    hue = hue.point([(v + turn) % 256 for v in range(256)])
    saturation = saturation.point([min(255, round(v * strong)) for v in range(256)])
    value = value.point([min(255, round(v * bright)) for v in range(256)])
    turned = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
    turned.putalpha(alpha)
    return turned


def _two_tones(drawn: Image.Image, rng: random.Random) -> Image.Image:
    """Lightness as a way from one colour to another."""
    grey = np.asarray(drawn.convert("RGB").convert("L"), dtype=np.float32)
    solid = grey[np.asarray(drawn.getchannel("A")) > 127]
    low, high = np.quantile(solid, [0.05, 0.95])
    share = np.clip((grey - low) / max(high - low, 1), 0, 1)[..., None]
    mixed = _colour(rng) * (1 - share) + _colour(rng) * share
    return _with_alpha(mixed, drawn)


def _field(drawn: Image.Image, rng: random.Random) -> Image.Image:
    """Two or three colours that run into one another, over its shading."""
    colours = [_colour(rng) for _ in range(rng.choice((2, 2, 3)))]
    shares = [_smooth(drawn.size, rng) for _ in colours]
    weights = np.exp(3 * np.stack(shares, -1))
    weights /= weights.sum(-1, keepdims=True)
    return painted(drawn, (weights @ np.stack(colours)).astype(np.float32))


def _patches(drawn: Image.Image, rng: random.Random) -> Image.Image:
    """A few large polygons of another colour."""
    first = painted(drawn, _colour(rng)) if rng.random() < 0.6 else drawn
    second = painted(drawn, _colour(rng))
    page = Image.new("L", drawn.size)
    draw = ImageDraw.Draw(page)
    for _ in range(rng.randint(1, 4)):
        x, y = rng.random() * drawn.width, rng.random() * drawn.height
        reach = rng.uniform(0.15, 0.4) * max(drawn.size)
        turns = sorted(rng.random() * 6.283 for _ in range(rng.randint(4, 9)))
        corners = [
            (x + reach * rng.uniform(0.5, 1) * np.cos(turn), y + reach * rng.uniform(0.5, 1) * np.sin(turn))
            for turn in turns
        ]
        draw.polygon(corners, fill=255)
    page = page.filter(ImageFilter.BoxBlur(1))
    return Image.composite(second, first, page)


PAINTS = {
    "own": (20, _own),
    "tint": (8, _tint),
    "any tint": (16, _any_tint),
    "turned": (22, _turned),
    "two tones": (12, _two_tones),
    "field": (11, _field),
    "patches": (11, _patches),
}
"""The ways to colour a sprite, each with how often it is drawn."""


def _colour(rng: random.Random) -> np.ndarray:
    hue, saturation, value = rng.random(), rng.uniform(0, 1) ** 0.6, rng.uniform(0.15, 1) ** 0.7
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)


def _smooth(size: tuple[int, int], rng: random.Random) -> np.ndarray:
    cells = np.array([[rng.gauss(0, 1) for _ in range(3)] for _ in range(3)], dtype=np.float32)
    return np.asarray(Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC))


def _with_alpha(values: np.ndarray, drawn: Image.Image) -> Image.Image:
    picture = Image.fromarray(np.clip(255 * values + 0.5, 0, 255).astype(np.uint8))
    picture.putalpha(drawn.getchannel("A"))
    return picture


def _plain(name: str) -> Image.Image:
    width, height = extent(name, "medium")
    unit = SIDE / max(width, height)
    return sprite(name, None, max(1, round(width * unit)), max(1, round(height * unit)), False)


@lru_cache(maxsize=256)
def portrait(likeness: Likeness) -> Image.Image:
    """The thing alone, RGBA."""
    drawn = _plain(likeness.name)
    if likeness.top is not None:
        width, height = drawn.size
        cut = height // 2
        upper = _plain(likeness.top)
        upper = upper.crop((0, 0, upper.width, round(upper.height * 0.6)))
        upper = upper.crop(upper.getbbox()).resize((round(0.9 * width), cut + 4), Image.Resampling.LANCZOS)
        lower = drawn.copy()
        lower.paste((0, 0, 0, 0), (0, 0, width, cut))
        lower.alpha_composite(upper, ((width - upper.width) // 2, 0))
        drawn = lower
    if likeness.bend:
        rows = np.asarray(drawn)
        shift = np.sin(np.linspace(0, 3.1, len(rows))) * likeness.bend * drawn.width
        pad = int(abs(shift).max()) + 1
        wide = np.zeros((len(rows), drawn.width + 2 * pad, 4), np.uint8)
        for y, by in enumerate(shift):
            wide[y, pad + round(by) : pad + round(by) + drawn.width] = rows[y]
        drawn = Image.fromarray(wide)
        drawn = drawn.crop(drawn.getbbox())
    return PAINTS[likeness.paint][1](drawn, random.Random(likeness.seed))


def sized(likeness: Likeness, size: str, flip: bool) -> Image.Image:
    """The thing alone (RGBA), as large as one of that size is in a picture."""
    longest = max(extent(likeness.name, size))
    width, height = likeness.aspect, 1.0
    unit = SIDE * longest / max(width, height)
    drawn = portrait(likeness).resize(
        (max(2, round(width * unit)), max(2, round(height * unit))), Image.Resampling.LANCZOS
    )
    return ImageOps.mirror(drawn) if flip else drawn


def render(scene: Scene, likeness: Likeness) -> tuple[Image.Image, np.ndarray]:
    """A scene whose first thing looks like this, and where that is seen: bool [128, 128]."""
    picture = places.paint(scene.place, scene.place_seed, SIDE).copy()
    opacity = Image.new("L", picture.size)
    for i in reversed(range(len(scene.things))):
        thing = scene.things[i]
        if i:
            width, height = extent(thing.name, thing.size)
            drawn = sprite(thing.name, thing.colour, round(width * SIDE), round(height * SIDE), thing.flip)
        else:
            drawn = sized(likeness, thing.size, thing.flip)
        flies = (likeness.name if i == 0 else thing.name) in SHADOWLESS
        patch, margin = (drawn, 0) if flies else shadowed(drawn)
        corner = (
            round(thing.x * SIDE - drawn.width / 2) - margin,
            round(thing.y * SIDE - drawn.height / 2) - margin,
        )
        picture.paste(patch, corner, patch)
        if i == 0:
            opacity.paste(patch.getchannel("A"), corner)
    return looks.styled(looks.lit(picture, scene.light), scene.style), np.asarray(opacity) > 127


def named(scene: Scene, rng: random.Random) -> str:
    """The scene's caption with `WORD` for its first thing; a size stays, and of the other articles every second."""
    said: list[str] = []
    parts = caption_parts(scene)
    size = scene.things[0].size
    keeps_article = size != "medium" or rng.random() < 0.5
    for i, (text, referent) in enumerate(parts):
        if referent == 0:
            if text == size:
                said.append(text)
            elif i + 1 == len(parts) or parts[i + 1][1] != 0:
                said.append(WORD)
        elif text in ("a", "an") and i + 1 < len(parts) and parts[i + 1][1] == 0:
            said += ["a"] if keeps_article else []
        else:
            said.append(text)
    return " ".join(said)


@dataclass(frozen=True)
class Example:
    """One thing in two scenes: `picture` with the thing's `mask`, and a `target` with its `caption` and the thing's
    `region`."""

    likeness: Likeness
    picture: Image.Image
    mask: np.ndarray
    target: Image.Image
    region: np.ndarray
    caption: str


def example(seed: int, names: tuple[str, ...] = TRAINED) -> Example:
    """The example of this seed; names: the sprites that likenesses are made of."""
    rng = random.Random(f"elite/{seed}")
    likeness = Likeness.drawn(rng, names)
    shown = _scene(rng, rng.choices((1, 2), (85, 15))[0], looks=rng.random() < 0.1)
    wanted = _scene(rng, rng.choices((1, 2), (70, 30))[0], looks=rng.random() < 0.45)
    picture, mask = render(shown, likeness)
    target, region = render(wanted, likeness)
    return Example(likeness, picture, mask, target, region, named(wanted, rng))


def _scene(rng: random.Random, things: int, looks: bool) -> Scene:
    while True:
        scene = sample(rng.randrange(2**31), things=things, looks=looks)
        # Things that carry others are covered by them, and small ones say little.
        if scene.relation not in ("on", "under") and scene.things[0].size != "small":
            return scene
