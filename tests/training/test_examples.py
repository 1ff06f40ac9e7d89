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
from wordbrush.training.examples import Examples

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
