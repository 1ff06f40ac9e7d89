"""How a learned weight is kept: whole, as a difference, in low rank. Each kind says what it adds to the base's weight.

A kind is a frozen dataclass of tensors. `delta(weight)` is what it adds at strength 1, in float32 or better; a weight
that is changed by several concepts gets the sum of what each adds to the base, so their order does not matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import ConceptError


@runtime_checkable
class Change(Protocol):
    """What a concept does to one weight.

    kind: its name in files. own_base: whether it means nothing on another base than its own.
    """

    kind: ClassVar[str]
    own_base: ClassVar[bool]

    def delta(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """What is added to the base's weight. Raises `ConceptError` where the shapes do not fit."""
        ...


@dataclass(frozen=True, eq=False)
class Full:
    """The weight itself, as it was after training."""

    kind: ClassVar[str] = "full"
    own_base: ClassVar[bool] = True
    weight: Tensor

    def delta(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """W' − W."""
        wide = _wide(weight)
        return _fitting(self.weight.to(wide), wide) - wide


@dataclass(frozen=True, eq=False)
class Difference:
    """What training added to the weight."""

    kind: ClassVar[str] = "difference"
    own_base: ClassVar[bool] = True
    difference: Tensor

    def delta(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """W' − W, as it is kept."""
        wide = _wide(weight)
        return _fitting(self.difference.to(wide), wide)


@dataclass(frozen=True, eq=False)
class LowRank:
    """LoRA (Hu et al. 2021, eq. 3): ΔW = (α / r) · up · down. Convolutions have "r in k k" and "out r 1 1".

    alpha: its default in files without it is the rank. middle: LoCon's kernel between the two, "r r k k".
    magnitude: DoRA's (Liu et al. 2024, eq. 5): the weight is scaled to these lengths of its rows or columns.
    """

    kind: ClassVar[str] = "low-rank"
    own_base: ClassVar[bool] = False
    down: Tensor
    up: Tensor
    alpha: Tensor
    middle: Tensor | None = None
    magnitude: Tensor | None = None

    def delta(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """(α / r) · up · down; for DoRA what its scaled sum with W adds to W."""
        wide = _wide(weight)
        down, up = self.down.to(wide), self.up.to(wide)
        if self.middle is None:
            product = up.flatten(1) @ down.flatten(1)
        else:
            product = torch.einsum("or,rqhw,qi->oihw", up.flatten(1), self.middle.to(wide), down.flatten(1))
        change = _fitting(product, wide) * (float(self.alpha) / down.shape[0])
        return change if self.magnitude is None else scaled(wide + change, self.magnitude) - wide


def scaled(weight: Float[Tensor, "..."], magnitude: Tensor) -> Float[Tensor, "..."]:
    """A weight "out in …" whose rows or columns have the lengths of DoRA's magnitude, whose shape, [out, 1] or [1, in],
    says which."""
    matrix = weight.flatten(1)
    lengths = magnitude.to(matrix).flatten(1) if magnitude.ndim > 1 else magnitude.to(matrix)[:, None]
    if lengths.shape == (matrix.shape[0], 1):
        norms = matrix.square().sum(1, keepdim=True).sqrt()
        return (matrix * (lengths / norms)).view_as(weight)
    columns = weight.transpose(0, 1).flatten(1)
    if lengths.shape != (1, columns.shape[0]):
        raise ConceptError(
            f"expected DoRA's magnitudes of shape ({matrix.shape[0]}, 1) or (1, {columns.shape[0]}), got "
            f"{tuple(magnitude.shape)}"
        )
    factors = lengths[0] / columns.square().sum(1).sqrt()
    return weight * factors.view(1, -1, *[1] * (weight.ndim - 2))


def merged(weight: Float[Tensor, "..."], changes: "list[tuple[Change, float]]") -> Float[Tensor, "..."]:
    """The weight with changes of some strengths, in its own type: W + Σ strength · ΔW.

    At strength 0 it is the weight itself, bit for bit, and one whole weight at strength 1 is as it was trained.
    """
    changes = [(change, strength) for change, strength in changes if strength != 0]
    if not changes:
        return weight
    if len(changes) == 1 and isinstance(changes[0][0], Full) and changes[0][1] == 1:
        return _fitting(changes[0][0].weight.to(weight), weight)
    wide = _wide(weight)
    for change, strength in changes:
        wide = wide + strength * change.delta(weight)
    return wide.to(weight.dtype)


KINDS: Mapping[str, type[Any]] = {kind.kind: kind for kind in (Full, Difference, LowRank)}
"""The kinds, by their names in files."""


def tensors(change: Any) -> dict[str, Tensor]:
    """The tensors of a change, to store: those that it has, by the names of its fields."""
    own = {field.name: getattr(change, field.name) for field in fields(change)}
    return {name: tensor for name, tensor in own.items() if tensor is not None}


def restored(kind: str, stored: Mapping[str, Tensor]) -> Change:
    """The change that `tensors` was of. Raises `ConceptError` for an unknown kind, `TypeError` for other tensors."""
    if kind not in KINDS:
        raise ConceptError(
            f"expected a weight kept as {', '.join(KINDS)}, got {kind!r:.60}: update wordbrush"
        )
    return KINDS[kind](**stored)


def _wide(weight: Tensor) -> Tensor:
    return weight.detach().to(torch.promote_types(weight.dtype, torch.float32))


def _fitting(change: Tensor, weight: Tensor) -> Tensor:
    """A change in the shape of its weight: 1×1 convolutions and linear layers are one another's."""
    if change.numel() != weight.numel() or change.shape[0] != weight.shape[0]:
        raise ConceptError(f"expected weights of shape {tuple(weight.shape)}, got {tuple(change.shape)}")
    return change.reshape(weight.shape)
