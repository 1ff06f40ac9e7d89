"""The record of how a picture was made, written into its PNG: `wordbrush replay` makes the picture again from it."""

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from wordbrush.errors import ImageError, OptionsError
from wordbrush.images import read_provenance
from wordbrush.model import Model
from wordbrush.source import Source


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRecord(_Value):
    """An input file: its path, and the SHA-256 of its bytes."""

    path: str
    sha256: str

    def found(self, beside: Path) -> Path:
        """The file, at its path or beside the picture. Raises `ImageError` if it is missing or has changed."""
        existing = [path for path in places(self.path, beside) if path.is_file()]
        for path in existing:
            if sha256(path) == self.sha256:
                return path
        if existing:
            raise ImageError(f"{existing[0]} has changed since: its SHA-256 was {self.sha256[:12]}…")
        raise ImageError(
            f"expected {self.path}, which this picture was made from: it is missing, and there is none beside {beside}"
        )


class ModelRecord(_Value):
    """The model: its name, its hash, and its dtype."""

    name: str
    hash: str
    dtype: str

    def found(self, beside: Path) -> str:
        """What to load: a relative path may start at the picture's folder, or one above it."""
        if self.name == "pocket":
            return self.name
        return next((str(path) for path in places(self.name, beside) if path.exists()), self.name)


class SourceRecord(_Value):
    """The source: a seed, an inverted picture, or a saved source file."""

    method: str
    prompt: str
    steps: int
    guidance_scale: float
    width: int
    height: int
    options: dict[str, Any] = {}
    picture: FileRecord | None = None
    saved: FileRecord | None = None


class Record(_Value):
    """Everything that decides a picture's pixels.

    targets: all prompts of the batch, since the batch's shape can decide the last bit; index: this picture's.
    pixels: SHA-256 of the picture's RGB bytes.
    """

    command: Literal["generate", "edit"]
    model: ModelRecord
    source: SourceRecord
    pixels: str
    method: str | None = None
    targets: tuple[str, ...] = ()
    index: int = 0
    options: dict[str, Any] = {}
    report: dict[str, Any] = {}
    threads: int = 0
    versions: dict[str, str] = {}


def places(path: str, picture: Path) -> list[Path]:
    """Where a recorded file may be now: at its path, from the picture's folder or one above it, or beside the picture.

    It was relative to where the command was run, which is most often one of these.
    """
    folder = picture.resolve().parent
    return [Path(path), *(above / path for above in (folder, *folder.parents)), folder / Path(path).name]


def model_record(model: Model) -> ModelRecord:
    """The record of a model."""
    return ModelRecord(name=model.name, hash=model.hash, dtype=str(model.dtype).removeprefix("torch."))


def file_record(path: str | os.PathLike[str]) -> FileRecord:
    """The record of a file: its path as given, and its hash."""
    return FileRecord(path=os.fspath(path), sha256=sha256(path))


def source_record(
    model: Model,
    source: Source,
    options: Mapping[str, Any],
    *,
    picture: FileRecord | None = None,
    saved: FileRecord | None = None,
) -> SourceRecord:
    """The record of a source. options: its method's, as given."""
    height, width = (side * model.downscale for side in source.z_T.shape[-2:])
    return SourceRecord(
        method=source.method,
        prompt=source.prompt,
        steps=source.steps,
        guidance_scale=source.guidance_scale,
        width=width,
        height=height,
        options=dict(options),
        picture=picture,
        saved=saved,
    )


def versions() -> dict[str, str]:
    """The versions of Python, this package and the libraries that decide a picture's last bits."""
    packages = ("wordbrush", "torch", "diffusers", "transformers")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def record(
    command: Literal["generate", "edit"],
    model: Model,
    source: SourceRecord,
    image: Image.Image,
    *,
    method: str | None = None,
    targets: Sequence[str] = (),
    index: int = 0,
    options: Mapping[str, Any] | None = None,
    report: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The provenance of one picture, ready for `images.save_png`."""
    entries = Record(
        command=command,
        model=model_record(model),
        source=source,
        pixels=pixel_hash(image),
        method=method,
        targets=tuple(targets),
        index=index,
        options=dict(options or {}),
        report=dict(report or {}),
        threads=torch.get_num_threads(),
        versions=versions(),
    )
    return entries.model_dump(mode="json", exclude_defaults=True)


def read_record(path: str | os.PathLike[str]) -> Record:
    """The record in a picture. Raises `ImageError` for a picture without one, `OptionsError` for a damaged one."""
    try:
        return Record.model_validate(read_provenance(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise OptionsError(f"{path}: its record cannot be replayed ({where}: {first['msg']})") from error


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB bytes."""
    return hashlib.sha256(
        f"{image.width}x{image.height} ".encode() + image.convert("RGB").tobytes()
    ).hexdigest()


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
