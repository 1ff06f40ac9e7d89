"""Pictures, label maps and masks agree with one another."""

import dataclasses
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from PIL import Image
from scene_strategies import built, scenes

from wordbrush.errors import InputError
from wordbrush.pocket import Scene, Thing, change, mask, render, sample, segment
from wordbrush.pocket.looks import REACH
from wordbrush.pocket.sprites import grounded
from wordbrush.pocket.vocabulary import BACKGROUNDS, COLOURS, HELD_OUT_LOOKS, LIGHTS, NAMES, PLACES, STYLES


def pixels(scene: Scene, size: int = 128) -> np.ndarray:
    return np.asarray(render(scene, size))


def grown(where: np.ndarray, by: int) -> np.ndarray:
    """`where` dilated by `by` pixels, diagonals included."""
    padded = np.pad(where, by)
    rows = np.logical_or.reduce([padded[i : i + where.shape[0]] for i in range(2 * by + 1)])
    return np.logical_or.reduce([rows[:, i : i + where.shape[1]] for i in range(2 * by + 1)])


@settings(max_examples=40, deadline=None)
@given(scenes)
def test_any_scene_can_be_rendered_and_labelled(values: dict[str, Any]) -> None:
    scene = built(values)
    picture, labels = render(scene), segment(scene)
    assert picture.mode == "RGB" and picture.size == (128, 128)
    assert labels.shape == (128, 128) and labels.max() <= len(scene.things)
    assert not mask(scene, scene).any()


def test_rendering_depends_on_the_scene_alone() -> None:
    """The second time the caches are filled in another order."""
    wanted = [sample(i) for i in range(40)]
    first = [render(scene).tobytes() for scene in wanted]
    grounded.cache_clear()
    second = [render(scene).tobytes() for scene in reversed(wanted)]
    assert first == second[::-1]


@pytest.mark.parametrize("size", [64, 128, 256])
def test_sizes_show_the_same_scene(size: int) -> None:
    scene = sample(11, looks=False)
    small = render(scene, size).resize((32, 32), Image.Resampling.BOX)
    reference = render(scene).resize((32, 32), Image.Resampling.BOX)
    assert np.abs(np.asarray(small, float) - np.asarray(reference, float)).mean() < 6


def test_a_picture_that_is_too_small_is_rejected() -> None:
    for function in (render, segment):
        with pytest.raises(InputError, match="at least 32 pixels, got 16"):
            function(sample(0), 16)


def test_labels_are_where_removing_a_thing_shows() -> None:
    for i in range(60):
        scene = sample(i, things=2, looks=False)
        labels = segment(scene)
        for k in range(2):
            gone = change(scene, thing=k, remove=True)
            differs = (pixels(scene) != pixels(gone)).any(axis=-1)
            # Every pixel of a thing differs, except where it happens to have the colour of what it hides.
            assert differs[labels == 1 + k].mean() > 0.97


OBJECT_CHANGES = [
    {"name": "pumpkin"},
    {"colour": "green"},
    {"size": "small"},
    {"thing": 1, "name": "vase", "colour": "white"},
    {"thing": 1, "remove": True},
    {"add": Thing("penguin", x=0.5, y=0.4)},
]


@pytest.mark.parametrize("light", list(LIGHTS))
def test_photos_are_the_same_outside_the_mask(light: str) -> None:
    """Light works pixel by pixel, so in any light an edit stays exactly inside its mask."""
    for i in range(12):
        scene = dataclasses.replace(sample(i, things=2), light=light, style="photo")
        for changes in [*OBJECT_CHANGES, {"place": "desert"}]:
            other = change(scene, **changes)
            differs = (pixels(scene) != pixels(other)).any(axis=-1)
            assert not (differs & ~mask(scene, other)).any(), changes


@pytest.mark.parametrize("style", [style for style in STYLES if style != "photo"])
def test_styles_spread_a_change_no_further_than_their_reach(style: str) -> None:
    for i in range(12):
        scene = dataclasses.replace(sample(i, things=2), style=style)
        for changes in OBJECT_CHANGES:
            other = change(scene, **changes)
            differs = (pixels(scene) != pixels(other)).any(axis=-1)
            assert not (differs & ~grown(mask(scene, other), REACH[style])).any(), changes


