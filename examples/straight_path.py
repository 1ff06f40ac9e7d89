"""Draw `docs/gallery/straight-path.webp`: what each row of an edit on the straight path sees, and what cancels.

python examples/straight_path.py
"""

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont

import wordbrush
from wordbrush.images import to_image
from wordbrush.model import Conditioning

EXAMPLES = Path(__file__).parent
SOURCE, TARGET = "a lion in a meadow", "a tiger in a meadow"
SHOWN = (0, 1, 2, 4, 7)  # steps
TILE, GAP, LEFT, TOP = 128, 6, 250, 34
ROWS = (
    "source row: z_src, known from\nthe picture and one noise",
    "what the network makes of it\nwith “lion”",
    "target row: z_tgt",
    "what the network makes of it\nwith “tiger”",
    "where the two predictions\ndiffer: the rest cancels",
    "the step's clean picture: the\nsource, plus the difference",
)


def shown(model: wordbrush.Model, latents: torch.Tensor) -> Image.Image:
    return to_image(model.decode(latents)[0])


def heat(difference: torch.Tensor) -> Image.Image:
    """The size of a difference of noise, white where it is largest."""
    size = difference.abs().sum(1)[0]
    grey = (255 * (size / size.max()) ** 0.7).to(torch.uint8)
    return Image.fromarray(grey.numpy()).resize((TILE, TILE), Image.Resampling.NEAREST).convert("RGB")


def main() -> None:
    model = wordbrush.Model.load("pocket", device="cpu")
    source = wordbrush.invert(model, EXAMPLES / "lion.png", SOURCE)
    cleans: list[Image.Image] = []
    result = wordbrush.edit(
        model,
        source,
        TARGET,
        options={"finish": 1.0},  # the difference to the end
        on_progress=lambda progress: cleans.append(progress.preview()) if progress.preview else None,
    )
    texts = [Conditioning(model.encode_text([prompt])) for prompt in (SOURCE, TARGET)]
    width = LEFT + len(SHOWN) * (TILE + GAP)
    page = Image.new("RGB", (width, TOP + len(ROWS) * (TILE + GAP)), (250, 249, 246))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size=15)
    for y, text in enumerate(ROWS):
        draw.multiline_text((10, TOP + y * (TILE + GAP) + 44), text, (38, 38, 42), font, spacing=5)
    for x, i in enumerate(SHOWN):
        level, left = source.schedule.levels[i], LEFT + x * (TILE + GAP)
        draw.text((left + 4, 8), f"step {i + 1}: t = {level.t}", (38, 38, 42), font)
        z_src, z_tgt = source.states.at(i), result.trajectory[i : i + 1]
        with torch.no_grad():
            before, after = (
                model.predict(z, level, text) for z, text in zip((z_src, z_tgt), texts, strict=True)
            )
        column = [
            shown(model, z_src),
            shown(model, before.clean),
            shown(model, z_tgt),
            shown(model, after.clean),
            heat(after.noise - before.noise),
            cleans[i],
        ]
        for y, tile in enumerate(column):
            page.paste(tile, (left, TOP + y * (TILE + GAP)))
    page.save(EXAMPLES.parent / "docs" / "gallery" / "straight-path.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
