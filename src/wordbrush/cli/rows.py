"""A row of a file of jobs as the command line that one would type.

Names of a row are those of the command's flags and of its argument, so a row can ask for whatever the command offers.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import cast

from cyclopts.argument import Argument

from wordbrush.cli.app import application
from wordbrush.cli.options.concepts import Named
from wordbrush.errors import InputError, OptionsError, nearest, short
from wordbrush.filenames import SUFFIXES
from wordbrush.files import inside
from wordbrush.jobs.reading import Job
from wordbrush.methods import key, typed

VERBS = {name: ".png" for name in ("generate", "edit", "heatmap", "mask", "replay")} | {"invert": ".source"}
"""The commands that a row can name, and what their outputs' names end in where the row does not say."""

SHEETS = "sheets"
"""The folder for the sheets of all results, which no row writes to."""


@dataclass(frozen=True)
class Line:
    """A command line: its tokens, the files among them that are read, and where it writes."""

    tokens: tuple[str, ...]
    inputs: tuple[Path, ...]
    out: str


def line(job: Job, root: Path, folder: Path, defaults: Mapping[str, object]) -> Line:
    """The command line of a job.

    root: what the row's paths start from. folder: for what it makes. defaults: the model, its concepts and the machine,
    for a row that says nothing of them. Raises `OptionsError` for an unknown name, `InputError` for a path that leads
    elsewhere.
    """
    if job.problem:
        raise InputError(job.problem)
    values = dict(job.values)
    verb = values.pop("verb", None)
    if not isinstance(verb, str) or verb not in VERBS:
        raise OptionsError(
            f"expected 'verb' to name a command that makes a file, got {short(verb)}{nearest(str(verb), VERBS)}"
        )
    out = _out(job, values.pop("out", None), folder)
    if verb == "replay":  # its picture's record names model and dtype
        defaults = {"device": defaults["device"]}
    values = {name: value for name, value in defaults.items() if value is not None} | values
    arguments = _arguments(
        *(verb, *(f"--{name}={values[name]}" for name in ("method", "inversion", "model") if name in values))
    )
    flags, argument, inputs = [f"--out={out}"], list[str](), list[Path]()
    for name, value in values.items():
        if name not in arguments:
            known = nearest(name, ("id", "out", *arguments))
            raise OptionsError(f"unknown name {short(name)} in a row of '{verb}'{known}")
        texts = list(_texts(name, value))
        if "pathlib.Path" in str(arguments[name].hint):
            paths = [inside(root, text, f"'{name}'") for text in texts]
            texts, inputs = list(map(str, paths)), [*inputs, *paths]
        elif name == "concept":
            named = [_concept(text, root, is_own=name not in job.values) for text in texts]
            texts, inputs = list(map(str, named)), [*inputs, *(path for each in named for path in each.files)]
        elif name == "model":
            texts = [_model(text, root, cast(str | None, defaults.get("model"))) for text in texts]
        if arguments[name].name.startswith("-"):
            flags += [f"--{typed(name)}={text}" for text in texts]
        else:
            argument += texts
    return Line((verb, *flags, "--", *argument), tuple(inputs), out)


@lru_cache(maxsize=64)
def _arguments(*tokens: str) -> dict[str, Argument]:
    """What the command of these tokens can be given, by the names in a row. Raises `OptionsError`."""
    given = application(tokens)[tokens[0]].assemble_argument_collection()
    found = {key(each.name.lstrip("-").lower()): each for each in given if not each.children}
    return {name: each for name, each in found.items() if name not in ("out", "json")}


def _texts(name: str, value: object) -> Iterator[str]:
    """What one would type for a value, each time the flag is repeated."""
    match value:
        case list():
            for each in cast(list[object], value):
                yield _text(name, each)
        case dict():
            for word, each in cast(dict[str, object], value).items():
                yield f"{word}={_joined(name, each)}"
        case _:
            yield _text(name, value)


def _joined(name: str, value: object) -> str:
    return ",".join(_texts(name, cast(object, value))) if isinstance(value, list) else _text(name, value)


def _text(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise OptionsError(
        f"expected '{name}' to be text, a number, or a list or a mapping of them, got {short(value)}"
    )


def _model(name: str, root: Path, own: str | None) -> str:
    """A model's name; a folder or a file of models is below `root`, unless it is the batch's own."""
    is_path = name not in ("pocket", own) and (os.path.lexists(name) or os.path.lexists(root / name))
    return str(inside(root, name, "'model'")) if is_path else name


def _concept(text: str, root: Path, *, is_own: bool) -> Named:
    """A concept; its file is below `root`, unless it is the batch's own."""
    if is_own:
        return Named.of(text)
    named = Named.of(text, root)
    return Named(inside(root, str(named.path), "'concept'"), named.strength)


def _out(job: Job, own: object, folder: Path) -> str:
    """Where a job writes: below `folder`, by its own name or by the row's."""
    if own is None:
        target = job.values.get("target")
        several = isinstance(target, list) and len(cast(list[object], target)) > 1
        end = VERBS[job.values["verb"]]
        if (
            job.values["verb"] == "edit"
            and (like := Path(str(job.values.get("picture")))).suffix.lower() in SUFFIXES
        ):
            end = like.suffix.lower()
        return f"{folder / job.name}{os.sep if several else end}"
    path = inside(folder, _text("out", own), "'out'")
    return f"{path}{os.sep}" if str(own).endswith(("/", os.sep)) else str(path)


def clashes(lines: Sequence[tuple[Job, Line]], folder: Path) -> dict[str, str]:
    """Why jobs cannot write where they would, by id: what another writes, or what any reads.

    Jobs may run in any order and beside one another, so none may change what another one depends on. Of several that
    write one file, the first in the file of jobs may.
    """
    read = {_place(path): job.line for job, line in reversed(lines) for path in line.inputs}
    readers = read | {above: number for path, number in read.items() for above in _above(path)}
    written: dict[str, str] = {_place(folder / SHEETS): "the sheets of all results"}
    above_written: dict[str, str] = {}
    found: dict[str, str] = {}
    for job, line in lines:
        places = list(map(_place, _written(line.out)))
        for place in places:
            owner = written.get(place) or above_written.get(place)
            owner = owner or next((written[each] for each in _above(place) if each in written), None)
            if owner is not None:
                found[job.id] = f"{line.out} is written by {owner}: choose another 'out', or another id"
            elif place in readers:
                found[job.id] = (
                    f"{line.out} is what line {readers[place]} reads, and jobs run in any order: choose another 'out', "
                    "or use two files of jobs, one after the other"
                )
        if job.id not in found:
            for place in places:
                written[place] = f"line {job.line}"
                above_written |= dict.fromkeys(_above(place), f"line {job.line}")
    return found


def _written(out: str) -> Iterable[Path]:
    """What a command may write: its result, with companions beside it, or a folder of them."""
    path = Path(out)
    return (path, *(path.with_suffix(f".{name}.png") for name in ("sheet", "preview", "mask") if path.suffix))


def _place(path: Path) -> str:
    """A path as its file system may compare it."""
    return os.path.realpath(path).casefold()


def _above(place: str) -> list[str]:
    return [place[: found.start()] for found in re.finditer(re.escape(os.sep), place) if found.start()]
