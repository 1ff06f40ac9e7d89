"""The world reader: right about held-out scenes, about parts of them, and sure where it is right.

The bars are the shipped reader's own figures (`docs/pocket.md`) with a margin for the small sample.
"""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from wordbrush.errors import ImageError, InputError, ModelError
from wordbrush.evaluation.judges.reader import Reader, Reading, chances, counted, evidence, likeliest
from wordbrush.model import POCKET
from wordbrush.pocket import Scene, Thing, render, sample, segment
from wordbrush.pocket.vocabulary import COLOURS, LIGHTS, NAMES, PLACES, STYLES

COUNT = 60
FIRST = 90_000  # seeds that neither training nor the report used
ONE, BOTH, THREE, COLOUR, PLACE, LIGHT, STYLE = 0.98, 0.96, 0.95, 0.93, 0.96, 0.98, 0.98
APART = Scene(
    (Thing("tiger", x=0.25, y=0.6), Thing("car", "blue", x=0.75, y=0.6)), place="meadow", place_seed=100
)


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.load()


def scenes(things: int) -> list[Scene]:
    return [sample(seed, split="test", things=things) for seed in range(FIRST, FIRST + COUNT)]


def read(reader: Reader, shown: Sequence[Scene]) -> list[Reading]:
    return reader.read([render(scene) for scene in shown])


@pytest.mark.parametrize(("things", "bar"), [(1, ONE), (2, BOTH), (3, THREE)])
def test_the_first_names_are_what_is_there(reader: Reader, things: int, bar: float) -> None:
    shown = scenes(things)
    right = [
        set(reading.first(things)) == {thing.name for thing in scene.things}
        for reading, scene in zip(read(reader, shown), shown, strict=True)
    ]
    assert np.mean(right) >= bar


def test_place_light_style_and_colours(reader: Reader) -> None:
    # All looks and tints come up, and those that go with no other.
    shown = [
        replace(
            scene,
            things=(replace(scene.things[0], colour=[*COLOURS, None][i % 9]),),
            light=list(LIGHTS)[i // 6 % 5] if i % 6 == 0 else "day",
            style=list(STYLES)[i % 6],
        )
        for i, scene in enumerate(scenes(1))
    ]
    readings = read(reader, shown)
    for kind, bar in (("place", PLACE), ("light", LIGHT), ("style", STYLE)):
        right = [
            likeliest(getattr(reading, kind)) == getattr(scene, kind)
            for reading, scene in zip(readings, shown, strict=True)
        ]
        assert np.mean(right) >= bar, kind
    # A pencil sketch shows no colours.
    right = [
        reading.colour(scene.things[0].name) == scene.things[0].colour
        for reading, scene in zip(readings, shown, strict=True)
        if scene.style != "sketch"
    ]
    assert np.mean(right) >= COLOUR


def test_probabilities(reader: Reader) -> None:
    for reading in read(reader, scenes(2)[:10]):
        assert set(reading.things) == set(reading.extents) == set(reading.colours) == set(NAMES)
        for answers, names in ((reading.place, PLACES), (reading.light, LIGHTS), (reading.style, STYLES)):
            assert list(answers) == list(names)
            assert sum(answers.values()) == pytest.approx(1, abs=1e-5)
        assert all(0 <= chance <= 1 for chance in reading.things.values())
        assert sum(reading.extents.values()) <= 1
        assert reading.first(63) == sorted(NAMES, key=lambda name: -reading.things[name])
        assert all(reading.sees(name) == (reading.things[name] > 0.5) for name in NAMES)


def test_extents_are_shares_of_the_picture(reader: Reader) -> None:
    shown = scenes(1)
    read_as = [
        reading.extents[scene.things[0].name]
        for reading, scene in zip(read(reader, shown), shown, strict=True)
    ]
    true = [float((segment(scene) == 1).mean()) for scene in shown]
    assert np.mean(np.abs(np.array(read_as) - true)) < 0.03
    assert np.corrcoef(read_as, true)[0, 1] > 0.9


@pytest.mark.parametrize("size", [128, 96, 300])
def test_a_region_shows_what_is_in_it(reader: Reader, size: int) -> None:
    picture, labels = render(APART, size), segment(APART, size)
    whole, tiger, car, bare = reader.read(
        [picture] * 4, [np.ones_like(labels, dtype=bool), labels == 1, labels == 2, _above(labels)]
    )
    assert set(whole.first(2)) == {"tiger", "car"} and whole.sees("tiger") and whole.sees("car")
    assert tiger.first(1) == ["tiger"] and tiger.sees("tiger") and not tiger.sees("car")
    assert car.first(1) == ["car"] and car.sees("car") and not car.sees("tiger")
    assert car.colour("car") == "blue" and tiger.colour("tiger") is None
    assert tiger.extents["tiger"] > 0.6 > whole.extents["tiger"]
    assert bare.nothing() > 0.5 > max(whole.nothing(), tiger.nothing(), car.nothing())
    assert not any(bare.sees(name) for name in NAMES)
    assert likeliest(bare.place) == likeliest(whole.place) == "meadow"


def _above(labels: np.ndarray) -> np.ndarray:
    """The part of a picture above all things."""
    region = np.zeros_like(labels, dtype=bool)
    region[: np.flatnonzero(labels.any(1))[0] - 4] = True
    return region


def test_regions_of_many_scenes(reader: Reader) -> None:
    pictures, regions, told = [], [], []
    for scene in scenes(2):
        labels = segment(scene)
        for i, thing in enumerate(scene.things):
            if (labels == 1 + i).sum() >= 200:
                pictures.append(render(scene))
                regions.append(labels == 1 + i)
                told.append((thing.name, scene.things[1 - i].name))
    readings = reader.read(pictures, regions)
    assert (
        np.mean([reading.first(1) == [own] for reading, (own, _) in zip(readings, told, strict=True)]) > 0.95
    )
    assert np.mean([reading.sees(own) for reading, (own, _) in zip(readings, told, strict=True)]) > 0.95
    assert np.mean([reading.sees(other) for reading, (_, other) in zip(readings, told, strict=True)]) < 0.05


def test_all_of_a_picture_is_the_picture(reader: Reader) -> None:
    pictures = [render(scene) for scene in scenes(1)[:5]]
    everything = [np.ones((128, 128), dtype=bool)] * 5
    assert reader.read(pictures, everything) == reader.read(pictures)


def test_a_reading_does_not_depend_on_its_company(reader: Reader) -> None:
    pictures = [render(scene) for scene in scenes(1)]  # more than a batch
    together = reader.read(pictures)
    for i in (0, 49, 50, 59):
        (alone,) = reader.read([pictures[i]])
        for mine, theirs in ((alone.things, together[i].things), (alone.place, together[i].place)):
            np.testing.assert_allclose(list(mine.values()), list(theirs.values()), atol=1e-4)


def test_sizes_and_modes_of_pictures(reader: Reader) -> None:
    (small,) = reader.read([render(APART)])
    for picture in (render(APART, 256), render(APART, 512), render(APART).convert("RGBA")):
        (reading,) = reader.read([picture])
        assert set(reading.first(2)) == set(small.first(2))


# The arithmetic ---------------------------------------------------------------------------------------------


def test_evidence_and_chances_are_the_formula() -> None:
    generator = torch.Generator().manual_seed(3)
    shares = torch.rand(4, 6, 8, 8, generator=generator)
    cells = torch.rand(4, 8, 8, generator=generator) < 0.3
    calibration = (0.7, -1.5)
    got = chances(evidence(shares, cells), calibration)
    for b in range(4):
        for n in range(6):
            most = shares[b, n].double()[cells[b]].max().item()
            score = calibration[0] * np.log(most / (1 - most)) + calibration[1]
            assert got[b, n] == pytest.approx(1 / (1 + np.exp(-score)), abs=1e-4)


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=200)))
def test_some_cell_counts_of_every_region(region: np.ndarray) -> None:
    cells = counted(region)
    assert cells.shape == (8, 8)
    assert cells.any()
    assert cells.all() or not region.all()


