"""Which part of a picture a model sees, and at what size.

A model draws well near the size that it was made for. So the whole picture is seen at the nearest size of its aspect;
and where a mask says that only a small part of a large picture may change, a window around that part is seen, at the
model's own size.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from wordbrush.model import Model

Box = tuple[float | int, float | int, float | int, float | int]
"""Left, top, right and bottom, in pixels of the upright picture."""

_CONTEXT = 0.5
"""What a window shows on each side of the mask, as a share of the mask's extent."""
_LARGEST_WINDOW = 0.6
"""The share of the picture's area from which on a window is not worth it."""
_LONGEST = 3.0
"""The most elongated picture that is seen whole: long side to short side."""
_AREAS = (0.7, 1.1)
"""Areas of sizes that a model is asked for, as shares of its own."""


@dataclass(frozen=True)
class Frame:
    """What a model sees of a picture: the box, and the size (height, width) in pixels at which it is seen."""

    box: Box
    size: tuple[int, int]


def framed(model: Model, width: int, height: int, mask: UInt8[np.ndarray, "h w"] | None = None) -> Frame:
    """What a model sees of a picture of that size. mask: where it may change, in the picture's own pixels."""
    if mask is not None and (window := _window(model, width, height, mask)) is not None:
        return Frame(window, model.image_size)
    box = _whole(width, height)
    return Frame(box, nearest_size(model, (box[2] - box[0]) / (box[3] - box[1])))


def nearest_size(model: Model, aspect: float | int) -> tuple[int, int]:
    """The height and width nearest to an aspect (width ÷ height), of about the area that the model was made for; its
    own size where that is the aspect."""
    own_height, own_width = model.image_size
    if math.isclose(own_width / own_height, aspect, rel_tol=0.01):
        return own_height, own_width
    # Even latents: a UNet halves them more than once, and rounds up where it must. Multiples of all its halvings (64
    # pixels for Stable Diffusion) would be up to a fifth off the aspect.
    step, area = 2 * model.downscale, own_height * own_width
    least, most = (share * area for share in _AREAS)
    sides = range(step, math.isqrt(int(most * 2 * _LONGEST)) + step, step)
    sizes = [(h, w) for h in sides for w in sides if least <= h * w <= most] or [(own_height, own_width)]
    return min(
        sizes, key=lambda size: (abs(math.log(size[1] / size[0] / aspect)), abs(size[0] * size[1] - area))
    )


def _whole(width: int, height: int) -> Box:
    """The whole picture, or of a very long one the middle."""
    wide, high = min(width, _LONGEST * height), min(height, _LONGEST * width)
    left, top = math.floor((width - wide) / 2), math.floor((height - high) / 2)
    return float(left), float(top), float(left + math.floor(wide)), float(top + math.floor(high))


def _window(model: Model, width: int, height: int, mask: UInt8[np.ndarray, "h w"]) -> Box | None:
    """The window of the model's aspect around the mask; None where the whole picture does as well."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not len(rows):
        return None
    own_height, own_width = model.image_size
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    least = max((right - left) / own_width, (bottom - top) / own_height)
    scale = max(1.0, least * (1 + 2 * _CONTEXT))  # never enlarged beyond the file's own pixels
    scale = min(scale, width / own_width, height / own_height)
    wide, high = round(own_width * scale), round(own_height * scale)
    if scale < max(1.0, least) or wide * high > _LARGEST_WINDOW * width * height:
        return None
    x = min(max(0, round((left + right - wide) / 2)), width - wide)
    y = min(max(0, round((top + bottom - high) / 2)), height - high)
    return float(x), float(y), float(x + wide), float(y + high)
