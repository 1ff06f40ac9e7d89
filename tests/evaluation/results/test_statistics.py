"""Bootstrap intervals: against closed forms, and the laws they obey."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordbrush.errors import InputError
from wordbrush.evaluation.results.statistics import interval

numbers = st.floats(-1e6, 1e6)


def test_the_interval_of_many_normal_values_is_the_textbooks() -> None:
    values = np.random.default_rng(1).normal(3, 2, 2000)
    found = interval(values.tolist(), resamples=4000)
    half = 1.96 * values.std() / math.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_values_that_always_agree_within_their_group_count_once_a_group() -> None:
    groups = np.random.default_rng(2).normal(size=100)
    repeated = np.repeat(groups, 10).tolist()
    names = np.repeat(np.arange(100), 10).tolist()
    alone, together, naive = interval(groups.tolist()), interval(repeated, names), interval(repeated)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, rel=0.1)
    assert naive.high - naive.low == pytest.approx((alone.high - alone.low) / math.sqrt(10), rel=0.15)


@settings(max_examples=50, deadline=None)
@given(st.lists(numbers, min_size=2, max_size=30), st.integers(0, 5), st.floats(-5, 5), st.floats(0.1, 10))
def test_intervals_hold_their_mean_and_move_with_their_values(
    values: list[float], seed: int, shift: float, scale: float
) -> None:
    found = interval(values, seed=seed, resamples=200)
    slack = 1e-6 * max(1.0, *map(abs, values))
    assert min(values) - slack <= found.low <= found.high <= max(values) + slack
    assert found.mean == pytest.approx(np.mean(values), abs=slack)
    moved = interval([scale * value + shift for value in values], seed=seed, resamples=200)
    assert moved.low == pytest.approx(scale * found.low + shift, abs=20 * slack)


def test_what_does_not_apply_takes_no_part() -> None:
    found = interval([1.0, None, math.nan, 3.0], ["a", "b", "b", "a"])
    assert (found.mean, found.count) == (2.0, 2)
    nothing = interval([None])
    assert nothing.count == 0 and nothing.text() == "–"


def test_one_group_has_a_mean_and_no_interval() -> None:
    found = interval([1.0, None, math.nan, 3.0], ["a", "b", "b", "a"])
    assert math.isnan(found.low) and math.isnan(found.high)
    assert found.text(1) == "2.0"
    assert interval([1.0, 3.0]).text(1) == "2.0 ± 1.0"


def test_groups_must_be_as_many_as_values() -> None:
    with pytest.raises(InputError, match="a group for each of 2 values, got 1"):
        interval([1.0, 2.0], ["a"])
