import math

import numpy as np
import pytest
import torch
from PIL import Image

from wordbrush.errors import ImageError, NumericsError
from wordbrush.sheets import overlay, sheet

PICTURE = Image.new("RGB", (12, 8), "gray")


def test_a_sheet_holds_every_picture_enlarged_by_a_whole_factor():
    red, green = Image.new("RGB", (128, 128), (255, 0, 0)), Image.new("RGB", (128, 128), (0, 255, 0))
    paper = np.asarray(sheet([red, green], ["a red square", "a green square"]))
    inside = 254 * 254  # 128 pixels enlarged to 256, less the frame
    assert (paper == (255, 0, 0)).all(-1).sum() == inside
    assert (paper == (0, 255, 0)).all(-1).sum() == inside


def test_captions_are_drawn_and_long_ones_wrap():
    picture = Image.new("RGB", (256, 256), "white")
    none, short, long = (
        sheet([picture], [caption])
        for caption in ("", "a cat", "a watercolour painting of a cat on a beach at night " * 3)
    )
    assert none.height < short.height < long.height
    assert none.width == short.width == long.width
    below = np.asarray(short)[16 + 256 :]
    assert below.min() < 80, "no ink"
    assert np.asarray(long)[16 + 256 :, :16].min() > 200, "ink in the margin"


@pytest.mark.parametrize(
    ("count", "columns", "shape"),
    [
        (1, None, (1, 1)),
        (4, None, (1, 4)),
        (5, None, (2, 3)),
        (9, None, (3, 3)),
        (4, 2, (2, 2)),
        (2, 9, (1, 2)),
    ],
)
def test_the_layout_of_a_sheet(count: int, columns: int | None, shape: tuple[int, int]):
    paper = sheet([Image.new("RGB", (256, 256))] * count, ["x"] * count, columns)
    assert paper.width == 16 + shape[1] * (256 + 16)
    assert round(paper.height / (256 + 16 + 30)) == shape[0]


def test_pictures_of_several_sizes_and_modes_share_a_sheet():
    paper = sheet([Image.new("L", (300, 20)), Image.new("RGBA", (20, 300))], ["wide", "a" * 400])
    assert paper.mode == "RGB"


@pytest.mark.parametrize(("count", "captions"), [(0, 0), (2, 1)])
def test_a_sheet_needs_a_caption_for_every_picture(count: int, captions: int):
    with pytest.raises(ImageError, match="as many captions as pictures|at least one picture"):
        sheet([PICTURE] * count, ["x"] * captions)


def test_heat_is_bright_where_it_is_and_scales_out():
    picture = Image.new("RGB", (64, 32), (128, 128, 128))
    heat = torch.zeros(4, 8)
    heat[1, 6] = 1
    laid = np.asarray(overlay(picture, heat).convert("L"), dtype=int)
    assert laid.shape == (32, 64)
    assert 44 < laid.argmax() % 64 < 60 and 6 < laid.argmax() // 64 < 18
    scaled = np.asarray(overlay(picture, heat * 1000), dtype=int)
    assert np.abs(np.asarray(overlay(picture, heat), dtype=int) - scaled).max() <= 1


def test_equal_steps_of_heat_are_steps_of_lightness():
    strip = overlay(Image.new("RGB", (256, 1), "gray"), torch.linspace(0, 1, 256)[None])
    lightness = np.asarray(strip.convert("L"), dtype=int)[0]
    assert (np.diff(lightness) >= -1).all() and lightness[-1] - lightness[0] > 80


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_never_drawn(value: float):
    heat = torch.zeros(4, 4)
    heat[2, 3] = value
    with pytest.raises(NumericsError):
        overlay(PICTURE, heat)


def test_no_heat_at_all_is_laid_evenly():
    laid = np.asarray(overlay(Image.new("RGB", (8, 8), "gray"), torch.zeros(2, 2)))
    assert (laid == laid[0, 0]).all()
