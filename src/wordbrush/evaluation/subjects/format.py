"""A folder of subjects: which pictures are real, which were generated, and from which prompts.

    DIR/
      subjects.toml                  or subjects.json with the same keys
      real/<subject>/                pictures of the subject itself
      generated/<subject>/
        <prompt>/                    a prompt's pictures; named by its number, from 0, or its words joined by dashes
        _class/                      "a {class}", the token left out, by the personalised model
        _photo/                      "A photo of {token}"
        _category/                   the captions of the real pictures of the category
        _prompt_only/<prompt>/       the prompts without the token, by the model before training
      category/<class>/              real pictures of the category

Only the subjects' own pictures and one generated picture are needed; a score whose pictures are missing does not
apply. Two published layouts are read as well: DreamBooth's (`dataset/<subject>/` and `prompts_and_classes.txt`) in
place of `subjects.toml` and `real/`, and CustomConcept101's (`samples/` and `prompts.json`) for the pictures of a
subject.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wordbrush import reading
from wordbrush.errors import InputError, nearest, short
from wordbrush.filenames import words
from wordbrush.files import inside
from wordbrush.options import read_toml

Kind = Literal["live", "object"]
Paths = tuple[Path, ...]

LISTING, BENCHMARK = "subjects.toml", "prompts_and_classes.txt"
SPECIAL = ("_class", "_photo", "_category", "_prompt_only")

_PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_NAME = r"^[^/\\._][^/\\]*$"  # a folder's name; a leading underscore marks the special folders
_LIVE_CLASSES = {"cat", "dog"}  # DreamBooth's file does not mark the nine live ones of its thirty subjects


@dataclass(frozen=True)
class Subject:
    """A subject, its real pictures, and the generated ones.

    `made[i]` are the pictures of `prompts[i]`, and `prompt_only[i]` those of the same prompt without the token, by
    the model that was not trained on the subject. Prompts may contain `{token}` and `{class}`.
    """

    name: str
    class_word: str
    kind: Kind
    token: str
    real: Paths
    prompts: tuple[str, ...]
    made: tuple[Paths, ...]
    class_made: Paths = ()
    photos: Paths = ()
    category_real: Paths = ()
    category_made: Paths = ()
    prompt_only: tuple[Paths, ...] = ()

    def text(self, prompt: str, *, with_token: bool = False) -> str:
        """The prompt as text, by default without its token, which CLIP has never learned.

        Raises `InputError` if the token is to be kept and none is given.
        """
        if with_token and not self.token:
            raise InputError(
                f"subject '{self.name}' has no token to keep in its prompts; "
                "give its token, or score the prompts without it"
            )
        if self.token and not with_token:
            prompt = re.sub(rf"(?<![\w{{]){re.escape(self.token)}(?![\w}}])", " ", prompt)
        filled = prompt.replace("{token}", self.token if with_token else "").replace(
            "{class}", self.class_word
        )
        return " ".join(filled.split())

    @property
    def pictures(self) -> Paths:
        """Every picture of the subject, real or generated, without those of its category."""
        groups = (self.real, *self.made, self.class_made, self.photos, *self.prompt_only)
        return tuple(path for group in groups for path in group)


@dataclass(frozen=True)
class Folder:
    """The subjects of a folder that have generated pictures, and the names of those that have none.

    For the tables, from the listing: `method` and `sampler`, how the pictures were made; `data`, where the subjects
    and prompts are from: "DreamBooth" if they were read from its own files.
    """

    path: Path
    method: str
    sampler: str
    subjects: tuple[Subject, ...]
    absent: tuple[str, ...]
    data: str


def read(folder: Path) -> Folder:
    """Read a folder of subjects, without opening pictures.

    Raises `InputError` for a missing or malformed listing, for a folder of generated pictures that belongs to no
    subject or to no prompt, for a subject without real pictures, and if there are no generated pictures at all.
    """
    listing = _listing(folder)
    _check_names(folder / "generated", [each.name for each in listing.subjects])
    subjects = [_subject(folder, each, listing) for each in listing.subjects]
    present = tuple(subject for subject in subjects if any(subject.made) or subject.photos)
    if not present:
        raise InputError(
            f"expected generated pictures at {folder}/generated/<subject>/<prompt>/, and there are none"
        )
    for subject in present:
        if not subject.real:
            raise InputError(
                f"expected pictures of '{subject.name}' itself, and there are none in its real folder; "
                f"put them there, or name another with 'real' in {LISTING}"
            )
    return Folder(
        folder,
        listing.method,
        listing.sampler,
        present,
        tuple(subject.name for subject in subjects if subject not in present),
        listing.data,
    )


# The listing ------------------------------------------------------------------------------------------------


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class _Subject(_Checked):
    name: str = Field(pattern=_NAME)
    class_word: str = Field(validation_alias="class", min_length=1)
    kind: Kind = "object"
    token: str | None = None
    real: str | None = None
    category: str | None = None
    prompts: tuple[str, ...] | None = None


class _Prompts(_Checked):
    object: tuple[str, ...] = ()
    live: tuple[str, ...] = ()


class _Listing(_Checked):
    method: str = "these pictures"
    sampler: str = ""
    data: str = "the folder's own"
    token: str = ""
    dataset: str | None = None
    prompts: _Prompts = _Prompts()
    subjects: tuple[_Subject, ...] = ()


def _listing(folder: Path) -> _Listing:
    """The folder's listing, or one made from DreamBooth's own files."""
    if not folder.is_dir():
        raise InputError(f"expected a folder of subjects, and there is none at {folder}; check the path")
    file = next((folder / name for name in (LISTING, "subjects.json") if (folder / name).is_file()), None)
    if file is not None:
        listing = _parsed(file)
    elif (folder / "dataset" / BENCHMARK).is_file():
        listing = _Listing(dataset="dataset")
    else:
        raise InputError(
            f"expected {folder}/{LISTING}, or DreamBooth's files at {folder}/dataset/{BENCHMARK}; got neither"
        )
    if listing.dataset is not None:
        if listing.subjects or listing.prompts != _Prompts():
            raise InputError(f"{file}: expected either a dataset or subjects and prompts, got both")
        listing = _with_benchmark(listing, folder)
    if not listing.subjects:
        raise InputError(f"{file}: expected at least one [[subjects]], got none")
    names = [subject.name for subject in listing.subjects]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InputError(f"{file}: expected each subject once, got '{min(repeated)}' again")
    return listing


def _parsed(file: Path) -> _Listing:
    if file.suffix == ".toml":
        values: Any = read_toml(file)
    else:
        values = reading.json_file(file, InputError)
    try:
        return _Listing.model_validate(values)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(map(str, detail["loc"]))[:60] or "the whole file"
        if detail["type"] == "extra_forbidden":
            kind = {"subjects": _Subject, "prompts": _Prompts}.get(str(detail["loc"][0]), _Listing)
            known = [str(field.validation_alias or name) for name, field in kind.model_fields.items()]
            raise InputError(
                f"{file}: unknown key '{where}'{nearest(str(detail['loc'][-1]), known)}"
            ) from error
        if detail["type"] == "missing":
            raise InputError(f"{file}: '{where}' is missing; subjects have a name and a class") from error
        expected = detail["msg"].replace("Input should be", "expected").replace("valid tuple", "list")
        expected = expected.replace("String should", "expected to")
        raise InputError(f"{file}: '{where}': {expected}, got {short(detail['input'])}") from error


def _with_benchmark(listing: _Listing, folder: Path) -> _Listing:
    """The subjects and prompts of DreamBooth's file, in which prompts are lines of Python with `str.format`."""
    assert listing.dataset is not None
    dataset = inside(folder, listing.dataset, "'dataset'")
    file = dataset / BENCHMARK
    if not file.is_file():
        raise InputError(f"expected DreamBooth's {BENCHMARK} at {dataset}, and there is none")
    text = reading.text(file, InputError, most=reading.MOST_TOML)
    rows = re.search(r"^subject_name,class[ \t]*\n((?:[^\n,]+,[^\n]+\n)+)", text, re.MULTILINE)
    if rows is None:
        raise InputError(f"{file}: expected a table that begins with 'subject_name,class', found none")
    subjects: list[_Subject] = []
    for row in rows[1].splitlines():
        name, class_word = (part.strip() for part in row.split(",", 1))
        kind: Kind = "live" if class_word in _LIVE_CLASSES else "object"
        try:
            real = str(Path(listing.dataset) / name)
            subjects.append(_Subject(name=name, class_word=class_word, kind=kind, real=real))
        except ValidationError as error:
            raise InputError(f"{file}: expected a subject's name and class, got {short(row)}") from error
    of_objects, heading, of_live = text[rows.end() :].partition("Live Subject Prompts")
    prompts = _Prompts(object=tuple(_formatted(of_objects)), live=tuple(_formatted(of_live)))
    if not (heading and prompts.object and prompts.live):
        raise InputError(f"{file}: expected prompts of objects and then 'Live Subject Prompts', found less")
    return listing.model_copy(update={"subjects": tuple(subjects), "prompts": prompts, "data": "DreamBooth"})


