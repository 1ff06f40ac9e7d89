"""A file of jobs, one a row: lines of JSON, or CSV.

    {"verb": "edit", "picture": "cat.png", "source": "a cat on a beach", "target": ["a dog on a beach"]}

    verb,picture,source,target,steps
    edit,cat.png,a cat on a beach,a dog on a beach|a lion on a beach,

What the names and values of a row mean is not known here. In CSV the first row has the names; an empty cell is not
given, `|` separates several values of one cell, and `,`, `;` or a tab separates the cells, whichever is the most
frequent in the first row.
"""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from wordbrush import reading
from wordbrush.errors import InputError, short
from wordbrush.filenames import slug, unique
from wordbrush.methods import key

MOST = 64 * 1024**2  # bytes: some hundred thousand rows
_LONGEST_ID = 200  # characters
_TELLING = ("target", "prompt", "word", "picture")  # what a row without an id is named after


@dataclass(frozen=True)
class Job:
    """A row of a file of jobs.

    id: the row's own, or its line and what it asks for; no two rows of a file have the same. name: for its output's
    file, also unique. values: what the row says, without what is empty; names with underscores. problem: why it is no
    job, if it is none.
    """

    id: str
    name: str
    line: int
    values: Mapping[str, Any] = field(default_factory=dict[str, Any])
    problem: str = ""


def read(path: Path) -> list[Job]:
    """The jobs of a file, in its order; a row that cannot be one says why.

    Raises `InputError` for a file that cannot be read or has no rows, for CSV without names or with an odd quote, and
    for two rows with one id.
    """
    rows = list(_csv(path) if path.suffix.lower() in (".csv", ".tsv") else _lines(path))
    if not rows:
        raise InputError(f"{path}: expected at least one job, got none; write one a line, as JSON or CSV")
    first: dict[str, int] = {}
    for line, id_, _, _ in rows:
        if id_ in first:
            raise InputError(
                f"{path}: expected ids that differ, got {short(id_)} in line {first[id_]} and in line {line}; "
                "give one of them another"
            )
        first[id_] = line
    names = unique(list(first), taken=("sheets",))
    return [
        Job(id_, name, line, values, problem)
        for name, (line, id_, values, problem) in zip(names, rows, strict=True)
    ]


_Row = tuple[int, str, dict[str, Any], str]
"""Its line, its id, its values, and what is wrong with it."""


def _lines(path: Path) -> Iterator[_Row]:
    for line, text in enumerate(reading.text(path, InputError, most=MOST).split("\n"), 1):
        if not text.strip():
            continue
        try:
            found: object = reading.json_text(text, "the row", InputError)
        except InputError as error:
            yield line, f"{line:04}", {}, str(error)
            continue
        if isinstance(found, dict):
            yield _checked(line, cast(dict[str, Any], found))
        else:
            yield line, f"{line:04}", {}, f"expected names and values in JSON, got {short(found)}"


def _csv(path: Path) -> Iterator[_Row]:
    text = reading.text(path, InputError, most=MOST)
    heading = text.partition("\n")[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=heading.count), strict=True)
    try:
        names = [name.strip() for name in next(rows, list[str]())]
        if "" in names or len(set(map(key, names))) < len(names):
            raise InputError(f"{path}: expected a name for each column in the first row, got {short(names)}")
        before = rows.line_num
        for cells in rows:
            line, before = before + 1, rows.line_num
            if not any(map(str.strip, cells)):
                continue
            if len(cells) > len(names):
                yield (
                    line,
                    f"{line:04}",
                    {},
                    f"expected at most {len(names)} cells, as in the first row, got {len(cells)}",
                )
                continue
            yield _checked(line, {name: _cell(cell) for name, cell in zip(names, cells, strict=False)})
    except csv.Error as error:
        raise InputError(
            f"{path}, line {rows.line_num}: expected CSV, got a row that is none ({error})"
        ) from error


def _cell(text: str) -> str | list[str] | None:
    values = [value.strip() for value in text.split("|")]
    return values if len(values) > 1 else values[0] or None


def _checked(line: int, row: dict[str, Any]) -> _Row:
    values = {key(name.strip()): value for name, value in row.items() if value is not None}
    id_ = values.pop("id", None)
    if len({key(name.strip()) for name in row}) < len(row):
        problem = (
            f"expected each name once, got {short(list(row))}, where dashes and underscores are the same"
        )
    elif id_ is not None and not 0 < len(_text(id_)) <= _LONGEST_ID:
        problem = f"expected 'id' to be a text of 1 to {_LONGEST_ID} characters, got {short(id_)}"
    else:
        return line, _text(id_) or _told(line, values), values, ""
    return line, _told(line, values), values, problem


def _told(line: int, values: Mapping[str, Any]) -> str:
    """The id of a row that has none: its line, and what it asks for."""
    said = next((values[name] for name in _TELLING if values.get(name)), "")
    text = _text(cast(list[object], said)[0] if isinstance(said, list) else said)
    return f"{line:04}-{slug(text)}" if text else f"{line:04}"


def _text(value: object) -> str:
    """A text, or a whole number as one; nothing for what is neither."""
    return str(value).strip() if isinstance(value, str | int) and not isinstance(value, bool) else ""
