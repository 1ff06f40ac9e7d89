"""Trainings and pictures: for each way to teach a folder as `subjects.format` reads it, made part by part.

    DIR/given/<subject>/pictures/                what is learned from
    DIR/given/<subject>/class/                   real pictures of the class, with captions
    DIR/given/<subject>/mask.png                 where the subject is in its first picture
    DIR/methods/<way>/subjects.toml, real/, category/, generated/    to score
    DIR/methods/<way>/others/<subject>/          prompts that name neither the subject nor its class
    DIR/methods/<way>/swap/<subject>.png         the class in a picture swapped for the subject
    DIR/methods/<way>/<subject>.concept          what was learned
    DIR/methods/<way>/<subject>.json             how, and what it cost: a part is done when this says so

A part is one subject by one way. It is held by the process that makes it, so several may work in one folder; what is
made already is not made again. A training goes on from its checkpoint.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wordbrush import api, images, reading, sampling, training
from wordbrush.concept import Concept, Use, applied
from wordbrush.denoise import denoise
from wordbrush.errors import OutputError
from wordbrush.evaluation.results.cost import Cost, measured
from wordbrush.evaluation.subjects.pocket.variants import BASE, TRUTH, Variant
from wordbrush.evaluation.subjects.pocket.world import OTHERS, Split, Subject
from wordbrush.files import atomic_write, sole
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.pocket.vocabulary import PLACES
from wordbrush.progress import Progress
from wordbrush.records import fingerprint
from wordbrush.training import pictures
from wordbrush.training.pictures import Pictures
from wordbrush.training.run import finish, planned, run

_AT_ONCE = 12  # pictures in a batch: more are hardly faster, and take memory
_REAL = 4  # real pictures of a category for each that is made: they cost nothing
_LEARNING = 40  # real pictures of a class that a training may be given
_SEEDS = {"generated": 0, "_class": 1000, "_category": 2000, "others": 3000}
_GUIDANCE = 3.0


@dataclass(frozen=True)
class Counts:
    """How much is made: pictures of a prompt, of a category (for KID), and of the bare class; sampling steps; the share
    of a training's own steps, and its class pictures."""

    pictures: int = 2
    category: int = 16
    bare: int = 4
    steps: int = 16
    training: float = 1.0
    class_pictures: int = 16


QUICK = Counts(category=8, steps=8, training=0.2, class_pictures=4)


@dataclass(frozen=True, eq=False)
class Bench:
    """An evaluation's folder, and what is compared in it.

    subjects: all that the folder is about. chosen: those that are to be made now, or all.
    """

    model: Model
    folder: Path
    subjects: Sequence[Subject]
    variants: Sequence[Variant]
    counts: Counts = Counts()
    chosen: Sequence[Subject] = ()

    @property
    def all(self) -> tuple[Variant, ...]:
        """What is compared, the references first."""
        return (TRUTH, BASE, *self.variants)

    def place(self, variant: Variant) -> Path:
        """The folder of a way to teach."""
        return self.folder / "methods" / variant.key

    def is_made(self, variant: Variant, subject: Subject) -> bool:
        """Whether a part is there as it would be made now."""
        return noted(self.note(variant, subject)).get("made") == self.made(variant, subject)

    def cost(self, variant: Variant, subject: Subject) -> Mapping[str, float]:
        """What a training took: UNet rows, those differentiated, and forwards of one row that take the same time."""
        return noted(self.note(variant, subject)).get("cost", {})

    def note(self, variant: Variant, subject: Subject) -> Path:
        """Where it is noted what was made of a part."""
        return self.place(variant) / f"{subject.name}.json"

    def learned(self, variant: Variant, subject: Subject) -> str:
        """Changes with all that decides what is learned."""
        told = variant.told(subject, Path())
        own = training.defaults(self.model.name, variant.method)
        return fingerprint(
            variant.method, told, own, self.counts.training, self.counts.class_pictures, self.model.hash
        )

    def made(self, variant: Variant, subject: Subject) -> str:
        """Changes with all that decides what is made."""
        return fingerprint(self.learned(variant, subject), asdict(self.counts), sorted(variant.shows))


@dataclass(frozen=True)
class Part:
    """A part of the work: what it is called, where it is noted that it is done, the mark of what it would be now, and
    what does it, which returns what else to note. after: where it is noted of other parts, with their marks, that they
    are done, without which it cannot begin."""

    says: str
    note: Path
    mark: str
    make: Callable[[], Generator[Progress, None, Mapping[str, Any]]]
    after: Mapping[Path, str] = field(default_factory=dict[Path, str])

    @property
    def can_begin(self) -> bool:
        """Whether what it goes on from is there."""
        return all(noted(path).get("made") == mark for path, mark in self.after.items())

    @property
    def is_made(self) -> bool:
        """Whether it is there as it would be made now."""
        return noted(self.note).get("made") == self.mark


