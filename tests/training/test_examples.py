"""Rows of a training: pure functions of seed and place, and crops that are encoded once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wordbrush.fit import ALONE, Share
from wordbrush.model import Model
from wordbrush.training.examples import Crop, Examples

Tiny = Callable[..., Model]


def pictures(count: int = 3, size: tuple[int, int] = (40, 32)) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for _ in range(count)]


@pytest.fixture(scope="module")
def examples(tiny: Tiny) -> Examples:
    return Examples(tiny("sd1"), pictures(), seed=5, flip=0.5)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 4))
def test_several_passes_see_what_one_does(examples: Examples, number: int, passes: int, rows: int) -> None:
    whole = examples.batch(number, passes * rows, ALONE)
    parts = [examples.batch(number * passes + k, rows, ALONE) for k in range(passes)]
    assert [own for part in parts for own in part.pictures] == whole.pictures
    for name in ("latents", "noise", "timesteps"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined, getattr(whole, name)), name


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([(2, 4), (3, 6), (4, 4)]))
def test_processes_share_the_rows_of_one(examples: Examples, number: int, sizes: tuple[int, int]) -> None:
    world, count = sizes
    whole = examples.batch(number, count, ALONE)
    for rank in range(world):
        part = examples.batch(number, count, Share(rank, world))
        own = list(range(rank, count, world))
        assert part.pictures == [whole.pictures[row] for row in own]
        assert torch.equal(part.noise, whole.noise[own]) and torch.equal(part.latents, whole.latents[own])


def test_every_round_has_each_picture_once_in_an_order_of_its_own(examples: Examples) -> None:
    rounds = [tuple(examples.batch(number, 3, ALONE).pictures) for number in range(12)]
    assert all(sorted(each) == [0, 1, 2] for each in rounds) and len(set(rounds)) > 2


def test_rows_of_another_seed_or_stream_are_others(tiny: Tiny, examples: Examples) -> None:
    for other in (
        Examples(tiny("sd1"), pictures(), seed=6, flip=0.5),
        Examples(tiny("sd1"), pictures(), seed=5, flip=0.5, stream="class"),
    ):
        assert not torch.equal(other.batch(0, 4, ALONE).noise, examples.batch(0, 4, ALONE).noise)


def test_a_crop_is_encoded_once(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model, encoded = tiny("sd1"), list[int]()
    plain = model.encode_image

    def counted(image: torch.Tensor) -> torch.Tensor:
        encoded.append(1)
        return plain(image)

    monkeypatch.setattr(model, "encode_image", counted)
    some = Examples(model, pictures(2, (40, 32)), seed=0)
    for number in range(60):
        some.batch(number, 2, ALONE)
    # 40 × 32 pixels are seen at 32 × 32: a crop begins at one of five latent pixels.
    assert len(encoded) == 2 * (8 // model.downscale + 1)


def test_a_mirrored_picture_is_the_pictures_mirror_image(tiny: Tiny) -> None:
    model, (image,) = tiny("sd1"), pictures(1, (32, 32))
    always = Examples(model, [image], seed=0, crop="center", flip=1.0).batch(0, 1, ALONE).latents
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    never = Examples(model, [mirrored], seed=0, crop="center").batch(0, 1, ALONE).latents
    torch.testing.assert_close(always, never)


# Two things side by side -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mixed(tiny: Tiny) -> Examples:
    """Five pictures of three things."""
    return Examples(tiny("sd1"), pictures(5), seed=5, flip=1.0, things=(0, 0, 1, 1, 2), mixed=0.6)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000))
def test_rows_of_two_things_follow_from_seed_and_place(mixed: Examples, number: int) -> None:
    whole = mixed.batch(number, 6, ALONE)
    passes = [mixed.batch(2 * number + k, 3, ALONE) for k in range(2)]
    shares = [mixed.batch(number, 6, Share(rank, 2)) for rank in range(2)]
    for name in ("pictures", "beside"):
        assert [own for part in passes for own in getattr(part, name)] == getattr(whole, name)
        assert [getattr(shares[row % 2], name)[row // 2] for row in range(6)] == getattr(whole, name)
    assert torch.equal(torch.cat([part.latents for part in passes]), whole.latents)


def test_two_are_of_different_things_as_often_as_is_said(mixed: Examples) -> None:
    rows = mixed.batch(0, 600, ALONE)
    pairs = [(one, two) for one, two in zip(rows.pictures, rows.beside, strict=True) if two is not None]
    assert 0.52 < len(pairs) / 600 < 0.68
    assert all(mixed.things[one] != mixed.things[two] for one, two in pairs)
    assert {(mixed.things[one], mixed.things[two]) for one, two in pairs} == {
        (one, two) for one in range(3) for two in range(3) if one != two
    }
    assert {one for one, _ in pairs} == {two for _, two in pairs} == set(range(5))


@pytest.mark.parametrize("crop", ["center", "random", "stretch"])
def test_two_halves(crop: Crop, tiny: Tiny) -> None:
    """The middle of each picture, or all of it stretched, on its own side; never mirrored, or left would be right."""
    model, (one, two) = tiny("sd1"), pictures(2, (32, 32))
    both = Examples(model, [one, two], seed=1, crop=crop, flip=1.0, things=(0, 1), mixed=1.0)
    rows = both.batch(0, 8, ALONE)
    assert {(0, 1), (1, 0)} == set(zip(rows.pictures, rows.beside, strict=True))
    for picture, beside, latents in zip(rows.pictures, rows.beside, rows.latents, strict=True):
        seen = Image.new("RGB", (32, 32))
        for k, place in ((picture, 0), (beside, 16)):
            image = (one, two)[k or 0]
            half = image.resize((16, 32), 3) if crop == "stretch" else image.crop((8, 0, 24, 32))
            seen.paste(half, (place, 0))
        expected = Examples(model, [seen], seed=0, crop="center").batch(0, 1, ALONE).latents
        torch.testing.assert_close(latents[None], expected)


def test_one_thing_is_never_beside_itself(tiny: Tiny) -> None:
    alone = Examples(tiny("sd1"), pictures(3), seed=1, things=(0, 0, 0), mixed=1.0)
    assert alone.batch(0, 9, ALONE).beside == [None] * 9
