"""MSE, PSNR and SSIM against scikit-image and the paper's formula, with and without a mask."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra.numpy import arrays
from PIL import Image
from skimage import metrics

from wordbrush.errors import ImageError
from wordbrush.evaluation.metrics.pixels import mse, psnr, ssim
from wordbrush.pocket import change, mask, render, sample

SHAPE = (14, 13, 3)
pictures = arrays(np.uint8, SHAPE)
masks = arrays(bool, SHAPE[:2])
SCENE = sample(3)
ONE = render(SCENE)
OTHER = render(change(SCENE, thing=0, name="tiger"))


@given(pictures, pictures)
def test_mse_and_psnr_are_scikit_images(one: np.ndarray, other: np.ndarray) -> None:
    assert mse(one, other) == pytest.approx(metrics.mean_squared_error(one / 255, other / 255), rel=1e-12)
    if (one != other).any():
        expected = metrics.peak_signal_noise_ratio(one / 255, other / 255, data_range=1)
        assert psnr(one, other) == pytest.approx(expected, rel=1e-12)


@given(pictures, pictures, masks)
def test_a_picture_is_the_sum_of_its_parts(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> None:
    parts = [(part.sum(), mse(one, other, part)) for part in (where, ~where) if part.any()]
    total = sum(count * error for count, error in parts) / where.size
    assert mse(one, other) == pytest.approx(total, rel=1e-12, abs=1e-15)


@given(pictures, pictures, masks, pictures)
def test_what_does_not_count_does_not_matter(
    one: np.ndarray, other: np.ndarray, where: np.ndarray, noise: np.ndarray
) -> None:
    for measure in (mse, psnr):
        changed = np.where(where[..., None], one, noise)
        assert measure(changed, other, where) == pytest.approx(measure(one, other, where), nan_ok=True)


@given(pictures, pictures, masks)
def test_no_order_and_no_difference(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> None:
    for measure, equal in ((mse, 0), (psnr, math.inf), (ssim, 1)):
        assert measure(one, other, where) == pytest.approx(measure(other, one, where), nan_ok=True)
        assert measure(one, one) == pytest.approx(equal)
    assert -1 <= ssim(one, other) <= 1


def test_ssim_is_scikit_images() -> None:
    expected = metrics.structural_similarity(
        np.asarray(ONE),
        np.asarray(OTHER),
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
    )
    assert ssim(ONE, OTHER) == pytest.approx(expected, rel=1e-9)
    assert ssim(ONE, OTHER, np.ones((128, 128), bool)) == ssim(ONE, OTHER)


def test_ssim_of_one_pixel_is_the_papers_formula() -> None:
    changed = mask(SCENE, change(SCENE, thing=0, name="tiger"))
    changed[:5], changed[-5:], changed[:, :5], changed[:, -5:] = (False,) * 4
    y, x = (int(each[len(each) // 2]) for each in changed.nonzero())
    where = np.zeros((128, 128), bool)
    where[y, x] = True
    offsets = np.arange(-5, 6)
    weights = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))[..., None]
    weights /= weights.sum()
    window = np.s_[y - 5 : y + 6, x - 5 : x + 6]
    a, b = (np.asarray(picture)[window] / 255 for picture in (ONE, OTHER))
    mean_a, mean_b = (weights * a).sum((0, 1)), (weights * b).sum((0, 1))
    var_a, var_b = (weights * (a - mean_a) ** 2).sum((0, 1)), (weights * (b - mean_b) ** 2).sum((0, 1))
    covariance = (weights * (a - mean_a) * (b - mean_b)).sum((0, 1))
    likeness = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
    likeness *= (2 * covariance + 9e-4) / (var_a + var_b + 9e-4)
    assert likeness.mean() < 0.99
    assert ssim(ONE, OTHER, where) == pytest.approx(likeness.mean(), rel=1e-9)


def test_where_nothing_counts_there_is_no_score() -> None:
    nowhere = np.zeros((128, 128), bool)
    border = nowhere.copy()
    border[0] = True
    for measure in (mse, psnr, ssim):
        assert math.isnan(measure(ONE, OTHER, nowhere))
    assert math.isnan(ssim(ONE, OTHER, border))
    assert not math.isnan(psnr(ONE, OTHER, border))


def test_what_cannot_be_compared_is_told() -> None:
    with pytest.raises(ImageError, match="equal size, got 128 × 128 and 64 × 32"):
        psnr(ONE, ONE.resize((64, 32)))
    with pytest.raises(ImageError, match="mask of the picture's size 128 × 128, got 3 × 2"):
        psnr(ONE, OTHER, np.ones((2, 3), bool))
    with pytest.raises(ImageError, match="RGB picture, got mode L"):
        mse(ONE.convert("L"), OTHER)
    with pytest.raises(ImageError, match=r"uint8 \[h, w, 3\], got uint8 \[4, 4\]"):
        mse(np.zeros((4, 4), np.uint8), np.zeros((4, 4), np.uint8))
    with pytest.raises(ImageError, match="windows of 11 pixels, got a picture of 10 × 20"):
        ssim(Image.new("RGB", (10, 20)), Image.new("RGB", (10, 20)))