def parts(bench: Bench) -> list[Part]:
    """Every subject by every way to teach one."""
    return [
        Part(
            f"{subject.title}: {variant.label}",
            bench.note(variant, subject),
            bench.made(variant, subject),
            partial(_part, bench, variant, subject),
        )
        for subject in bench.chosen or bench.subjects
        for variant in bench.all
    ]


def make(bench: Bench, wanted: Sequence[Part]) -> Generator[Progress, None, list[str]]:
    """Make every part that nobody else is making; returns what others are making.

    Raises as trainings do, and `OutputError`.
    """
    for subject in bench.chosen or bench.subjects:
        give(bench, subject)
    missing = [part for part in wanted if not part.is_made]
    elsewhere: list[str] = []
    done = len(wanted) - len(missing)
    for part in missing:
        yield Progress("parts", done, len(wanted), says=part.says)
        with ExitStack() as ending:
            part.note.parent.mkdir(parents=True, exist_ok=True)
            try:
                if not part.can_begin:  # somebody else is at it
                    raise BlockingIOError
                ending.enter_context(sole(part.note.with_name(f".{part.note.stem}.lock")))
            except BlockingIOError:
                elsewhere.append(part.says)
                continue
            if not part.is_made:  # somebody may have made it meanwhile
                more = yield from part.make()
                _tell(part.note, {**more, "made": part.mark})
        done += 1
    for variant in bench.all:
        write_listing(bench, variant)
    yield Progress("parts", done, len(wanted))
    return elsewhere


def give(bench: Bench, subject: Subject) -> None:
    """Write what a subject can be learned from, where it is not there."""
    folder = bench.folder / "given" / subject.name
    write(zip(_numbered(folder / "pictures"), subject.pictures(), strict=False))
    mask = Image.fromarray(subject.mask().astype("uint8") * 255)
    write([(folder / "mask.png", mask)])
    captioned(folder / "class", subject.category("learning", _LEARNING))


def captioned(folder: Path, shown: Iterable[tuple[Image.Image, str]]) -> Path:
    """Write pictures and what they show, as trainings read them, where they are not there."""
    for path, (picture, caption) in zip(_numbered(folder), shown, strict=False):
        if not path.with_suffix(".txt").exists():
            images.save_png(picture, path)
            _text(path.with_suffix(".txt"), caption)
    return folder


def sampled(
    model: Model, asked: Sequence[tuple[str, int]], steps: int
) -> Generator[Progress, None, list[Image.Image]]:
    """Pictures of prompts from their seeds, many in a batch."""
    found: list[Image.Image] = []
    schedule, guidance = model.schedule(steps), TextGuidance(_GUIDANCE)
    for first in range(0, len(asked), _AT_ONCE):
        part = asked[first : first + _AT_ONCE]
        noise = torch.cat([sampling.initial_latents(model, seed, *model.image_size) for _, seed in part])
        texts = model.encode_text([prompt for prompt, _ in part])
        conditions = {"text": Conditioning(texts), "null": Conditioning(model.encode_text([""]))}
        latents = noise
        for step in denoise(model, noise, conditions, schedule, guidance):
            latents = step.latents
            share = len(part) * (step.index + 1) / step.total
            yield Progress("making pictures", first + int(share), len(asked), rows=step.rows)
        with torch.no_grad():
            found += [images.to_image(each) for each in model.decode(latents).cpu()]
    return found


# A part ----------------------------------------------------------------------------------------------------


