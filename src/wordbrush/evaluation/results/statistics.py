"""Means with bootstrap intervals."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from wordbrush.errors import InputError


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval; `count` values took part.

    `low` and `high` are not-a-number where all values are of one group: a single independent value has no interval.
    """

    mean: float
    low: float
    high: float
    count: int

    def text(self, digits: int = 2) -> str:
        """`27.22 ± 0.41`: the mean, and half the interval's width, if it has one; a dash where nothing took part."""
        if self.count == 0:
            return "–"
        if self.low != self.low:
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {(self.high - self.low) / 2:.{digits}f}"


def interval(
    values: Sequence[float | None],
    groups: Sequence[Hashable] | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean of the values and its percentile bootstrap interval at 95 % (Efron 1979).

    None and not-a-number do not apply and take no part. groups: what the values have in common, the scene of an
    edit say; groups are drawn whole, because values of one group are not independent, and a single group
    has no interval. The same seed gives the same interval.
    """
    if groups is not None and len(groups) != len(values):
        raise InputError(f"expected a group for each of {len(values)} values, got {len(groups)} groups")
    kept = [(i, float(value)) for i, value in enumerate(values) if value is not None and value == value]
    if not kept:
        return Interval(np.nan, np.nan, np.nan, 0)
    sums: dict[Hashable, list[float]] = {}
    for i, value in kept:
        total = sums.setdefault(i if groups is None else groups[i], [0.0, 0.0])
        total[0] += value
        total[1] += 1
    mean = float(np.mean([value for _, value in kept]))
    if len(sums) == 1:
        return Interval(mean, np.nan, np.nan, len(kept))
    totals = np.array(list(sums.values()))
    drawn = np.random.default_rng(seed).integers(len(totals), size=(resamples, len(totals)))
    # Which groups are drawn how often, as one matrix: means are then one product.
    counts = np.zeros((resamples, len(totals)))
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1)
    drawn_sums = counts @ totals
    low, high = np.percentile(drawn_sums[:, 0] / drawn_sums[:, 1], [2.5, 97.5])
    return Interval(mean, float(low), float(high), len(kept))