def _formatted(text: str) -> Iterator[str]:
    for _, prompt in re.findall(r"^\s*(['\"])(.+)\1\.format\(", text, re.MULTILINE):
        yield prompt.replace("{0}", "{token}").replace("{1}", "{class}")


# Pictures ---------------------------------------------------------------------------------------------------


def _subject(folder: Path, entry: _Subject, listing: _Listing) -> Subject:
    made = folder / "generated" / entry.name
    prompts = entry.prompts
    if prompts is None:
        prompts = listing.prompts.live if entry.kind == "live" else listing.prompts.object
    samples: Mapping[str, Paths] | None = None
    if (made / "prompts.json").is_file():
        samples = _samples(made)
        prompts = tuple(samples)
    token = listing.token if entry.token is None else entry.token
    subject = Subject(
        entry.name,
        entry.class_word,
        entry.kind,
        token,
        real=_pictures(inside(folder, entry.real or f"real/{entry.name}", "'real'")),
        prompts=prompts,
        made=(),
        class_made=_pictures(made / "_class"),
        photos=_pictures(made / "_photo"),
        category_real=_pictures(
            inside(folder, entry.category or f"category/{entry.class_word}", "a category's folder")
        ),
        category_made=_pictures(made / "_category"),
    )
    _check_prompts(subject, need_token=samples is not None)
    by_prompt = tuple(samples.values()) if samples is not None else _by_prompt(made, subject)
    prompt_only = _by_prompt(made / "_prompt_only", subject)
    return replace(subject, made=by_prompt, prompt_only=prompt_only)


