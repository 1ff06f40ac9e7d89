"""The example pictures are renderings of the scenes in `examples/captions.toml`, and its captions describe them."""

import tomllib
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from wordbrush.pocket import Scene, parse, render

EXAMPLES = Path(__file__).parents[1] / "examples"
CAPTIONS = tomllib.loads((EXAMPLES / "captions.toml").read_text())


def test_every_picture_is_listed() -> None:
    assert {path.name for path in EXAMPLES.glob("*.png")} == set(CAPTIONS)


@pytest.mark.parametrize("name", CAPTIONS)
def test_picture_is_the_rendering_of_its_scene(name: str) -> None:
    scene = Scene.from_json(CAPTIONS[name]["scene"])
    with Image.open(EXAMPLES / name) as picture:
        assert picture.mode == "RGB"
        assert not picture.info  # only pixels, like a file from another program
        assert ImageChops.difference(picture, render(scene)).getbbox() is None


@pytest.mark.parametrize("name", CAPTIONS)
def test_caption_says_what_the_scene_shows(name: str) -> None:
    scene, said = Scene.from_json(CAPTIONS[name]["scene"]), parse(CAPTIONS[name]["caption"])
    assert [thing.name for thing in said.things] == [thing.name for thing in scene.things]
    assert [thing.colour for thing in said.things] == [thing.colour for thing in scene.things]
    assert (said.place, said.relation) == (scene.place, scene.relation)
    assert said.light in (None, scene.light) and said.style in (None, scene.style)
