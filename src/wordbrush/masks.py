"""Where an edit may change a picture, as the user says it: by a mask, by words, or both.

A mask has the aspect of its picture, at any size: 1 (white) may change, 0 (black) stays, and what is between blends.
"""

import math
import os
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from wordbrush import images
from wordbrush.errors import ImageError
from wordbrush.inputs import FileRecord
from wordbrush.model import Model
from wordbrush.picture import Picture
from wordbrush.source import Source
from wordbrush.word_map import word_map

Shares = UInt8[np.ndarray, "height width"]
"""How much each pixel of a picture may change: 0 stays as it is, 255 is free."""

_ALIKE = 0.02
"""By how much the aspects of a mask and its picture may differ: sides are whole numbers of pixels."""
_NOISE = 8
"""Levels: what is so near to black or white is meant to be; a JPEG's masks are never quite."""
_WORD = 0.45
"""The share of a word's strongest attention from which on a position belongs to it (`docs/masks.md`)."""


@dataclass(frozen=True, eq=False)
class Mask:
    """A mask, and the file that it is from."""

    shares: Shares
    file: FileRecord

    @classmethod
    def of(cls, mask: images.Pixels) -> "Mask":
        """A mask from a file or from pixels; colours count by their lightness. Raises `ImageError`."""
        if isinstance(mask, np.ndarray) and mask.dtype == np.bool_:
            mask = np.where(mask, np.uint8(255), np.uint8(0))
        given = Picture.of(mask)
        grey = np.asarray(given.image.convert("L"))
        shares = np.where(grey <= _NOISE, 0, np.where(grey >= 255 - _NOISE, 255, grey)).astype(np.uint8)
        if not shares.any():
            raise ImageError(
                f"expected a mask with white where the picture may change, got one that is black: {given.name}"
            )
        return cls(shares, given.record)

    def at(self, width: int, height: int) -> Shares:
        """The mask at a picture's size. Raises `ImageError` for a picture of another aspect."""
        own_height, own_width = self.shares.shape
        if abs(math.log(own_width / own_height * height / width)) > _ALIKE:
            raise ImageError(
                f"expected a mask of the picture's aspect ({width} × {height}), got {own_width} × {own_height}: "
                "make it from the picture, so that it fits"
            )
        resized = _resized(self.shares, width, height)
        is_hard = not ((self.shares > 0) & (self.shares < 255)).any()
        return np.where(resized > 127, np.uint8(255), np.uint8(0)) if is_hard else resized


@dataclass(frozen=True, eq=False)
class Where:
    """What the user says of where a picture may change: inside of a mask, where some words of the source's prompt are,
    and not where others are."""

    mask: Mask | None = None
    words: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    _found: dict[str, Shares] = field(default_factory=dict[str, Shares])

    @property
    def is_anywhere(self) -> bool:
        """Whether nothing was said."""
        return self.mask is None and not self.words and not self.keep

    def check(self, model: Model, prompt: str) -> None:
        """Raise `PromptError` for words that the source's prompt does not have, before any work."""
        read = model.read(prompt)
        for word in (*self.words, *self.keep):
            read.find(word)

    def shares(self, model: Model, source: Source) -> Shares | None:
        """How much each pixel of the source's picture may change; None if all of them may.

        Raises `ImageError` for a mask of another aspect, and where nothing is left that may change.
        """
        if self.is_anywhere:
            return None
        width, height = _picture_size(model, source)
        shares = np.full((height, width), 255, np.uint8) if self.mask is None else self.mask.at(width, height)
        if self.words:
            shares = np.minimum(shares, self._of_words(model, source, self.words))
        if self.keep:
            shares = np.minimum(shares, 255 - self._of_words(model, source, self.keep))
        if not shares.any():
            raise ImageError(
                "nothing is left that may change: the mask, the words inside of it and the words to keep exclude "
                "one another"
            )
        return shares

    def _of_words(self, model: Model, source: Source, words: tuple[str, ...]) -> Shares:
        for word in words:
            if word not in self._found:
                self._found[word] = word_shares(model, source, word)
        return np.maximum.reduce([self._found[word] for word in words])


def word_shares(model: Model, source: Source, word: str) -> Shares:
    """Where a word of the source's prompt is in its picture, by its cross-attention maps; around it nothing is free.

    Raises `PromptError` if the prompt has no such word.
    """
    heat = word_map(model, source.prompt, word, source.trajectory, source.schedule)
    smooth = F.avg_pool2d(F.pad(heat[None, None], (1, 1, 1, 1), mode="replicate"), 3, stride=1)[0, 0]
    height, width = source.size(model)
    fine = Image.fromarray(smooth.numpy()).resize((width, height), Image.Resampling.BICUBIC)
    relative = np.asarray(fine) / max(float(smooth.max()), 1e-12)
    # A ramp instead of a step: the edge of an attention map is known to a latent pixel or so.
    shares = np.clip((relative - _WORD) / 0.1 + 0.5, 0, 1)
    return _placed(np.rint(shares * 255).astype(np.uint8), model, source)


def seen(shares: Shares, source: Source, model: Model) -> Float[Tensor, "1 1 height width"]:
    """What the model sees of a mask: 1 where its rendering may change."""
    height, width = source.size(model)
    box = (0, 0, shares.shape[1], shares.shape[0]) if source.picture is None else source.picture.box
    part = Image.fromarray(shares).resize((width, height), Image.Resampling.BOX, box=box)
    return torch.from_numpy(np.array(part, dtype=np.float32))[None, None] / 255


def drawn(shares: Shares) -> Image.Image:
    """A mask as a picture."""
    return Image.fromarray(shares)


def shown(image: Image.Image, shares: Shares) -> Image.Image:
    """A picture of which only what may change is in colour; the rest is pale grey."""
    pale = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.6)
    return Image.composite(image, pale, drawn(shares))


def read(mask: images.Pixels | str | os.PathLike[str] | None, *words: object) -> Where:
    """What `edit` was told; each of words is a word, several, or None. Raises `ImageError`."""
    return Where(None if mask is None else Mask.of(mask), *map(_several, words))


def _several(words: object) -> tuple[str, ...]:
    if words is None:
        return ()
    return (words,) if isinstance(words, str) else tuple(words)  # pyright: ignore


def _placed(shares: Shares, model: Model, source: Source) -> Shares:
    """A mask of what the model sees, on the whole picture."""
    width, height = _picture_size(model, source)
    if source.picture is None:
        return _resized(shares, width, height)
    left, top, right, bottom = map(round, source.picture.box)
    whole = np.zeros((height, width), np.uint8)
    whole[top:bottom, left:right] = _resized(shares, right - left, bottom - top)
    return whole


def _picture_size(model: Model, source: Source) -> tuple[int, int]:
    """Width and height of the picture that an edit of this source gives back."""
    if source.picture is not None:
        return source.picture.image.size
    height, width = source.size(model)
    return width, height


def _resized(shares: Shares, width: int, height: int) -> Shares:
    if shares.shape == (height, width):
        return shares
    return np.asarray(Image.fromarray(shares).resize((width, height), Image.Resampling.BILINEAR))