def _part(bench: Bench, variant: Variant, subject: Subject) -> Generator[Progress, None, Mapping[str, Any]]:
    model, place = bench.model, bench.place(variant)
    note: dict[str, Any] = {}
    changes_nothing = False
    if variant.method:
        concept, note = yield from taught(bench, variant, subject)
        model, changes_nothing = applied(model, [Use(concept)]), not concept.weights
    category = place / "category" / subject.class_word
    for old in (place / "generated" / subject.name, place / "others" / subject.name, category):
        shutil.rmtree(old, ignore_errors=True)  # of other counts
    write(zip(_numbered(place / "real" / subject.name), subject.pictures(), strict=False))
    real = [picture for picture, _ in subject.category("real", _REAL * bench.counts.category)]
    write(zip(_numbered(category), real, strict=False))
    if variant is TRUTH:
        write(_true(bench, subject))
    else:
        wanted = list(_wanted(bench, variant, subject))
        # A new word leaves the pictures of all other words as they are, bit for bit.
        if changes_nothing and bench.is_made(BASE, subject):
            _copy(wanted, place, bench.place(BASE))
            wanted = [each for each in wanted if not each[0].exists()]
        made = yield from sampled(model, [(prompt, seed) for _, prompt, seed in wanted], bench.counts.steps)
        write(zip([path for path, _, _ in wanted], made, strict=True))
        if "swap" in variant.shows and variant is not BASE:
            swap = yield from _swapped(model, variant, subject)
            write([(place / "swap" / f"{subject.name}.png", swap)], anew=True)
    return note


def taught(
    bench: Bench, variant: Variant, subject: Subject
) -> Generator[Progress, None, tuple[Concept, dict[str, Any]]]:
    """The concept of a subject, from its file if it is there, and what to note of it."""
    place, told = bench.place(variant), bench.note(variant, subject)
    path, note, mark = place / f"{subject.name}.concept", noted(told), bench.learned(variant, subject)
    if path.exists() and note.get("learned") == mark:
        return Concept.load(path), note
    given = bench.folder / "given" / subject.name
    own = variant.told(subject, given)
    if variant.method in training.AT_ONCE:
        concept, cost = _at_once(bench.model, variant.method, given, own).save(path), {}
    else:
        found, named = pictures.read(given / "pictures"), options(bench, variant, own)
        concept, cost = yield from trained(bench.model, variant.method, found, named, path, given / "drawn")
    note = {"learned": mark, "cost": cost}
    _tell(told, note)
    return concept, note


def _at_once(model: Model, method: str, given: Path, told: Mapping[str, Any]) -> Concept:
    """A concept of one picture and its mask, without training."""
    module: Any = training.AT_ONCE[method].load()
    first = min((given / "pictures").glob("*.png"))
    return module.concept(model, images.load(first), images.load(given / "mask.png"), told)


def trained(
    model: Model, method: str, found: Pictures, told: Mapping[str, Any], path: Path, drawn: Path
) -> Generator[Progress, None, tuple[Concept, dict[str, float]]]:
    """A training, its concept kept at a path; with what it cost. drawn: a folder for the class's pictures."""
    work = path.with_suffix(".training")
    _share_class(work, drawn)
    plan = planned(model, found, method, told)
    result, cost = yield from measured(model, run(plan, work))
    concept = result.concept.save(path)
    finish(plan, work)
    return concept, _cost(model, cost)


def _share_class(work: Path, drawn: Path) -> None:
    """Let the trainings of a subject share the pictures of its class that the model makes, where there are links."""
    own = work / "class"
    if not os.path.lexists(own):
        for folder in (work, drawn):
            folder.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            own.symlink_to(drawn.resolve(), target_is_directory=True)


def options(bench: Bench, variant: Variant, told: Mapping[str, Any], times: int = 1) -> dict[str, Any]:
    """What a training is told: its own defaults where nothing is said, shortened as the counts say. times: how many
    times its own steps."""
    fields = training.METHODS[variant.method].options().model_fields
    own = {name: field.default for name, field in fields.items()}
    own |= training.defaults(bench.model.name, variant.method)
    steps = max(2, round(told.get("steps", own["steps"]) * times * bench.counts.training))
    few = {"class_pictures": bench.counts.class_pictures} if "class_pictures" in fields else {}
    return {"sample_every": steps, **few, **told, "steps": steps}


