"""The places: one short function each, which paints a background from a seed.

Painted at twice the size and then reduced, so edges are smooth. There is no grain and little small detail, because a
small autoencoder cannot reproduce it and would spend its capacity on it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from wordbrush.pocket.vocabulary import BACKGROUNDS

Colour = tuple[int, int, int]


@lru_cache(maxsize=3072)
def paint(place: str, seed: int, size: int) -> Image.Image:
    """The place without any things: an RGB picture, `size` pixels square. It is cached: copy before drawing."""
    canvas = Canvas(random.Random(f"{place}/{seed}"), 2 * size)
    if place.endswith(" background"):
        _background(canvas, BACKGROUNDS[place.removesuffix(" background")])
    else:
        PAINTERS[place](canvas)
    return canvas.picture.reduce(2)


class Canvas:
    """A picture to draw on, with coordinates as fractions of its side: (0, 0) is top left, (1, 1) bottom right."""

    def __init__(self, rng: random.Random, pixels: int) -> None:
        self.rng = rng
        self.pixels = pixels
        self.picture = Image.new("RGB", (pixels, pixels))
        self.draw = ImageDraw.Draw(self.picture)

    def shade(self, colour: Colour, spread: int = 10) -> Colour:
        """The colour, a little lighter or darker."""
        by = self.rng.randint(-spread, spread)
        red, green, blue = (min(255, max(0, channel + by)) for channel in colour)
        return red, green, blue

    def gradient(self, top: float, bottom: float, above: Colour, below: Colour) -> None:
        """A band across the whole width with a vertical gradient between two colours."""
        first, last = round(top * self.pixels), round(bottom * self.pixels)
        t = np.linspace(0, 1, last - first)[:, None]
        column = np.array(above) * (1 - t) + np.array(below) * t
        strip = Image.fromarray(np.round(column).astype(np.uint8)[:, None, :])
        self.picture.paste(strip.resize((self.pixels, last - first), Image.Resampling.NEAREST), (0, first))

    def polygon(self, points: list[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([(x * self.pixels, y * self.pixels) for x, y in points], fill=colour)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        n = self.pixels
        self.draw.rectangle((left * n, top * n, right * n, bottom * n), fill=colour)

    def disc(self, x: float, y: float, width: float, height: float, colour: Colour) -> None:
        """An ellipse with its centre at (x, y), `width` wide and `height` high."""
        n, w, h = self.pixels, width / 2, height / 2
        self.draw.ellipse(((x - w) * n, (y - h) * n, (x + w) * n, (y + h) * n), fill=colour)

    def hills(self, base: float, height: float, colour: Colour, waves: float = 1.0) -> None:
        """Fill everything below a smooth random ridge around `base`."""
        shifts = [self.rng.uniform(0, 2 * math.pi) for _ in range(2)]
        xs = [i / 32 for i in range(33)]
        ridge = [
            (
                x,
                base
                - height * (math.sin(6 * waves * x + shifts[0]) + 0.5 * math.sin(13 * waves * x + shifts[1])),
            )
            for x in xs
        ]
        self.polygon([*ridge, (1.0, 1.0), (0.0, 1.0)], colour)

    def cloud(self, x: float, y: float, width: float, colour: Colour) -> None:
        for offset, scale in ((-0.28, 0.55), (0.0, 0.8), (0.28, 0.6)):
            self.disc(
                x + offset * width,
                y - 0.05 * width * scale,
                width * scale * 0.75,
                width * scale * 0.5,
                colour,
            )

    def clouds(self, colour: Colour = (250, 252, 255)) -> None:
        for x in (self.rng.uniform(0.05, 0.35), self.rng.uniform(0.6, 0.95)):
            if self.rng.random() < 0.75:
                self.cloud(x, self.rng.uniform(0.08, 0.24), self.rng.uniform(0.18, 0.3), colour)

    def pine(self, x: float, base: float, height: float, colour: Colour, snow: bool = False) -> None:
        self.box(x - height * 0.05, base - height * 0.2, x + height * 0.05, base, (94, 66, 44))
        for tier in range(3):
            foot = base - height * (0.14 + 0.24 * tier)
            half, rise = height * (0.30 - 0.06 * tier), height * 0.42
            self.polygon([(x - half, foot), (x + half, foot), (x, foot - rise)], colour)
            if snow:
                tip = 0.45
                cap = [(x - half * tip, foot - rise * (1 - tip)), (x + half * tip, foot - rise * (1 - tip))]
                self.polygon([*cap, (x, foot - rise)], (250, 252, 255))


def _background(canvas: Canvas, colour: Colour) -> None:
    light, deep = canvas.shade(colour, 8), canvas.shade(colour, 4)
    canvas.gradient(0.0, 1.0, light, (round(deep[0] * 0.9), round(deep[1] * 0.9), round(deep[2] * 0.9)))


def _horizon(canvas: Canvas) -> float:
    return canvas.rng.uniform(0.42, 0.54)


def _beach(canvas: Canvas) -> None:
    horizon = _horizon(canvas)
    shore = horizon + canvas.rng.uniform(0.10, 0.16)
    canvas.gradient(0.0, horizon, canvas.shade((88, 176, 240)), (200, 234, 250))
    canvas.clouds()
    canvas.gradient(horizon, 1.0, (38, 130, 196), (92, 200, 214))
    canvas.hills(shore + 0.02, 0.012, (238, 250, 250), 1.2)
    canvas.hills(shore + 0.045, 0.012, canvas.shade((240, 216, 156), 8), 1.2)
    if canvas.rng.random() < 0.5:
        canvas.disc(canvas.rng.uniform(0.1, 0.9), 0.1, 0.13, 0.13, (255, 240, 150))


def _snow(canvas: Canvas) -> None:
    horizon = _horizon(canvas)
    canvas.gradient(0.0, 1.0, canvas.shade((146, 184, 224)), (226, 234, 246))
    canvas.hills(horizon - 0.03, 0.04, (198, 214, 236))
    for _ in range(canvas.rng.randint(3, 5)):
        canvas.pine(
            canvas.rng.random(), horizon + 0.06, canvas.rng.uniform(0.16, 0.30), (62, 112, 104), snow=True
        )
    canvas.hills(horizon + 0.05, 0.02, (240, 245, 252))
    canvas.hills(horizon + 0.24, 0.025, (222, 232, 246))


def _forest(canvas: Canvas) -> None:
    horizon = _horizon(canvas)
    canvas.gradient(0.0, 1.0, canvas.shade((160, 208, 176)), (120, 178, 132))
    for row, tone in ((0.0, (86, 146, 100)), (0.06, (56, 116, 74)), (0.12, (34, 88, 56))):
        for i in range(5):
            x = (i + canvas.rng.uniform(-0.1, 1.1)) / 5
            canvas.pine(x, horizon + row, canvas.rng.uniform(0.30, 0.44) + row, canvas.shade(tone, 6))
    canvas.hills(horizon + 0.12, 0.012, canvas.shade((88, 134, 60), 8))
    canvas.hills(horizon + 0.30, 0.02, (74, 116, 50))


def _desert(canvas: Canvas) -> None:
    horizon = _horizon(canvas)
    canvas.gradient(0.0, 1.0, canvas.shade((104, 180, 232)), (255, 232, 184))
    canvas.disc(canvas.rng.uniform(0.1, 0.9), 0.13, 0.14, 0.14, (255, 246, 190))
    canvas.hills(horizon, 0.05, (222, 164, 96), 0.7)
    canvas.hills(horizon + 0.09, 0.05, canvas.shade((236, 188, 112), 8), 0.8)
    canvas.hills(horizon + 0.27, 0.04, (224, 170, 94), 0.7)


def _meadow(canvas: Canvas) -> None:
    horizon = _horizon(canvas)
    canvas.gradient(0.0, 1.0, canvas.shade((98, 184, 246)), (216, 240, 255))
    canvas.clouds()
    canvas.hills(horizon, 0.03, (132, 200, 104))
    canvas.hills(horizon + 0.08, 0.025, canvas.shade((116, 190, 72), 8))
    canvas.hills(horizon + 0.27, 0.02, (92, 168, 58))
    for _ in range(14):
        x, y = canvas.rng.random(), canvas.rng.uniform(horizon + 0.14, 0.98)
        petal = canvas.rng.choice([(255, 255, 255), (252, 222, 70), (244, 130, 170)])
        canvas.disc(x, y, 0.034, 0.028, petal)
        canvas.disc(x, y, 0.012, 0.010, (240, 180, 40))


def _mountains(canvas: Canvas) -> None:
    horizon = _horizon(canvas)
    canvas.gradient(0.0, 1.0, canvas.shade((118, 182, 240)), (226, 240, 250))
    canvas.clouds()
    for x, height in zip((0.12, 0.5, 0.88), canvas.rng.sample([0.46, 0.36, 0.30], 3), strict=True):
        x += canvas.rng.uniform(-0.08, 0.08)
        peak, half = horizon + 0.10 - height, height * 0.85
        foot = horizon + 0.12
        canvas.polygon([(x - half, foot), (x + half, foot), (x, peak)], canvas.shade((126, 138, 164), 8))
        canvas.polygon([(x, foot), (x + half, foot), (x, peak)], (102, 114, 142))
        cap = 0.3
        left, right, low = x - half * cap, x + half * cap, peak + (foot - peak) * cap
        zigzag = [(x + half * 0.12, low - 0.025), (x, low + 0.02), (x - half * 0.14, low - 0.02)]
        canvas.polygon([(left, low), (x, peak), (right, low), *zigzag], (248, 250, 255))
    canvas.hills(horizon + 0.09, 0.015, (104, 152, 96))
    canvas.hills(horizon + 0.26, 0.02, (86, 134, 80))


def _skyline(canvas: Canvas, floor: float) -> None:
    x = -0.05
    while x < 1:
        width, height = canvas.rng.uniform(0.14, 0.22), canvas.rng.uniform(0.20, 0.44)
        wall = canvas.rng.choice([(146, 158, 184), (122, 136, 166), (176, 166, 168), (160, 178, 196)])
        canvas.box(x, floor - height, x + width, floor, canvas.shade(wall, 8))
        columns = 3
        step = width / columns
        for row in range(int(height / 0.075)):
            for column in range(columns):
                lit = (255, 234, 150) if canvas.rng.random() < 0.45 else (84, 98, 128)
                left, top = x + step * (column + 0.28), floor - height + 0.03 + row * 0.075
                canvas.box(left, top, left + step * 0.44, top + 0.036, lit)
        x += width + canvas.rng.uniform(0.0, 0.02)


def _city(canvas: Canvas) -> None:
    horizon = _horizon(canvas) + 0.04
    canvas.gradient(0.0, horizon, canvas.shade((150, 186, 224)), (230, 234, 238))
    _skyline(canvas, horizon)
    canvas.gradient(horizon, 1.0, (192, 192, 196), (158, 158, 164))
    for x in (-0.35, 0.1, 0.5, 0.9, 1.35):
        top, foot = 0.5 + (x - 0.5) * 0.55, 0.5 + (x - 0.5) * 1.3
        canvas.polygon(
            [(top, horizon), (top + 0.008, horizon), (foot + 0.016, 1.0), (foot, 1.0)], (146, 146, 152)
        )


def _street(canvas: Canvas) -> None:
    horizon = _horizon(canvas)
    canvas.gradient(0.0, horizon, canvas.shade((124, 190, 240)), (220, 238, 250))
    canvas.clouds()
    x = -0.08
    while x < 1:
        width = canvas.rng.uniform(0.22, 0.28)
        wall = canvas.rng.choice([(226, 152, 122), (240, 208, 146), (164, 200, 186), (206, 170, 196)])
        top = horizon - canvas.rng.uniform(0.16, 0.22)
        canvas.box(x, top, x + width, horizon, canvas.shade(wall, 6))
        canvas.polygon(
            [(x - 0.015, top), (x + width + 0.015, top), (x + width / 2, top - 0.10)],
            canvas.shade((158, 84, 66)),
        )
        canvas.box(x + width * 0.16, top + 0.04, x + width * 0.40, top + 0.11, (120, 158, 190))
        canvas.box(x + width * 0.60, horizon - 0.12, x + width * 0.84, horizon, (112, 82, 62))
        x += width + 0.02
    canvas.box(0.0, horizon, 1.0, horizon + 0.07, (198, 196, 192))
    canvas.gradient(horizon + 0.07, 1.0, (112, 114, 122), (84, 86, 94))
    shift = canvas.rng.uniform(0, 0.3)
    middle = horizon + 0.27
    for i in range(5):
        left = i * 0.3 - shift
        canvas.polygon(
            [
                (left + 0.01, middle),
                (left + 0.16, middle),
                (left + 0.15, middle + 0.03),
                (left, middle + 0.03),
            ],
            (244, 240, 214),
        )


def _room(canvas: Canvas) -> None:
    wall = canvas.rng.choice([(238, 218, 188), (200, 218, 222), (226, 206, 214), (212, 222, 190)])
    floor = canvas.rng.uniform(0.60, 0.68)
    canvas.gradient(0.0, floor, canvas.shade(wall, 6), wall)
    canvas.gradient(floor, 1.0, (178, 122, 76), (142, 94, 56))
    canvas.box(0.0, floor - 0.03, 1.0, floor, (250, 246, 238))
    for x in (-0.5, 0.0, 0.5, 1.0, 1.5):
        top, foot = 0.5 + (x - 0.5) * 0.7, 0.5 + (x - 0.5) * 1.2
        canvas.polygon([(top, floor), (top + 0.006, floor), (foot + 0.012, 1.0), (foot, 1.0)], (130, 84, 50))
    left = canvas.rng.uniform(0.08, 0.58)
    top, width, height = 0.10, 0.34, 0.30
    canvas.box(left - 0.025, top - 0.025, left + width + 0.025, top + height + 0.025, (250, 250, 246))
    canvas.box(left, top, left + width, top + height, (156, 212, 246))
    canvas.cloud(left + width * 0.6, top + height * 0.4, 0.14, (240, 248, 255))
    canvas.box(left + width / 2 - 0.012, top, left + width / 2 + 0.012, top + height, (250, 250, 246))
    if canvas.rng.random() < 0.6:
        rug = canvas.rng.choice([(190, 84, 78), (84, 124, 170), (214, 174, 92)])
        canvas.disc(0.5, (floor + 1) / 2 + 0.04, 0.86, 0.26, rug)
        canvas.disc(0.5, (floor + 1) / 2 + 0.04, 0.74, 0.20, canvas.shade(rug, 24))


def _ocean(canvas: Canvas) -> None:
    horizon = _horizon(canvas)
    canvas.gradient(0.0, horizon, canvas.shade((104, 182, 242)), (206, 234, 252))
    canvas.clouds()
    canvas.gradient(horizon, 1.0, (64, 146, 212), (16, 76, 148))
    for i, tone in enumerate(((44, 124, 196), (34, 108, 182), (24, 92, 166), (16, 76, 148))):
        base = horizon + 0.02 + 0.13 * i
        # The same ridge twice, the second time a little lower, leaves a light crest on every wave.
        state = canvas.rng.getstate()
        canvas.hills(base, 0.010 + 0.006 * i, (150, 206, 236), 2.2 - 0.3 * i)
        canvas.rng.setstate(state)
        canvas.hills(base + 0.018, 0.010 + 0.006 * i, tone, 2.2 - 0.3 * i)


def _underwater(canvas: Canvas) -> None:
    canvas.gradient(0.0, 1.0, canvas.shade((92, 208, 226)), (14, 78, 138))
    for x in (0.1, 0.42, 0.74):
        x += canvas.rng.uniform(-0.06, 0.06)
        canvas.polygon([(x, 0.0), (x + 0.1, 0.0), (x - 0.02, 0.62), (x - 0.2, 0.62)], (96, 196, 218))
    canvas.hills(0.80, 0.03, (206, 190, 142), 0.8)
    for x in (canvas.rng.uniform(0.02, 0.14), canvas.rng.uniform(0.84, 0.96), canvas.rng.uniform(0.3, 0.7)):
        height = canvas.rng.uniform(0.22, 0.38)
        tone = canvas.rng.choice([(46, 142, 88), (36, 118, 96), (214, 98, 110)])
        for side in (-0.035, 0.0, 0.035):
            curve = [
                (x + side + 0.022 * math.sin(7 * t + 30 * side), 0.86 - height * t)
                for t in (0, 0.25, 0.5, 0.75, 1)
            ]
            width = [0.018, 0.017, 0.015, 0.011, 0.002]
            outline = [(cx - w, cy) for (cx, cy), w in zip(curve, width, strict=True)]
            outline += [(cx + w, cy) for (cx, cy), w in zip(curve[::-1], width[::-1], strict=True)]
            canvas.polygon(outline, tone)
    for _ in range(6):
        bubble = canvas.rng.uniform(0.02, 0.045)
        x, y = canvas.rng.random(), canvas.rng.uniform(0.05, 0.6)
        canvas.disc(x, y, bubble, bubble, (190, 236, 244))


def _moon(canvas: Canvas) -> None:
    horizon = _horizon(canvas)
    canvas.gradient(0.0, 1.0, (10, 12, 34), (26, 26, 58))
    for _ in range(14):
        star = canvas.rng.uniform(0.010, 0.018)
        canvas.disc(
            canvas.rng.random(), canvas.rng.uniform(0.02, horizon - 0.06), star, star, (240, 240, 255)
        )
    x, y = canvas.rng.uniform(0.12, 0.88), canvas.rng.uniform(0.12, 0.20)
    canvas.disc(x, y, 0.19, 0.19, (58, 128, 214))
    canvas.disc(x - 0.03, y - 0.02, 0.08, 0.06, (96, 176, 110))
    canvas.disc(x + 0.04, y + 0.03, 0.06, 0.05, (96, 176, 110))
    canvas.hills(horizon + 0.03, 0.02, (176, 176, 184))
    canvas.hills(horizon + 0.25, 0.02, (156, 156, 166))
    for _ in range(6):
        x, y = canvas.rng.random(), canvas.rng.uniform(horizon + 0.12, 0.96)
        width = canvas.rng.uniform(0.08, 0.2)
        canvas.disc(x, y, width, width * 0.4, (126, 126, 136))
        canvas.disc(x, y + width * 0.04, width * 0.86, width * 0.28, (142, 142, 152))


PAINTERS: dict[str, Callable[[Canvas], None]] = {
    "beach": _beach,
    "snow": _snow,
    "forest": _forest,
    "desert": _desert,
    "meadow": _meadow,
    "mountains": _mountains,
    "city": _city,
    "street": _street,
    "room": _room,
    "ocean": _ocean,
    "underwater": _underwater,
    "moon": _moon,
}
