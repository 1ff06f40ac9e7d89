"""Every score on embeddings against its formula, written out in float64 with loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from wordbrush.errors import InputError
from wordbrush.evaluation.metrics import similarity


def unit(seed: int, rows: int, width: int = 7) -> Tensor:
    return F.normalize(torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def cos(one: object, other: object) -> float:
    a, b = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


seeds = st.integers(0, 10**6)
counts = st.integers(1, 6)


@given(seeds, counts)
def test_scores_of_pairs(seed: int, count: int) -> None:
    a, b = unit(seed, count), unit(seed + 1, count)
    cosines = [cos(x, y) for x, y in zip(a, b, strict=True)]
    assert similarity.clip_t(a, b).tolist() == pytest.approx(cosines, abs=1e-6)
    assert similarity.image_similarity(a, b).tolist() == pytest.approx(cosines, abs=1e-6)
    clipped = [max(c, 0) for c in cosines]
    assert similarity.text_alignment(a, b).tolist() == pytest.approx([2.5 * c for c in clipped], abs=1e-5)
    assert similarity.clip_score_100(a, b).tolist() == pytest.approx([100 * c for c in clipped], abs=1e-4)


@given(seeds, counts, counts)
@pytest.mark.parametrize("score", ["clip_i", "dino_i", "image_alignment"])
def test_scores_against_a_set(score: str, seed: int, count: int, references: int) -> None:
    a, b = unit(seed, count), unit(seed + 1, references)
    expected = [sum(cos(x, y) for y in b) / references for x in a]
    assert getattr(similarity, score)(a, b).tolist() == pytest.approx(expected, abs=1e-6)


@given(seeds, counts)
def test_directional_similarity(seed: int, count: int) -> None:
    before, after, said_before, said_after = (unit(seed + i, count) for i in range(4))
    scores = similarity.directional_similarity(before, after, said_before, said_after)
    expected = [cos(after[i] - before[i], said_after[i] - said_before[i]) for i in range(count)]
    assert scores.tolist() == pytest.approx(expected, abs=1e-5)
    assert scores.abs().max() <= 1 + 1e-6
    back = similarity.directional_similarity(before, after, said_after, said_before)
    assert back.tolist() == pytest.approx((-scores).tolist(), abs=1e-6)
    assert similarity.directional_similarity(before, after, before, after).tolist() == pytest.approx(
        [1] * count
    )


def test_directions_that_are_none() -> None:
    before, after = unit(0, 3), unit(1, 3)
    texts, others = unit(2, 3), unit(3, 3)
    others[0] = texts[0]
    after[1] = before[1]
    # Two runs of one text differ by rounding: that is no direction either.
    rounded = texts + 1e-7 * unit(4, 3)
    first, second, third = similarity.directional_similarity(before, after, texts, others).tolist()
    assert math.isnan(first) and second == 0 and third != 0
    assert similarity.directional_similarity(before, after, texts, rounded).isnan().all()


@given(seeds, counts)
def test_textual_inversions_two_scores(seed: int, count: int) -> None:
    pictures, prompt = unit(seed, count), unit(seed + 1, 1)[0]
    each = [cos(picture, prompt) for picture in pictures]
    assert similarity.text_similarity(pictures, prompt).tolist() == pytest.approx(each, abs=1e-6)
    of_mean = similarity.text_similarity_of_mean(pictures, prompt)
    assert of_mean == pytest.approx(cos(pictures.double().mean(0), prompt), abs=1e-5)
    # |mean of unit vectors| ≤ 1, so averaging first can only take the score further from 0.
    assert abs(of_mean) >= abs(np.mean(each)) - 1e-6


def test_one_text_is_not_repeated() -> None:
    # Beneath the public functions, whose shapes are checked at run time in tests alone.
    with pytest.raises(InputError, match=r"pairs of embeddings, got \[3, 7\] and \[1, 7\]"):
        similarity._cosines(unit(0, 3), unit(1, 1))
    with pytest.raises(InputError, match="at least one picture"):
        similarity.clip_i(unit(0, 3), unit(1, 0))
