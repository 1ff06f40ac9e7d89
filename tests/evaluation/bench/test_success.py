"""Edit success: an ideal reader, which knows the scenes, says yes to the truth and no to everything else."""

from dataclasses import replace

import numpy as np
import pytest

from wordbrush.evaluation.bench.cases import KINDS, Case, public
from wordbrush.evaluation.bench.success import Readings, succeeded
from wordbrush.evaluation.judges.reader import Reading
from wordbrush.pocket import Scene, change, segment
from wordbrush.pocket.vocabulary import LIGHTS, NAMES, PLACES, STYLES


def reading(scene: Scene, region: np.ndarray | None = None) -> Reading:
    """What a reader without fault would say: a thing is seen in a region if a third of it lies there."""
    labels = segment(scene)
    region = np.ones_like(labels, dtype=bool) if region is None else region
    shares = dict.fromkeys(NAMES, 0.0)
    extents = dict.fromkeys(NAMES, 0.0)
    for i, thing in enumerate(scene.things, 1):
        shares[thing.name] = ((labels == i) & region).sum() / max(1, (labels == i).sum())
        extents[thing.name] = float(((labels == i) & region).sum() / max(1, region.sum()))
    things = {name: float(share > 1 / 3) for name, share in shares.items()}
    colours = {name: None for name in NAMES} | {thing.name: thing.colour for thing in scene.things}
    tables = (("place", PLACES), ("light", LIGHTS), ("style", STYLES))
    whole = {kind: {word: float(word == getattr(scene, kind)) for word in table} for kind, table in tables}
    return Reading(things, extents, colours, **whole, bare=1 - max(things.values()))


def looks(case: Case, scene: Scene) -> Readings:
    region = case.mask if case.mask.any() else ~case.mask
    return Readings(reading(scene), reading(scene, region))


def judged(case: Case, made: Scene) -> bool:
    return succeeded(case, looks(case, made), looks(case, case.source), looks(case, case.target))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return public()


def of(cases: list[Case], kind: str) -> list[Case]:
    return [case for case in cases if case.kind == kind]


@pytest.mark.parametrize("kind", KINDS)
def test_the_truth_succeeds_and_the_source_does_not(kind: str, cases: list[Case]) -> None:
    for case in of(cases, kind):
        assert judged(case, case.target), case.name
        assert judged(case, case.source) == (kind == "nothing changed"), case.name


def test_the_right_thing_beside_the_old_one_is_no_swap(cases: list[Case]) -> None:
    for case in of(cases, "change object"):
        made = looks(case, case.target)
        old = {t.name for t in case.source.things} - {t.name for t in case.target.things}
        both = replace(made.region, things={**made.region.things, **dict.fromkeys(old, 0.9)})
        source, truth = looks(case, case.source), looks(case, case.target)
        assert not succeeded(case, Readings(made.whole, both), source, truth)


def test_another_thing_where_one_was_taken_out_is_no_removal(cases: list[Case]) -> None:
    for case in of(cases, "delete object"):
        made, source = looks(case, case.target), looks(case, case.source)
        for name in (
            "ghost",
            case.target.things[0].name,
        ):  # the second is the thing that stays, a second time
            shown = replace(made.region, things={**made.region.things, name: 0.9})
            seen_in_truth = made.region.sees(name)
            assert succeeded(case, Readings(made.whole, shown), source, made) == seen_in_truth, case.name


def test_an_added_thing_counts_wherever_it_stands(cases: list[Case]) -> None:
    for case in of(cases, "add object"):
        old, new = case.target.things
        elsewhere = replace(new, x=round(1 - new.x, 4))
        assert judged(case, replace(case.target, things=(old, elsewhere)))
        assert not judged(case, replace(case.target, things=(elsewhere,)))  # in the old thing's place


def test_a_wrong_colour_fails(cases: list[Case]) -> None:
    for case in of(cases, "change colour"):
        i = next(
            i
            for i, pair in enumerate(zip(case.source.things, case.target.things, strict=True))
            if pair[0] != pair[1]
        )
        wrong = next(c for c in ("green", "pink", "red") if c != case.target.things[i].colour)
        assert not judged(case, change(case.target, thing=i, colour=wrong))


def test_a_lost_thing_fails_every_kind(cases: list[Case]) -> None:
    for case in (case for case in cases if len(case.target.things) == 2):
        kept = [name for name in (thing.name for thing in case.target.things)]
        made, source = looks(case, case.target), looks(case, case.source)
        for name in kept:
            lost = {**made.whole.things, name: 0.1}
            blind = Readings(replace(made.whole, things=lost), replace(made.region, things=lost))
            assert not succeeded(case, blind, source, made), case.name


def test_drifting_into_another_place_fails_nothing_changed(cases: list[Case]) -> None:
    for case in of(cases, "nothing changed"):
        other = next(place for place in PLACES if place != case.source.place)
        assert not judged(case, change(case.source, place=other))
