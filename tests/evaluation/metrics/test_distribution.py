"""KID against the unbiased estimator and FID against scipy's matrix square root, in float64."""

import numpy as np
import pytest
import scipy.linalg
import torch
from transformers import CLIPImageProcessorPil, ConvNextConfig, ConvNextModel

from wordbrush.backbones import Clip, Encoder, load_clip
from wordbrush.errors import InputError
from wordbrush.evaluation.metrics.distribution import fid, kid
from wordbrush.pocket import render, sample

MADE = [render(sample(seed)) for seed in range(24)]
TRUE = [render(sample(seed)) for seed in range(100, 130)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    model = ConvNextModel(
        ConvNextConfig(num_stages=2, hidden_sizes=[8, 6], depths=[1, 1], layer_scale_init_value=0.5)
    )
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return Encoder("tiny", model.eval().requires_grad_(False), processor, processor)


def features(network: Encoder | Clip, pictures: list) -> np.ndarray:
    vectors = network.images(pictures).double().numpy()
    return vectors * vectors.shape[1] ** 0.5


def test_kid_is_the_unbiased_estimator(encoder: Encoder) -> None:
    """Bińkowski et al. 2018, eq. 4, over whole sets: every subset is all there is, so nothing is drawn."""
    x, y = features(encoder, MADE), features(encoder, TRUE[:24])

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / len(a) + 1) ** 3

    n = len(x)
    within = (
        sum(kernel(a[i], a[j]) for a in (x, y) for i in range(n) for j in range(n) if i != j) / n / (n - 1)
    )
    across = sum(kernel(a, b) for a in x for b in y) / n / n
    result = kid(encoder, MADE, TRUE[:24], subset_size=24, subsets=3)
    assert result.mean == pytest.approx(1e3 * (within - 2 * across), rel=1e-6)
    assert result.std == pytest.approx(0, abs=1e-6)
    assert (result.made, result.true, result.subset_size, result.subsets) == (24, 24, 24, 3)


def test_kid_of_subsets(encoder: Encoder) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        kid(encoder, MADE, TRUE, subset_size=10, subsets=20, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again != other
    assert first.std > 0
    assert torch.equal(torch.random.get_rng_state(), before)
    assert "(×10³, 20 subsets of 10, features of tiny)" in str(first)
    # Two halves of one set against each other: about nothing, where another world is far away.
    inverted = [255 - np.asarray(picture) for picture in TRUE]
    alike, far = (kid(encoder, each, TRUE, subset_size=20).mean for each in (MADE, inverted))
    assert abs(alike) < 0.1 * far


def test_fid_is_frechets(encoder: Encoder) -> None:
    x, y = features(encoder, MADE), features(encoder, TRUE)
    one, other = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(one @ other).real
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root)
    result = fid(encoder, MADE, TRUE)
    assert expected > 0.01
    assert result.value == pytest.approx(expected, rel=1e-5)
    assert (result.made, result.true, result.dimensions, result.features) == (24, 30, 6, "tiny")
    assert "24 against 30 pictures, features of tiny" in str(result)
    assert fid(encoder, MADE, MADE).value == pytest.approx(0, abs=1e-4)


def test_a_clip_has_features_too() -> None:
    clip = load_clip()
    assert kid(clip, MADE[:6], TRUE[:6], subset_size=4, subsets=2).features == "pocket"
    assert fid(clip, MADE[:6], TRUE[:6]).dimensions == 192


def test_pictures_of_several_sizes(encoder: Encoder) -> None:
    mixed = [picture.resize((64, 96)) if i % 3 == 0 else picture for i, picture in enumerate(MADE)]
    x, y = features(encoder, mixed), features(encoder, TRUE)
    expected = fid(encoder, mixed, TRUE)
    one, other = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = scipy.linalg.sqrtm(one @ other).real
    distance = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(one + other - 2 * root)
    assert expected.value == pytest.approx(distance, rel=1e-5)


def test_too_few_pictures(encoder: Encoder) -> None:
    with pytest.raises(InputError, match="subsets of 100 pictures and there are 24 made ones: .* at most 24"):
        kid(encoder, MADE, TRUE)
    with pytest.raises(InputError, match="there are 30 true ones"):
        kid(encoder, MADE * 2, TRUE, subset_size=40)
    with pytest.raises(InputError, match="at least 1 subset of at least 2 pictures, got 0 of 10"):
        kid(encoder, MADE, TRUE, subset_size=10, subsets=0)
    with pytest.raises(InputError, match="at least 2 pictures of each kind, got 1 made and 30 true"):
        fid(encoder, MADE[:1], TRUE)
