"""Where an edit may change a picture, as the user says it: by a mask, by words, or both.

A mask has the aspect of its picture, at any size: 1 (white) may change, 0 (black) stays, and what is between blends.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from wordbrush import changes, images
from wordbrush.errors import ImageError, PromptError, short
from wordbrush.inputs import FileRecord
from wordbrush.model import Model
from wordbrush.picture import Picture
from wordbrush.source import Source
from wordbrush.word_map import sampled, word_map
from wordbrush.words import Alignment, Word

Shares = UInt8[np.ndarray, "_height _width"]
"""How much each pixel of a picture may change: 0 stays as it is, 255 is free. Functions take them at several sizes."""

_ALIKE = 0.02
"""By how much the aspects of a mask and its picture may differ."""
_NOISE = 8
"""Levels: what is so near to black or white is meant to be; a JPEG's masks are never quite."""
# Chosen on rendered scenes (docs/masks.md): the share of a word's strongest attention from which on a position belongs
# to it, and how unsure that is; the variance of a colour below which a window counts as flat.
_WORD, _RAMP = 0.45, 0.2
_FLAT = 1e-3
_ROOM = 2
"""How much room a mask gives around its words, in quarters of a latent pixel: what comes may have another outline."""


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
        if _is_transparent(given):
            raise ImageError(
                "expected a mask of white, where the picture may change, and black, got one with transparent pixels, "
                f"which could mean either: {given.name}; put black behind it"
            )
        grey = np.asarray(given.image.convert("L"))
        shares = np.where(grey <= _NOISE, 0, np.where(grey >= 255 - _NOISE, 255, grey)).astype(np.uint8)
        if not shares.any():
            raise ImageError(
                f"expected a mask with white where the picture may change, got one that is black: {given.name}"
            )
        return cls(shares, given.record)

    def at(self, width: int, height: int) -> UInt8[np.ndarray, "h w"]:
        """The mask at a picture's size. Raises `ImageError` for a picture of another aspect."""
        own_height, own_width = self.shares.shape
        most = max(_ALIKE, 1 / min(own_width, own_height))  # a side may be rounded by a pixel
        if abs(math.log(own_width / own_height * height / width)) > most:
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
        if source.picture is None:
            height, width = source.size(model)
        else:
            width, height = source.picture.image.size
        shares = np.full((height, width), 255, np.uint8) if self.mask is None else self.mask.at(width, height)
        if self.words:
            grow = _ROOM * model.downscale // 4
            shares = np.minimum(shares, self._of_words(model, source, self.words, grow))
        if self.keep:
            shares = np.minimum(shares, 255 - self._of_words(model, source, self.keep, 0))
        if not shares.any():
            raise ImageError(
                "nothing is left that may change: the mask, the words inside of it and the words to keep exclude "
                "one another"
            )
        return shares

    @staticmethod
    def _of_words(model: Model, source: Source, words: tuple[str, ...], grow: int) -> Shares:
        return np.maximum.reduce([word_shares(model, source, word, grow) for word in words])


def word_shares(model: Model, source: Source, word: str, grow: int) -> Shares:
    """Where a word of the source's prompt is in its picture: its cross-attention maps say where about, and the
    picture's own edges say where exactly. grow: by so many pixels of the rendering more on every side.

    Raises `PromptError` if the prompt has no such word.
    """
    heat = word_map(model, source.prompt, word, source.trajectory, source.schedule)
    height, width = source.size(model)
    picture = source.decoded(model) if source.picture is None else source.picture.seen(height, width)[0]
    shares = _grown(_exact(heat, picture, _WORD, model.downscale), grow, 2)
    return placed(np.rint(shares * 255).astype(np.uint8), model, source)


