"""An edit brought back into the picture that it is of, at the picture's own size.

A model's rendering of a picture is smaller than the file, and an autoencoder has gone over every pixel of it. So what
comes back is not the rendering but what the edit changed in it:

    edited = own + m · (change − β · residual),   change = after − before,   residual = own − before

`before` and `after` are the renderings of the source and of the target, enlarged to the file's size. Where little
changed, β is 0: the file keeps its own pixels, its detail and its grain, and takes the change. Where much changed, β is
1 and the rendering takes the pixels' place: the detail of what was there says nothing of what is there now. m is 0
outside of the masks and where nothing changed; there the pixels are the file's own, bit for bit.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageFilter
from torch import Tensor

from wordbrush.framing import Box

# Grey levels, chosen on the bench (docs/benchmarks/pasting.md).
_UNCHANGED, _CHANGED = 6.0, 12.0
_DETAILED, _NEW = 8.0, 32.0
_STRONG, _LEAST = 128.0, 0.1
_FEATHER = 3.0
"""How far inside a mask with hard edges the edit fades in, in pixels of the rendering."""


@dataclass(frozen=True, eq=False)
class Pasted:
    """An edited picture, and how much of each pixel is the edit's: 0 where it is the file's own."""

    image: Image.Image
    share: Float[np.ndarray, "height width"]


def pasted(
    own: Image.Image,
    box: Box,
    before: Float[Tensor, "3 h w"],
    after: Float[Tensor, "3 h w"],
    region: Bool[Tensor, "lh lw"] | None = None,
    named: Float[np.ndarray, "h w"] | None = None,
    allowed: UInt8[np.ndarray, "height width"] | None = None,
) -> Pasted:
    """The edit of what a model sees in `box` of an 8-bit RGB picture, in the whole picture.

    before, after: the model's renderings of the source and of the target, in [−1, 1]. region: the latents that were
    free to change; None for all. named: how much each pixel of the rendering belongs to what the change is about; None
    for a change of everything. allowed: how much each of the picture's pixels may change (`masks.Shares`); None for
    all.
    """
    left, top, right, bottom = map(round, box)
    size = right - left, bottom - top
    pixels = np.array(own)
    share = np.zeros(pixels.shape[:2], np.float32)
    old, new = (_levels(rendering) for rendering in (before, after))
    strength = _blurred(_widest(np.abs(new - old).max(0)), 1.0)
    # In fog all changes are small: what counts as one is measured by the largest.
    scale = float(np.clip(np.quantile(strength, 0.99) / _STRONG, _LEAST, 1))
    weight = _smooth(strength, _UNCHANGED * scale, _CHANGED * scale)
    if region is not None and not bool(region.all()):
        weight = weight * _reach(region, (weight.shape[0], weight.shape[1]))
    if named is not None:
        weight = weight * named
    m = _enlarged(weight, size).clip(0, 1)
    if allowed is not None:
        m = m * _faded(allowed[top:bottom, left:right], size[0] / weight.shape[1])
    beta = _enlarged(_smooth(strength, _DETAILED * scale, _NEW * scale), size).clip(0, 1)
    part = pixels[top:bottom, left:right]
    changed = np.zeros(m.shape, bool)
    for channel in range(3):  # one at a time: a large picture has room for a few of these arrays only
        mine = part[:, :, channel].astype(np.float32)
        was = _enlarged(old[channel], size)
        edited = mine + m * (_enlarged(new[channel] - old[channel], size) - beta * (mine - was))
        levels = np.rint(edited).clip(0, 255).astype(np.uint8)
        changed |= levels != part[:, :, channel]
        part[:, :, channel] = levels
    share[top:bottom, left:right] = np.where(changed, np.maximum(m * beta, 1 / 255), 0)
    return Pasted(Image.fromarray(pixels), share)


def _levels(rendering: Float[Tensor, "3 h w"]) -> Float[np.ndarray, "3 h w"]:
    return ((rendering.detach().float().cpu().clamp(-1, 1) + 1) * 127.5).numpy()


def _smooth(values: Float[np.ndarray, "h w"], low: float, high: float) -> Float[np.ndarray, "h w"]:
    """From 0 at `low` to 1 at `high`, without a kink."""
    x = ((values - low) / (high - low)).clip(0, 1)
    return x * x * (3 - 2 * x)


def _widest(values: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w"]:
    """The largest value of the neighbours: an edge that moved is changed on both of its sides."""
    padded = np.pad(values, 1, mode="edge")
    height, width = values.shape
    parts = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return np.maximum.reduce(parts)


def _blurred(values: Float[np.ndarray, "h w"], radius: float) -> Float[np.ndarray, "h w"]:
    """A Gaussian; beyond the edge the values go on as they are there."""
    reach = math.ceil(3 * radius)
    x = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (x / radius) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (0, 1):
        widths = [(reach, reach) if axis == each else (0, 0) for each in (0, 1)]
        padded = np.pad(values, widths, mode="edge")
        length = values.shape[axis]
        values = sum(
            (share * padded.take(range(i, i + length), axis) for i, share in enumerate(kernel)),
            np.zeros_like(values),
        )
    return values


def _reach(region: Bool[Tensor, "lh lw"], size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """Where latents that were free reach: their pixels, and fading out over the next latent's, as a decoder does."""
    grown = F.max_pool2d(region[None, None].float().cpu(), 3, stride=1, padding=1)
    cell = size[0] / region.shape[0]
    nearest = F.interpolate(grown, size=size, mode="nearest")[0, 0].numpy()
    inner = _blurred(nearest, max(cell / 3, 0.5))
    return (2 * inner - 1).clip(0, 1)


def _faded(allowed: UInt8[np.ndarray, "h w"], scale: float) -> Float[np.ndarray, "h w"]:
    """A mask's shares in [0, 1]. Where its edges are hard, the edit fades in inside of them, so that no seam is left;
    soft edges are the user's, and stay. scale: the picture's pixels for one of the rendering's."""
    shares = allowed.astype(np.float32) / 255
    if ((allowed > 0) & (allowed < 255)).any() or allowed.all():
        return shares
    radius = max(1.0, _FEATHER * scale)
    # Beyond the picture's edge the mask goes on as it is there.
    reach = math.ceil(2 * radius)
    image = Image.fromarray(np.pad(allowed, reach, mode="edge"))
    soft = np.asarray(image.filter(ImageFilter.GaussianBlur(radius / 2)), dtype=np.float32) / 255
    height, width = allowed.shape
    inside = soft[reach : reach + height, reach : reach + width]
    return shares * (2 * inside - 1).clip(0, 1)


def _enlarged(values: Float[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "height width"]:
    """Values of a rendering at the size of its box, (width, height)."""
    if size == (values.shape[1], values.shape[0]):
        return values
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))
