"""What the built-in model draws of captions that take several chunks of its context (`wordbrush --long-prompt`).

    python benchmarks/long_prompts.py

Held-out captions of three things are painted four times from one seed: as they are, in one chunk; as they are, beside
an empty second chunk; with all but the third thing said again and again, until the third is in the second chunk; and
the same with the third thing first, to tell what the repetition does. The world reader counts how many of the three
things it sees, and in how many pictures it sees all. Prints the table of `docs/long-prompts.md`.
"""

import argparse

from wordbrush.evaluation.judges.reader import Reader
from wordbrush.model import Model
from wordbrush.pocket.captions import caption_parts, parse
from wordbrush.pocket.scene import Scene
from wordbrush.pocket.scene import sample as sample_scene
from wordbrush.progress import drain
from wordbrush.sampling import sample

STEPS, FIRST_SEED = 20, 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=30)
    options = parser.parse_args()
    model, reader = Model.load("pocket"), Reader.load()
    things = dict.fromkeys(
        (
            "in one chunk",
            "beside an empty second chunk",
            "two things repeated, then the third, in the second chunk",
            "the third thing, in the first chunk, then the two repeated",
        ),
        0,
    )
    pictures = dict(things)
    for i in range(options.count):
        plain, last, first = captions(model, sample_scene(i, things=3, split="test"))
        names = [thing.name for thing in parse(plain).things]
        ways = (
            (model, plain),
            (model.with_chunks(2), plain),
            *((model.for_prompts([long]), long) for long in (last, first)),
        )
        for way, (how, prompt) in zip(things, ways, strict=True):
            source = drain(sample(how, prompt, FIRST_SEED + i, steps=STEPS))
            (seen,) = reader.read([source.image(how)])
            things[way] += sum(map(seen.sees, names))
            pictures[way] += set(seen.first(3)) == {*names}
        print(f"{i + 1} of {options.count}", flush=True)
    print("| the caption | things seen | pictures with all three |\n|---|---:|---:|")
    for way in things:
        print(f"| {way} | {things[way]} of {3 * options.count} | {pictures[way]} of {options.count} |")


def captions(model: Model, scene: Scene) -> tuple[str, str, str]:
    """A scene's caption, and two long ones that say the rest again and again: the third thing last, and first."""
    parts = caption_parts(scene)
    texts = [text for text, _ in parts]
    joint = max(i for i, (text, _) in enumerate(parts) if text == "and")
    end = 1 + max(i for i, (_, referent) in enumerate(parts) if referent == 2)
    others, third = [*texts[:joint], *texts[end:]], texts[joint + 1 : end]
    repeated = others
    while model.for_prompts([" ".join([*repeated, "and", *third])]).chunks == 1:
        repeated = [*repeated, *others]
    return " ".join(texts), " ".join([*repeated, "and", *third]), " ".join([*third, "and", *repeated])


if __name__ == "__main__":
    main()
