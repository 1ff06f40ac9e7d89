"""What each option of a training does, on one sheet: the tractor of the built-in world, "on the moon", first seed.

    python benchmarks/personal.py --out knobs.png

How near the trainings come on other things is measured by `wordbrush evaluate subjects --from-pocket reported`.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wordbrush import training
from wordbrush.concept import Use, applied
from wordbrush.evaluation.subjects.pocket import variants, world
from wordbrush.evaluation.subjects.pocket.making import sampled
from wordbrush.evaluation.subjects.pocket.variants import BASE, Variant
from wordbrush.methods import typed
from wordbrush.model import Model
from wordbrush.progress import drain
from wordbrush.sheets import sheet
from wordbrush.training import pictures
from wordbrush.training.run import planned, run

SUBJECT = next(subject for subject in world.CHOOSING if subject.name == "tractor")
STEPS, SEED = 20, 0
KNOBS: Sequence[tuple[str, str, Sequence[Any]]] = (
    ("lora", "layers", ("cross-attention", "attention", "all")),
    ("lora", "rank", (1, 4, 16)),
    ("lora", "learning_rate", (3e-4, 2e-3, 1e-2)),
    ("lora", "steps", (40, 160, 400)),
    ("textual-inversion", "vectors", (1, 2, 6)),
    ("textual-inversion", "learning_rate", (3e-4, 2e-3, 1e-2)),
    ("dreambooth", "train_text_encoder", (False, True)),
)


def knobs(model: Model) -> Image.Image:
    """Three values of each option, all others at their defaults; and what becomes of the class with and without its
    pictures."""
    prompt = SUBJECT.prompts[0]
    kept: dict[str, Model] = {}

    def taught(way: Variant, told: Mapping[str, Any]) -> Model:
        own = {**training.defaults("pocket", way.method), **way.told(SUBJECT, Path()), **told}
        key = json.dumps([way.method, own], sort_keys=True)
        if key not in kept:
            concept = drain(run(planned(model, pictures.read(SUBJECT.pictures()), way.method, own))).concept
            kept[key] = applied(model, [Use(concept)])
            print(key, flush=True)
        return kept[key]

    def drawn(who: Model, way: Variant) -> Image.Image:
        (picture,) = drain(sampled(who, [(way.prompt(prompt.text, SUBJECT), SEED)], STEPS))
        return picture

    known = variants.known()
    cells: list[tuple[Image.Image, str]] = []
    for key, option, values in KNOBS:
        for value in values:
            shown = drawn(taught(known[key], {option: value}), known[key])
            cells.append((shown, f"{key}: {typed(option)} {value}"))
    cells.append((prompt.truths(SUBJECT, 1)[0], "true"))
    cells.append((drawn(model, BASE), "base: class"))
    for key, says in (("dreambooth", "preserved"), ("dreambooth-no-prior", "not preserved")):
        cells.append((drawn(taught(known[key], {}), BASE), f"dreambooth: the class, {says}"))
    return sheet([picture for picture, _ in cells], [caption for _, caption in cells], columns=6)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("knobs.png"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    knobs(Model.load("pocket", device="cpu")).save(asked.out)


if __name__ == "__main__":
    main()