@dataclass(eq=False)
class Changed:
    """Where the words of a change say that a picture may change, for methods that edit inside of a mask and were given
    none.

    Where a thing is swapped, described in another way or taken out: where it is. Where one is added, and where the
    place is another: everywhere but where the things are that stay. Light, style and how things stand are everywhere.
    Nothing is read for this but the captions and the model's own attention.

    room: by how many latents the mask of a thing reaches further. rows: what the UNet has computed for maps so far;
    each word is looked for once.
    """

    model: Model
    source: Source
    room: int
    rows: int = 0
    _found: dict[tuple[str, int], Shares] = field(init=False, default_factory=dict[tuple[str, int], Shares])

    def shares(self, alignment: Alignment) -> Shares | None:
        """How much each pixel of the source's picture may change; None if all of them may, or if the words are nowhere
        to be found in it. Nothing may where the captions say the same."""
        change = changes.read(alignment)
        if change.kinds - changes.LOCAL - {"place"}:
            return None
        named = changes.things(alignment.source)
        touched = {word for part in change.parts for word in part.source}
        about, stay = ([word for word in named if (word in touched) is wanted] for wanted in (True, False))
        shares = self._of(about, self.room * self.model.downscale)
        if change.kinds & {"add", "place"}:
            shares = np.maximum(shares, 255 - self._of(stay, 0))
        is_lost = bool(change.parts) and not shares.any()
        return None if is_lost or (shares == 255).all() else shares

    def _of(self, words: Iterable[Word], grow: int) -> Shares:
        """Where any of the words is."""
        source = self.source
        size = source.size(self.model) if source.picture is None else source.picture.image.size[::-1]
        shares = np.zeros(size, np.uint8)
        for word in words:
            if (word.text, grow) not in self._found:
                self._found[word.text, grow] = word_shares(self.model, source, word.text, grow)
                self.rows += len(sampled(source.schedule))
            shares = np.maximum(shares, self._found[word.text, grow])
        return shares


def unfound(alignment: Alignment, where: Bool[Tensor, "h w"]) -> str:
    """What to say of a mask of words that is the whole picture although only things change; nothing of others."""
    change = changes.read(alignment)
    if not (change.kinds & (changes.LOCAL - {"add"}) and change.is_local and bool(where.all())):
        return ""
    return "the words were not found in a part of the picture, so all of it may change: say where with a mask"


def near(
    heat: Float[Tensor, "mh mw"], things: int, picture: Float[Tensor, "3 h w"], downscale: int
) -> Float[np.ndarray, "h w"]:
    """Where words look in a picture in [−1, 1], with what they bring along (a shadow, a glow): 1 there, 0 elsewhere.

    things: how many they name; in the map of several one may be weaker than another. downscale: the picture's pixels
    for one of the latents.
    """
    return _grown(_exact(heat, picture, _WORD / things, downscale), downscale, downscale)


def _grown(mask: Float[Tensor, "1 1 h w"], by: int, soft: int) -> Float[np.ndarray, "h w"]:
    """A mask that reaches `by` pixels further, in all directions alike, with edges about `soft` pixels wide."""
    across = torch.arange(-by, by + 1)
    disc = (across[:, None].square() + across.square() <= by * by).float()
    grown = (F.conv2d((mask > 0.5).float(), disc[None, None], padding=by) > 0.5).float()
    reach = soft // 2
    padded = F.pad(grown, (reach,) * 4, mode="replicate")
    return F.avg_pool2d(padded, 2 * reach + 1, stride=1)[0, 0].numpy()


def _exact(
    heat: Float[Tensor, "mh mw"], picture: Float[Tensor, "3 h w"], threshold: float, downscale: int
) -> Float[Tensor, "1 1 h w"]:
    """What a word's map means, with the picture's own edges."""
    height, width = picture.shape[-2:]
    scaled = ((heat - heat.min()) / (heat.max() - heat.min()).clamp(min=1e-12)).float().numpy()
    fine = Image.fromarray(scaled).resize((width, height), Image.Resampling.BICUBIC)
    # A ramp instead of a step: a map knows an edge to a latent pixel or so, and the picture knows it better.
    rough = np.clip((np.asarray(fine) - threshold) / _RAMP + 0.5, 0, 1)
    return _guided(picture / 2, torch.from_numpy(rough), 2 * downscale)


