"""How a learned weight is kept: whole, as a difference, in low rank, as products, as shifts of singular values, as the
entries that are shut. Each kind says what it adds to the base's weight.

A kind is a frozen dataclass of tensors. `delta(weight)` is what it adds at strength 1, in float32 or better; a weight
that is changed by several concepts gets the sum of what each adds to the base, so their order does not matter. A kind
whose changes combine in another way says how, in `added`.
"""

from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

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


@runtime_checkable
class Combining(Change, Protocol):
    """A change of a kind that says what several of it add together, which is not the sum of what each adds."""

    @classmethod
    def added(
        cls, weight: Float[Tensor, "..."], changes: "Sequence[tuple[Any, float]]"
    ) -> Float[Tensor, "..."]:
        """What changes of this kind add to a weight at these strengths, whatever their order."""
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
    magnitude: DoRA's (Liu et al. 2024, eq. 5): the weight is scaled to these lengths of its rows, " out", or of its
    columns, "1 in"; see `scaled`.
    """

    kind: ClassVar[str] = "low-rank"
    own_base: ClassVar[bool] = False
    down: Tensor
    up: Tensor
    alpha: Tensor
    middle: Tensor | None = None
    magnitude: Tensor | None = None

    @classmethod
    def nearest(cls, change: Float[Tensor, "_ _ ..."], rank: int) -> "LowRank":
        """The nearest change of a rank: its largest singular values and their directions (Eckart and Young)."""
        u, values, v = svd(change.flatten(1))
        up, down = u[:, :rank] * values[:rank], v[:rank]
        return cls(
            down.reshape(-1, *change.shape[1:]).contiguous(),
            up.reshape(*up.shape, *[1] * (change.ndim - 2)).contiguous(),
            torch.tensor(float(len(down))),
        )

    @property
    def rank(self) -> int:
        """r."""
        return self.down.shape[0]

    def delta(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """(α / r) · up · down; for DoRA what its scaled sum with W adds to W."""
        wide = _wide(weight)
        down, up = self.down.to(wide), self.up.to(wide)
        if self.middle is None:
            product = up.flatten(1) @ down.flatten(1)
        else:
            product = torch.einsum("or,rqhw,qi->oihw", up.flatten(1), self.middle.to(wide), down.flatten(1))
        return _decomposed(wide, _fitting(product, wide) * (float(self.alpha) / self.rank), self.magnitude)


@dataclass(frozen=True, eq=False)
class Hadamard:
    """LoHa (Hyeon-Woo et al. 2022, FedPara, prop. 2; LyCORIS): ΔW = (α / r) · (w1_a · w1_b) ⊙ (w2_a · w2_b).

    w1_a, w2_a: "out r"; w1_b, w2_b: "r in·k·k". With Tucker's cores t1 and t2, "r r k k", they are "r out" and "r in"
    (FedPara, prop. 3). alpha, magnitude: as in `LowRank`.
    """

    kind: ClassVar[str] = "hadamard"
    own_base: ClassVar[bool] = False
    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    alpha: Tensor
    t1: Tensor | None = None
    t2: Tensor | None = None
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """r."""
        return self.w1_b.shape[0]

    def delta(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The product, entry by entry, of two weights of low rank."""
        wide = _wide(weight)
        first = _product(self.w1_a.to(wide), self.w1_b.to(wide), self.t1)
        second = _product(self.w2_a.to(wide), self.w2_b.to(wide), self.t2)
        change = _fitting(first * second, wide) * (float(self.alpha) / self.rank)
        return _decomposed(wide, change, self.magnitude)