def _samples(made: Path) -> dict[str, Paths]:
    """CustomConcept101's layout: pictures in `samples/`, and in `prompts.json` the prompt for each picture's name."""
    prompts = reading.json_file(made / "prompts.json", InputError)
    if not isinstance(prompts, dict) or not all(
        isinstance(text, str) for text in cast(Any, prompts).values()
    ):
        raise InputError(
            f"{made}/prompts.json: expected a prompt for each picture's name, got something else"
        )
    if others := [path for path in _folders(made) if path.name != "samples"]:
        raise InputError(f"{others[0]}: beside a prompts.json all pictures of prompts have to be in samples/")
    texts = cast(dict[str, str], prompts)
    found: dict[str, list[Path]] = {text: [] for text in texts.values()}
    for path in _pictures(made / "samples"):
        if path.stem not in texts:
            raise InputError(f"{path} has no prompt in prompts.json{nearest(path.stem, texts)}")
        found[texts[path.stem]].append(path)
    return {text: tuple(paths) for text, paths in found.items()}


def _by_prompt(folder: Path, subject: Subject) -> tuple[Paths, ...]:
    """The pictures of each prompt, from folders named by its number or its words."""
    if loose := _pictures(folder):
        raise InputError(f"{loose[0]} belongs to no prompt: expected pictures in {folder}/<prompt>/")
    found: list[Paths] = [() for _ in subject.prompts]
    known: dict[str, int] = {}
    for i, prompt in enumerate(subject.prompts):
        known |= {words(subject.text(prompt, with_token=kept)): i for kept in (False, bool(subject.token))}
    for path in _folders(folder):
        number = int(path.name) if path.name.isdecimal() else known.get(words(path.name))
        if number is None or number >= len(found):
            raise InputError(
                f"{path} belongs to none of the {len(found)} prompts of '{subject.name}'"
                + (nearest(words(path.name), known) if number is None and known else "; they count from 0")
            )
        if found[number]:
            raise InputError(f"{path}: the pictures of this prompt are in another folder as well; keep one")
        found[number] = _pictures(path)
    return tuple(found)


def _check_prompts(subject: Subject, *, need_token: bool) -> None:
    for prompt in subject.prompts:
        for name in re.findall(r"\{(.*?)\}", prompt):
            if name not in ("token", "class"):
                raise InputError(
                    f"subject '{subject.name}', prompt {short(prompt)}: expected {{token}} and {{class}} as the only "
                    f"placeholders, got {{{name[:60]}}}"
                )
    texts = [words(subject.text(prompt)) for prompt in subject.prompts]
    if repeated := {text for text in texts if texts.count(text) > 1}:
        raise InputError(f"subject '{subject.name}': expected each prompt once, got '{min(repeated)}' again")
    if need_token and not subject.token:
        raise InputError(
            f"subject '{subject.name}': prompts.json contains the token, and prompts are scored without it; "
            f"say in {LISTING} what the token is"
        )


def _check_names(generated: Path, names: Sequence[str]) -> None:
    for path in _folders(generated):
        if path.name not in names:
            raise InputError(f"{path} belongs to no subject{nearest(path.name, names)}")


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, without the special ones; none if there is no such folder."""
    if not folder.is_dir():
        return []
    inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for path in inside:
        if path.name.startswith("_") and path.name not in SPECIAL:
            raise InputError(f"{path}: no such special folder{nearest(path.name, SPECIAL)}")
    return sorted(path for path in inside if not path.name.startswith("_"))


def _pictures(folder: Path) -> Paths:
    if not folder.is_dir():
        return ()
    return tuple(sorted(path for path in folder.iterdir() if path.suffix.lower() in _PICTURES))
