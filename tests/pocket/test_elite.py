"""What pocket's mappers were trained on, and what they make of things that the model does not know."""

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import wordbrush
from wordbrush.backbones import load_encoder
from wordbrush.concept import Use, applied
from wordbrush.model import POCKET, Model
from wordbrush.pocket import Scene, Thing, render, segment, sprites
from wordbrush.pocket.vocabulary import COLOURS, HELD_OUT, HELD_OUT_LOOKS, NAMES
from wordbrush.training.elite.mappers import Mappers

RECIPE = Path(__file__).parents[2] / "recipes" / "pocket" / "elite"
SEEDS = range(300)


@pytest.fixture(scope="module")
def world() -> Iterator[ModuleType]:
    sys.path.insert(0, str(RECIPE))
    import world

    yield world
    sys.path.remove(str(RECIPE))
    del sys.modules["world"]


@pytest.mark.slow
def test_no_held_out_thing_or_look_is_ever_drawn(world: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: set[tuple[str, str | None]] = set()
    cut = sprites.sprite

    def seen(name: str, colour: str | None, *rest: object) -> object:
        drawn.add((name, colour))
        return cut(name, colour, *rest)  # pyright: ignore[reportArgumentType]

    def refused(*_: object) -> None:
        raise AssertionError("a pattern that is held out")

    monkeypatch.setattr(world, "sprite", seen)
    monkeypatch.setattr(sprites, "_patterned", refused)
    for seed in SEEDS:
        one = world.example(seed)
        assert one.likeness.name in world.TRAINED and one.likeness.top in (None, *world.TRAINED)
        assert one.likeness.paint in world.PAINTS and world.WORD in one.caption
    names, colours = ({pair[i] for pair in drawn} for i in (0, 1))
    assert names <= set(NAMES) and not names & set(HELD_OUT)
    assert colours <= {None, *COLOURS} and not colours & set(HELD_OUT_LOOKS)
    assert not set(world.PAINTS) & set(HELD_OUT_LOOKS)
    assert not set(world.TRAINED) & set(world.VALIDATION)


def test_the_two_pictures_of_an_example_show_one_thing(world: ModuleType) -> None:
    for seed in SEEDS[:40]:
        one, again = world.example(seed), world.example(seed)
        assert one.picture.tobytes() == again.picture.tobytes() and one.caption == again.caption
        assert one.picture.tobytes() != one.target.tobytes()
        assert one.mask.any() and one.region.any()
        assert one.caption.count(world.WORD) == 1
        assert world.example(seed, world.VALIDATION).likeness.name in world.VALIDATION


def test_a_plain_likeness_is_the_thing_itself(world: ModuleType) -> None:
    likeness = world.Likeness("cat", None, "own", 0, 1.0, 0.0)
    assert likeness.is_plain
    scene = Scene((Thing("cat", size="large"),), "beach")
    picture, mask = world.render(scene, likeness)
    difference = np.abs(np.asarray(picture, dtype=int) - np.asarray(render(scene), dtype=int))
    assert difference.mean() < 1.0  # it is resized twice
    assert (mask != (segment(scene) == 1)).mean() < 0.01


def test_colours_are_drawn_from_their_seed(world: ModuleType) -> None:
    for paint in world.PAINTS:
        likeness = world.Likeness("cat", None, paint, 5, 1.2, 0.05)
        world.portrait.cache_clear()
        one = world.portrait(likeness)
        world.portrait.cache_clear()
        assert world.portrait(likeness).tobytes() == one.tobytes()
    assert len({world.Likeness.drawn(random.Random(seed)) for seed in SEEDS}) == len(SEEDS)


def test_the_mappers_are_small_and_of_this_model() -> None:
    files = [path for path in (POCKET / "elite").iterdir() if path.is_file()]
    assert {path.name for path in files} == {"config.json", "model.safetensors"}
    assert sum(path.stat().st_size for path in files) <= 6 * 2**20
    shape = Mappers.load(POCKET / "elite").shape
    assert shape.encoder == "pocket" and shape.base.hash == Model.load("pocket", device="cpu").base_hash
    listed = json.loads((POCKET / "manifest.json").read_text())["files"]
    assert {"elite/config.json", "elite/model.safetensors"} <= set(listed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cat", "car", "vase"])
def test_a_thing_of_an_unusual_tint_is_nearer_to_the_truth(world: ModuleType, name: str) -> None:
    """By the encoder in DINO's role, which ELITE has not read; none of the eight tints is this one."""
    model, encoder = Model.load("pocket", device="cpu"), load_encoder()
    likeness = world.Likeness(name, None, "two tones", 3, 1.0, 0.0)
    here = Scene((Thing(name, size="large"),), "street", 3)
    picture, mask = world.render(here, likeness)
    learned = applied(model, [Use(wordbrush.word_of(model, picture, mask))])
    true = [
        world.render(
            replace(here, place="meadow", place_seed=seed, things=(Thing(name, size=size),)), likeness
        )[0]
        for seed, size in enumerate(("medium", "large"))
    ]
    near: dict[str, float] = {}
    for word, own in ((f"a {name}", model), ("a <my-thing>", learned)):
        made = [wordbrush.generate(own, f"{word} in a meadow", seed=seed, steps=20) for seed in range(2)]
        near[word] = float((encoder.images(made) @ encoder.images(true).T).mean())
    assert near["a <my-thing>"] > near[f"a {name}"] + 0.05, near
