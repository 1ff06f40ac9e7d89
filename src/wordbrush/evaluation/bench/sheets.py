"""Contact sheets of the bench: source, truth, edit and mask of many cases on one page."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wordbrush.evaluation.bench.cases import Case

_PAPER, _INK, _FAINT, _EDGE, _GOOD, _BAD = "#fbfaf7", "#22252b", "#6d7078", "#d9d6cf", "#1a7f4b", "#b3261e"
_HEADINGS = ("source", "truth", "edit", "mask")


@dataclass(frozen=True, eq=False)
class Shown:
    """One case on a sheet: its edit, whether it succeeded (a green frame) or not (red), and a figure to print."""

    case: Case
    edit: Image.Image
    success: bool
    figure: str


def contact_sheet(title: str, shown: Sequence[Shown], *, across: int = 2, tile: int = 128) -> Image.Image:
    """A page with `across` cases side by side, each with its four pictures, `tile` pixels wide, above its captions."""
    small, large = (ImageFont.load_default(size=size) for size in (max(9, tile // 9), max(12, tile // 6)))
    gap, margin = max(2, tile // 32), tile // 6
    line = math.ceil(max(9, tile // 9) * 1.35)
    wide, high = 4 * tile + 3 * gap, tile + 2 * line + 2 * gap
    rows = math.ceil(len(shown) / across)
    top = margin + 2 * line
    page = Image.new(
        "RGB",
        (across * (wide + margin) + margin, top + line + rows * (high + gap) + margin),
        _PAPER,
    )
    draw = ImageDraw.Draw(page)
    draw.text((margin, margin // 2), title, fill=_INK, font=large)
    for column in range(min(across, len(shown))):
        for k, heading in enumerate(_HEADINGS):
            left = margin + column * (wide + margin) + k * (tile + gap)
            draw.text((left, top - 2), heading, fill=_FAINT, font=small)
    for i, one in enumerate(shown):
        left = margin + (i % across) * (wide + margin)
        upper = top + line + (i // across) * (high + gap)
        mask = Image.fromarray(np.where(one.case.mask, np.uint8(255), np.uint8(0)))
        for k, picture in enumerate((one.case.picture, one.case.truth, one.edit, mask)):
            resampled = picture.convert("RGB").resize((tile, tile), Image.Resampling.LANCZOS)
            near = left + k * (tile + gap)
            page.paste(resampled, (near, upper))
            frame = (near, upper, near + tile - 1, upper + tile - 1)
            if _HEADINGS[k] == "edit":
                draw.rectangle(frame, outline=_GOOD if one.success else _BAD, width=max(1, tile // 64))
            else:  # otherwise a full mask would look like the background
                draw.rectangle(frame, outline=_EDGE)
        texts = (
            (f"from: {one.case.source_prompt}", _FAINT),
            (f"{one.figure}, to: {one.case.target_prompt}", _INK),
        )
        for k, (text, ink) in enumerate(texts):
            draw.text((left, upper + tile + gap + k * line), _fitted(text, small, wide), fill=ink, font=small)
    return page


def _fitted(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
