"""Edit the example pictures and write two sheets to `docs/gallery`: `prompt-to-prompt.webp`, with all edits, and
`demo.webp`, with the edit that `make demo` makes.

python examples/gallery.py
"""

from pathlib import Path

from PIL import Image

import wordbrush

EXAMPLES = Path(__file__).parent
GALLERY = EXAMPLES.parent / "docs" / "gallery"

# Picture, source prompt, target prompts, and a word of the first target for the heat map.
ROWS = (
    (
        "cat.png",
        "a cat on a beach",
        ("a dog on a beach", "a red cat on a beach", "a cat in the snow", "a cat on a beach at night"),
        "dog",
    ),
    (
        "lion.png",
        "a lion in a meadow",
        ("a tiger in a meadow", "a robot in a meadow", "a lion in a forest", "a lion in a meadow at sunset"),
        "tiger",
    ),
    (
        "car.png",
        "a large car in a city",
        (
            "a large bus in a city",
            "a large yellow car in a city",
            "a large car on a beach",
            "a large car in a city in the rain",
        ),
        "bus",
    ),
    (
        "robot.png",
        "a photo of a robot on the moon",
        (
            "a photo of a cat on the moon",
            "a photo of a castle on the moon",
            "a photo of a robot in a forest",
            "a pencil sketch of a robot on the moon",
        ),
        "cat",
    ),
    (
        "teapot.png",
        "a blue teapot in a room",
        (
            "a blue vase in a room",
            "a red teapot in a room",
            "a blue teapot in the desert",
            "a watercolor painting of a blue teapot in a room",
        ),
        "vase",
    ),
    (
        "dog-and-bicycle.png",
        "a dog next to a bicycle in a forest",
        (
            "a fox next to a bicycle in a forest",
            "a dog next to a robot in a forest",
            "a dog in a forest",
            "a bicycle in a forest",
        ),
        "fox",
    ),
)


def save(sheet: Image.Image, name: str) -> None:
    """Write a sheet as WebP to the gallery."""
    sheet.save(GALLERY / f"{name}.webp", quality=88, method=6)


def main() -> None:
    model = wordbrush.Model.load("pocket")
    pictures, captions = [], []
    for name, prompt, targets, word in ROWS:
        source = wordbrush.invert(model, EXAMPLES / name, prompt)
        results = wordbrush.edit(model, source, targets)
        pictures += [Image.open(EXAMPLES / name), *(result.image for result in results)]
        captions += [prompt, *targets]
        pictures.append(results[0].heatmap(word))
        captions.append(f"where “{word}” looks")
        if name == "cat.png":
            before_after = wordbrush.sheet(pictures[:2], captions[:2])
            save(before_after, "demo")
    save(wordbrush.sheet(pictures, captions, columns=6), "prompt-to-prompt")


if __name__ == "__main__":
    main()
