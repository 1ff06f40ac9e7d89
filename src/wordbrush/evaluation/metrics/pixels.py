"""Scores that compare pictures pixel by pixel: MSE, PSNR and SSIM, anywhere or where a mask counts.

Every function takes the picture that was `made` and the `true` one, of equal size, and `where`: which pixels count
(bool [h, w]; None: all). Where none counts the result is nan.

These average over the pixels that count and no others. Harnesses that blacken the rest of both pictures and average
over the whole canvas report higher numbers; see `pie.metrics` for theirs.
"""

import math
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float

from wordbrush.errors import ImageError
from wordbrush.extras import need
from wordbrush.images import Rgb as Picture
from wordbrush.images import array

PSNR_LIMIT = 10 * math.log10(12 * 255**2)
"""58.9 dB, the PSNR of rounding to 8 bits (its error is uniform, of variance 1/12): where benches end a PSNR, since
that of equal pictures is infinite, and one such case would make a mean infinite."""

_SIGMA = 1.5
_WINDOW = 11
_REACH = _WINDOW // 2


def mse(made: Picture, true: Picture, where: Bool[np.ndarray, "h w"] | None = None) -> float:
    """Mean squared error of values in [0, 1], over the pixels that count and the three colours. Lower is nearer.

    PIE-Bench prints it ×10⁴. Raises `ImageError` for sizes that differ.
    """
    a, b, counted = _prepared(made, true, where)
    return float(np.square(a - b)[counted].mean()) if counted.any() else math.nan


def psnr(made: Picture, true: Picture, where: Bool[np.ndarray, "h w"] | None = None) -> float:
    """Peak signal-to-noise ratio in dB, −10·log₁₀(mse): higher is nearer, inf when equal.

    Raises `ImageError` for sizes that differ.
    """
    error = mse(made, true, where)
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(made: Picture, true: Picture, where: Bool[np.ndarray, "h w"] | None = None) -> float:
    """Structural similarity (Wang et al. 2004), 1 when equal: scikit-image's map, averaged over `where`.

    Their window, 11 × 11 and Gaussian with σ 1.5, and their constants (0.01² and 0.03² for values in [0, 1]).
    The paper scores grey pictures; we score red, green and blue apart and take the mean, as others do. As theirs,
    windows that reach beyond the picture are not counted, so its outermost 5 pixels are none of `where`. Windows
    centred on a counted pixel also see up to 5 pixels of what is not counted: near its edge, SSIM outside of a
    mask feels the change inside.

    Raises `ImageError` for sizes that differ or a side below 11, `MissingExtraError` without scikit-image.
    """
    a, b, counted = _prepared(made, true, where)
    if min(counted.shape) < _WINDOW:
        height, width = counted.shape
        raise ImageError(
            f"SSIM looks through windows of {_WINDOW} pixels, got a picture of {width} × {height}"
        )
    inner = (slice(_REACH, -_REACH),) * 2
    if not counted[inner].any():
        return math.nan
    with need("eval", "SSIM"):
        from skimage import metrics
    compare = cast(Any, metrics.structural_similarity)  # its many forms of answer are not annotated
    similarity: Float[np.ndarray, "h w 3"] = compare(
        a,
        b,
        data_range=1,
        channel_axis=2,
        gaussian_weights=True,
        sigma=_SIGMA,
        use_sample_covariance=False,
        full=True,
    )[1]
    return float(similarity[inner][counted[inner]].mean())


def _prepared(
    made: Picture, true: Picture, where: Bool[np.ndarray, "h w"] | None
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
    """Both pictures in [0, 1], and which pixels count."""
    a, b = array(made), array(true)
    if a.shape != b.shape:
        raise ImageError(f"expected two pictures of equal size, got {_size(a)} and {_size(b)}; resize one")
    counted = np.ones(a.shape[:2], dtype=bool) if where is None else where
    if counted.shape != a.shape[:2]:
        raise ImageError(f"expected a mask of the picture's size {_size(a)}, got {_size(counted)}")
    return a / 255, b / 255, counted


def _size(values: np.ndarray) -> str:
    return f"{values.shape[1]} × {values.shape[0]}"
