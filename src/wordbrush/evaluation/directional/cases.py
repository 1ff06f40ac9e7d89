"""The cases of the directional curve: read from a file, or taken from the built-in world."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

from PIL import Image

from wordbrush import images, reading
from wordbrush.errors import InputError, nearest, short
from wordbrush.evaluation.bench.cases import UNCHANGED, split
from wordbrush.files import inside

_MOST = 64 * 1024**2  # bytes of a file of cases


@dataclass(frozen=True, eq=False)
class DirectionalCase:
    """A picture, its caption and the caption after the edit.

    group: equal for cases that share a picture, which are drawn together for intervals. instruction: for methods that
    read one. truth: the true answer, where the built-in world can render it.
    """

    name: str
    group: str
    input_caption: str
    output_caption: str
    content: Image.Image | Path
    instruction: str | None = None
    truth: Image.Image | None = None

    @cached_property
    def picture(self) -> Image.Image:
        """The picture before the edit, RGB. Raises `ImageError` if its file cannot be read."""
        return images.load(self.content) if isinstance(self.content, Path) else self.content


def read(path: Path) -> list[DirectionalCase]:
    """Cases from lines of JSON: `picture` (a path relative to the file), `input`, `output`, optionally `instruction`.

    Raises `InputError`, naming the line, for a file that is missing or malformed, and for a picture that is missing.
    """
    lines = reading.text(path, InputError, most=_MOST).split("\n")
    cases = [_case(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not cases:
        raise InputError(f"{path}: expected at least one case, got none")
    return cases


def _case(path: Path, number: int, line: str) -> DirectionalCase:
    where = f"{path}, line {number}"
    parsed: object = reading.json_text(line, where, InputError)
    if not isinstance(parsed, dict):
        raise InputError(f"{where}: expected keys and values, got {short(line)}")
    entry = cast(dict[str, object], parsed)
    known = ("picture", "input", "output", "instruction")
    for key in entry:
        if key not in known:
            raise InputError(f"{where}: unknown key {short(key)}{nearest(key, known)}")
    for key in known[: 4 if "instruction" in entry else 3]:
        if not isinstance(entry.get(key), str) or not str(entry[key]).strip():
            raise InputError(f"{where}: expected '{key}' to be text, got {short(entry.get(key))}")
    try:
        picture = inside(path.parent, str(entry["picture"]), "'picture'")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if not picture.is_file():
        raise InputError(f"{where}: expected a picture at {picture}, and there is none")
    instruction = str(entry["instruction"]) if "instruction" in entry else None
    return DirectionalCase(
        str(number), str(picture), str(entry["input"]), str(entry["output"]), picture, instruction
    )


def from_pocket(count: int, seed: int) -> list[DirectionalCase]:
    """Cases of the built-in world (`cases.split`) with their true answers; those that change nothing are left out."""
    return [
        DirectionalCase(
            case.name,
            str(case.scene),
            case.source_prompt,
            case.target_prompt,
            case.picture,
            f"make it {case.target_prompt}",
            case.truth,
        )
        for case in split(seed, count)
        if case.kind != UNCHANGED
    ]