def test_a_mask_is_no_larger_than_the_change() -> None:
    """Recolouring a thing that nothing hides changes the thing and its shadow only."""
    for i in range(40):
        scene = sample(i, things=1, looks=False)
        colour = "red" if scene.things[0].colour != "red" else "blue"
        edited = mask(scene, change(scene, colour=colour))
        assert edited[segment(scene) == 1].all()
        assert not edited[~grown(segment(scene) == 1, 20)].any()


def test_masks_are_symmetric_and_know_the_whole_picture() -> None:
    scene = sample(4, things=2)
    for changes in OBJECT_CHANGES:
        other = change(scene, **changes)
        assert (mask(scene, other) == mask(other, scene)).all()
    assert mask(scene, change(scene, light="rain" if scene.light != "rain" else "fog")).all()
    assert mask(scene, change(scene, style="mosaic" if scene.style != "mosaic" else "sketch")).all()
    swapped = dataclasses.replace(scene, things=scene.things[::-1])
    assert mask(scene, swapped)[segment(scene) > 0].all()


def test_the_mask_of_another_place_leaves_out_things_in_front() -> None:
    scene = Scene((Thing("cat"),), "beach")
    moved = mask(scene, change(scene, place="snow"))
    assert moved[segment(scene) == 0].all()
    assert moved.mean() < 1
    assert (mask(scene, dataclasses.replace(scene, place_seed=1)) == moved).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_tint_differs_from_every_other(name: str) -> None:
    """The mean colour of a tinted thing is nearest to that of its tint, for every sprite."""
    hues: dict[str, np.ndarray] = {}
    for colour, target in COLOURS.items():
        scene = Scene((Thing(name, colour, "large"),), "grey background")
        seen = pixels(scene)[segment(scene) == 1].astype(float)
        lively = seen[seen.mean(axis=1) > 70]  # outlines and eyes stay dark
        hues[colour] = lively.mean(axis=0) - lively.mean()
        wanted = np.array(target, float) - np.mean(target)
        if colour != "white":
            alike = hues[colour] @ wanted / np.linalg.norm(hues[colour]) / np.linalg.norm(wanted)
            assert alike > 0.93, (colour, alike)
            assert np.linalg.norm(hues[colour]) > 35, colour
    assert np.linalg.norm(hues["white"]) < 12


def test_own_colours_and_looks_differ_from_each_other() -> None:
    seen = {
        zlib.crc32(pixels(Scene((Thing("cat", look),), "room")).tobytes())
        for look in (None, *COLOURS, *HELD_OUT_LOOKS)
    }
    assert len(seen) == 1 + len(COLOURS) + len(HELD_OUT_LOOKS)


@pytest.mark.parametrize("place", PLACES)
def test_places_differ_by_name_and_by_seed(place: str) -> None:
    scene = Scene((Thing("cat"),), place)
    other = dataclasses.replace(scene, place_seed=1)
    assert (pixels(scene) != pixels(other)).any()
    if place.removesuffix(" background") in BACKGROUNDS:
        wanted = BACKGROUNDS[place.removesuffix(" background")]
        seen = pixels(scene)[segment(scene) == 0].mean(axis=0)
        assert np.abs(seen - wanted).max() < 30


@pytest.mark.parametrize("light", [light for light in LIGHTS if light != "day"])
@pytest.mark.parametrize("place", ["beach", "room", "moon"])
def test_things_stay_recognisable_in_every_light(light: str, place: str) -> None:
    """In every light a cat keeps at least a sixth of the contrast with its surroundings by day."""
    day = Scene((Thing("cat", "red", "large"),), place)
    lit = change(day, light=light)

    def contrast(scene: Scene) -> float:
        seen, labels = pixels(scene).astype(float), segment(scene)
        return float(np.linalg.norm(seen[labels == 1].mean(axis=0) - seen[labels == 0].mean(axis=0)))

    assert contrast(lit) > contrast(day) / 6
    assert contrast(lit) > 20
