"""Where results go: file names from prompts, and never over what went in."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from wordbrush.errors import OptionsError, OutputError
from wordbrush.files import room_in

_LONGEST = 80  # characters of a prompt that a file name keeps


def destinations(out: str, prompts: Sequence[str]) -> list[Path]:
    """A PNG path for each prompt: `out` itself, or files named by the prompts where `out` is a folder.

    A folder is what ends with a slash or already is one; several prompts always need one. Raises `OptionsError`.
    """
    _require_name(out)
    if out.endswith(("/", os.sep)) or Path(out).is_dir() or (len(prompts) > 1 and not Path(out).suffix):
        taken = {"sheet", "preview"}
        return [Path(out) / f"{_unique(slug(prompt), taken)}.png" for prompt in prompts]
    if len(prompts) > 1:
        raise OptionsError(f"{len(prompts)} targets need a folder: expected --out FOLDER/, got {out}")
    return [single(out, ".png")]


def single(out: str, suffix: str) -> Path:
    """`out` as one file's path. Raises `OutputError` if its name has another suffix or is a folder's."""
    _require_name(out)
    path = Path(out)
    if path.suffix.lower() != suffix:
        raise OutputError(f"expected --out to end in {suffix}, got {out}")
    if path.is_dir():
        raise OutputError(f"expected --out to be a file, and {out} is a folder")
    return path


def _require_name(out: str) -> None:
    if not out.strip():
        raise OptionsError("expected --out to say where the result goes, got nothing")


def beside(outputs: Sequence[Path], out: str, name: str) -> Path:
    """The path of a companion: NAME.sheet.png beside one file NAME.png, FOLDER/sheet.png in a folder."""
    path = outputs[0]
    return path.with_suffix(f".{name}.png") if Path(out) == path else path.with_name(f"{name}.png")


def check(inputs: Iterable[Path | None], outputs: Iterable[Path | None], preview: Path | None = None) -> None:
    """Find out before any work what would go wrong with its results.

    Raises `OutputError` if a file to be written is one that was read, if its folder cannot be written to, or if
    something stands in the preview's place: the preview goes at the end, and must not take with it what somebody
    else has made.
    """
    written = [path for path in outputs if path is not None]
    given = {path.resolve() for path in inputs if path is not None}
    for path in written:
        for above in path.parents:
            if above.is_file():
                raise OutputError(
                    f"{path} cannot be, for {above} is a file and no folder: choose another --out"
                )
        if path.resolve() in given:
            raise OutputError(f"{path} is an input and would be overwritten: choose another --out")
    if preview is not None and os.path.lexists(preview):
        raise OutputError(
            f"{preview} exists, and a preview would take its place: move it, or leave --preview out"
        )
    for folder in {path.parent for path in written}:
        with room_in(folder):
            pass


def slug(prompt: str) -> str:
    """A prompt as a file name: letters and digits of any script, joined by dashes."""
    return "-".join(re.findall(r"[^\W_]+", prompt.casefold()))[:_LONGEST].strip("-") or "picture"


def _unique(name: str, taken: set[str]) -> str:
    numbered = (name if i == 1 else f"{name}-{i}" for i in range(1, len(taken) + 2))
    free = next(candidate for candidate in numbered if candidate not in taken)
    taken.add(free)
    return free