@given(st.data())
def test_cells_count_as_pixels_say(data: st.DataObject) -> None:
    cells = data.draw(arrays(bool, (8, 8)).filter(np.any))
    assert (counted(np.kron(cells, np.ones((16, 16), dtype=bool))) == cells).all()


def test_the_best_cells_stand_for_a_small_region() -> None:
    region = np.zeros((128, 128), dtype=bool)
    region[16:24, 32:60] = True  # half of one cell, three eighths of its right neighbour
    region[24, 32:34] = True
    expected = np.zeros((8, 8), dtype=bool)
    expected[1, 2] = True
    assert (counted(region) == expected).all()


# What it will not read --------------------------------------------------------------------------------------


def test_pictures_and_regions_it_will_not_read(reader: Reader) -> None:
    picture = render(APART)
    everything = np.ones((128, 128), dtype=bool)
    with pytest.raises(ImageError, match="at least one picture to read, got none"):
        reader.read([])
    with pytest.raises(ImageError, match="a region for each of 2 pictures, got 1"):
        reader.read([picture] * 2, [everything])
    with pytest.raises(ImageError, match="128 × 128, got 64 × 128; cut it"):
        reader.read([picture], [everything[:64]])
    with pytest.raises(ImageError, match="got uint8; compare"):
        reader.read([picture], [everything.astype(np.uint8)])
    with pytest.raises(ImageError, match="at least one pixel in it, got none"):
        reader.read([picture], [~everything])
    with pytest.raises(ImageError, match="mode F"):
        reader.read([Image.new("F", (128, 128))])


def test_names_it_does_not_know(reader: Reader) -> None:
    (reading,) = reader.read([render(APART)])
    with pytest.raises(InputError, match="unknown thing 'tigre': did you mean 'tiger'"):
        reading.sees("tigre")
    with pytest.raises(InputError, match="unknown thing 'poodle'"):
        reading.colour("poodle")


def test_folders_that_hold_no_reader(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="expected a world reader"):
        Reader.load(tmp_path / "nothing")
    with pytest.raises(ModelError, match="expected a world reader"):
        Reader.load(POCKET / "judge")
    folder = shutil.copytree(POCKET / "reader", tmp_path / "reader")
    assert Reader.load(folder).name == str(folder)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(ModelError, match="expected a world reader"):
        Reader.load(folder)
    (folder / "model.safetensors").write_bytes(weights)
    settings = json.loads((folder / "config.json").read_text())
    settings["answers"]["things"].reverse()
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="taught other things"):
        Reader.load(folder)
