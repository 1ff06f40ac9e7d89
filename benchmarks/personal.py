"""Six things that the built-in model has never seen, taught by each method, beside the true renderings.

    python benchmarks/personal.py --choose          # the three on which the defaults were chosen
    python benchmarks/personal.py --out DIR         # the three that are reported
    python benchmarks/personal.py --knobs --out DIR # what each option does, on one of the first three

Each thing has five pictures, rendered from seeds. For four prompts and four seeds: the cosine, by the encoder in DINO's
role, of what the taught model draws with true renderings of the prompt, beside that of the base model's picture of the
class, and of true renderings with one another. What was expected is in docs/benchmarks/personalisation.md.
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import wordbrush
from wordbrush import training
from wordbrush.concept import Concept, Use, applied
from wordbrush.evaluation.judges.backbones import Encoder, load_encoder
from wordbrush.images import load
from wordbrush.methods import typed
from wordbrush.model import Model
from wordbrush.pocket import Scene, Thing, render
from wordbrush.progress import drain
from wordbrush.sheets import sheet
from wordbrush.training.run import planned, run


@dataclass(frozen=True)
class Subject:
    """A thing that is held out: its sprite, its pattern if it has one, and the class that the model knows."""

    name: str
    kind: str
    colour: str | None = None

    def thing(self, **where: Any) -> Thing:
        return Thing(self.name, self.colour, **where)


CHOOSING = (Subject("koala", "bear"), Subject("tractor", "car"), Subject("backpack", "backpack", "dotted"))
REPORTED = (Subject("poodle", "dog"), Subject("alarm clock", "clock"), Subject("teapot", "teapot", "striped"))

PROMPTS: Mapping[str, Mapping[str, Any]] = {
    "{} on the moon": {"place": "moon"},
    "{} in the snow at night": {"place": "snow", "light": "night"},
    "a watercolor painting of {} in a meadow": {"place": "meadow", "style": "watercolour"},
    "{} next to a chair in a room": {"place": "room", "relation": "beside"},
}
SEEDS = range(4)
STEPS = 20
PLACES = ("beach", "forest", "street", "desert", "mountains")  # of the five pictures; in none of the prompts
SIZES = ("medium", "large", "large", "medium", "large")


def pictures(subject: Subject, folder: Path) -> Path:
    """The five pictures to learn from, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (place, size) in enumerate(zip(PLACES, SIZES, strict=True)):
        thing = subject.thing(size=size, x=0.36 + 0.07 * i, y=0.58 + 0.02 * (i % 3), flip=i % 2 == 1)
        render(Scene((thing,), place, place_seed=10 + i)).save(folder / f"{i}.png")
    return folder


def truths(subject: Subject, prompt: str) -> list[Image.Image]:
    """True renderings of a prompt, with the thing at several places and sizes."""
    found: list[Image.Image] = []
    for i in range(6):
        settings = dict(PROMPTS[prompt])
        things = [subject.thing(size=("medium", "large")[i % 2], x=0.4 + 0.04 * i, y=0.6, flip=i % 3 == 0)]
        if "relation" in settings:
            things = [subject.thing(x=0.32, y=0.62), Thing("chair", x=0.7, y=0.6)]
        found.append(render(Scene(tuple(things), place_seed=20 + i, **settings)))
    return found


def drawn(model: Model, word: str) -> dict[str, list[Image.Image]]:
    """Pictures of every prompt with this word."""
    return {
        prompt: [wordbrush.generate(model, prompt.format(word), seed=seed, steps=STEPS) for seed in SEEDS]
        for prompt in PROMPTS
    }


class Judge:
    """The encoder in DINO's role: in no training here, and read by no method."""

    def __init__(self) -> None:
        self._encoder: Encoder = load_encoder()

    def nearness(self, made: Mapping[str, Sequence[Image.Image]], subject: Subject) -> float:
        """The mean cosine with the true renderings of the same prompt."""
        scores = [
            float((self._encoder.images(some) @ self._encoder.images(truths(subject, prompt)).T).mean())
            for prompt, some in made.items()
        ]
        return sum(scores) / len(scores)

    def bound(self, subject: Subject) -> float:
        """The mean cosine of true renderings of a prompt with one another."""
        scores: list[float] = []
        for prompt in PROMPTS:
            vectors = self._encoder.images(truths(subject, prompt))
            off = ~torch.eye(len(vectors), dtype=torch.bool)
            scores.append(float((vectors @ vectors.T)[off].mean()))
        return sum(scores) / len(scores)


