"""The files that a command writes: names from prompts, and checks before any work."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wordbrush.errors import ImageError, OptionsError, OutputError, PromptError
from wordbrush.filenames import SUFFIXES, unique
from wordbrush.files import replaced, room_in

PREVIEW = {"command": "preview"}
"""The record in a preview, by which the next command knows that nobody will miss it."""


def destinations(out: str, prompts: Sequence[str], like: Path) -> list[Path]:
    """A picture's path for each prompt: `out` itself, or files named after the prompts if `out` is a folder. They end
    like the file that is edited.

    `out` is a folder if it ends with a slash or exists as one; several prompts always need one. Raises `OptionsError`.
    """
    _require_name(out)
    if out.endswith(("/", os.sep)) or os.path.isdir(out) or (len(prompts) > 1 and not Path(out).suffix):
        suffix = like.suffix.lower() if like.suffix.lower() in SUFFIXES else ".png"
        return [Path(out) / f"{name}{suffix}" for name in unique(prompts, taken=("sheet", "preview"))]
    if len(prompts) > 1:
        raise OptionsError(f"{len(prompts)} targets need a folder: expected --out FOLDER/, got {out}")
    return [single(out, *SUFFIXES)]


def single(out: str, *suffixes: str, flag: str = "--out") -> Path:
    """`out` as one file's path. flag: what it was given with. Raises `OutputError` if it has another suffix or is a
    folder, `OptionsError` for no name."""
    _require_name(out, flag)
    path = Path(out)
    if path.suffix.lower() not in suffixes:
        raise OutputError(f"expected {flag} to end in {' or '.join(suffixes)}, got {out}")
    if os.path.isdir(path):
        raise OutputError(f"expected {flag} to be a file, but {out} is a folder")
    return path


def require_text(name: str, prompt: str) -> None:
    """Raise `PromptError` for a prompt without text. name: the flag, for the message."""
    if not prompt.strip():
        raise PromptError(f"expected {name} to say what the picture shows, got nothing")


def _require_name(out: str, flag: str = "--out") -> None:
    if not out.strip():
        raise OptionsError(f"expected {flag} to name the output, got nothing")


def beside(outputs: Sequence[Path], out: str, name: str) -> Path:
    """The path of a companion: NAME.sheet.png beside one file NAME.png, FOLDER/sheet.png in a folder."""
    path = outputs[0]
    return path.with_suffix(f".{name}.png") if Path(out) == path else path.with_name(f"{name}.png")


def check(inputs: Iterable[Path | None], outputs: Iterable[Path | None], preview: Path | None = None) -> None:
    """Check before any work that the results can be written.

    Raises `OutputError` if a file to be written is an input or another output, is no file but a pipe, say, or has a
    name that cannot be, if its folder cannot be written to, or if the preview's file exists and is no preview: it is
    removed at the end, and must not be somebody's.
    """
    given = {os.path.realpath(path) for path in inputs if path is not None}
    written: dict[Path, Path] = {}
    for path in (path for path in outputs if path is not None):
        for above in path.parents:
            if os.path.isfile(above):
                raise OutputError(
                    f"cannot write {path}: {above} is a file, not a folder; choose another --out"
                )
        file = replaced(path)
        if str(file) in given:
            raise OutputError(f"{path} is an input and would be overwritten: choose another --out")
        if file in written:
            raise OutputError(f"{path} and {written[file]} are links to one file: choose another --out")
        written[file] = path
    if preview is not None and os.path.lexists(preview) and not _is_preview(preview):
        raise OutputError(
            f"{preview} exists, and a preview would overwrite it: move it, or leave --preview out"
        )
    for folder in {path.parent for path in written}:
        with room_in(folder):
            for path in (*written, *([preview] if preview is not None else [])):
                replaced(path)  # now that the folder is there, the file system says whether it has such names


def _is_preview(path: Path) -> bool:
    """Whether a file is a preview, which a command that was killed has left."""
    from wordbrush.images import read_provenance

    try:
        return not path.is_symlink() and read_provenance(path) == PREVIEW
    except ImageError:
        return False


@dataclass(frozen=True)
class Outputs:
    """What a command writes: its results, a sheet and a preview, and a mask beside each result."""

    paths: list[Path]
    sheet: Path | None
    preview: Path | None
    masks: tuple[Path, ...] = ()


def planned(
    paths: list[Path],
    out: str,
    inputs: Iterable[Path | None] = (),
    *,
    sheet: bool = False,
    preview: int | None = None,
    mask: bool = False,
) -> Outputs:
    """The files for results at `paths`, checked. Raises `OutputError`."""
    sheet_path = beside(paths, out, "sheet") if sheet else None
    preview_path = beside(paths, out, "preview") if preview else None
    masks = tuple(path.with_suffix(".mask.png") for path in paths if mask)
    check(inputs, [*paths, sheet_path, *masks], preview_path)
    return Outputs(paths, sheet_path, preview_path, masks)
