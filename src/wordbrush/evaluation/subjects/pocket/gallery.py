"""Sheets of what was made, the first seed of everything, and the same pictures as a forced-choice study."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from wordbrush import images
from wordbrush.errors import InputError
from wordbrush.evaluation.study.design import NewItem, Settings, Study, write_study
from wordbrush.evaluation.subjects.pocket import two
from wordbrush.evaluation.subjects.pocket.making import Bench
from wordbrush.evaluation.subjects.pocket.variants import ALL, TRUTH, Variant
from wordbrush.evaluation.subjects.pocket.world import PAIR_PLACES, Pair, Subject, pairs
from wordbrush.files import atomic_write
from wordbrush.options import parse
from wordbrush.sheets import sheet

_MOST = 300_000  # bytes of a sheet
_QUALITIES = (85, 75, 65, 50, 35, 20)

_TITLE = "Which picture is it?"
_INSTRUCTIONS = "You see pictures of a thing, and two pictures, A and B, that were made by a computer."

Cells = list[tuple[Image.Image, str]]


def write(bench: Bench, folder: Path) -> list[Path]:
    """Write a sheet for each subject and each pair that is made, and one of all swaps; returns what was written.

    Each is a WebP of at most 300 kB. Raises `OutputError`.
    """
    sheets: dict[str, tuple[Cells, int]] = {}
    for subject in bench.subjects:
        if cells := _of_subject(bench, subject):
            sheets[subject.name] = cells, len(subject.prompts)
    for pair in pairs(bench.subjects):
        if cells := _of_pair(bench, pair):
            sheets[pair.name.replace("+", "-and-")] = cells, len(PAIR_PLACES)
    swaps = [way for way in bench.variants if "swap" in way.shows and _made(bench, way)]
    if swaps:
        sheets["swaps"] = _of_swaps(bench, swaps), 2 + len(swaps)
    written: list[Path] = []
    for name, (cells, columns) in sheets.items():
        page = sheet([picture for picture, _ in cells], [caption for _, caption in cells], columns)
        path = folder / f"{name}.webp"
        with atomic_write(path) as file:
            file.write(_small(page))
        written.append(path)
    return written


def write_choices(bench: Bench, folder: Path) -> Study:
    """Write a study in DreamBooth's form: of each subject and prompt the first picture of every way to teach, two at a
    time, with the subject's own pictures as references.

    Raises `InputError` for fewer than two ways, `OutputError` if the folder has a study already.
    """
    ways = [
        way
        for way in bench.variants
        if way.shows == ALL and len(_made(bench, way)) == len(_made(bench, TRUTH))
    ]
    if len(ways) < 2:
        raise InputError(
            f"expected at least two ways to teach, with pictures of all subjects, to choose between, got {len(ways)}: "
            "name more with --method"
        )
    told = {"title": _TITLE, "kind": "choice", "instructions": _INSTRUCTIONS}
    # A check shows pictures of another subject, which one alone does not have.
    checks = {"attention_checks": 0} if len(_made(bench, TRUTH)) < 2 else {}
    settings = parse(Settings, {**told, **checks, "methods": tuple(way.key for way in ways)})
    return write_study(folder, settings, _choices(bench, ways))


def _choices(bench: Bench, ways: Sequence[Variant]) -> Iterator[NewItem]:
    for subject in _made(bench, TRUTH):
        for i, prompt in enumerate(subject.prompts):
            text = TRUTH.prompt(prompt.text, subject)
            made = {way.key: _picture(bench, way, subject, i) for way in ways}
            yield NewItem(f"{subject.name}-{i}", text, made, references=tuple(subject.pictures()))


def _of_subject(bench: Bench, subject: Subject) -> Cells:
    """What is learned from, the truth, and what each way draws; prompts from left to right."""
    ways = [way for way in bench.all if subject in _made(bench, way)]
    if not ways:
        return []
    cells = [(picture, "learned from") for picture in subject.pictures()]
    for way in ways:
        for i, prompt in enumerate(subject.prompts):
            text = TRUTH.prompt(prompt.text, subject)
            cells.append((_picture(bench, way, subject, i), f"{way.label}: {text}"))
    return cells


def _of_pair(bench: Bench, pair: Pair) -> Cells:
    """What is learned from, the truth, and what each way draws; places from left to right."""
    cells: Cells = []
    for way in two.WAYS.values():
        place = two.folder(bench, way, pair)
        if place.is_dir():
            for where in PAIR_PLACES:
                text = pair.text(where).format(first=pair.first.class_word, second=pair.second.class_word)
                cells.append((images.load(place / where / "00.png"), f"{way.label}: {text}"))
    if not cells:
        return []
    first, second = (subject.pictures()[0] for subject in pair.both)
    learned = [(first, f"learned from: {pair.first.title}"), (second, f"learned from: {pair.second.title}")]
    return [*learned, (pair.truths(PAIR_PLACES[0], 1)[0], "true"), *cells]


def _of_swaps(bench: Bench, ways: Sequence[Variant]) -> Cells:
    """The class in a picture swapped for the subject: a row for each subject."""
    cells: Cells = []
    for subject in bench.subjects:
        if not all(subject in _made(bench, way) for way in ways):
            continue
        before, after = subject.swap()
        cells += [(before, f"a {subject.class_word}"), (after, f"true: {subject.title}")]
        cells += [(images.load(bench.place(way) / "swap" / f"{subject.name}.png"), way.label) for way in ways]
    return cells


def _made(bench: Bench, way: Variant) -> list[Subject]:
    return [subject for subject in bench.subjects if bench.is_made(way, subject)]


def _picture(bench: Bench, way: Variant, subject: Subject, prompt: int) -> Image.Image:
    return images.load(bench.place(way) / "generated" / subject.name / str(prompt) / "00.png")


def _small(page: Image.Image) -> bytes:
    """A page as a WebP of at most 300 kB: of less quality where it has to be, and smaller if that is not enough."""
    while True:
        for quality in _QUALITIES:
            file = io.BytesIO()
            page.save(file, "WEBP", quality=quality, method=4)
            if len(file.getvalue()) <= _MOST:
                return file.getvalue()
        page = page.resize((page.width * 3 // 4, page.height * 3 // 4), Image.Resampling.LANCZOS)
