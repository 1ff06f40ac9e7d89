"""`parse` is the inverse of `caption`, for everything that a caption mentions."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from scene_strategies import built, scenes

from wordbrush.errors import PromptError
from wordbrush.pocket import (
    Constraint,
    Constraints,
    Scene,
    Thing,
    caption,
    caption_parts,
    change,
    parse,
    sample,
)
from wordbrush.pocket.vocabulary import COLOURS, HELD_OUT


def stated(scene: Scene) -> Constraints:
    """What `parse` must return for the caption of a scene."""
    return Constraints(
        things=tuple(
            Constraint(
                name=HELD_OUT[thing.name][1] if thing.name in HELD_OUT else thing.name,
                colour=thing.colour if thing.colour in COLOURS else None,
                size=None if thing.size == "medium" else thing.size,
            )
            for thing in scene.things
        ),
        relation=scene.relation,
        place=None if scene.wording >= 22 else scene.place,
        light=None if scene.light == "day" else scene.light,
        style="photo"
        if scene.style == "photo" and scene.wording % 2 == 0
        else None
        if scene.style == "photo"
        else scene.style,
    )


@settings(deadline=None)
@given(scenes)
def test_parse_is_the_inverse_of_caption(values: dict[str, Any]) -> None:
    scene = built(values)
    assert parse(caption(scene)) == stated(scene)


@pytest.mark.slow
def test_sampled_captions_can_be_parsed_and_are_short() -> None:
    for i in range(600):
        scene = sample(i, split=("train", "test")[i % 2])
        text = caption(scene)
        assert parse(text) == stated(scene), text
        assert len(text.split()) <= 24
        assert text == text.lower() and "," not in text


@settings(deadline=None)
@given(scenes)
def test_the_parts_make_up_the_caption_and_refer_to_existing_things(values: dict[str, Any]) -> None:
    scene = built(values)
    parts = caption_parts(scene)
    assert " ".join(text for text, _ in parts) == caption(scene)
    for i, thing in enumerate(scene.things):
        words = [text for text, referent in parts if referent == i and isinstance(referent, int)]
        assert words[-1] == (HELD_OUT[thing.name][1] if thing.name in HELD_OUT else thing.name)
        assert (thing.colour in words) == (thing.colour in COLOURS)
    assert {r for _, r in parts} <= {*range(len(scene.things)), "place", "light", "style", "relation", None}


SCENE = Scene(
    (Thing("owl", "red", "small"), Thing("teddy bear")), "blue background", 0, "night", "photo", "on"
)


def test_examples_of_captions() -> None:
    assert caption(SCENE) == "a photo of a small red owl on a teddy bear on a blue background at night"
    assert caption(dataclasses.replace(SCENE, wording=23)) == "a small red owl on a teddy bear at night"
    assert (
        caption(change(SCENE, style="drawing", light="day", place="moon", colour=None, size="medium"))
        == "a child's drawing of an owl on a teddy bear on the moon"
    )
    assert caption(Scene((Thing("sunglasses"),), "snow", wording=1)) == "sunglasses in the snow"


def test_a_held_out_thing_is_called_by_its_class() -> None:
    assert caption(Scene((Thing("poodle", "striped"),), "room", wording=1)) == "a dog in a room"


def test_a_change_changes_only_its_own_words() -> None:
    for i in range(200):
        scene = dataclasses.replace(sample(i, things=2), wording=0)
        before, after = caption_parts(scene), caption_parts(change(scene, name="fox"))
        kept = [part for part in before if part[1] != 0 and part[0] not in ("a", "an")]
        assert kept == [part for part in after if part[1] != 0 and part[0] not in ("a", "an")]


@pytest.mark.parametrize(
    "variant",
    [
        "A watercolor painting of a red cat next to a sofa in the forest at night",
        "a watercolour painting of a red cat, next to a couch, in a forest at night.",
        "  A  WATERCOLOR painting of the red cat next to the couch in a forest at night!",
    ],
)
def test_spelling_case_and_punctuation_do_not_matter(variant: str) -> None:
    assert parse(variant) == Constraints(
        (Constraint("cat", "red"), Constraint("couch")), "beside", "forest", "night", "watercolour"
    )


def test_on_begins_a_place_or_a_relation() -> None:
    assert parse("a cat on a blue background").place == "blue background"
    assert parse("a cat on a blue chair").things[1] == Constraint("chair", "blue")
    assert parse("a bear").things == (Constraint("bear"),)
    assert parse("a teddy bear").things == (Constraint("teddy bear"),)
    assert parse("a child’s drawing of a cat").style == "drawing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a caption"),
        (" ,, ", "expected a caption"),
        ("a catt on a beach", "'catt': did you mean 'cat'"),
        ("a cat on a beach at nigth", "'nigth': did you mean 'night'"),
        ("a photo of", "ends where a thing"),
        ("a cat and", "ends where a thing"),
        ("a red", "ends where a thing"),
        ("on a beach a cat", "expected a thing at 'on a beach"),
        ("a cat at night on a beach", "expected a place or a light at 'on a beach'"),
        ("a cat and a dog and a fox and a cow", "expected a place or a light at 'and a cow'"),
    ],
)
def test_invalid_captions_are_rejected(text: str, said: str) -> None:
    with pytest.raises(PromptError, match=said):
        parse(text)
