"""Draw pictures for people to look at: sheets of captioned pictures, and heat maps over a picture."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from wordbrush.errors import ImageError, NumericsError

_BACKGROUND = (250, 249, 246)
_TEXT = (38, 38, 42)
_FRAME = (222, 219, 212)
_READABLE = 256  # pixels; smaller pictures are enlarged
_LARGEST = 1024  # pixels; larger ones are made smaller


def sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int | None = None) -> Image.Image:
    """Pictures side by side on a light background, each above its caption.

    Pictures smaller than 256 pixels are enlarged by an integer factor (Lanczos), and those above 1024 are made smaller;
    long captions wrap. Without
    `columns`, up to four pictures are in one row, and more make a nearly square sheet.

    Raises `ImageError` for no pictures, or if there are not as many captions as pictures.

    >>> picture = generate(Model.load("pocket"), "a cat on a beach", steps=2)
    >>> sheet([picture, picture], ["before", "after"]).width
    560
    """
    if not images:
        raise ImageError("expected at least one picture, got none")
    if len(images) != len(captions):
        raise ImageError(f"expected as many captions as pictures, got {len(captions)} for {len(images)}")
    if columns is None:
        columns = len(images) if len(images) <= 4 else math.ceil(math.sqrt(len(images)))
    columns = max(1, min(columns, len(images)))

    pictures = [_readable(image) for image in images]
    cell = max(picture.width for picture in pictures)
    cards = [_card(picture, caption, cell) for picture, caption in zip(pictures, captions, strict=True)]
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    heights = [max(card.height for card in row) for row in rows]

    gap = cell // 16
    page = Image.new("RGB", (gap + columns * (cell + gap), gap + sum(heights) + gap * len(rows)), _BACKGROUND)
    top = gap
    for row, height in zip(rows, heights, strict=True):
        for column, card in enumerate(row):
            page.paste(card, (gap + column * (cell + gap), top))
        top += height + gap
    return page


def _card(picture: Image.Image, caption: str, width: int) -> Image.Image:
    """A framed picture above its caption, both centred on a card `width` pixels wide."""
    font = ImageFont.load_default(size=max(14, width // 18))
    assert isinstance(font, ImageFont.FreeTypeFont)  # all of Pillow's wheels include FreeType
    lines = _wrap(caption, font, width)
    line_height = math.ceil(sum(font.getmetrics()) * 1.15)
    text_top = picture.height + width // 32

    card = Image.new("RGB", (width, text_top + line_height * len(lines)), _BACKGROUND)
    left = (width - picture.width) // 2
    card.paste(picture, (left, 0))
    draw = ImageDraw.Draw(card)
    draw.rectangle((left, 0, left + picture.width - 1, picture.height - 1), outline=_FRAME)
    for i, line in enumerate(lines):
        draw.text((width / 2, text_top + i * line_height), line, fill=_TEXT, font=font, anchor="ma")
    return card


def _readable(image: Image.Image) -> Image.Image:
    longest = max(image.size)
    factor = _LARGEST / longest if longest > _LARGEST else max(1, math.ceil(_READABLE / longest))
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _wrap(caption: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Break a caption into lines of at most `width` pixels, with as many characters in each as fit."""
    for characters in range(min(len(caption), width), 0, -1):
        lines = textwrap.wrap(caption, characters)
        if all(font.getlength(line) <= width for line in lines):
            return lines
    return []


def overlay(image: Image.Image, heat: Float[Tensor, "h w"]) -> Image.Image:
    """A heat map over a picture: dark violet for zero, through red, to yellow for its maximum.

    `heat` is non-negative, of any size and unit; it is divided by its maximum and resampled to the picture's size.
    Raises `NumericsError` for NaN and infinity.
    """
    heat = heat.detach().float().cpu()
    if not heat.isfinite().all():
        raise NumericsError("expected a heat map of finite numbers, got NaN or infinity")
    scaled = Image.fromarray((heat / heat.max().clamp(min=1e-12)).numpy())
    relative = np.asarray(scaled.resize(image.size, Image.Resampling.BICUBIC)).clip(0, 1)
    # The picture is drawn in grey, so that colour shows the heat only.
    grey = np.asarray(image.convert("L").convert("RGB"), dtype=np.float32)
    strength = (0.35 + 0.4 * relative)[..., None]
    return Image.fromarray(np.rint(grey * (1 - strength) + _colour(relative) * strength).astype(np.uint8))


def _colour(relative: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Heat in [0, 1] as sRGB in 0 … 255: in OKLab, equal steps of heat are equal steps of lightness, and the hue goes
    from violet through red to yellow (Ottosson 2020, https://bottosson.github.io/posts/oklab/)."""
    lightness = 0.22 + 0.72 * relative
    chroma = 0.17 * np.sin(np.pi * (0.15 + 0.7 * relative))
    hue = np.deg2rad(300 + 170 * relative)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    cones = (lab @ _OKLAB_TO_CONES.T) ** 3
    linear = (cones @ _CONES_TO_RGB.T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


_OKLAB_TO_CONES = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_CONES_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
