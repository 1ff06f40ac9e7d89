"""Krippendorff's alpha against published examples and its definition by pairs; Wilson's interval against scipy."""

import math
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from wordbrush.evaluation.study.agreement import krippendorff_alpha, wilson


def units(*observers: str) -> list[list[int]]:
    """Rows of observers' values, "." where one is missing, as columns of units."""
    return [[int(value) for value in column if value != "."] for column in zip(*observers, strict=True)]


# K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011).
BINARY = units("0100000010", "1110010000")
MISSING = units("123321412...", "1233224125.3", ".3332342251.", "12332441251.")


def test_two_observers_two_values():
    assert krippendorff_alpha(BINARY, "nominal") == pytest.approx(0.095, abs=5e-4)


def test_two_observers_five_values():
    pairs = [list(pair) for pair in zip("aabbdccceDDa".lower(), "babbbcccedDd".lower(), strict=True)]
    assert krippendorff_alpha(pairs, "nominal") == pytest.approx(0.692, abs=5e-4)


def test_four_observers_with_missing_values():
    assert [len(values) for values in MISSING] == [3, 4, 4, 4, 4, 4, 4, 4, 4, 3, 2, 1]
    assert krippendorff_alpha(MISSING, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(MISSING, "ordinal") == pytest.approx(0.815, abs=5e-4)


judgements = st.lists(st.lists(st.integers(1, 5), max_size=5), max_size=12)


def by_pairs(judged: list[list[int]], ordinal: bool) -> float | None:
    """The definition without a coincidence matrix: mean distance within units over mean distance in the pool."""
    judged = [values for values in judged if len(values) > 1]
    pool = [value for values in judged for value in values]

    def squared(a: int, b: int) -> float:
        if not ordinal:
            return float(a != b)
        low, high = sorted((a, b))
        between = sum(low <= value <= high for value in pool)
        return (between - (pool.count(low) + pool.count(high)) / 2) ** 2 if a != b else 0.0

    within = [squared(a, b) / (len(values) - 1) for values in judged for a, b in permutations(values, 2)]
    apart = [squared(a, b) for a, b in permutations(pool, 2)]
    if not any(apart):
        return None
    return 1 - (sum(within) / len(pool)) / (sum(apart) / len(apart))


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
@given(judged=judgements)
def test_it_is_the_definition_by_pairs(level: str, judged: list[list[int]]):
    expected = by_pairs(judged, level == "ordinal")
    found = krippendorff_alpha(judged, level)  # type: ignore[arg-type]
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


@pytest.mark.parametrize("level", ["nominal", "ordinal"])
@given(judged=judgements, data=st.data())
def test_order_and_single_values_do_not_matter(level: str, judged: list[list[int]], data: st.DataObject):
    shuffled = [data.draw(st.permutations(values)) for values in data.draw(st.permutations(judged))]
    found = krippendorff_alpha([*shuffled, [3], []], level)  # type: ignore[arg-type]
    expected = krippendorff_alpha(judged, level)  # type: ignore[arg-type]
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


@given(judged=judgements)
def test_ordinal_is_blind_to_the_size_of_steps_and_to_the_direction(judged: list[list[int]]):
    expected = krippendorff_alpha(judged, "ordinal")
    for stretch in (lambda v: v**3, lambda v: -v):
        found = krippendorff_alpha([[stretch(v) for v in values] for values in judged], "ordinal")
        assert found == (None if expected is None else pytest.approx(expected, abs=1e-9))


@given(st.lists(st.integers(1, 5), min_size=2, max_size=9))
def test_who_agrees_in_everything_has_one(values: list[int]):
    expected = None if len(set(values)) == 1 else pytest.approx(1)
    for level in ("nominal", "ordinal"):
        assert krippendorff_alpha([[value] * 3 for value in values], level) == expected


def test_nothing_judged_twice_is_not_defined():
    assert krippendorff_alpha([], "nominal") is None
    assert krippendorff_alpha([[1], [2]], "ordinal") is None


@given(n=st.integers(1, 500), data=st.data())
def test_wilson(n: int, data: st.DataObject):
    k = data.draw(st.integers(0, n))
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_nothing_counted_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)
    assert not math.isnan(sum(wilson(0, 1)))
