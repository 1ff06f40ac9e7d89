"""A study's folder: settings, pictures, questions.

    DIR/study.toml                  `Settings`
    DIR/items/ITEM/item.toml        prompt = "a tiger next to a mirror"
    DIR/items/ITEM/source.png       the picture that was edited, if any
    DIR/items/ITEM/reference-1.png  real pictures of the subject, if any
    DIR/items/ITEM/METHOD.png       each method's result
    DIR/answers.sqlite              the answers

Pictures are PNG, JPEG, WebP, BMP or TIFF.
"""

import hashlib
import json
import os
import re
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pydantic import Field, field_validator

from wordbrush.errors import ImageError, InputError, OptionsError, OutputError, nearest
from wordbrush.files import all_or_none
from wordbrush.options import Options, parse, read_toml
from wordbrush.progress import Progress

if TYPE_CHECKING:
    from PIL.Image import Image

Kind = Literal["rating", "choice", "ranking"]
_Info = Any  # pydantic's ValidationInfo, a protocol that cannot be checked at run time
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
UNDECIDED = "undecided"  # the third answer of a choice
SCALE = (1, 2, 3, 4, 5)
_NAME = re.compile(r"[^\W_][\w.+ -]*", re.ASCII)  # without the characters that separate names in an answer
_RESERVED = ("source", "item", UNDECIDED)


class Question(Options):
    """One question, asked on every page."""

    id: str = Field(
        pattern=r"^[a-z][a-z0-9_-]*$", max_length=40, description="its name in tables and exports"
    )
    text: str = Field(min_length=1, max_length=400, description="what the rater is asked")
    about: Literal["source", "words", "picture"] = Field(
        description="what the answer depends on besides the judged pictures: the original or the references, the "
        "prompt, or nothing; a page shows only what its questions need"
    )
    low: str = Field("not at all", max_length=60, description="what a rating of 1 means")
    high: str = Field("perfectly", max_length=60, description="what a rating of 5 means")


def _question(id: str, about: Literal["source", "words", "picture"], text: str) -> Question:
    return parse(Question, {"id": id, "about": about, "text": text})


# The papers give the subject of each question, not its wording; the wording is ours.
QUESTIONS: Mapping[Kind, tuple[Question, ...]] = {
    # Prompt-to-Prompt, Table 1.
    "rating": (
        _question(
            "background",
            "source",
            "How well are the background and the structure of the original kept?",
        ),
        _question("text", "words", "How well does the edited picture show what the words say?"),
        _question("realism", "picture", "How realistic does the edited picture look?"),
    ),
    # DreamBooth: subject and prompt fidelity, each in a separate study.
    "choice": (
        _question(
            "subject",
            "source",
            "Which picture shows the subject of the reference more faithfully? Clothes and other things added to it "
            "do not count.",
        ),
        _question("prompt", "words", "Which picture is described better by the words?"),
    ),
    # Textual Inversion: ranking by likeness and by text.
    "ranking": (
        _question(
            "subject", "source", "How much is the subject like the reference? Put the most alike first."
        ),
        _question(
            "prompt", "words", "How well do the words describe the picture? Put the best described first."
        ),
    ),
}


