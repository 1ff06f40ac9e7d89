"""Which part of a picture a model sees: the whole at the nearest size, or a window around a small mask."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordbrush.framing import framed, nearest_size
from wordbrush.model import Model

Tiny = Callable[..., Model]


@pytest.fixture(scope="module")
def pocket() -> Model:
    return Model.load("pocket")


@pytest.mark.parametrize(
    ("aspect", "size"), [(1, (128, 128)), (1.003, (128, 128)), (3 / 2, (96, 144)), (2 / 3, (144, 96))]
)
def test_the_nearest_size(aspect: float, size: tuple[int, int], pocket: Model) -> None:
    assert nearest_size(pocket, aspect) == size


@pytest.mark.slow
@given(st.floats(1 / 3, 3))
@settings(deadline=None)
def test_sizes_are_near_in_aspect_and_in_area(aspect: float) -> None:
    height, width = nearest_size(Model.load("pocket"), aspect)
    assert height % 16 == width % 16 == 0
    assert abs(math.log(width / height / aspect)) < 0.08
    assert 0.7 <= height * width / 128**2 <= 1.1


def test_a_picture_is_seen_whole_unless_it_is_very_long(pocket: Model) -> None:
    assert framed(pocket, 300, 200).box == (0, 0, 300, 200)
    assert framed(pocket, 1000, 100).box == (350, 0, 650, 100)
    assert framed(pocket, 100, 1000).box == (0, 350, 100, 650)


def mask(height: int, width: int, top: int, left: int, high: int, wide: int) -> np.ndarray:
    shares = np.zeros((height, width), np.uint8)
    shares[top : top + high, left : left + wide] = 255
    return shares


@pytest.mark.parametrize(
    ("shares", "box"),
    [
        # Twice the mask's extent around it, at least the model's own size, and inside of the picture.
        (mask(600, 800, 200, 300, 100, 100), (250, 150, 450, 350)),
        (mask(600, 800, 200, 300, 10, 10), (241, 141, 369, 269)),
        (mask(600, 800, 0, 0, 10, 10), (0, 0, 128, 128)),
        (mask(600, 800, 590, 790, 10, 10), (672, 472, 800, 600)),
    ],
)
def test_a_small_mask_in_a_large_picture_gets_a_window(
    shares: np.ndarray, box: tuple[int, ...], pocket: Model
) -> None:
    frame = framed(pocket, shares.shape[1], shares.shape[0], shares)
    assert frame.box == box and frame.size == (128, 128)


@pytest.mark.parametrize(
    "shares",
    [
        mask(128, 128, 50, 50, 10, 10),  # a picture of the model's own size
        mask(600, 800, 50, 50, 500, 500),  # a large mask
        mask(200, 800, 0, 0, 150, 700),  # one that no window of the model's aspect holds
        np.zeros((600, 800), np.uint8),
    ],
)
def test_otherwise_the_picture_is_seen_whole(shares: np.ndarray, pocket: Model) -> None:
    height, width = shares.shape
    whole = framed(pocket, width, height)
    assert (
        framed(pocket, width, height, shares) == whole
        and whole.box[2:]
        == (
            min(width, 3 * height),
            height,
        )
        or whole.box == (100, 0, 700, 200)
    )


@pytest.mark.slow
@settings(deadline=None, max_examples=40)
@given(
    st.integers(20, 900), st.integers(20, 900), st.integers(0, 899), st.integers(0, 899), st.integers(1, 300)
)
def test_a_window_holds_its_mask_and_lies_in_the_picture(
    height: int, width: int, top: int, left: int, extent: int
) -> None:
    model = Model.load("pocket")
    shares = mask(height, width, top % height, left % width, extent, extent)
    left_, top_, right, bottom = framed(model, width, height, shares).box
    assert 0 <= left_ < right <= width and 0 <= top_ < bottom <= height
    if (right - left_, bottom - top_) != (width, height) and max(width, height) <= 3 * min(width, height):
        assert not shares[: int(top_)].any() and not shares[int(bottom) :].any()
        assert not shares[:, : int(left_)].any() and not shares[:, int(right) :].any()


def test_models_of_other_shapes(tiny: Tiny) -> None:
    model = tiny("sd1")
    assert nearest_size(model, 1) == (32, 32)
    assert nearest_size(model, 4 / 3) == (24, 32)
