"""One part's share of the weights in a single file."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wordbrush.errors import ModelError

_EMA = "model_ema.diffusion_model"


@dataclass(frozen=True, eq=False)
class Share:
    """A part's weights, by their original names without the part's prefix; they are read when they are asked for.

    file: the open safetensors file. keys: the file's key of each name. prefix: for messages. is_dotless: the names have
    lost their dots, as those of averaged weights have.
    """

    path: str
    file: Any
    keys: Mapping[str, str]
    prefix: str
    is_dotless: bool = False

    @classmethod
    def of(cls, path: str, file: Any, prefixes: Iterable[str], heads: Iterable[str]) -> "Share":
        """The share behind the first of the prefixes that the file has; behind "", what begins with one of `heads`."""
        every = list(file.keys())
        for prefix in prefixes:
            keys = {key.removeprefix(prefix): key for key in every if key.startswith(prefix)}
            if not prefix:
                keys = {name: key for name, key in keys.items() if name.split(".")[0] in heads}
            if keys:
                return cls(path, file, keys, prefix)
        return cls(path, file, {}, "")

    def averaged(self) -> "Share":
        """The moving average of these weights if the file has it for all of them, or has nothing else; else these.

        Training keeps both; the average makes the better pictures, and is what the models' folders on the hub have.
        """
        ema = {key.removeprefix(_EMA): key for key in self.file.keys() if key.startswith(_EMA)}
        if not self.keys:
            return Share(self.path, self.file, ema, "model_ema.", is_dotless=True)
        if any(name.replace(".", "") not in ema for name in self.keys):
            return self
        return Share(
            self.path, self.file, {name: ema[name.replace(".", "")] for name in self.keys}, "model_ema."
        )

    def __bool__(self) -> bool:
        return bool(self.keys)

    def __contains__(self, name: str) -> bool:
        return self._own(name) in self.keys

    def shape(self, name: str) -> tuple[int, ...]:
        """A weight's shape. Raises `ModelError` if the file has no such weight."""
        return tuple(self.file.get_slice(self._key(name)).get_shape())

    def read(self, name: str, ours: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A weight in memory of its own, as the weight `ours` of diffusers or transformers has it.

        Raises `ModelError` if the file has no such weight, or another shape of it.
        """
        weight: Tensor = self.file.get_tensor(self._key(name))
        found = tuple(weight.shape)
        if part := re.search(r"\.([qkv])_proj\.", ours) if ".in_proj_" in name else None:
            weight = weight.chunk(3)["qkv".index(part[1])]
        elif name == "text_projection":
            weight = weight.T
        elif _squeezed(found) == _squeezed(
            shape
        ):  # one has linear layers where the other has 1 × 1 convolutions
            weight = weight.reshape(shape)
        if tuple(weight.shape) != shape or not weight.is_floating_point():
            raise ModelError(
                f"{self.path}: expected {self._key(name)} to fit numbers of shape {list(shape)}, "
                f"got {str(weight.dtype).removeprefix('torch.')} of shape {list(found)}: it is of another architecture"
            )
        return weight.to(dtype, copy=True, memory_format=torch.contiguous_format)

    def require(self, names: Iterable[str], part: str, harmless: str) -> None:
        """Raise `ModelError` unless the share has just these weights, and what the pattern `harmless` matches."""
        wanted = {self._own(name): name for name in names}
        if missing := sorted(wanted[own] for own in wanted.keys() - self.keys.keys()):
            raise ModelError(
                f"{self.path} lacks {len(missing)} of the {len(wanted)} weights of its {part}, "
                f"such as {self.prefix}{missing[0]}: fetch the file again"
            )
        surplus = sorted(name for name in self.keys.keys() - wanted.keys() if not re.match(harmless, name))
        if surplus:
            raise ModelError(
                f"{self.path} has {len(surplus)} weights for which its {part} has no place, such as "
                f"{self.keys[surplus[0]]}: it is of another architecture, which is not supported"
            )

    def _own(self, name: str) -> str:
        return name.replace(".", "") if self.is_dotless else name

    def _key(self, name: str) -> str:
        if name not in self:
            raise ModelError(f"{self.path} lacks {self.prefix}{name}: it is cut, or of another architecture")
        return self.keys[self._own(name)]


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the ones at its end."""
    while shape[-1:] == (1,):
        shape = shape[:-1]
    return shape