class Settings(Options):
    """The contents of study.toml."""

    title: str = Field(min_length=1, max_length=200, description="shown on every page")
    kind: Kind = Field(description="rating: 1 to 5; choice: one of two; ranking: rank all")
    methods: tuple[str, ...] = Field(min_length=1, description="names of the pictures; raters never see them")
    questions: tuple[Question, ...] = Field(
        (),
        validate_default=True,
        description="names of known questions, or tables (default: the paper's)",
    )
    against: str | None = Field(None, description="choice only: show only pairs with this method")
    instructions: str = Field("", max_length=10_000, description="shown before the first page")
    contact: str = Field("", max_length=200, description="whom raters can contact")
    seed: int = Field(0, ge=0, description="decides the assignment and the order of pictures")
    raters_per_item: int = Field(3, ge=1, le=100_000, description="raters per unit")
    pages_per_rater: int = Field(25, ge=1, le=1000, description="pages per rater, without checks")
    attention_checks: int = Field(
        2, ge=0, le=50, validate_default=True, description="additional pages with a known answer"
    )

    @field_validator("methods")
    @classmethod
    def _check_methods(cls, methods: tuple[str, ...], info: _Info) -> tuple[str, ...]:
        for method in methods:
            if not _NAME.fullmatch(method) or method in _RESERVED or method.startswith("reference"):
                raise ValueError(
                    f"expected names of ASCII letters, digits, '.', '+', '-', '_' and spaces, other than source, "
                    f"item, reference… and undecided; not {method!r}"
                )
        if len(set(methods)) < len(methods):
            raise ValueError("expected each method once")
        if len(methods) < 2 and info.data.get("kind") in ("choice", "ranking"):
            raise ValueError(f"expected at least two methods for a {info.data['kind']}")
        return methods

    @field_validator("questions", mode="before")
    @classmethod
    def _known_questions(cls, questions: Any, info: _Info) -> Any:
        if (kind := info.data.get("kind")) is None or not isinstance(questions, list | tuple):
            return questions
        known = {question.id: question for question in QUESTIONS[kind]}
        parsed: list[Any] = []
        for entry in cast(Iterable[Any], questions or known.values()):
            if isinstance(entry, str):
                if entry not in known:
                    raise ValueError(f"there is no {kind} question '{entry}'{nearest(entry, known)}")
                entry = known[entry]
            parsed.append(parse(Question, cast(Any, entry)) if isinstance(entry, dict) else entry)
        return tuple(parsed)

    @field_validator("questions")
    @classmethod
    def _check_questions(cls, questions: tuple[Question, ...]) -> tuple[Question, ...]:
        if len({question.id for question in questions}) < len(questions):
            raise ValueError("expected each question once")
        return questions

    @field_validator("against")
    @classmethod
    def _check_against(cls, against: str | None, info: _Info) -> str | None:
        if against is not None and info.data.get("kind") != "choice":
            raise ValueError("only allowed in a choice")
        if against is not None and against not in (known := info.data.get("methods", ())):
            raise ValueError(f"expected one of the methods{nearest(against, known)}")
        return against

    @field_validator("attention_checks")
    @classmethod
    def _check_attention_checks(cls, checks: int, info: _Info) -> int:
        if checks and not any(question.about == "source" for question in info.data.get("questions", ())):
            raise ValueError(
                "expected 0, or a question about the source: a check shows the original itself and an unrelated picture"
            )
        return checks


class ItemText(Options):
    """The contents of item.toml."""

    prompt: str = Field("", max_length=2000, description="the prompt that the pictures were made from")


@dataclass(frozen=True)
class Item:
    """A source picture or a prompt, and each method's result."""

    name: str
    prompt: str
    originals: tuple[Path, ...]
    """The source, or else the references."""
    has_source: bool
    pictures: Mapping[str, Path]
    """Results, by method."""


Unit = tuple[str, frozenset[str]]
"""What one answer judges: an item, and the methods whose pictures are shown."""


@dataclass(frozen=True)
class Study:
    """A study whose pictures all exist."""

    folder: Path
    settings: Settings
    items: Mapping[str, Item] = field(repr=False)

    @property
    def answers(self) -> Path:
        """Path of the answers file."""
        return self.folder / "answers.sqlite"

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """All units to judge: single pictures (rating), pairs (choice), or all of an item's pictures (ranking)."""
        methods, against = self.settings.methods, self.settings.against
        match self.settings.kind:
            case "rating":
                shown = [(method,) for method in methods]
            case "choice":
                shown = [pair for pair in combinations(methods, 2) if against is None or against in pair]
            case "ranking":
                shown = [methods]
        return tuple((item, frozenset(each)) for item in self.items for each in shown)

    @cached_property
    def unrelated(self) -> Mapping[str, tuple[str, ...]]:
        """For each item with an original, the items whose original is a different picture."""
        hashes = {
            name: hashlib.sha256(item.originals[0].read_bytes()).digest()
            for name, item in self.items.items()
            if item.originals
        }
        return {
            name: tuple(other for other in hashes if hashes[other] != own) for name, own in hashes.items()
        }


