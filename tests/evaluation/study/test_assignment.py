"""Who sees what: balance at every moment, chance by seed, checks whose answer is plain."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordbrush.errors import InputError
from wordbrush.evaluation.study.assignment import SAME, Trial, assign, check_known
from wordbrush.evaluation.study.design import Item, Kind, Settings, Study, Unit

Make = Callable[..., Study]


def study(kind: Kind, items: int, methods: int, **settings: object) -> Study:
    """A study without files."""
    names = tuple(f"m{i}" for i in range(methods))
    values = {"title": "x", "kind": kind, "methods": names, "attention_checks": 0, **settings}
    paths = {name: Path(f"{name}.png") for name in names}
    found = {f"i{i}": Item(f"i{i}", "a cat", (Path(f"{i}.png"),), True, paths) for i in range(items)}
    made = Study(Path(), Settings.model_validate(values), found)
    made.__dict__["unrelated"] = {one: tuple(other for other in found if other != one) for one in found}
    return made


def run(made: Study, raters: int) -> tuple[list[tuple[Trial, ...]], Counter[Unit]]:
    taken: Counter[Unit] = Counter()
    plans: list[tuple[Trial, ...]] = []
    for rater in range(1, raters + 1):
        plans.append(assign(made, rater, taken))
        taken.update(trial.unit for trial in plans[-1] if not trial.is_check)
    return plans, taken


studies = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["rating", "choice", "ranking"]),
        "items": st.integers(2, 7),
        "methods": st.integers(2, 4),
        "seed": st.integers(0, 99),
        "pages_per_rater": st.integers(1, 12),
        "raters_per_item": st.integers(1, 6),
    }
)


@given(settings=studies, raters=st.integers(1, 9))
@hypothesis.settings(deadline=None)
def test_everything_has_as_many_raters_as_everything_else(settings: dict[str, Any], raters: int):
    made = study(**settings)
    plans, taken = run(made, raters)
    counts = [taken[unit] for unit in made.units]
    assert max(counts) - min(counts) <= 1
    assert max(counts) <= made.settings.raters_per_item
    of_item = Counter(item for item, _ in taken.elements())
    assert max(of_item.values()) - min(of_item[item] for item in made.items) <= 1
    for plan in plans:
        assert len({trial.unit for trial in plan}) == len(plan) <= made.settings.pages_per_rater
    if any(len(plan) < min(made.settings.pages_per_rater, len(made.units)) for plan in plans):
        assert max(counts) == made.settings.raters_per_item


@given(settings=studies)
@hypothesis.settings(max_examples=30, deadline=None)
def test_all_is_asked_in_the_end_and_then_no_more(settings: dict[str, Any]):
    made = study(**settings)
    plans, taken = run(made, made.settings.raters_per_item * len(made.units) + 1)
    assert plans[-1] == ()
    assert set(taken.values()) == {made.settings.raters_per_item}
    assert set(taken) == set(made.units)


def test_what_was_left_unanswered_is_given_to_the_next():
    made = study("rating", 5, 2, pages_per_rater=2, raters_per_item=9)
    left = {("i3", frozenset({"m1"})), ("i4", frozenset({"m0"}))}
    taken = {unit: 0 if unit in left else 1 for unit in made.units}
    assert {trial.unit for trial in assign(made, 7, taken)} == left


def test_the_seed_decides():
    plans = [run(study("choice", 6, 3, seed=seed), 4)[0] for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
    assert len(set(plans[0])) == 4


def test_the_same_plan_in_another_process():
    """Of text, python's own hash differs from run to run."""
    made = study("ranking", 3, 4, seed=3)
    assert [trial.shown for trial in assign(made, 1, {})] == EXPECTED


EXPECTED = [("m0", "m3", "m2", "m1"), ("m1", "m0", "m2", "m3"), ("m1", "m3", "m2", "m0")]


def test_sides_are_shuffled():
    plans, _ = run(study("choice", 20, 2, raters_per_item=50, pages_per_rater=20), 20)
    first = Counter(trial.shown[0] for plan in plans for trial in plan)
    assert first.total() == 400
    assert 150 < first["m0"] < 250  # five standard deviations


@given(
    kind=st.sampled_from(["rating", "choice", "ranking"]),
    checks=st.integers(0, 5),
    pages=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_checks_come_on_top_and_never_first(kind: Kind, checks: int, pages: int, seed: int):
    made = study(kind, 8, 2, attention_checks=checks, pages_per_rater=pages, seed=seed)
    plan = assign(made, 1, {})
    assert [trial.is_check for trial in plan].count(True) == checks
    assert not plan[0].is_check
    assert len(plan) == pages + checks
    for trial in plan:
        if trial.is_check:
            assert all(shown != f":other:{trial.item}" for shown in trial.shown)
            assert len(trial.shown) == (1 if kind == "rating" else 2)


def test_a_rating_is_checked_with_both_ends():
    plan = assign(study("rating", 8, 2, attention_checks=2), 1, {})
    shown = [trial.shown[0] for trial in plan if trial.is_check]
    assert sorted(each.split(":")[1] for each in shown) == ["other", "same"]


@pytest.mark.parametrize(
    ("trial", "said"),
    [
        (Trial("gone", ("text2live",)), "item 'gone'"),
        (Trial("item-1", ("gone",)), "'gone' of item 'item-1'"),
        (Trial("item-1", (SAME, ":other:gone"), True), "item 'gone'"),
    ],
)
def test_a_page_whose_pictures_went_is_told(make: Make, trial: Trial, said: str):
    made = make("rating")
    check_known(made, [Trial("item-1", ("text2live",)), Trial("item-1", (SAME, ":other:item-0"), True)])
    with pytest.raises(InputError, match=said):
        check_known(made, [trial])
