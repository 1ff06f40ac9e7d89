"""Scenes as values: exact JSON, changes that keep everything else, and the guarantees of sampling."""

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from scene_strategies import built, scenes

from wordbrush.errors import InputError
from wordbrush.pocket import Scene, Thing, change, sample, segment
from wordbrush.pocket.vocabulary import COLOURS, HELD_OUT, HELD_OUT_LOOKS, NAMES, rare


@settings(deadline=None)
@given(scenes)
def test_json_gives_back_an_equal_scene(values: dict[str, Any]) -> None:
    scene = built(values)
    assert Scene.from_json(scene.to_json()) == scene
    assert hash(Scene.from_json(scene.to_json())) == hash(scene)


def broken(**replaced: object) -> str:
    values = json.loads(sample(3).to_json())
    return json.dumps({key: value for key, value in (values | replaced).items() if value != "absent"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a cat", "expected a scene as JSON"),
        ("[1]", "as a JSON object"),
        (broken(palce="beach"), "did you mean 'place'"),
        (broken(place="absent"), "no 'place'"),
        (broken(place=3), "must be str"),
        (broken(place="beech"), "did you mean 'beach'"),
        (broken(place_seed=1.5), "must be int"),
        (broken(wording=True), "must be int"),
        (broken(wording=24), "wording in 0 to 23"),
        (broken(things=[]), "one to three things"),
        (broken(things={}), "must be a list"),
        (broken(things=[3]), "expected a thing"),
        (broken(things=[{"name": "cat"}]), "no 'colour'"),
        (broken(relation="above"), "unknown relation"),
        (broken(things=[dataclasses.asdict(Thing("cat"))], relation="on"), "relates two things"),
    ],
)
def test_json_that_is_no_scene_is_rejected(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Scene.from_json(text)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"name": "catt"}, "did you mean 'cat'"),
        ({"name": "cat", "colour": "rad"}, "did you mean 'red'"),
        ({"name": "cat", "size": "medum"}, "did you mean 'medium'"),
        ({"name": "cat", "x": 1.01}, "expected x in"),
        ({"name": "cat", "y": float("nan")}, "expected y in"),
    ],
)
def test_an_unknown_thing_is_rejected(arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Thing(**arguments)  # type: ignore[arg-type]


PAIR = Scene((Thing("cat", "red", x=0.3), Thing("dog", x=0.7)), "beach", 5, "night", "mosaic", "left", 7)


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"name": "tiger"}, {"things": (Thing("tiger", "red", x=0.3), PAIR.things[1])}),
        ({"thing": 1, "colour": "blue"}, {"things": (PAIR.things[0], Thing("dog", "blue", x=0.7))}),
        ({"colour": None}, {"things": (Thing("cat", x=0.3), PAIR.things[1])}),
        ({"size": "large"}, {"things": (Thing("cat", "red", "large", x=0.3), PAIR.things[1])}),
        ({"remove": True}, {"things": PAIR.things[1:], "relation": None}),
        ({"add": Thing("owl")}, {"things": (*PAIR.things, Thing("owl"))}),
        ({"place": "snow"}, {"place": "snow"}),
        ({"light": "day"}, {"light": "day"}),
        ({"style": "photo"}, {"style": "photo"}),
        ({}, {}),
    ],
)
def test_change_changes_the_given_fields_and_nothing_else(
    changes: dict[str, object], fields: dict[str, object]
) -> None:
    assert change(PAIR, **changes) == dataclasses.replace(PAIR, **fields)  # type: ignore[arg-type]


def test_removing_a_third_thing_keeps_the_relation_of_the_first_two() -> None:
    three = change(PAIR, add=Thing("owl"))
    assert change(three, thing=2, remove=True) == PAIR


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "tigre"}, "did you mean 'tiger'"),
        ({"colour": "blu"}, "did you mean 'blue'"),
        ({"place": "beech"}, "did you mean 'beach'"),
        ({"light": "nite"}, "did you mean 'night'"),
        ({"style": "photos"}, "did you mean 'photo'"),
        ({"thing": 2}, "has 2 things"),
        ({"thing": -1}, "has 2 things"),
        ({"remove": True, "name": "fox"}, "not both"),
    ],
)
def test_impossible_changes_are_rejected(changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        change(PAIR, **changes)  # type: ignore[arg-type]


def test_the_last_thing_cannot_be_removed_nor_a_fourth_added() -> None:
    with pytest.raises(InputError, match="one to three things, got 0"):
        change(sample(1, things=1), remove=True)
    with pytest.raises(InputError, match="one to three things, got 4"):
        change(sample(1, things=3), add=Thing("owl"))


def pairs(scene: Scene) -> list[tuple[str, str]]:
    found = [(thing.name, scene.place) for thing in scene.things]
    return found + [(thing.name, thing.colour) for thing in scene.things if thing.colour is not None]


def test_sampling_depends_on_its_arguments_alone() -> None:
    assert [sample(i) for i in range(50)] == [sample(i) for i in range(50)]
    assert sample(1) != sample(2)
    assert sample(1) != sample(1, split="test")


def test_training_never_shows_what_is_held_out() -> None:
    for i in range(600):
        scene = sample(i)
        assert len(scene.things) <= 2
        assert not any(rare(*pair) for pair in pairs(scene))
        for thing in scene.things:
            assert thing.name in NAMES and thing.name not in HELD_OUT
            assert thing.colour not in HELD_OUT_LOOKS


@pytest.mark.slow
def test_half_of_the_test_split_has_a_pair_that_training_never_shows() -> None:
    scenes = [sample(i, split="test") for i in range(600)]
    shown = sum(any(rare(*pair) for pair in pairs(scene)) for scene in scenes)
    assert 240 < shown < 360
    assert {len(scene.things) for scene in scenes} == {1, 2, 3}
    trained_on = {sample(i).place_seed for i in range(600)}
    assert trained_on.isdisjoint(scene.place_seed for scene in scenes)


def test_about_one_pair_in_twelve_is_rare() -> None:
    found = [rare(name, colour) for name in NAMES for colour in COLOURS]
    assert 0.05 < sum(found) / len(found) < 0.12


def test_the_flags_make_scenes_simpler() -> None:
    for i in range(200):
        scene = sample(i, tints=False, sizes=False, places=False, looks=False)
        assert all(thing.colour is None and thing.size == "medium" for thing in scene.things)
        assert scene.place.endswith(" background")
        assert (scene.light, scene.style) == ("day", "photo")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_number_of_things_can_be_given(count: int) -> None:
    assert all(len(sample(i, things=count).things) == count for i in range(30))


def test_impossible_samples_are_rejected() -> None:
    with pytest.raises(InputError, match="one to three things, got 4"):
        sample(0, things=4)
    with pytest.raises(InputError, match="did you mean 'test'"):
        sample(0, split="tests")


def test_relations_hold_in_the_picture_and_everything_is_visible() -> None:
    for i in range(200):
        scene = sample(i, split="test")
        labels = segment(scene)
        for k, thing in enumerate(scene.things):
            assert (labels == 1 + k).sum() > 150, (i, thing)
        if scene.relation is not None:
            first, second = scene.things[:2]
            assert scene.relation != "left" or first.x < second.x
            assert scene.relation != "right" or first.x > second.x
            assert scene.relation not in ("on", "under") or abs(first.x - second.x) < 0.1
            assert scene.relation != "on" or first.y < second.y
            assert scene.relation != "under" or first.y > second.y