def load(folder: str | os.PathLike[str]) -> Study:
    """Read a study's folder.

    Raises `OptionsError` for an invalid TOML file, `InputError` for missing items or pictures. Pictures are not opened;
    `check_pictures` does that.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"expected a study's folder, but there is none at {folder}; check the path")
    settings = _read(Settings, folder / "study.toml")
    items_folder = folder / "items"
    names = (
        sorted(each.name for each in items_folder.iterdir() if _is_item(each))
        if items_folder.is_dir()
        else []
    )
    if not names:
        raise InputError(f"expected a folder for each item in {items_folder}, got none")
    items = {name: _item(items_folder / name, settings) for name in names}
    study = Study(folder, settings, items)
    if settings.attention_checks and not any(study.unrelated.values()):
        raise InputError(
            f"expected at least two different originals in {items_folder} for the attention checks: "
            "add an item, or set attention_checks = 0"
        )
    return study


def check_pictures(study: Study) -> Generator[Progress, None, None]:
    """Open every picture once, to find damaged ones before the study starts. Raises `ImageError`."""
    from wordbrush import images

    items = study.items.values()
    paths = [path for item in items for path in (*item.originals, *item.pictures.values())]
    for done, path in enumerate(paths, 1):
        images.load(path)
        yield Progress("checking the pictures", done, len(paths))


def _is_item(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")


def _item(folder: Path, settings: Settings) -> Item:
    name = folder.name
    if not _NAME.fullmatch(name):
        raise InputError(
            f"expected a folder name of ASCII letters, digits, '.', '+', '-', '_' and spaces for an item, got {name!r}"
        )
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    about = {question.about for question in settings.questions}
    text = _read(ItemText, folder / "item.toml") if (folder / "item.toml").exists() else ItemText(prompt="")
    if "words" in about and not text.prompt.strip():
        raise InputError(
            f'expected prompt = "…" in {folder / "item.toml"}, since a question is about the words'
        )
    for method in settings.methods:
        if method not in found:
            raise ImageError(f"expected a picture {folder / method}.png{nearest(method, found)}")
    source = found.get("source")
    originals = (source,) if source else tuple(found[stem] for stem in found if stem.startswith("reference"))
    if "source" in about and not originals:
        raise ImageError(
            f"expected {folder / 'source'}.png or {folder / 'reference-1'}.png, since a question is about the original"
        )
    pictures = {method: found[method] for method in settings.methods}
    return Item(name, text.prompt, originals, source is not None, pictures)


O = TypeVar("O", bound=Options)  # noqa: E741


def _read(options: type[O], path: Path) -> O:
    """Read a TOML file; errors name the file."""
    values = read_toml(path)
    try:
        return parse(options, values)
    except OptionsError as error:
        raise OptionsError(f"{path}: {error}") from error


# Writing ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NewItem:
    """An item to write."""

    name: str
    prompt: str
    pictures: "Mapping[str, Image]"
    """Results, by method."""
    source: "Image | None" = None
    references: "tuple[Image, ...]" = ()


def write_study(folder: str | os.PathLike[str], settings: Settings, items: Iterable[NewItem]) -> Study:
    """Write a study's folder, all of it or nothing, and read it back.

    Raises `OutputError` if the folder has a study already or a file cannot be written; otherwise as `load`.

        settings = Settings(title="Tigers", kind="rating", methods=("prompt-to-prompt", "sdedit"))
        edits = {"prompt-to-prompt": image_1, "sdedit": image_2}
        write_study("study", settings, [NewItem("tiger", "a tiger next to a mirror", edits, source=photo)])
    """
    folder = Path(folder)
    if (folder / "study.toml").exists():
        raise OutputError(f"{folder} already contains a study: choose another folder")
    with all_or_none() as opened:
        for item in items:
            item_folder = folder / "items" / item.name
            references = {f"reference-{i}": image for i, image in enumerate(item.references, 1)}
            sources = {} if item.source is None else {"source": item.source}
            for name, image in {**item.pictures, **sources, **references}.items():
                with opened(item_folder / f"{name}.png") as file:
                    image.save(file, format="PNG")
            with opened(item_folder / "item.toml") as file:
                file.write(_toml({"prompt": item.prompt}).encode())
        with opened(folder / "study.toml") as file:
            file.write(_toml(settings.model_dump(exclude_none=True, exclude_defaults=True)).encode())
    return load(folder)


def _toml(values: Mapping[str, Any]) -> str:
    """Text, integers, lists of text, and lists of tables as TOML; JSON has the same form for the first three."""
    lines: list[str] = []
    tables: list[str] = []
    for key, value in values.items():
        if isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            for entry in cast(Iterable[Mapping[str, Any]], value):
                tables += [f"\n[[{key}]]", _toml(entry).rstrip()]
        else:
            text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
            lines.append(f"{key} = {text}")
    return "\n".join([*lines, *tables]) + "\n"
