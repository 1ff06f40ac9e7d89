"""Read small files that anybody may have written: options, configs, listings, lines of JSON.

Each reader takes the class of the error to raise, so that a damaged option file is an `OptionsError` and a damaged
model a `ModelError`. A message is one sentence that names the file and repeats at most a few words of it.
"""

import json
import math
import os
import re
import stat
import tomllib
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

from wordbrush.errors import WordbrushError, short

Raises = Callable[[str], WordbrushError]
"""The class of the error to raise."""

MOST, MOST_TOML = 16 * 1024**2, 1024**2  # bytes of a file; several times the largest that we know
DEEPEST = 64  # lists and mappings inside one another
_DIGITS = 40  # of a whole number


def content(path: str | os.PathLike[str], raises: Raises, *, most: int = MOST) -> bytes:
    """The bytes of a file. Raises for what is no file, such as a pipe or a device, and for more than `most` bytes."""
    try:
        kind, found = os.stat(path).st_mode, b""
        if stat.S_ISREG(kind):  # reading a device or a pipe might never end
            with open(path, "rb") as file:
                found = file.read(most + 1)
    except OSError as error:
        raise raises(f"cannot read {path}: {error.strerror}; check the path") from error
    except ValueError as error:  # a byte 0 in the path
        raise raises(f"cannot read {short(str(path))}: {error}") from error
    if not stat.S_ISREG(kind):
        what = "a folder" if stat.S_ISDIR(kind) else "a pipe or a device"
        raise raises(f"cannot read {path}: expected a file, got {what}; check the path")
    if len(found) > most:
        raise raises(f"{path}: expected at most {most / 1024**2:.4g} MiB, got more; is it the right file?")
    return found


def text(path: str | os.PathLike[str], raises: Raises, *, most: int = MOST) -> str:
    """A file's text, lines ended by newlines alone. Raises also for what is not UTF-8, and for bytes 0."""
    try:
        found = content(path, raises, most=most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise raises(
            f"{path} is not a text file: expected UTF-8, got other bytes from {error.start + 1} on"
        ) from error
    if "\0" in found:
        raise raises(f"{path} is not a text file: expected UTF-8, got a byte 0 in it")
    return found.replace("\r\n", "\n")


def json_file(path: str | os.PathLike[str], raises: Raises, *, most: int = MOST, finite: bool = True) -> Any:
    """The value in a JSON file. Raises also for what `json_text` refuses."""
    return json_text(text(path, raises, most=most), str(path), raises, finite=finite)


def json_mapping(
    path: str | os.PathLike[str], raises: Raises, *, most: int = MOST, finite: bool = True
) -> dict[str, Any]:
    """The names and values in a JSON file. Raises also for a JSON file of anything else."""
    value = json_file(path, raises, most=most, finite=finite)
    if not isinstance(value, dict):
        raise raises(f"{path}: expected names and values in JSON, got {short(value)}")
    return cast(dict[str, Any], value)


def json_text(given: str, where: str, raises: Raises, *, finite: bool = True) -> Any:
    """The value of a text in JSON. where: its file or line, for the message.

    Raises for anything else, for a key that comes twice, for lists and mappings more than 64 deep, for whole numbers of
    more than 40 digits, for text that is no Unicode or has a character 0 and, if `finite`, for NaN and Infinity, which
    JSON does not have but Python writes.
    """

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(found)
        if len(mapping) < len(found):
            counts = Counter(key for key, _ in found)
            raise ValueError(f"the key {short(counts.most_common(1)[0][0])} comes more than once")
        return mapping

    try:
        value = json.loads(given, object_pairs_hook=pairs, parse_int=_whole)
        _check(value, finite=finite)
    except RecursionError as error:
        raise raises(f"{where}: expected JSON at most {DEEPEST} levels deep, got more") from error
    except ValueError as error:
        raise raises(f"{where}: expected JSON, got {short(given)} ({error})") from error
    return value


def toml_file(path: str | os.PathLike[str], raises: Raises, *, most: int = MOST_TOML) -> dict[str, Any]:
    """The keys and values of a TOML file. Raises also for anything else, and for what is as deep or long as `json_text`
    refuses."""
    given = text(path, raises, most=most)
    try:
        if _deepest_key(given) > DEEPEST:  # the parser takes their square
            raise RecursionError
        values = tomllib.loads(given)
        _check(values, finite=False)  # options refuse them with their own words
    except RecursionError as error:
        raise raises(f"{path}: expected TOML at most {DEEPEST} levels deep, got more") from error
    except ValueError as error:
        raise raises(f"{path} is not a TOML file: {_first(error)}") from error
    return values


# A string, a comment: what has dots that mean nothing. One that does not end is taken to the end of its line or file.
_QUOTED = re.compile(
    r'"""(?:\\.|[^\\])*?(?:"""|\Z)'
    r"|'''.*?(?:'''|\Z)"
    r'|"(?:\\.|[^"\\\n])*"?'
    r"|'[^'\n]*'?"
    r"|#[^\n]*",
    re.DOTALL,
)


def _deepest_key(toml: str) -> int:
    """The largest number of dots in a key, or in anything else between two characters that no key has."""
    pieces = re.split(r"[^\w.\t -]", _QUOTED.sub("_", toml))
    return max(piece.count(".") for piece in pieces)


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _check(value: Any, *, finite: bool) -> None:
    """Raise `RecursionError` for a value that is too deep, `ValueError` for a number or a text that cannot be used."""
    level = [value]
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += [*each, *each.values()]
            elif isinstance(each, list):
                below += each
            elif isinstance(each, int) and each.bit_length() > 4 * _DIGITS:  # TOML's hexadecimal ones
                raise ValueError(f"a whole number of {each.bit_length()} bits")
            elif isinstance(each, str):
                each.encode()  # half of a pair, "\\ud800", cannot be written anywhere
                if "\0" in each:
                    raise ValueError("a character 0 in a text")
            elif finite and isinstance(each, float) and not math.isfinite(each):
                raise ValueError(f"{each}, where a number has to be finite")
        if not below:
            return
        level = below
    raise RecursionError


def _first(error: ValueError) -> str:
    """The parser's message, which can repeat a key, in one short line."""
    message = " ".join(str(error).split())
    if message.startswith("Exceeds the limit"):  # Python's message, about its interpreter
        return "a whole number has too many digits"
    return message if len(message) <= 120 else message[:80] + "…"