@dataclass(frozen=True, eq=False)
class Kronecker:
    """LoKr (Edalati et al. 2022, KronA, eq. 4; Yeh et al. 2024, LyCORIS): ΔW = (α / r) · w1 ⊗ w2.

    Each factor is kept whole, or as a product: w1 = w1_a · w1_b, and w2 with Tucker's core t2 as in `Hadamard`. Where
    both are whole there is no rank, and α / r is 1. alpha, magnitude: as in `LowRank`.
    """

    kind: ClassVar[str] = "kronecker"
    own_base: ClassVar[bool] = False
    alpha: Tensor
    w1: Tensor | None = None
    w1_a: Tensor | None = None
    w1_b: Tensor | None = None
    w2: Tensor | None = None
    w2_a: Tensor | None = None
    w2_b: Tensor | None = None
    t2: Tensor | None = None
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """r; 1 where there is none."""
        return next((each.shape[0] for each in (self.w1_b, self.w2_b) if each is not None), 1)

    def delta(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Kronecker's product of two small weights."""
        wide = _wide(weight)
        first = _factor(wide, self.w1, self.w1_a, self.w1_b)
        second = _factor(wide, self.w2, self.w2_a, self.w2_b, self.t2)
        first = first.view(*first.shape, *[1] * (second.ndim - first.ndim))
        scale = 1.0 if self.w1_b is None and self.w2_b is None else float(self.alpha) / self.rank
        return _decomposed(
            wide, _fitting(torch.kron(first, second.contiguous()), wide) * scale, self.magnitude
        )


@dataclass(frozen=True, eq=False)
class Spectral:
    """SVDiff (Han et al. 2023, eq. 2): W' = U · diag(relu(σ + shift)) · Vᵀ, of the W = U · diag(σ) · Vᵀ that it shifts.

    A convolution is the matrix "out in·k·k", the scales of a norm are a single row: its one value is their length.
    Several add up below the relu, relu(σ + Σ strength · shift): so strengths α and 1 − α go from one to
    the other.
    """

    kind: ClassVar[str] = "spectral"
    own_base: ClassVar[bool] = True
    shift: Float[Tensor, " values"]

    @classmethod
    def added(
        cls, weight: Float[Tensor, "..."], changes: "Sequence[tuple[Spectral, float]]"
    ) -> Float[Tensor, "..."]:
        """What Σ strength · shift adds."""
        counts = [change.shift.numel() for change, _ in changes]
        if len(set(counts)) > 1:
            raise ConceptError(f"expected as many shifts in each concept, got {', '.join(map(str, counts))}")
        # Wider than what is kept, so that no order of the sum can be told from another.
        shifts = [change.shift.flatten().double() * strength for change, strength in changes]
        return cls(torch.stack(shifts).sum(0)).delta(weight)

    def delta(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """U · diag(relu(σ + shift) − σ) · Vᵀ."""
        u, values, v = spectrum(weight)
        shift = self.shift.to(values).flatten()
        if len(shift) != len(values):
            raise ConceptError(f"expected {len(values)} shifts of singular values, got {len(shift)}")
        return ((u * ((values + shift).relu() - values)) @ v).view_as(weight)


def spectrum(
    weight: Float[Tensor, "..."],
) -> tuple[Float[Tensor, "out r"], Float[Tensor, " r"], Float[Tensor, "r in"]]:
    """U, σ and Vᵀ of a weight as `Spectral` sees it, in float32 or better."""
    wide = _wide(weight)
    u, values, v = svd(wide.flatten(1) if wide.ndim > 1 else wide[None])
    return u, values.clamp(min=0), v


@dataclass(frozen=True, eq=False)
class Shut:
    """Cones (Liu et al. 2023): some entries are set to 0. Of two of these, what either shuts is shut.

    indices: where they are in the flattened weight, int32, ascending. Raises `ConceptError` for others.
    """

    kind: ClassVar[str] = "shut"
    own_base: ClassVar[bool] = True
    indices: Tensor

    def __post_init__(self) -> None:
        own = self.indices
        if own.dtype != torch.int32 or own.ndim != 1:
            raise ConceptError(
                f"expected a list of int32 places of shut entries, got {own.dtype} of shape {tuple(own.shape)}"
            )
        if bool((own[:1] < 0).any()) or bool((own.diff() <= 0).any()):
            raise ConceptError("expected places of shut entries that rise from 0, each once, got others")

    @classmethod
    def added(
        cls, weight: Float[Tensor, "..."], changes: "Sequence[tuple[Shut, float]]"
    ) -> Float[Tensor, "..."]:
        """W ⊙ (Π (1 − strength · mask) − 1): where several shut an entry at strength 1, it is 0 as by one of them."""
        wide = _wide(weight)
        factors = torch.ones_like(wide).flatten()
        for change, strength in changes:
            places = change.indices.to(wide.device)
            if len(places) and int(places[-1]) >= len(factors):
                raise ConceptError(
                    f"expected places of shut entries below {len(factors)}, got {int(places[-1])}"
                )
            factors[places] *= 1 - strength
        return wide * (factors.view_as(wide) - 1)

    def delta(self, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """−W at what is shut, 0 elsewhere."""
        return self.added(weight, [(self, 1.0)])


def _product(a: Tensor, b: Tensor, core: Tensor | None) -> Tensor:
    """a · b; with Tucker's core the sum over i and j of core[i, j] · a[i] · b[j], "out in k k"."""
    return a @ b if core is None else torch.einsum("ij...,io,jp->op...", core.to(a), a, b)


def _factor(
    wide: Tensor, whole: Tensor | None, a: Tensor | None, b: Tensor | None, core: Tensor | None = None
) -> Tensor:
    if whole is not None:
        return whole.to(wide)
    if a is None or b is None:
        raise ConceptError(
            "expected both factors of Kronecker's product, each whole or as a product, got one"
        )
    return _product(a.to(wide), b.to(wide), core)


def _decomposed(wide: Tensor, change: Tensor, magnitude: Tensor | None) -> Tensor:
    """A change, or for DoRA what the scaled sum of weight and change adds to the weight."""
    return change if magnitude is None else scaled(wide + change, magnitude) - wide


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


def svd(matrix: Float[Tensor, "m n"]) -> tuple[Tensor, Tensor, Tensor]:
    """U, σ and Vᵀ of a matrix U · diag(σ) · Vᵀ, the largest σ first, as many as its shorter side has."""
    return cast(tuple[Tensor, Tensor, Tensor], torch.linalg.svd(matrix, full_matrices=False))


@contextmanager
def fitting(name: str) -> Generator[None]:
    """Raise `ConceptError` for what does not fit the weight of this name."""
    try:
        yield
    except (ConceptError, RuntimeError) as error:
        raise ConceptError(f"{name} does not fit this model: {error}") from error


def added(name: str, change: Change, weight: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """What a change adds to the weight of this name, at strength 1. Raises `ConceptError` where it does not fit."""
    with fitting(name):
        return change.delta(weight)


def merged(weight: Float[Tensor, "..."], changes: "list[tuple[Change, float]]") -> Float[Tensor, "..."]:
    """The weight with changes of some strengths, in its own type: W + Σ strength · ΔW, where those of a kind that says
    how they combine are one.

    At strength 0 it is the weight itself, bit for bit, and one whole weight at strength 1 is as it was trained.
    """
    changes = [(change, strength) for change, strength in changes if strength != 0]
    if not changes:
        return weight
    if len(changes) == 1 and isinstance(changes[0][0], Full) and changes[0][1] == 1:
        return _fitting(changes[0][0].weight.to(weight), weight)
    wide = _wide(weight)
    for each in _added(weight, changes):
        wide = wide + each
    return wide.to(weight.dtype)


def _added(weight: Tensor, changes: Sequence[tuple[Change, float]]) -> Iterator[Tensor]:
    """What the changes add: first the kinds that say how several of theirs combine, all of each at once."""
    combining: dict[type[Combining], list[tuple[Change, float]]] = defaultdict(list)
    for change, strength in changes:
        if isinstance(change, Combining):
            combining[type(change)].append((change, strength))
    for kind, own in combining.items():
        yield kind.added(weight, own)
    for change, strength in changes:
        if not isinstance(change, Combining):
            yield strength * change.delta(weight)


KINDS: Mapping[str, type[Any]] = {
    kind.kind: kind for kind in (Full, Difference, LowRank, Hadamard, Kronecker, Spectral, Shut)
}
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