def _guided(
    picture: Float[Tensor, "3 h w"], rough: Float[Tensor, "h w"], radius: int
) -> Float[Tensor, "1 1 h w"]:
    """A mask whose edges follow the picture's: in every window it is the linear function of the colours that is nearest
    to the rough mask (He et al. 2013, Guided image filtering, eq. 5 and 6, a colour guide). radius: in pixels."""
    guide, target = picture.double()[None], rough.double()[None, None]

    def mean(values: Tensor) -> Tensor:
        padded = F.pad(values, (radius,) * 4, mode="replicate")
        columns = F.avg_pool2d(padded, (2 * radius + 1, 1), stride=1)
        return F.avg_pool2d(columns, (1, 2 * radius + 1), stride=1)

    colour, share = mean(guide), mean(target)
    flat = _FLAT * torch.eye(3, dtype=torch.float64)[:, None, :, None, None]
    # One colour's covariances with all three at a time: the rows of a symmetric matrix for every window.
    red, green, blue = (
        mean(guide * guide[:, i : i + 1]) - colour * colour[:, i : i + 1] + flat[i] for i in range(3)
    )
    together = mean(guide * target) - colour * share
    # The solution by Cramer's rule, for all windows at once; a call of LAPACK for each takes many times as long.
    minors = torch.cross(green, blue, 1), torch.cross(blue, red, 1), torch.cross(red, green, 1)
    determinant = (red * minors[0]).sum(1, keepdim=True)
    slope = torch.cat([(minor * together).sum(1, keepdim=True) for minor in minors], 1) / determinant
    level = share - (slope * colour).sum(1, keepdim=True)
    return (mean(slope) * guide).sum(1, keepdim=True) + mean(level)


def seen(shares: Shares, source: Source, model: Model) -> Float[Tensor, "1 1 h w"]:
    """What the model sees of a mask: 1 where its rendering may change. Raises `ImageError` if it sees no white."""
    height, width = source.size(model)
    box = (0, 0, shares.shape[1], shares.shape[0]) if source.picture is None else source.picture.box
    part = Image.fromarray(shares).resize((width, height), Image.Resampling.BOX, box=box)
    if not any(part.getextrema()):
        left, top, right, bottom = map(round, box)
        raise ImageError(
            f"expected white in what the model sees of the picture, {right - left} × {bottom - top} pixels at "
            f"({left}, {top}), got a mask that is black there: invert the picture with this mask, or without one"
        )
    return torch.from_numpy(np.array(part, dtype=np.float32))[None, None] / 255


def drawn(shares: Shares) -> Image.Image:
    """A mask as a picture."""
    return Image.fromarray(shares)


def shown(image: Image.Image, shares: Shares) -> Image.Image:
    """A picture of which only what may change is in colour; the rest is pale grey."""
    pale = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, "white"), 0.6)
    return Image.composite(image, pale, drawn(shares))


def read(mask: images.Pixels | None, *words: object) -> Where:
    """What `edit` was told; each of words is a word, several, or None. Raises `ImageError`, `PromptError`."""
    return Where(None if mask is None else Mask.of(mask), *map(_several, words))


def _is_transparent(picture: Picture) -> bool:
    """Whether a file has pixels that are not opaque."""
    image, _ = images.whole(picture.content, picture.name)
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255


def _several(words: object) -> tuple[str, ...]:
    if words is None:
        return ()
    given = [words] if isinstance(words, str) else words
    if not isinstance(given, list | tuple) or not all(
        isinstance(word, str) for word in cast(list[object], given)
    ):
        raise PromptError(f"expected a word of the source's prompt, or a list of them, got {short(words)}")
    return tuple(cast(list[str], given))


def placed(shares: UInt8[np.ndarray, "h w"], model: Model, source: Source) -> Shares:
    """A mask of what the model sees, on the whole picture."""
    if source.picture is None:
        return shares
    width, height = source.picture.image.size
    left, top, right, bottom = map(round, source.picture.box)
    whole = np.zeros((height, width), np.uint8)
    whole[top:bottom, left:right] = _resized(shares, right - left, bottom - top)
    return whole


def _resized(shares: UInt8[np.ndarray, "h w"], width: int, height: int) -> Shares:
    if shares.shape == (height, width):
        return shares
    return np.asarray(Image.fromarray(shares).resize((width, height), Image.Resampling.BILINEAR))
