"""Cut the sprites of the built-in world out of Noto Color Emoji.

    python recipes/pocket/data/sprites.py [--font /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf]

Writes `sprites.png` (one sheet) and `sprites.json` (name -> [left, top, width, height]) to the package. Only needed
after the vocabulary changes. On Debian the font is in `fonts-noto-color-emoji`.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from wordbrush.pocket.vocabulary import HELD_OUT, NAMES

PACKAGE = Path(__file__).parents[3] / "src" / "wordbrush" / "pocket"
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # the only bitmap size in the font
COLUMNS = 9


def cut(glyph: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One glyph as a tightly cropped RGBA picture."""
    page = Image.new("RGBA", (2 * STRIKE, 2 * STRIKE))
    ImageDraw.Draw(page).text((20, 20), glyph, font=font, embedded_color=True)
    return page.crop(page.getchannel("A").getbbox())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--font", type=Path, default=FONT)
    font = ImageFont.truetype(parser.parse_args().font, STRIKE)

    glyphs = NAMES | {name: point for name, (point, _) in HELD_OUT.items()}
    sprites = {name: cut(chr(point), font) for name, point in glyphs.items()}
    cell = max(max(sprite.size) for sprite in sprites.values()) + 2
    rows = -(-len(sprites) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * cell, rows * cell))
    boxes: dict[str, list[int]] = {}
    for i, (name, sprite) in enumerate(sprites.items()):
        left, top = i % COLUMNS * cell, i // COLUMNS * cell
        sheet.paste(sprite, (left, top))
        boxes[name] = [left, top, *sprite.size]
    sheet.save(PACKAGE / "sprites.png", optimize=True)
    (PACKAGE / "sprites.json").write_text(json.dumps(boxes, indent=1) + "\n")
    print(f"{len(sprites)} sprites, {sheet.width} x {sheet.height}")


if __name__ == "__main__":
    main()
