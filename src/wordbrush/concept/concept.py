"""A learned concept as a value: vectors for words, changes of weights, and what they belong to."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wordbrush import tensorfiles
from wordbrush.concept import weights
from wordbrush.concept.portrait import Portrait
from wordbrush.concept.weights import Change
from wordbrush.errors import ConceptError, short
from wordbrush.files import Opened, atomic_write
from wordbrush.images import decode
from wordbrush.inputs import FileRecord
from wordbrush.reading import json_text

_FORMAT, _VERSION = "wordbrush-concept", 2
_WITH_PORTRAITS = 2  # the first version that has them; concepts without are written as they always were

ASSUMED = "assumed"
"""The option of a concept of another tool that says what its file does not say and was assumed."""


class Base(BaseModel):
    """The model that a concept was trained on: its name, and `Model.base_hash`; "" where a file does not say."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = ""
    hash: str = ""


class TrainingPicture(BaseModel):
    """A picture that a concept was trained on: its file's name, and the SHA-256 of its bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    sha256: str


@dataclass(frozen=True, eq=False)
class Placeholder:
    """A word that was learned.

    vectors: for each text encoder, what stands for the word. initial: what they were before training, which is what the
    word means at strength 0; None where nobody knows.
    """

    vectors: tuple[Float[Tensor, "n _"], ...]
    initial: tuple[Float[Tensor, "n _"], ...] | None = None

    @property
    def count(self) -> int:
        """The number of vectors, equal in all encoders."""
        return self.vectors[0].shape[0]


@dataclass(frozen=True, eq=False)
class Concept:
    """What training taught a model.

    placeholders: learned words. weights: changes of weights, by names such as "unet.mid_block.….to_k.weight": the
    network's in diffusers' folders, and the weight's own. portraits: what some of the words bring besides. method,
    options, seed, pictures: how it was trained. prompt: one to use it in. base: the model it belongs to. previews:
    pictures of it, encoded. file: what it was loaded from.

    >>> concept = Concept.load("my-cat.concept")
    >>> concept.prompt, list(concept.placeholders)
    ('a photo of <my-cat>', ['<my-cat>'])
    """

    method: str
    prompt: str
    base: Base
    placeholders: Mapping[str, Placeholder] = field(default_factory=dict[str, Placeholder])
    weights: Mapping[str, Change] = field(default_factory=dict[str, Change])
    portraits: Mapping[str, Portrait] = field(default_factory=dict[str, Portrait])
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    seed: int = 0
    pictures: tuple[TrainingPicture, ...] = ()
    previews: tuple[bytes, ...] = ()
    file: FileRecord | None = None

    @cached_property
    def record(self) -> FileRecord:
        """Its file; of one in memory the hash that its file would have."""
        return self.file or FileRecord(path=None, sha256=hashlib.sha256(self.content()).hexdigest())

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the prompt that it is used in."""
        return tuple(self.prompt.split())

    @property
    def preview(self) -> Image.Image | None:
        """The first preview. Raises `ImageError`."""
        return self.shown[0] if self.previews else None

    @cached_property
    def shown(self) -> list[Image.Image]:
        """The previews, decoded. Raises `ImageError` for what is no picture."""
        name = "a concept in memory" if self.file is None else self.file.path
        return [decode(each, f"preview {i} of {name}") for i, each in enumerate(self.previews, 1)]

    def __repr__(self) -> str:
        return f"<Concept {self.prompt!r:.60}, {self.method}, {len(self.weights)} weights>"

    def save(self, path: str | os.PathLike[str], opened: Opened = atomic_write) -> "Concept":
        """Write it to one file: safetensors, with the rest as JSON in its header. Equal concepts make equal files.

        Returns the same concept, of that file. Raises `OutputError`.
        """
        content = self.content()
        with opened(path) as file:
            file.write(content)
        return replace(
            self, file=FileRecord(path=os.fspath(path), sha256=hashlib.sha256(content).hexdigest())
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Concept":
        """Read a saved concept. Raises `ConceptError` if the file is none, is damaged, or is of a newer version."""
        try:
            header, tensors = _read(path)
            return cls(
                method=header.method,
                prompt=header.prompt,
                base=header.base,
                placeholders=_placeholders(header, tensors),
                weights={
                    name: weights.restored(kind, _below(f"weights.{name}.", tensors))
                    for name, kind in header.weights.items()
                },
                portraits={
                    token: Portrait(own.gate, _layers(f"portraits.{token}.", own.layers, tensors))
                    for token, own in header.portraits.items()
                },
                options=header.options,
                seed=header.seed,
                pictures=tuple(header.pictures),
                previews=tuple(tensors[f"previews.{i}"].numpy().tobytes() for i in range(header.previews)),
                file=FileRecord.of(path),
            )
        except FileNotFoundError as error:
            raise ConceptError(f"there is no concept file {path}") from error
        except ConceptError:
            raise
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ConceptError(
                f"{path} is damaged or no wordbrush concept: {' '.join(str(error).split()):.200}"
            ) from error

    def content(self) -> bytes:
        """The bytes of its file."""
        tensors: dict[str, Tensor] = {}
        for token, placeholder in self.placeholders.items():
            for name in ("vectors", "initial"):
                for i, own in enumerate(getattr(placeholder, name) or ()):
                    tensors[f"placeholders.{token}.{name}.{i}"] = own
        for name, change in self.weights.items():
            tensors |= {f"weights.{name}.{own}": each for own, each in weights.tensors(change).items()}
        for token, portrait in self.portraits.items():
            for name, layer in portrait.layers.items():
                tensors |= {f"portraits.{token}.{name}.{own}": each for own, each in layer.items()}
        for i, preview in enumerate(self.previews):
            tensors[f"previews.{i}"] = torch.frombuffer(bytearray(preview), dtype=torch.uint8)
        header = _Header(
            method=self.method,
            prompt=self.prompt,
            base=self.base,
            placeholders=list(self.placeholders),
            weights={name: change.kind for name, change in sorted(self.weights.items())},
            portraits={
                token: _Portrait(gate=own.gate, layers=list(own.layers))
                for token, own in self.portraits.items()
            },
            options=dict(self.options),
            seed=self.seed,
            pictures=list(self.pictures),
            previews=len(self.previews),
        ).model_dump_json(exclude=None if self.portraits else {"portraits"})
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
        metadata = {
            "format": f"{_FORMAT}.{_WITH_PORTRAITS if self.portraits else 1}",
            "concept": header,
            "sha256": _checksum(header, tensors),
        }
        return tensorfiles.content(tensors, metadata)


def words_of(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The learned words of a concept's file, from its header alone; none for any other file."""
    with suppress(SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError):
        with cast(Any, safe_open(Path(path), framework="pt")) as file:
            header: Any = json_text(file.metadata()["concept"], str(path), ConceptError)
            return tuple(_Header.model_validate(header).placeholders)
    return ()


class _Portrait(BaseModel):
    """What a file says of a portrait."""

    model_config = ConfigDict(allow_inf_nan=False)

    gate: float
    layers: list[str]


class _Header(BaseModel):
    """What a concept's file says in words and numbers. It may come from elsewhere, so all of it is checked."""

    model_config = ConfigDict(allow_inf_nan=False)

    method: str
    prompt: str
    base: Base
    placeholders: list[str]
    weights: dict[str, str]
    portraits: dict[str, _Portrait] = {}
    options: dict[str, Any]
    seed: int = Field(ge=0, lt=2**63)
    pictures: list[TrainingPicture]
    previews: int = Field(ge=0, le=1000)


def _read(path: str | os.PathLike[str]) -> tuple[_Header, dict[str, Tensor]]:
    with cast(Any, safe_open(Path(path), framework="pt")) as file:
        metadata: dict[str, str] = file.metadata() or {}
        name, _, version = metadata.get("format", "").rpartition(".")
        if name != _FORMAT or not version.isdecimal():
            raise ConceptError(
                f"{path} is not a wordbrush concept (its format is {short(metadata.get('format'))}): "
                "convert it first (wordbrush convert)"
            )
        if int(version) > _VERSION:
            raise ConceptError(
                f"{path} was written by a newer wordbrush (format {version}, this one reads up to {_VERSION}): "
                "update wordbrush"
            )
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
    if metadata["sha256"] != _checksum(metadata["concept"], tensors):
        raise ConceptError(f"{path} is damaged: its checksum does not fit its content; fetch it again")
    if bad := [name for name, own in tensors.items() if not bool(torch.isfinite(own).all())]:
        raise ConceptError(f"{path} is damaged: {bad[0]:.100} is not finite")
    header: Any = json_text(metadata["concept"], str(path), ConceptError)
    return _Header.model_validate(header), tensors


def _placeholders(header: _Header, tensors: Mapping[str, Tensor]) -> dict[str, Placeholder]:
    found: dict[str, Placeholder] = {}
    for token in header.placeholders:
        own = _below(f"placeholders.{token}.", tensors)
        vectors, initial = (
            tuple(own[f"{name}.{i}"] for i in range(len(own)) if f"{name}.{i}" in own)
            for name in ("vectors", "initial")
        )
        if not vectors or any(
            each.ndim != 2 or len(each) != len(vectors[0]) for each in (*vectors, *initial)
        ):
            raise ConceptError(f"expected vectors for {short(token)}, as many for each text encoder")
        found[token] = Placeholder(vectors, initial or None)
    return found


def _layers(prefix: str, names: list[str], tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    return {name: _below(f"{prefix}{name}.", tensors) for name in names}


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): own for name, own in tensors.items() if name.startswith(prefix)}


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(header.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
