"""Agreement between raters, and confidence intervals of shares."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from typing import Literal

Level = Literal["nominal", "ordinal"]
Distance = Callable[[int, int], float]
_Z = 1.959963984540054  # the 97.5 % quantile of the normal distribution


def krippendorff_alpha(units: Iterable[Sequence[int | str]], level: Level) -> float | None:
    """Krippendorff's α = 1 − D_o / D_e: 1 is perfect agreement, 0 is agreement by chance.

    units: for each unit judged, its raters' values, in any order and number; units with fewer than two values are
    ignored. Returns None where α is not defined: no unit was judged twice, or all values are the same.

    From the coincidence matrix of K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011):
    o_ck = Σ_u (pairs (c, k) of different raters in u) / (m_u − 1), with m_u values in unit u; n_c = Σ_k o_ck;
    n = Σ_c n_c; D_o = Σ o_ck δ²_ck / n; D_e = Σ n_c n_k δ²_ck / (n (n − 1)). The squared distance δ² is 1 between
    different names, and (Σ_{g=c…k} n_g − (n_c + n_k) / 2)² between ranks.
    """
    coincidences: defaultdict[tuple[int | str, int | str], float] = defaultdict(float)
    for values in units:
        for pair in permutations(values, 2):
            coincidences[pair] += 1 / (len(values) - 1)
    ordered = sorted({value for value, _ in coincidences}, key=str if level == "nominal" else float)
    index = {value: i for i, value in enumerate(ordered)}
    n = [math.fsum(coincidences[c, k] for k in ordered) for c in ordered]
    distance = _nominal if level == "nominal" else _ordinal(n)
    observed = math.fsum(o * distance(index[c], index[k]) for (c, k), o in coincidences.items() if c != k)
    expected = math.fsum(n[c] * n[k] * distance(c, k) for c in range(len(n)) for k in range(len(n)) if c != k)
    return None if expected == 0 else 1 - (math.fsum(n) - 1) * observed / expected


def _nominal(c: int, k: int) -> float:
    return float(c != k)


def _ordinal(n: Sequence[float]) -> Distance:
    def squared(c: int, k: int) -> float:
        low, high = min(c, k), max(c, k)
        return (math.fsum(n[low : high + 1]) - (n[c] + n[k]) / 2) ** 2

    return squared


def wilson(successes: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a share by E. B. Wilson (1927); (0, 1) for n = 0.

    It assumes independent answers. Several answers of one rater, or about one picture, are not quite independent, so
    the interval is a lower bound of the uncertainty.
    """
    assert 0 <= successes <= n
    if n == 0:
        return 0.0, 1.0
    share, z2 = successes / n, _Z**2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half_width = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return (0.0 if successes == 0 else middle - half_width), (1.0 if successes == n else middle + half_width)
