"""Tensors as the bytes of a safetensors file: equal tensors make equal files."""

import json
from collections.abc import Mapping

from safetensors.torch import save as to_safetensors
from torch import Tensor


def content(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The bytes of a safetensors file of these tensors, wherever they are."""
    given = None if metadata is None else dict(metadata)
    return _in_order(to_safetensors(_apart(tensors), given))


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors in order, each in memory of its own: safetensors refuses those that share some."""
    kept: set[int] = set()
    found: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if place in kept else plain
        kept.add(place)
    return found


def _in_order(content: bytes) -> bytes:
    """A safetensors file with its header's keys in order: the library writes metadata in the order of a hash map,
    another one each time."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return b"".join((len(header).to_bytes(8, "little"), header, memoryview(content)[start:]))
