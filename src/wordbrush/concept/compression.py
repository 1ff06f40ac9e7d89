"""Smaller files: each change of a weight in low rank (Kumari et al. 2023, Custom Diffusion, section 4.3).

W − W₀ = U·diag(σ)·Vᵀ, of which the largest σ are kept: for each weight so many that their sum is a share of that of all
(the paper's way), or of all weights together those that count most for their bytes. What would not get smaller stays as
it is, and so does what has no rank: biases, the scales of norms.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.concept.applied import require_base, unplaced
from wordbrush.concept.concept import Concept
from wordbrush.concept.weights import Change, LowRank, added, tensors
from wordbrush.errors import ConceptError, OptionsError
from wordbrush.model import Model
from wordbrush.options import CompressOptions, parse
from wordbrush.progress import Progress

_Values = Mapping[str, Float[Tensor, " values"]]
"""The singular values of each change, largest first; of one without a rank, its length."""

_Measured = Callable[[Concept], int]


@dataclass(frozen=True, eq=False)
class Compressed:
    """A smaller concept. kept: the length of its changes, all weights together, relative to what it was."""

    concept: Concept
    kept: float


def compress(
    concept: Concept,
    model: Model,
    *,
    share: float | None = None,
    size: int | None = None,
    measured: _Measured = lambda concept: len(concept.content()),
) -> Generator[Progress, None, Compressed]:
    """Keep the largest singular values of a concept's changes. share: in each weight those whose sum is this share of
    all. Or size: as many as make a file of at most so many bytes. measured: how many a concept's file has.

    Raises `ConceptError` for a concept that does not fit the model's base, and for a size that is too small: the
    message has the smallest. Raises `OptionsError` for a share that is not in (0, 1], a size below 1, and for both or
    neither.
    """
    parse(CompressOptions, {"compress": share, "size": size})
    if (share is None) == (size is None):
        raise OptionsError(
            "expected either a share of the singular values or a size, got both or neither: give one"
        )
    require_base(model, concept)
    known = {name: own.cpu() for name, own in model.base.weights.items() if name in concept.weights}
    if strange := sorted(concept.weights.keys() - known.keys()):
        raise ConceptError(unplaced(model, strange))
    how = "to a size" if share is None else share  # not which: its digits would count
    concept = replace(concept, options={**concept.options, "compressed": how}, file=None)
    values: dict[str, Tensor] = {}
    for number, (name, change) in enumerate(concept.weights.items(), 1):
        delta = added(name, change, known[name])
        matrix = delta.flatten(1) if delta.ndim > 1 else delta.reshape(1, -1)
        values[name] = cast(Tensor, torch.linalg.svdvals(matrix))
        yield Progress("measuring", number, len(concept.weights))
    if share is not None:
        ranks = {name: _rank(own, share) for name, own in values.items() if known[name].ndim > 1}
    else:
        assert size is not None, "just checked"
        ranks = _ranks_within(size, concept, known, values, measured)
    weights = dict(_planned(concept, known, ranks).weights)
    kept: list[Tensor] = []
    for number, (name, planned) in enumerate(list(weights.items()), 1):
        is_lowered = planned is not concept.weights[name]
        if is_lowered:
            delta = added(name, concept.weights[name], known[name])
            weights[name] = LowRank.nearest(delta, ranks[name])
        kept.append(values[name][: ranks[name] if is_lowered else None])
        yield Progress("compressing", number, len(weights))
    before, after = (
        sum(float(each.double().square().sum()) for each in own) for own in (values.values(), kept)
    )
    return Compressed(replace(concept, weights=weights), (after / before) ** 0.5 if before else 1.0)


def _rank(values: Float[Tensor, " values"], share: float) -> int:
    """How many values it takes for this share of their sum; none if they are 0."""
    sums = values.double().cumsum(0)
    return int(torch.searchsorted(sums, share * sums[-1])) + 1 if sums[-1] > 0 else 0


def _ranks_within(
    size: int, concept: Concept, known: Mapping[str, Tensor], values: _Values, measured: _Measured
) -> dict[str, int]:
    """The ranks that keep most in a file of this size, of values one after the other, by their squares for their bytes.
    Raises `ConceptError`."""

    def taken(planned: Concept) -> float:
        """What a format cannot hold before it is in low rank is too large."""
        try:
            return float(measured(planned))
        except ConceptError:
            return inf

    if taken(concept) <= size:
        return {}
    costs = {
        name: _bytes(_empty(own, 2)) - _bytes(_empty(own, 1)) for name, own in known.items() if own.ndim > 1
    }
    order = sorted(
        (-(float(each) ** 2) / cost, name)
        for name, cost in costs.items()
        for each in values[name]
        if each > 0
    )

    def ranks(count: int) -> dict[str, int]:
        return {**dict.fromkeys(costs, 0), **Counter(name for _, name in order[:count])}

    # Their own bytes are a bound; how many the names and shapes take, only the file tells.
    most = bisect_right(list(accumulate(costs[name] for _, name in order)), size)
    counts = range(1, most + 1)
    count = bisect_right(counts, size, key=lambda count: taken(_planned(concept, known, ranks(count))))
    if not count:
        least = measured(_planned(concept, known, ranks(1)))
        raise ConceptError(
            f"expected a size of at least {least} bytes, the smallest that this concept can be, got {size}"
        )
    return ranks(count)


def _planned(concept: Concept, known: Mapping[str, Tensor], ranks: Mapping[str, int]) -> Concept:
    """The concept as large as it will be with these ranks, with zeros in what is not computed yet. A change of rank 0
    is left out; what has no rank stays, and what would not get smaller."""
    weights: dict[str, Change] = {}
    for name, change in concept.weights.items():
        rank = ranks.get(name)
        empty = _empty(known[name], rank) if rank else None
        if rank is None or (empty is not None and _bytes(empty) >= _bytes(change)):
            weights[name] = change
        elif empty is not None:
            weights[name] = empty
    return replace(concept, weights=weights)


def _empty(weight: Tensor, rank: int) -> LowRank:
    """No change, in as many numbers as one of a rank has."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    down = torch.zeros(rank, *weight.shape[1:], dtype=dtype)
    up = torch.zeros(weight.shape[0], rank, *[1] * (weight.ndim - 2), dtype=dtype)
    return LowRank(down, up, torch.tensor(float(rank)))


def _bytes(change: Change) -> int:
    return sum(each.nbytes for each in tensors(change).values())
