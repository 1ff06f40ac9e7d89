"""What the mappers make of sprites that they were not trained on: nearness to the truth, and a sheet.

    python recipes/pocket/elite/report.py --mappers src/wordbrush/pocket/weights/elite --out runs/pocket/elite/report

Of things drawn from `world.VALIDATION`: the mean cosine, by the encoder in DINO's role, of what the word draws in two
places with true renderings, beside that of the base's picture of the sprite's own name. The encoder was never read.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import torch
from PIL import Image

import wordbrush
from wordbrush.backbones import load_encoder
from wordbrush.concept import Use, applied
from wordbrush.model import Model
from wordbrush.pocket import Scene, Thing
from wordbrush.sheets import sheet
from wordbrush.training.elite.method import concept
from world import VALIDATION, Likeness, render

PROMPTS = {"a {} in a meadow": "meadow", "a {} on the moon": "moon"}
SEEDS, STEPS = range(2), 20


def scenes(name: str, place: str, count: int) -> list[Scene]:
    """A place with the thing at several places and sizes."""
    return [
        Scene(
            (Thing(name, size=("medium", "large")[i % 2], x=0.42 + 0.05 * i, y=0.6, flip=i % 2 == 1),),
            place,
            300 + i,
        )
        for i in range(count)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mappers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--things", type=int, default=6)
    parser.add_argument("--options", type=json.loads, default=[{}], help="JSON: a list of options to compare")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.out.mkdir(parents=True, exist_ok=True)
    model, encoder = Model.load("pocket", device="cpu"), load_encoder()
    rng = random.Random(11)
    things = [Likeness.drawn(rng, VALIDATION) for _ in range(asked.things)]
    scores: dict[str, list[float]] = {}
    cells: list[tuple[Image.Image, str]] = []
    for thing in things:
        shown = Scene((Thing(thing.name, size="large", x=0.5, y=0.55),), "street", 300)
        picture, mask = render(shown, thing)
        row = [(picture, f"{thing.name}: {thing.paint}")]
        truths = {
            prompt: [render(scene, thing)[0] for scene in scenes(thing.name, place, 4)]
            for prompt, place in PROMPTS.items()
        }
        row.append((truths[next(iter(PROMPTS))][0], "true"))
        contenders = {"base": (model, thing.name)}
        for options in asked.options:
            given = {"mappers": str(asked.mappers), **options}
            contenders[json.dumps(options)] = (
                applied(model, [Use(concept(model, picture, mask, given))]),
                "<my-thing>",
            )
        for name, (own, word) in contenders.items():
            near: list[float] = []
            for prompt, true in truths.items():
                made = [
                    wordbrush.generate(own, prompt.format(word), seed=seed, steps=STEPS) for seed in SEEDS
                ]
                near.append(float((encoder.images(made) @ encoder.images(true).T).mean()))
                row.append((made[0], name))
            scores.setdefault(name, []).append(sum(near) / len(near))
        cells += row
        print({name: round(found[-1], 3) for name, found in scores.items()}, flush=True)
    print(json.dumps({name: round(sum(found) / len(found), 3) for name, found in scores.items()}))
    page = sheet([each for each, _ in cells], [text for _, text in cells], columns=len(cells) // len(things))
    page.save(asked.out / "held-back.png")


if __name__ == "__main__":
    main()
