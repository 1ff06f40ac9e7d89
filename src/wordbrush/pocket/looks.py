"""Light and style, as functions of the finished picture.

A scene at night is the scene by day, darkened, so changing the light changes nothing else. Every function here is
*local*: a pixel depends only on pixels at most `REACH` away. This keeps the mask of an object edit valid in every
light and style.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

# How far each style can spread a pixel's colour, in pixels of a 128-pixel picture. Lights work pixel by pixel.
REACH: dict[str, int] = {
    "photo": 0,
    "watercolour": 2,
    "sketch": 2,
    "pixel art": 3,
    "drawing": 5,
    "mosaic": 6,
}


def lit(picture: Image.Image, light: str) -> Image.Image:
    """The picture (RGB) under one of `LIGHTS`."""
    return LIT[light](picture)


def styled(picture: Image.Image, style: str) -> Image.Image:
    """The picture (RGB) in one of `STYLES`."""
    return STYLED[style](picture)


def _same(picture: Image.Image) -> Image.Image:
    return picture


def _mixed(
    saturation: float, gain: tuple[float, float, float], lift: tuple[int, int, int]
) -> tuple[float, ...]:
    """The 3 x 4 matrix that blends colours with grey, then scales each channel and adds an offset."""
    grey = np.array([0.30, 0.59, 0.11]) * (1 - saturation)
    rows = [(grey + saturation * np.eye(3)[i]) * gain[i] for i in range(3)]
    return tuple(float(v) for row, up in zip(rows, lift, strict=True) for v in (*row, up))


def _night(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB", _mixed(0.82, (0.46, 0.54, 0.82), (4, 8, 28)))


def _sunset(picture: Image.Image) -> Image.Image:
    warm = picture.convert("RGB", _mixed(0.72, (1.00, 0.70, 0.50), (26, 8, 14)))
    # The glow of the sky: violet at the top, orange at the horizon, where it ends.
    return ImageChops.screen(warm, _fade(picture.size, ((70, 20, 90), (150, 70, 20), (24, 6, 0), (10, 0, 0))))


def _fog(picture: Image.Image) -> Image.Image:
    # Thicker towards the top, which is farther away.
    thickness = _fade(picture.size, ((176,) * 3, (150,) * 3, (104,) * 3)).getchannel(0)
    return Image.composite(Image.new("RGB", picture.size, (214, 218, 222)), picture, thickness)


def _rain(picture: Image.Image) -> Image.Image:
    wet = picture.convert("RGB", _mixed(0.66, (0.70, 0.77, 0.86), (6, 10, 16)))
    return Image.composite(Image.new("RGB", picture.size, (206, 224, 240)), wet, _streaks(picture.width))


@cache
def _fade(size: tuple[int, int], stops: tuple[tuple[int, int, int], ...]) -> Image.Image:
    """A vertical gradient through evenly spaced colours."""
    at = np.linspace(0, len(stops) - 1, size[1])
    values = [np.interp(at, range(len(stops)), channel) for channel in zip(*stops, strict=True)]
    strip = np.round(np.stack(values, axis=-1)).astype(np.uint8)[:, None, :]
    return Image.fromarray(strip).resize(size, Image.Resampling.NEAREST)


@cache
def _streaks(size: int) -> Image.Image:
    """How much rain covers each pixel: always the same strokes, so that light is a pure function."""
    rng = random.Random("rain")
    page = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(page)
    unit = 2 * size / 128
    for i in range(25):
        # One stroke per cell of a 5 x 5 grid: evenly spread, but not regular.
        x, y = (i % 5 + rng.random()) * 128 / 5, (i // 5 + rng.random()) * 128 / 5
        length = rng.uniform(10, 17)
        ends = (x * unit, y * unit, (x - 0.30 * length) * unit, (y + length) * unit)
        draw.line(ends, fill=120, width=round(1.5 * unit))
    return page.reduce(2)


def _array(picture: Image.Image) -> NDArray[np.float32]:
    return np.asarray(picture, dtype=np.float32)


def _picture(values: NDArray[np.floating]) -> Image.Image:
    return Image.fromarray(np.clip(values + 0.5, 0, 255).astype(np.uint8))


def _scale(picture: Image.Image) -> float:
    return picture.width / 128


def _outlines(picture: Image.Image, width: int = 3) -> NDArray[np.float32]:
    """How much the colour changes within a few pixels: 0 in flat areas, near 1 on outlines; one value per pixel.

    Relative to the surrounding brightness, so that a sketch of a night scene has lines too.
    """
    pixels = np.asarray(picture)
    high = _widened(pixels, np.maximum, width).astype(np.float32)
    low = _widened(pixels, np.minimum, width).astype(np.float32)
    return ((high - low) / (high + 40)).max(axis=-1, keepdims=True)


def _widened(pixels: NDArray[np.uint8], extreme: np.ufunc, width: int) -> NDArray[np.uint8]:
    """The maximum or minimum over a square around each pixel; Pillow's rank filters are ten times slower."""
    for axis in (0, 1):
        pad = [(0, 0)] * 3
        pad[axis] = (width // 2, width // 2)
        padded = np.pad(pixels, pad, mode="edge")
        n = pixels.shape[axis]
        shifted = [padded[i : i + n] if axis == 0 else padded[:, i : i + n] for i in range(width)]
        pixels = shifted[0]
        for one in shifted[1:]:
            pixels = extreme(pixels, one)
    return pixels


def _watercolour(picture: Image.Image) -> Image.Image:
    """Blurred colours, darker at edges, with a white paper border."""
    run = picture.filter(ImageFilter.BoxBlur(1.0 * _scale(picture)))
    wash = _array(run.convert("RGB", _mixed(1.1, (0.72, 0.72, 0.72), (70, 69, 66))))
    pools = 1 - 0.45 * np.clip(_outlines(run) - 0.12, 0, 1)
    paint = _paint(picture.width)
    return _picture(wash * pools * paint + np.array([252, 249, 242], dtype=np.float32) * (1 - paint))


@cache
def _paint(size: int) -> NDArray[np.float32]:
    """How much pigment is on the paper: uneven inside, none along an irregular border."""
    rng = np.random.default_rng(7)

    def soft(low: float, high: float, cells: int) -> NDArray[np.float32]:
        spots = Image.fromarray(rng.uniform(low, high, (cells, cells)).astype(np.float32))
        return _array(spots.resize((size, size), Image.Resampling.BICUBIC))

    across = np.abs((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5)
    border = 0.5 - np.maximum(across[:, None], across[None, :]) + soft(-0.025, 0.025, 12)
    pigment = np.clip(border / 0.04, 0, 1) * soft(0.84, 1.0, 6)
    return pigment[..., None].astype(np.float32)


def _sketch(picture: Image.Image) -> Image.Image:
    """Dark outlines and soft shading in graphite on paper."""
    lines = _outlines(picture.filter(ImageFilter.BoxBlur(0.5 * _scale(picture))))
    tone = _array(picture.convert("L"))[..., None]
    graphite = (192 + 60 * (tone / 255) ** 0.8) * (1 - 0.95 * np.clip(2.3 * (lines - 0.08), 0, 0.9))
    return _picture(np.repeat(graphite, 3, axis=-1))


def _pixel_art(picture: Image.Image) -> Image.Image:
    """Large square pixels with few tones."""
    cells = max(1, picture.width // 4)
    small = picture.resize((cells, cells), Image.Resampling.BOX)
    few = small.point([round(round(v / 255 * 11) / 11 * 255) for v in range(256)] * 3)
    return few.resize(picture.size, Image.Resampling.NEAREST)


def _drawing(picture: Image.Image) -> Image.Image:
    """Wax crayon with shaky lines: bright colours, thick dark outlines, paper visible between the strokes."""
    pixels = np.asarray(picture)
    shaken = pixels.reshape(-1, 3)[_shake(picture.width)].reshape(pixels.shape)
    flat = Image.fromarray(shaken).filter(ImageFilter.BoxBlur(0.7 * _scale(picture)))
    bright = _array(flat.convert("RGB", _mixed(1.5, (0.86, 0.86, 0.86), (34, 34, 34))))
    wax = _strokes(picture.width)
    lines = 1 - np.clip(1.5 * (_outlines(flat, 5) - 0.22), 0, 0.75)
    return _picture((bright * wax + 253 * (1 - wax)) * lines)


@cache
def _shake(size: int) -> NDArray[np.int64]:
    """For every pixel, the flat index of the pixel that is drawn there: a smooth shift of at most two pixels."""
    down: NDArray[np.float64]
    across: NDArray[np.float64]
    down, across = np.mgrid[:size, :size].astype(np.float64)
    unit = 128 / size
    dx = 1.3 * np.sin(down * unit / 6.1) + 0.8 * np.sin(across * unit / 9.7 + 1)
    dy = 1.3 * np.sin(across * unit / 6.7) + 0.8 * np.sin(down * unit / 8.9 + 2)
    rows = np.clip(np.round(down + dy / unit), 0, size - 1)
    columns = np.clip(np.round(across + dx / unit), 0, size - 1)
    return (rows * size + columns).astype(np.int64).ravel()


@cache
def _strokes(size: int) -> NDArray[np.float32]:
    """How much wax covers each pixel: broad diagonal strokes."""
    down, across = np.mgrid[:size, :size].astype(np.float32) * (128 / size)
    strokes = np.sin((across + 0.7 * down) * 0.56 + 1.5 * np.sin(down / 11))
    pressure = 0.5 * np.sin((across + 0.5 * down) * 0.23)
    return np.clip(0.88 + 0.12 * (strokes + pressure), 0.68, 1)[..., None].astype(np.float32)


def _mosaic(picture: Image.Image) -> Image.Image:
    """Small irregular tiles of one colour each, with light joints between them."""
    tiles, joints, counts = _tiles(picture.width)
    pixels = _array(picture).reshape(-1, 3)
    means = np.stack([np.bincount(tiles, pixels[:, channel], len(counts)) for channel in range(3)], axis=-1)
    vivid = 128 + 1.2 * (means / counts[:, None] - 128)
    laid = vivid[tiles] * (1 - joints) + 232 * joints
    return _picture(laid.reshape(picture.height, picture.width, 3))


@cache
def _tiles(size: int) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """For every pixel its tile and the share of joint in it; for every tile its number of pixels."""
    rng = np.random.default_rng(11)
    pitch = 4.7 * size / 128
    n = int(np.ceil(size / pitch)) + 2
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n), indexing="ij"), axis=-1).reshape(-1, 2) - 0.5
    centres = (grid + rng.uniform(-0.28, 0.28, grid.shape)) * pitch
    down, across = np.mgrid[:size, :size] + 0.5
    places = np.stack([down, across], axis=-1).reshape(-1, 1, 2)
    nearest = np.empty(size * size, dtype=np.int64)
    joint = np.empty(size * size)
    for start in range(0, size * size, 4096):
        gaps = np.sqrt(((places[start : start + 4096] - centres) ** 2).sum(axis=-1))
        order = np.argpartition(gaps, 1, axis=1)[:, :2]
        two = np.take_along_axis(gaps, order, axis=1)
        first = two.argmin(axis=1)
        nearest[start : start + 4096] = np.take_along_axis(order, first[:, None], axis=1)[:, 0]
        joint[start : start + 4096] = np.clip(1 - np.abs(two[:, 0] - two[:, 1]) / (1.3 * size / 128), 0, 1)
    _, tiles, counts = np.unique(nearest, return_inverse=True, return_counts=True)
    return tiles, 0.36 * joint[:, None], counts


Look = Callable[[Image.Image], Image.Image]
LIT: dict[str, Look] = {"day": _same, "night": _night, "sunset": _sunset, "fog": _fog, "rain": _rain}
STYLED: dict[str, Look] = {
    "photo": _same,
    "watercolour": _watercolour,
    "sketch": _sketch,
    "pixel art": _pixel_art,
    "drawing": _drawing,
    "mosaic": _mosaic,
}
