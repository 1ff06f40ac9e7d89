"""A file of another tool: its tensors, of which each family takes those that it knows; and one to be written."""

import json
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from wordbrush import tensorfiles
from wordbrush.concept.concept import Concept
from wordbrush.concept.weights import Change
from wordbrush.errors import ConceptError, short
from wordbrush.reading import json_text

_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, eq=False)
class Foreign:
    """The tensors of a file that nobody has taken yet, and its metadata."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])

    def mapping(self, name: str) -> dict[str, Any]:
        """The names and values that a text of the metadata holds in JSON; none if there is no such text."""
        value = json_text(self.metadata.get(name, "{}"), f"{self.path}, {name}", ConceptError)
        if not isinstance(value, dict):
            raise ConceptError(f"{self.path}: expected names and values in {name}, got {short(value)}")
        return cast(dict[str, Any], value)


@dataclass(frozen=True, eq=False)
class Taken:
    """What a family has read: the words' vectors, by text encoder; changes of weights; by which method; what the file
    does not say and was assumed."""

    vectors: Mapping[str, Mapping[int, Tensor]] = field(default_factory=dict[str, dict[int, Tensor]])
    weights: Mapping[str, Change] = field(default_factory=dict[str, Change])
    method: str = ""
    assumed: str = ""


def is_ours(path: Path) -> bool:
    """Whether a file says in its header that wordbrush wrote it."""
    with suppress(SafetensorError, OSError, ValueError), cast(Any, safe_open(path, framework="pt")) as file:
        metadata: dict[str, str] = file.metadata() or {}
        return metadata.get("format", "").startswith("wordbrush-")
    return False


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle, bare or in torch's archive, whatever its name says."""
    try:
        with path.open("rb") as file:
            start = file.read(2)
        return start in _PICKLES or zipfile.is_zipfile(path)
    except OSError:
        return False


def opened(path: Path) -> Foreign:
    """The file with all its tensors, in memory of their own.

    Raises `ConceptError` for what is no safetensors file, and for numbers that are not finite.
    """
    if is_pickle(path):
        raise ConceptError(
            f"expected a safetensors file, but {path} is a pickle, which can run any program when it is opened: "
            "convert it once (wordbrush convert --allow-pickle), which opens it in a process of its own that may "
            "make tensors and nothing else"
        )
    try:
        with cast(Any, safe_open(path, framework="pt")) as file:
            tensors: dict[str, Tensor] = {name: file.get_tensor(name).clone() for name in file.keys()}
            metadata: dict[str, str] = file.metadata() or {}
    except FileNotFoundError as error:
        raise ConceptError(f"there is no file {path} of a learned concept; check the path") from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ConceptError(
            f"expected a whole safetensors file, but {path} is none ({' '.join(str(error).split()):.200}): "
            "fetch it again"
        ) from error
    if bad := [name for name, own in tensors.items() if not bool(torch.isfinite(own.float()).all())]:
        raise ConceptError(f"{path} is damaged: {short(bad[0])} is not finite")
    return Foreign(path, tensors, metadata)


def content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a file of PyTorch's, as other tools expect them to be marked."""
    return tensorfiles.content(tensors, {"format": "pt", **(metadata or {})})


def text(value: Any) -> str:
    """A value as JSON, for a file's metadata."""
    return json.dumps(value, sort_keys=True, indent=2)


def require_kinds(concept: Concept, kinds: tuple[type[Any], ...], to: str, instead: str) -> None:
    """Raise `ConceptError` for a concept without weights, or with weights that the files of a format cannot hold."""
    if not concept.weights:
        raise ConceptError(
            f"expected a concept with changed weights for --to {to}, got words alone: use {instead}"
        )
    for name, change in concept.weights.items():
        if not isinstance(change, kinds):
            held = " and ".join(kind.kind for kind in kinds)
            raise ConceptError(
                f"expected weights kept as {held}, which are what --to {to} holds, got {name} as {change.kind}: "
                f"use {instead}"
            )


def by_part(concept: Concept) -> dict[str, dict[str, Change]]:
    """The changes of each network, the UNet's first, by their names in it."""
    parts: dict[str, dict[str, Change]] = {}
    for name, change in sorted(concept.weights.items(), key=lambda each: not each[0].startswith("unet.")):
        part, _, path = name.partition(".")
        parts.setdefault(part, {})[path] = change
    return parts
