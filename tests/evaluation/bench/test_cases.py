"""The bench's cases: what a change changes, and what it leaves alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordbrush.errors import InputError, OptionsError
from wordbrush.evaluation.bench.cases import (
    KINDS,
    PUBLIC_COUNT,
    PUBLIC_SEED,
    Case,
    case,
    fingerprint,
    public,
    split,
)
from wordbrush.pocket import parse, segment
from wordbrush.pocket.sprites import extent

PUBLIC_HASH = "c2905a46a5b4c833323c7320630105a6d2e80445b361496e086f0d28efc06f5d"


def said(text: str) -> tuple[object, ...]:
    found = parse(text)
    return found.things, found.place, found.light, found.style


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return public()


def test_the_public_split_is_two_hundred_balanced_cases(cases: list[Case]) -> None:
    assert len(cases) == PUBLIC_COUNT
    assert set(Counter(one.kind for one in cases).values()) == {20}
    assert len({one.name for one in cases}) == PUBLIC_COUNT


def test_the_public_split_is_what_everyone_measured_on(cases: list[Case]) -> None:
    # A change of the world or of how cases are drawn must not pass for the same benchmark.
    assert fingerprint(cases) == PUBLIC_HASH


def test_the_public_list_is_what_its_seed_draws(cases: list[Case]) -> None:
    assert split(PUBLIC_SEED, PUBLIC_COUNT - 1) == cases[:-1]


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_every_seed_makes_a_balanced_split_that_grows_at_its_end(seed: int) -> None:
    twenty = split(seed, 20)
    assert Counter(one.kind for one in twenty) == dict.fromkeys(KINDS, 2)
    assert split(seed, 7) == twenty[:7]


def test_the_caption_says_the_change(cases: list[Case]) -> None:
    for one in cases:
        assert (said(one.source_prompt) == said(one.target_prompt)) == (one.kind == "nothing changed"), (
            one.name
        )


def test_photos_differ_inside_the_mask_and_nowhere_else(cases: list[Case]) -> None:
    for one in cases[::3]:
        differs = (np.asarray(one.picture) != np.asarray(one.truth)).any(-1)
        assert not (differs & ~one.mask).any(), one.name
        assert differs[one.mask].mean() > 0.4 if one.mask.any() else one.kind == "nothing changed"


def test_where_light_and_style_stay_so_does_something_of_the_picture(cases: list[Case]) -> None:
    for one in cases:
        stays = (one.source.light, one.source.style) == (one.target.light, one.target.style)
        assert (one.mask.mean() < 1) == stays, one.name
    # Outside of photos a mask is exact only up to the style's reach.
    assert {one.source.style for one in cases} == {"photo"}


def test_a_thing_that_changes_keeps_standing_where_it_stood(cases: list[Case]) -> None:
    for one in (one for one in cases if one.kind in ("change object", "change size")):
        for old, new in zip(one.source.things, one.target.things, strict=True):
            feet = [thing.y + extent(thing.name, thing.size)[1] / 2 for thing in (old, new)]
            inside = extent(new.name, new.size)[1] / 2 <= new.y
            assert inside and (
                abs(feet[0] - feet[1]) < 2e-4 or new.y <= extent(new.name, new.size)[1] / 2 + 1e-3
            )


def test_an_added_thing_can_be_seen_and_hides_nothing(cases: list[Case]) -> None:
    for one in (one for one in cases if one.kind == "add object"):
        before, after = segment(one.source), segment(one.target)
        assert ((after == 1) == (before == 1)).all()
        assert (after == 2).mean() > 0.02


def test_two_changes_are_two(cases: list[Case]) -> None:
    for one in (one for one in cases if one.kind == "two changes"):
        before, after = one.source, one.target
        aspects = [getattr(before, name) != getattr(after, name) for name in ("place", "light", "style")]
        for old, new in zip(before.things, after.things, strict=True):
            aspects += [old.name != new.name, old.colour != new.colour]
        assert sum(aspects) == 2, one.name


def test_unknown_kinds_and_impossible_changes_are_named() -> None:
    with pytest.raises(InputError, match="did you mean 'change style'"):
        case(1_000_000, "change stile")
    with pytest.raises(OptionsError, match="odd numbers"):
        case(1_000_000, "delete object")
    with pytest.raises(OptionsError, match="even numbers"):
        case(1_000_001, "add object")
    with pytest.raises(OptionsError, match="at least one case"):
        split(1, 0)


@pytest.mark.slow
def test_drawing_ends_where_a_scene_has_no_room() -> None:
    """The seed draws a scene that is filled by its thing: it is passed over, and the others are as they were."""
    cases = split(777, 400)
    assert len(cases) == 400 and set(Counter(one.kind for one in cases).values()) == {40}
    assert split(777, 20) == cases[:20]


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_is_drawn_from_the_same_scenes(kind: str) -> None:
    only = split(11, 3, kind)
    assert [one.kind for one in only] == [kind] * 3
    assert only == [one for one in split(11, 30) if one.kind == kind]


def test_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(InputError, match="did you mean 'add object'"):
        split(11, 3, "add objects")


def test_more_cases_than_can_be_are_not_drawn() -> None:
    with pytest.raises(OptionsError, match="at most 100,000, got a count of 1000000000000"):
        split(1, 10**12)
