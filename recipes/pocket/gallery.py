"""Paint the contact sheet of the built-in world, `docs/gallery/world.png`: sampled scenes over their captions.

python recipes/pocket/gallery.py [--count 64] [--seed 0] [--split train] [--out docs/gallery/world.png]
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw

from wordbrush.pocket import caption, render, sample

OUT = Path(__file__).parents[2] / "docs" / "gallery" / "world.png"
COLUMNS, PICTURE, MARGIN, TEXT = 8, 128, 10, 42


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="the first scene's seed")
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()

    wide, high = PICTURE + 2 * MARGIN, PICTURE + MARGIN + TEXT
    page = Image.new("RGB", (COLUMNS * wide, -(-options.count // COLUMNS) * high), "white")
    draw = ImageDraw.Draw(page)
    for i in range(options.count):
        scene = sample(options.seed + i, split=options.split)
        left, top = i % COLUMNS * wide + MARGIN, i // COLUMNS * high + MARGIN
        page.paste(render(scene, PICTURE), (left, top))
        text = textwrap.fill(caption(scene), 27)
        draw.text((left, top + PICTURE + 2), text, fill=(60, 60, 60), font_size=10, spacing=1)
    page.save(options.out, optimize=True)
    print(f"{options.count} scenes in {options.out.name}, {page.width} x {page.height}")


if __name__ == "__main__":
    main()