def _cost(model: Model, cost: Cost) -> dict[str, float]:
    """Of a training; its processor time as forwards of one row, which is the same on every machine."""
    text = Conditioning(model.encode_text(["a cat on a beach"]))
    latents = sampling.initial_latents(model, 0, *model.image_size)
    level = model.schedule(20).levels[5]
    times: list[float] = []
    with torch.no_grad():
        for _ in range(7):
            began = time.process_time()
            model.predict(latents, level, text)
            times.append(time.process_time() - began)
    unit = sorted(times)[len(times) // 2]
    return {
        "rows": float(cost.rows),
        "gradient_rows": float(cost.with_gradient),
        "forwards": cost.processor_seconds / unit,
        "seconds": cost.processor_seconds,
    }


def _wanted(bench: Bench, variant: Variant, subject: Subject) -> Iterator[tuple[Path, str, int]]:
    """Every picture of a part: where, of which prompt, from which seed. Equal numbers have equal seeds in all ways."""
    counts, generated = bench.counts, bench.place(variant) / "generated" / subject.name
    for i, prompt in enumerate(subject.prompts):
        for k in range(counts.pictures):
            text = variant.prompt(prompt.text, subject)
            yield generated / str(i) / f"{k:02}.png", text, _SEEDS["generated"] + 10 * i + k
    if "class" in variant.shows:
        for k in range(counts.bare):
            yield generated / "_class" / f"{k:02}.png", f"a {subject.class_word}", _SEEDS["_class"] + k
    if "category" in variant.shows:
        for k, (_, caption) in enumerate(subject.category("asked", counts.category)):
            yield generated / "_category" / f"{k:02}.png", caption, _SEEDS["_category"] + k
    if "others" in variant.shows:
        for k, text in enumerate(OTHERS):
            yield bench.place(variant) / "others" / subject.name / f"{k:02}.png", text, _SEEDS["others"] + k


def _true(bench: Bench, subject: Subject) -> Iterator[tuple[Path, Image.Image]]:
    """What a perfect method would make: renderings, none of which is among those that nearness is measured to."""
    generated, counts = bench.place(TRUTH) / "generated" / subject.name, bench.counts
    for i, prompt in enumerate(subject.prompts):
        yield from zip(
            _numbered(generated / str(i)), prompt.truths(subject, counts.pictures, 50), strict=False
        )
    extra: dict[str, tuple[Split, int]] = {
        "_class": ("learning", counts.bare),
        "_category": ("asked", counts.category),
    }
    for folder, (split, count) in extra.items():
        shown = [picture for picture, _ in subject.category(split, count)]
        yield from zip(_numbered(generated / folder), shown, strict=False)


def _swapped(model: Model, variant: Variant, subject: Subject) -> Generator[Progress, None, Image.Image]:
    """The class in a picture swapped for the subject, by Prompt-to-Prompt."""
    picture, _ = subject.swap()
    here = PLACES["beach"]
    source = yield from api.invert_steps(model, picture, f"a {subject.class_word} {here}")
    target = variant.prompt(f"a {{token}} {{class}} {here}", subject)
    (result,) = yield from api.edit_steps(model, source, [target], method="prompt_to_prompt")
    return result.image


# Files -----------------------------------------------------------------------------------------------------


def write_listing(bench: Bench, variant: Variant) -> None:
    """Write the listing of a folder, with the subjects of which there is something."""
    lines = [
        f"method = {json.dumps(variant.label)}",
        f'sampler = "DDIM, {bench.counts.steps} steps, guidance {_GUIDANCE:g}"',
        'data = "the built-in world"',
    ]
    for subject in bench.subjects:
        if (bench.place(variant) / "generated" / subject.name).is_dir():
            token, *_ = variant.words(subject).split()
            prompts = [prompt.text for prompt in subject.prompts]
            lines += ["", "[[subjects]]", f"name = {json.dumps(subject.name)}"]
            lines += [f"class = {json.dumps(subject.class_word)}", f'kind = "{subject.kind}"']
            lines += [f"token = {json.dumps(token)}", f"prompts = {json.dumps(prompts)}"]
    _text(bench.place(variant) / "subjects.toml", "\n".join(lines) + "\n")


def _numbered(folder: Path) -> Iterator[Path]:
    return (folder / f"{k:02}.png" for k in range(1000))


def _copy(wanted: Sequence[tuple[Path, str, int]], place: Path, base: Path) -> None:
    """Copy the pictures that do not show the subject from those of the model as it was, as far as they are there."""
    for path, _, _ in wanted:
        own = path.relative_to(place)
        if own.parts[0] == "others" or own.parts[2].startswith("_"):
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(base / own, path)


def write(made: Iterable[tuple[Path, Image.Image]], *, anew: bool = False) -> None:
    """Write pictures to their paths; those that are there stay as they are, unless they are to be made anew."""
    for path, picture in made:
        if anew or not path.exists():
            images.save_png(picture, path)


def _text(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        with atomic_write(path) as file:
            file.write(text.encode())


def _tell(path: Path, note: Mapping[str, Any]) -> None:
    _text(path, json.dumps(note, indent=1) + "\n")


def noted(path: Path) -> dict[str, Any]:
    """What is noted of a part; nothing of one that is not there. Raises `OutputError` for another file."""
    return reading.json_mapping(path, OutputError) if path.exists() else {}
