"""Things that change places: `a cat to the left of a dog` becomes `a cat to the right of a dog`.

    python benchmarks/moves.py --count 16

The kinds of change of the ground-truth bench keep things where they are, but for their size. Here the true answer has
both things where the other side of the picture is. A move succeeded where the world reader sees in each thing's new
place that thing before any other. Rendered scenes that nothing else is measured on; the straight path, defaults.
"""

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from wordbrush import edit, invert
from wordbrush.evaluation.bench.cases import Case
from wordbrush.evaluation.judges.reader import Reader
from wordbrush.evaluation.metrics.pixels import psnr
from wordbrush.model import Model
from wordbrush.pocket import Scene, sample, segment

FIRST = 2_777_000_000
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "masactrl": ("masactrl", {}),
    "masactrl, foreground auto": ("masactrl", {"foreground": "auto"}),
    "the words alone (mutual_place 1)": ("masactrl", {"mutual_place": 1.0}),
    "prompt-to-prompt": ("prompt_to_prompt", {}),
    "plug-and-play": ("plug_and_play", {}),
}


def moves(count: int) -> list[Case]:
    """The first scenes of two things side by side, and the same with their sides exchanged."""
    found: list[Case] = []
    number = FIRST
    while len(found) < count:
        number += 1000
        scene = sample(number, things=2, split="test")
        is_plain = scene.style == "photo" and scene.wording // 2 != 11  # a caption that names the place
        if is_plain and scene.relation in ("left", "right"):
            found.append(Case(number, "move", scene, mirrored(scene)))
    return found


def mirrored(scene: Scene) -> Scene:
    """The scene with each thing on the other side."""
    things = tuple(replace(thing, x=round(1 - thing.x, 4)) for thing in scene.things)
    return replace(scene, things=things, relation={"left": "right", "right": "left"}[str(scene.relation)])


def is_moved(reader: Reader, case: Case, picture: Image.Image) -> bool:
    """Whether each thing is what is seen most in its new place."""
    where = np.asarray(segment(case.target))
    readings = reader.read([picture, picture], [where == 1, where == 2])
    return [reading.first(1)[0] for reading in readings] == [thing.name for thing in case.target.things]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=16)
    count: int = parser.parse_args().count
    model, reader, cases = Model.load("pocket", device="cpu"), Reader.load(device="cpu"), moves(count)
    rows: dict[str, list[tuple[float, ...]]] = {way: [] for way in WAYS}
    for case in cases:
        source = invert(model, case.picture, case.source_prompt, method="straight")
        for way, (method, options) in WAYS.items():
            picture = edit(model, source, case.target_prompt, method=method, options=options).rendering
            near = (
                psnr(picture, case.truth),
                psnr(picture, case.picture, ~case.mask),
                psnr(picture, case.picture),
            )
            rows[way].append((100 * is_moved(reader, case, picture), *near))
    truth = np.mean([is_moved(reader, case, case.truth) for case in cases])
    print(f"{count} moves; the reader sees {truth:.0%} of the true answers so\n")
    print("| way | moved, % | PSNR to the truth | PSNR outside | PSNR to the source |")
    print("|---|---:|---:|---:|---:|")
    for way, found in rows.items():
        moved, *near = np.mean(found, axis=0)
        print(f"| {way} | {moved:.0f} | {' | '.join(f'{each:.1f}' for each in near)} |")


if __name__ == "__main__":
    main()
