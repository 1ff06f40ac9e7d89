"""The record of how a picture was made, written into its PNG: `wordbrush replay` makes the picture again from it."""

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wordbrush.errors import OptionsError
from wordbrush.images import read_provenance
from wordbrush.inputs import AppliedConcept, FileRecord, places
from wordbrush.model import Model
from wordbrush.options import DType, RecordOptions
from wordbrush.source import Source
from wordbrush.words import MOST_CHUNKS


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelRecord(_Value):
    """The model: its name, its hash, its dtype, its chunks of a context, and its concepts."""

    name: str
    hash: str
    dtype: DType
    chunks: int = Field(1, ge=1, le=MOST_CHUNKS)
    concepts: tuple[AppliedConcept, ...] = ()

    def found(self, beside: Path) -> str:
        """What to load: a relative path may start at the picture's folder, or one above it."""
        if self.name == "pocket":
            return self.name
        return next((str(path) for path in places(self.name, beside) if path.exists()), self.name)


class SourceRecord(_Value):
    """The source: a seed, an inverted picture, or a saved source file.

    recording: how it was recorded before the edit, where it was: rows that are not in the batch decide last bits, too.
    """

    method: str
    prompt: str
    steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0, le=100)
    width: int = Field(ge=1)
    height: int = Field(ge=1)
    options: dict[str, Any] = {}
    picture: FileRecord | None = None
    saved: FileRecord | None = None
    recording: RecordOptions | None = None


class Record(_Value):
    """Everything that decides a picture's pixels.

    targets: all prompts of the batch, since the batch's shape can decide the last bit; index: this picture's.
    pixels: SHA-256 of the picture's RGB bytes. is_pasted: whether they are the edited picture's, and not the model's
    rendering's. mask, mask_words, keep_words: where it was allowed to change.
    """

    command: Literal["generate", "edit"]
    model: ModelRecord
    source: SourceRecord
    pixels: str
    method: str | None = None
    targets: tuple[str, ...] = ()
    index: int = Field(0, ge=0)
    options: dict[str, Any] = {}
    report: dict[str, Any] = {}
    is_pasted: bool = False
    mask: FileRecord | None = None
    mask_words: tuple[str, ...] = ()
    keep_words: tuple[str, ...] = ()
    threads: int = Field(0, ge=0, le=1024)
    versions: dict[str, str] = {}

    @model_validator(mode="after")
    def _names_its_target(self) -> "Record":
        if self.index >= max(1, len(self.targets)) or (self.command == "edit") != bool(self.targets):
            raise ValueError(f"index {self.index} of {len(self.targets)} targets")
        return self


def model_record(model: Model) -> ModelRecord:
    """The record of a model."""
    return ModelRecord(
        name=model.name,
        hash=model.hash,
        dtype=cast(DType, str(model.dtype).removeprefix("torch.")),
        chunks=model.chunks,
        concepts=model.concepts,
    )


def source_record(model: Model, source: Source) -> SourceRecord:
    """The record of a source."""
    height, width = source.size(model)
    picture = None if source.picture is None or source.saved is not None else source.picture.record
    return SourceRecord(
        method=source.method,
        prompt=source.prompt,
        steps=source.steps,
        guidance_scale=source.guidance_scale,
        width=width,
        height=height,
        options=dict(source.options),
        picture=picture,
        saved=source.saved,
        recording=None if source.recording is None else source.recording.options,
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
    is_pasted: bool = False,
    mask: FileRecord | None = None,
    mask_words: Sequence[str] = (),
    keep_words: Sequence[str] = (),
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
        is_pasted=is_pasted,
        mask=mask,
        mask_words=tuple(mask_words),
        keep_words=tuple(keep_words),
        threads=torch.get_num_threads(),
        versions=versions(),
    )
    return entries.model_dump(mode="json", exclude_defaults=True)


def read_record(picture: Image.Image | str | os.PathLike[str]) -> Record:
    """The record in a picture or a picture file. Raises `ImageError` for one without, `OptionsError` for a damaged
    one."""
    try:
        return Record.model_validate(read_provenance(picture))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its targets"
        name = "this picture" if isinstance(picture, Image.Image) else picture
        raise OptionsError(
            f"{name}: its record cannot be replayed ({where:.80}: {first['msg']:.200})"
        ) from error


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 of a picture's size and RGB bytes."""
    return hashlib.sha256(
        f"{image.width}x{image.height} ".encode() + image.convert("RGB").tobytes()
    ).hexdigest()
