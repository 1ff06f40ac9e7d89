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


# In many sizes -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([(2, 4), (3, 3), (2, 6)]))
def test_sizes_are_pure_functions_of_seed_and_place(
    examples: Examples, number: int, sizes: tuple[int, int]
) -> None:
    """In several passes and in several processes."""
    world, count = sizes
    whole = examples.batch(number, count, ALONE, sizes=True)
    own = [examples.batch(number, count, Share(rank, world), sizes=True) for rank in range(world)]
    assert whole.masks is not None
    for rank, part in enumerate(own):
        rows = list(range(rank, count, world))
        assert part.prefixes == [whole.prefixes[row] for row in rows] and part.masks is not None
        assert torch.equal(part.masks, whole.masks[rows]) and torch.equal(part.latents, whole.latents[rows])
    halves = (
        [examples.batch(number * 2 + k, count // 2, ALONE, sizes=True) for k in range(2)]
        if count % 2 == 0
        else []
    )
    assert [each for half in halves for each in half.prefixes] in ([], whole.prefixes)
    plain = examples.batch(number, count, ALONE)
    for name in ("pictures", "choices", "noise", "timesteps"):
        one, other = getattr(plain, name), getattr(whole, name)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert plain.masks is None and plain.prefixes == [""] * count


@pytest.mark.parametrize("crop", ["random", "center", "stretch"])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_a_picture_in_many_sizes(
    tiny: Tiny, flip: float, crop: Crop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small ones are somewhere on grey, and the mask is what they cover without a rim; each is encoded once."""
    model, canvases = tiny("sd1"), list[torch.Tensor]()
    plain = model.encode_image

    def seen(image: torch.Tensor) -> torch.Tensor:
        canvases.append(image)
        return plain(image)

    monkeypatch.setattr(model, "encode_image", seen)
    some = Examples(model, [Image.new("RGB", (40, 36), (255, 0, 0))], seed=3, crop=crop, flip=flip)
    cell, (height, width) = model.downscale, model.image_size
    shares: list[float] = []
    said: dict[str, int] = {}
    for number in range(300):
        before = len(canvases)
        batch = some.batch(number, 1, ALONE, sizes=True)
        assert batch.masks is not None
        said[batch.prefixes[0]] = said.get(batch.prefixes[0], 0) + 1
        if len(canvases) == before:
            continue
        red = canvases[-1][0, 0] == 1
        rows, columns = (torch.nonzero(red.any(axis)).flatten() for axis in (1, 0))
        top, bottom, left, right = (
            int(each) for each in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
        )
        assert bool(red[top:bottom, left:right].all()) and not canvases[-1][0][:, ~red].any()
        assert not any(each % cell for each in (top, bottom, left, right))
        expected = torch.zeros(height // cell, width // cell)
        if (bottom - top, right - left) == (height, width):
            expected[:] = 1
        else:
            expected[top // cell + 1 : bottom // cell - 1, left // cell + 1 : right // cell - 1] = 1
        assert torch.equal(batch.masks[0, 0], expected.to(batch.masks))
        shares.append((bottom - top) / height)
        is_small = (bottom - top) / height < 0.6 - 0.5 * cell / height
        assert not is_small or batch.prefixes[0] in ("a far away ", "very small ")
        if batch.prefixes[0] in ("zoomed in ", "close up "):
            assert shares[-1] == 1
    assert 20 < len(canvases) <= 36 and 0.4 - cell / height <= min(shares) < 0.5
    near = said["zoomed in "] + said["close up "]
    assert 0.23 < near / 300 < 0.43 and said["a far away "] and said["very small "] and said[""]


def test_a_near_picture_is_a_part_of_it_made_larger(tiny: Tiny) -> None:
    image = pictures(1, (32, 32))[0]
    view = Examples(tiny("sd1"), [image], seed=0)._view(image.size, 0.0, 0.999, scale=1.25)  # pyright: ignore[reportPrivateUsage]
    assert view.scaled == (40, 40) and view.box == (8, 0, 40, 32) and view.corner == (0, 0)
