"""Compared pictures on one sheet: blocks under headings, lines of cards, figures below each picture.

`sheets.sheet` centres a sentence below a picture; here names are on the left and figures on the right, at the same
place on every card, so that a line of cards can be read across. Nothing is cut off: long text is wrapped.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

_PAPER, _INK, _FRAME = (250, 249, 246), (38, 38, 42), (222, 219, 212)
_FAINT, _RED = (112, 110, 106), (158, 42, 32)
_SMALLEST, _LARGEST = 256, 384  # pixels along a picture's longer side on paper


@dataclass(frozen=True)
class Card:
    """A picture, or a message in its place, over its name and its figures: (name, value).

    is_failure: there should have been a picture.
    """

    picture: Image.Image | None
    title: str
    subtitle: str = ""
    figures: tuple[tuple[str, str], ...] = ()
    message: str = ""
    is_failure: bool = False


@dataclass(frozen=True)
class Block:
    """Lines of cards under a heading; cards at the same place in their lines are in one column."""

    heading: str
    lines: tuple[tuple[Card, ...], ...]


def draw(blocks: Sequence[Block], size: tuple[int, int]) -> Image.Image:
    """Draw the blocks on one sheet. size: width and height in pixels of the pictures, the same for all cards."""
    factor = _factor(max(size))
    width, height = (max(1, round(side * factor)) for side in size)
    paper = _Paper(width, height)
    columns = max((len(line) for block in blocks for line in block.lines), default=1)
    gap = paper.gap
    full = columns * (width + gap) - gap

    placed: list[tuple[Image.Image, int, int]] = []
    top = gap
    for block in blocks:
        heading = paper.text(block.heading, full, size=paper.large)
        placed.append((heading, gap, top))
        top += heading.height + gap // 2
        for line in block.lines:
            cards = [paper.card(card) for card in line]
            placed += [(card, gap + i * (width + gap), top) for i, card in enumerate(cards)]
            top += max(card.height for card in cards) + gap
        top += gap
    sheet = Image.new("RGB", (full + 2 * gap, top - gap), _PAPER)
    for image, left, upper in placed:
        sheet.paste(image, (left, upper))
    return sheet


def _factor(longer: int) -> float:
    """The scale of the pictures: a whole number where they are too small, less than 1 where they are too large."""
    if longer > _LARGEST:
        return _LARGEST / longer
    return float(max(1, math.ceil(_SMALLEST / longer)))


class _Paper:
    """Cards and lines of text for pictures of one size."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.gap = max(12, width // 16)
        self.small = max(14, width // 18)
        self.medium, self.large = round(self.small * 1.25), round(self.small * 1.5)

    def text(self, text: str, width: int, *, size: int, colour: tuple[int, int, int] = _INK) -> Image.Image:
        lines = _wrapped(text, size, width)
        step = _line_height(size)
        image = Image.new("RGB", (width, step * len(lines)), _PAPER)
        pen = ImageDraw.Draw(image)
        for i, line in enumerate(lines):
            pen.text((0, i * step), line, fill=colour, font=_font(size))
        return image

    def card(self, card: Card) -> Image.Image:
        parts = [self._picture(card)]
        parts.append(self.text(card.title, self.width, size=self.medium))
        if card.subtitle:
            parts.append(self.text(card.subtitle, self.width, size=self.small, colour=_FAINT))
        parts += [self._figure(name, value) for name, value in card.figures]
        space = self.gap // 2
        image = Image.new("RGB", (self.width, sum(part.height for part in parts) + space), _PAPER)
        top = 0
        for i, part in enumerate(parts):
            image.paste(part, (0, top))
            top += part.height + (space if i == 0 else 0)
        return image

    def _picture(self, card: Card) -> Image.Image:
        if card.picture is not None:
            image = card.picture.convert("RGB").resize((self.width, self.height), Image.Resampling.LANCZOS)
        else:
            inner = self.width - 2 * self.gap
            colour = _RED if card.is_failure else _FAINT
            message = self.text(card.message, inner, size=self.small, colour=colour)
            image = Image.new("RGB", (self.width, max(self.height, message.height + 2 * self.gap)), _PAPER)
            image.paste(message, (self.gap, self.gap))
        ImageDraw.Draw(image).rectangle((0, 0, image.width - 1, image.height - 1), outline=_FRAME)
        return image

    def _figure(self, name: str, value: str) -> Image.Image:
        """The name on the left and the value on the right, or below the name where a line is too short."""
        font, step = _font(self.small), _line_height(self.small)
        fits = font.getlength(name) + font.getlength(value) + self.small <= self.width
        names = [name] if fits else _wrapped(name, self.small, self.width)
        values = [value] if fits else _wrapped(value, self.small, self.width)
        first = 0 if fits else len(names)
        image = Image.new("RGB", (self.width, step * (first + len(values))), _PAPER)
        pen = ImageDraw.Draw(image)
        for i, line in enumerate(names):
            pen.text((0, i * step), line, fill=_FAINT, font=font)
        for i, line in enumerate(values):
            pen.text((self.width - 1, (first + i) * step), line, fill=_INK, font=font, anchor="ra")
        return image


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)  # all of Pillow's wheels include FreeType
    return font


def _line_height(size: int) -> int:
    return math.ceil(sum(_font(size).getmetrics()) * 1.1)


def _wrapped(text: str, size: int, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words, and within a word that is too long for a line."""
    font = _font(size)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    return lines