def told(method: str, subject: Subject) -> tuple[dict[str, Any], str]:
    """What a method is told of a subject, and the words that stand for it in a prompt afterwards."""
    if method == "textual_inversion":
        return {"token": "<my-thing>", "init": f"a {subject.kind}"}, "<my-thing>"
    named = f"a sks {subject.kind}"
    prior = {"class_prompt": f"a {subject.kind}"} if method == "dreambooth" else {}
    return {"prompt": named, **prior}, named


def taught(
    model: Model, subject: Subject, method: str, options: Mapping[str, Any], work: Path
) -> tuple[Concept, str, dict[str, float], Image.Image]:
    """The concept of a subject, the words for it, what it cost, and the strip of samples."""
    own, word = told(method, subject)
    folder = pictures(subject, work / subject.name)
    began, rows = time.process_time(), [0, 0]

    def count(progress: wordbrush.Progress) -> None:
        rows[0] += progress.rows
        rows[1] += progress.gradient_rows

    plan = planned(model, folder, method, {**own, **options})
    trained = drain(run(plan), count)
    cost = {"seconds": time.process_time() - began, "rows": rows[0], "gradient_rows": rows[1]}
    return trained.concept, word, cost, trained.strip


def unit(model: Model) -> float:
    """Processor time of a UNet forward of one row, in seconds."""
    from wordbrush.model import Conditioning

    text = Conditioning(model.encode_text(["a cat on a beach"]))
    z = torch.zeros(1, model.latent_channels, *model.denoiser.size)
    level = model.schedule(20).levels[5]
    times: list[float] = []
    with torch.no_grad():
        for _ in range(12):
            began = time.process_time()
            model.predict(z, level, text)
            times.append(time.process_time() - began)
    return sorted(times)[len(times) // 2]


METHODS = ("textual_inversion", "lora", "dreambooth")
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Lesson:
    """What a method made of a subject."""

    concept: Concept
    word: str
    model: Model
    made: Mapping[str, Sequence[Image.Image]]

    def swapped(self, subject: Subject, folder: Path) -> Image.Image:
        """The class in a rendered picture swapped for the thing, from a saved source."""
        here = f"a {subject.kind} on a beach"
        source = wordbrush.invert(self.model, scene(Thing(subject.kind)), here)
        source.save(folder / "swap.source")
        loaded = wordbrush.Source.load(folder / "swap.source", self.model)
        return wordbrush.edit(self.model, loaded, f"{self.word} on a beach").image

    def at(self, base: Model, strength: float) -> Image.Image:
        """The first prompt with the concept at a strength."""
        model = applied(base, [Use(self.concept, strength)])
        return wordbrush.generate(model, next(iter(PROMPTS)).format(self.word), seed=SEEDS[0], steps=STEPS)


def scene(thing: Thing) -> Image.Image:
    return render(Scene((thing,), "beach", place_seed=30))


def gallery(
    base: Model,
    subject: Subject,
    plain: Mapping[str, Sequence[Image.Image]],
    lessons: Mapping[str, Lesson],
    work: Path,
) -> Image.Image:
    """All of a subject on one sheet, first seeds, not chosen: what was learned from, the prompts, a swap, strengths."""
    cells = [(load(path), "learned from") for path in sorted((work / subject.name).glob("*.png"))]
    for prompt in PROMPTS:
        named = prompt.format(f"{'an' if subject.name[0] in 'aeiou' else 'a'} {subject.name}")
        cells += [(truths(subject, prompt)[0], f"true: {named}"), (plain[prompt][0], f"base: {subject.kind}")]
        cells += [(lesson.made[prompt][0], typed(method)) for method, lesson in lessons.items()]
    cells += [(scene(Thing(subject.kind)), "a picture"), (scene(subject.thing()), "true swap")]
    cells += [(lesson.swapped(subject, work), f"swap: {typed(name)}") for name, lesson in lessons.items()]
    for method in ("textual_inversion", "lora"):
        if method in lessons:
            cells += [
                (lessons[method].at(base, strength), f"{typed(method)} at {strength:g}")
                for strength in STRENGTHS
            ]
    return sheet([picture for picture, _ in cells], [caption for _, caption in cells], columns=5)


KNOBS: Sequence[tuple[str, str, Sequence[Any]]] = (
    ("lora", "layers", ("cross-attention", "attention", "all")),
    ("lora", "rank", (1, 4, 16)),
    ("lora", "learning_rate", (3e-4, 2e-3, 1e-2)),
    ("lora", "steps", (40, 160, 400)),
    ("textual_inversion", "vectors", (1, 2, 6)),
    ("textual_inversion", "learning_rate", (3e-4, 2e-3, 1e-2)),
    ("dreambooth", "train_text_encoder", (False, True)),
)


def knobs(model: Model, subject: Subject, work: Path) -> Image.Image:
    """The first prompt and seed at three values of each option, all others at their defaults; and what becomes of the
    class with and without its pictures."""
    prompt = next(iter(PROMPTS))
    kept: dict[str, Model] = {}

    def shown(word: str, method: str, **options: Any) -> Image.Image:
        own = {**training.defaults("pocket", method), **options}
        key = json.dumps([method, own], sort_keys=True)
        if key not in kept:
            concept, named, _, _ = taught(model, subject, method, options, work)
            kept[key] = applied(model, [Use(concept)])
            print(key, flush=True)
        text = prompt.format(told(method, subject)[1] if word == "thing" else f"a {subject.kind}")
        return wordbrush.generate(kept[key], text, seed=SEEDS[0], steps=STEPS)

    cells: list[tuple[Image.Image, str]] = []
    for method, option, values in KNOBS:
        for value in values:
            cells.append(
                (shown("thing", method, **{option: value}), f"{typed(method)}: {typed(option)} {value}")
            )
    cells.append((truths(subject, prompt)[0], "true"))
    cells.append(
        (
            wordbrush.generate(model, prompt.format(f"a {subject.kind}"), seed=SEEDS[0], steps=STEPS),
            "base: class",
        )
    )
    cells.append((shown("class", "dreambooth"), "dreambooth: the class, preserved"))
    cells.append((shown("class", "dreambooth", class_prompt=""), "dreambooth: the class, not preserved"))
    return sheet([picture for picture, _ in cells], [caption for _, caption in cells], columns=6)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--choose", action="store_true", help="the subjects that defaults are chosen on")
    parser.add_argument("--knobs", action="store_true", help="a sheet of what each option does")
    parser.add_argument("--method", action="append")
    parser.add_argument("--subject", action="append")
    parser.add_argument("--options", type=json.loads, default={}, help="JSON, in place of the defaults")
    parser.add_argument("--out", type=Path, default=Path("personal"))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model, judge = Model.load("pocket", device="cpu"), Judge()
    work = asked.out / "pictures"
    if asked.knobs:
        knobs(model, CHOOSING[1], work).save(asked.out / "knobs.png")
        return
    for subject in CHOOSING if asked.choose else REPORTED:
        if asked.subject and subject.name not in asked.subject:
            continue
        plain = drawn(model, f"a {subject.kind}")
        bounds = {"base": judge.nearness(plain, subject), "truth": judge.bound(subject)}
        print(
            json.dumps({"subject": subject.name, **{k: round(v, 3) for k, v in bounds.items()}}), flush=True
        )
        lessons: dict[str, Lesson] = {}
        for method in asked.method or METHODS:
            concept, word, cost, strip = taught(model, subject, method, asked.options, work)
            learned = applied(model, [Use(concept)])
            lessons[method] = Lesson(concept, word, learned, drawn(learned, word))
            near = judge.nearness(lessons[method].made, subject)
            figures = {"near": round(near, 3), "forwards": round(cost.pop("seconds") / unit(model)), **cost}
            print(
                json.dumps({"subject": subject.name, "method": method, **asked.options, **figures}),
                flush=True,
            )
            name = f"{subject.name}-{method}".replace(" ", "-")
            strip.save(asked.out / f"{name}-strip.png")
            concept.save(asked.out / f"{name}.concept")
        gallery(model, subject, plain, lessons, work).save(
            asked.out / f"{subject.name}.png".replace(" ", "-")
        )


if __name__ == "__main__":
    main()
