"""What a learned word brings to the cross-attention besides its vectors, as a value: ELITE's part of a concept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wordbrush.attention import Likeness
from wordbrush.errors import ConceptError, short

_CHANGES, _CELLS = ("key_change", "value_change"), ("keys", "values")


@dataclass(frozen=True, eq=False)
class Portrait:
    """The likeness of one thing.

    gate: how much of the thing's parts is seen where its word is attended to, λ. layers: of each cross-attention layer,
    by its name in the UNet, the tensors of its `attention.Likeness`: key_change and value_change, "channels context",
    and, where parts were learned, keys and values, "cells channels".
    """

    gate: float
    layers: Mapping[str, Mapping[str, Tensor]]

    def __post_init__(self) -> None:
        for name, own in self.layers.items():
            changed, cells = ([key for key in keys if key in own] for keys in (_CHANGES, _CELLS))
            if set(own) - {*_CHANGES, *_CELLS} or len(changed) == 1 or len(cells) == 1:
                raise ConceptError(
                    f"expected a layer's changes and cells in pairs, got {name} with {list(own)}"
                )

    def likenesses(self, token: str, strength: float, unet: Any) -> dict[str, Likeness]:
        """What the word brings to each layer of this UNet, in its type, at a strength. Raises `ConceptError` for layers
        that it does not have, or of other sizes."""
        return {name: self._at(name, token, strength, unet) for name in self.layers}

    def _at(self, name: str, token: str, strength: float, unet: Any) -> Likeness:
        own = self.layers[name]
        try:
            layer = unet.get_submodule(name)
            weight: Tensor = layer.to_k.weight
        except AttributeError as error:
            raise ConceptError(
                f"expected the likeness of {short(token)} in layers that this model has, got {short(name)}: it was "
                "learned on a model of another kind"
            ) from error
        channels, context = weight.shape
        shapes = {key: (channels, context) for key in _CHANGES} | {key: (channels,) for key in _CELLS}
        for key, each in own.items():
            got = tuple(each.shape[-len(shapes[key]) :]) if each.ndim == 2 else tuple(each.shape)
            if got != shapes[key]:
                raise ConceptError(
                    f"expected {key} of {short(token)} for {name}, which has {channels} channels and reads {context}, "
                    f"got {tuple(each.shape)}: it was learned on a model of another kind"
                )
        placed = {key: each.to(weight) for key, each in own.items()}
        scaled = {key: strength * placed[key].float() for key in _CHANGES if key in placed}
        cells = {key: placed[key] for key in _CELLS if key in placed}
        return Likeness(
            token,
            **{key: each.to(weight) for key, each in scaled.items()},
            **cells,
            gate=strength * self.gate,
        )


def halved(tensors: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """A layer's tensors as they are kept: in half precision, like the mappers that they come from."""
    return {
        name: each.detach().to("cpu", torch.float16) for name, each in tensors.items() if each is not None
    }
