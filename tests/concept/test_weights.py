"""Changes of weights: what each kind adds, and their sum."""

from random import Random
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from teaching import low_rank
from wordbrush.concept.weights import (
    KINDS,
    Change,
    Difference,
    Full,
    Hadamard,
    Kronecker,
    LowRank,
    Shut,
    Spectral,
    merged,
    restored,
    tensors,
)
from wordbrush.errors import ConceptError

SIZES = st.integers(1, 6)
STRENGTHS = st.floats(-10, 10)
SEEDS = st.integers(0, 2**32)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def of_each_kind(weight: torch.Tensor, seed: int) -> list[Change]:
    wide = weight.float()
    return [
        low_rank(wide, seed=seed),
        Difference(random(*wide.shape, seed=seed)),
        Full(random(*wide.shape, seed=seed + 1)),
        Hadamard(
            random(wide.shape[0], 2, seed=seed),
            random(2, wide.shape[1], seed=seed + 1),
            random(wide.shape[0], 2, seed=seed + 2),
            random(2, wide.shape[1], seed=seed + 3),
            torch.tensor(1.0),
        ),
        Kronecker(torch.tensor(1.0), w1=random(1, 1, seed=seed), w2=random(*wide.shape, seed=seed + 4)),
        Spectral(random(min(wide.shape), seed=seed + 5)),
        shut(random(*wide.shape, seed=seed + 6) < 0),
    ]


def shut(mask: torch.Tensor) -> Shut:
    return Shut(mask.flatten().nonzero().flatten().int())


@given(SIZES, SIZES, SEEDS, DTYPES)
def test_at_strength_0_a_weight_is_itself(out: int, inner: int, seed: int, dtype: torch.dtype) -> None:
    weight = random(out, inner, seed=seed).to(dtype)
    assert merged(weight, [(change, 0.0) for change in of_each_kind(weight, seed)]) is weight


@given(SIZES, SIZES, SEEDS, DTYPES)
def test_a_whole_weight_at_strength_1_is_as_it_was_trained(
    out: int, inner: int, seed: int, dtype: torch.dtype
) -> None:
    trained = random(out, inner, seed=seed).to(dtype)
    found = merged(random(out, inner, seed=seed + 1).to(dtype), [(Full(trained), 1.0)])
    assert found.dtype == dtype and torch.equal(found, trained)


@given(SIZES, SIZES, st.integers(1, 4), st.floats(0.1, 8), STRENGTHS, SEEDS)
def test_low_rank_is_the_scaled_product(
    out: int, inner: int, rank: int, alpha: float, strength: float, seed: int
) -> None:
    weight = random(out, inner, seed=seed)
    change = low_rank(weight, rank, seed, alpha)
    scale = float(torch.tensor(alpha)) / rank
    expected = weight.double() + strength * scale * (change.up.double() @ change.down.double())
    torch.testing.assert_close(merged(weight, [(change, strength)]), expected.float(), rtol=1e-5, atol=1e-5)


def test_low_rank_of_a_convolution_is_two_convolutions() -> None:
    """The definition: down is a convolution to r channels, up one of 1×1."""
    down, up, picture = random(2, 3, 3, 3), random(5, 2, 1, 1, seed=1), random(1, 3, 8, 8, seed=2)
    change = LowRank(down, up, torch.tensor(4.0)).delta(torch.zeros(5, 3, 3, 3))
    two = torch.conv2d(torch.conv2d(picture, down, padding=1), up) * 2
    torch.testing.assert_close(torch.conv2d(picture, change, padding=1), two)


def test_locons_middle_is_a_third_convolution() -> None:
    down, middle, up = random(2, 3, 1, 1), random(2, 2, 3, 3, seed=1), random(5, 2, 1, 1, seed=2)
    picture = random(1, 3, 8, 8, seed=3)
    change = LowRank(down, up, torch.tensor(2.0), middle).delta(torch.zeros(5, 3, 3, 3))
    three = torch.conv2d(torch.conv2d(torch.conv2d(picture, down), middle, padding=1), up)
    torch.testing.assert_close(torch.conv2d(picture, change, padding=1), three)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 3, 3)])
@pytest.mark.parametrize("axis", [0, 1])
def test_dora_gives_rows_or_columns_their_lengths(shape: tuple[int, ...], axis: int) -> None:
    weight = random(*shape)
    lengths = random(shape[axis], seed=1).abs() + 0.1
    magnitude = lengths[:, None] if axis == 0 else lengths[None]
    own = [1] * (len(shape) - 2)
    change = LowRank(
        random(2, *shape[1:], seed=2), random(5, 2, *own, seed=3), torch.tensor(2.0), magnitude=magnitude
    )
    found = merged(weight, [(change, 1.0)])
    norms = found.transpose(0, axis).flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, lengths)
    plain = merged(weight, [(LowRank(change.down, change.up, change.alpha), 1.0)])
    directions = [each.transpose(0, axis).flatten(1) for each in (found, plain)]
    cosines = torch.cosine_similarity(*directions, dim=1)
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


def test_magnitudes_of_another_shape_are_refused() -> None:
    change = LowRank(random(2, 3), random(5, 2), torch.tensor(1.0), magnitude=torch.ones(4, 1))
    with pytest.raises(ConceptError, match=r"expected DoRA's magnitudes of shape \(5, 1\) or \(1, 3\)"):
        change.delta(random(5, 3))


@given(
    SIZES,
    SIZES,
    SEEDS,
    st.permutations(range(len(KINDS))),
    st.lists(STRENGTHS, min_size=len(KINDS), max_size=len(KINDS)),
)
def test_the_order_of_changes_does_not_matter(
    out: int, inner: int, seed: int, order: list[int], strengths: list[float]
) -> None:
    weight = random(out, inner, seed=seed)
    changes = list(zip(of_each_kind(weight, seed), strengths, strict=True))
    shuffled = [changes[i] for i in order]
    torch.testing.assert_close(merged(weight, changes), merged(weight, shuffled), rtol=1e-4, atol=1e-4)


@given(SIZES, SIZES, SEEDS, STRENGTHS)
def test_what_two_changes_add_is_the_sum_of_what_each_adds(
    out: int, inner: int, seed: int, strength: float
) -> None:
    weight = random(out, inner, seed=seed).double()
    changes = of_each_kind(weight, seed)
    alone = [merged(weight, [(each, strength)]) - weight for each in changes]
    together = merged(weight, [(each, strength) for each in changes]) - weight
    torch.testing.assert_close(together, sum(alone, torch.zeros_like(weight)))


# Spectral shifts add up below the relu -----------------------------------------------------------------------

SHAPES = st.sampled_from([(5, 3), (3, 5), (4, 2, 3, 3), (2, 4, 1, 1), (6,)])


def shifts_of(shape: tuple[int, ...], count: int, seed: int) -> list[Change]:
    values = 1 if len(shape) == 1 else min(random(*shape).flatten(1).shape)
    return [Spectral(random(values, seed=seed + k)) for k in range(count)]


def shift_of(change: Change) -> torch.Tensor:
    assert isinstance(change, Spectral)
    return change.shift.double()


def shifted_by_numpy(weight: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """U · diag(max(σ + δ, 0)) · Vᵀ in float64."""
    matrix = weight.double().numpy().reshape(1 if weight.ndim == 1 else weight.shape[0], -1)
    u, sigma, v = np.linalg.svd(matrix, full_matrices=False)
    return torch.from_numpy(u @ np.diag(np.maximum(sigma + shift.numpy(), 0)) @ v).view_as(weight)


@settings(deadline=None)
@given(SHAPES, SEEDS, st.lists(STRENGTHS, min_size=1, max_size=3))
def test_shifts_add_up_below_the_relu(shape: tuple[int, ...], seed: int, strengths: list[float]) -> None:
    """relu(σ + s₁ δ₁ + s₂ δ₂ …), which the sum of what each adds alone is not."""
    weight = random(*shape, seed=seed).double()
    changes = list(zip(shifts_of(shape, len(strengths), seed), strengths, strict=True))
    total = sum((strength * shift_of(change) for change, strength in changes), torch.zeros(()).double())
    torch.testing.assert_close(merged(weight, changes), shifted_by_numpy(weight, total), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(merged(weight, changes[::-1]), merged(weight, changes), rtol=1e-12, atol=1e-12)


def test_the_relu_is_of_the_sum() -> None:
    weight = torch.diag(torch.tensor([2.0, 1.0]))
    down, up = Spectral(torch.tensor([-5.0, 0.0])), Spectral(torch.tensor([4.0, 0.0]))
    assert torch.equal(merged(weight, [(down, 1.0), (up, 1.0)]).diag(), torch.tensor([1.0, 1.0]))
    assert torch.equal(merged(weight, [(down, 0.5), (up, 1.0)]).diag(), torch.tensor([3.5, 1.0]))


@settings(deadline=None)
@given(SHAPES, SEEDS, st.floats(0, 1))
def test_strengths_that_add_up_to_1_go_from_one_to_the_other(
    shape: tuple[int, ...], seed: int, alpha: float
) -> None:
    """σ + α δ₁ + (1 − α) δ₂ (Han et al. 2023); its ends are each alone, bit for bit."""
    weight = random(*shape, seed=seed).double()
    one, other = shifts_of(shape, 2, seed)
    between = alpha * shift_of(one) + (1 - alpha) * shift_of(other)
    found = merged(weight, [(one, alpha), (other, 1 - alpha)])
    torch.testing.assert_close(found, shifted_by_numpy(weight, between), rtol=1e-9, atol=1e-9)
    assert torch.equal(merged(weight, [(one, 1.0), (other, 0.0)]), merged(weight, [(one, 1.0)]))
    assert torch.equal(merged(weight, [(one, 0.0), (other, 1.0)]), merged(weight, [(other, 1.0)]))


def test_a_weight_is_decomposed_once_whatever_the_concepts(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    svd: Any = cast(Any, torch).linalg.svd

    def counted(*given: Any, **named: Any) -> Any:
        calls.append(1)
        return svd(*given, **named)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    weight = random(5, 3)
    others = [(change, 0.5) for change in of_each_kind(weight, 0)]
    assert any(isinstance(change, Spectral) for change, _ in others)
    merged(weight, [*others, *((change, 1.0) for change in shifts_of((5, 3), 4, 1))])
    assert calls == [1]


def test_shifts_of_other_numbers_do_not_add_up() -> None:
    """A single one would be added to all."""
    with pytest.raises(ConceptError, match="expected as many shifts in each concept, got 3, 1"):
        merged(random(5, 3), [(Spectral(random(3)), 1.0), (Spectral(random(1)), 1.0)])
    with pytest.raises(ConceptError, match="expected 3 shifts of singular values, got 1"):
        merged(random(5, 3), [(Spectral(random(1)), 1.0)])


@given(SIZES, SIZES, SEEDS, DTYPES, st.integers(1, 4), st.randoms())
def test_several_shut_what_any_of_them_shuts(
    out: int, inner: int, seed: int, dtype: torch.dtype, count: int, order: Random
) -> None:
    weight = random(out, inner, seed=seed).to(dtype)
    masks = [random(out, inner, seed=seed + 1 + i) < 0 for i in range(count)]
    changes: list[tuple[Change, float]] = [(shut(mask), 1.0) for mask in masks]
    order.shuffle(changes)
    union = torch.stack(masks).any(0)
    found = merged(weight, changes)
    assert found.dtype == dtype
    assert torch.equal(found, weight.masked_fill(union, 0))
    assert torch.equal(found, merged(weight, [(shut(union), 1.0)]))


@given(SIZES, SIZES, SEEDS, STRENGTHS, STRENGTHS)
def test_strengths_of_what_is_shut_are_factors(
    out: int, inner: int, seed: int, one: float, other: float
) -> None:
    weight = random(out, inner, seed=seed).double()
    masks = [(random(out, inner, seed=seed + 1 + i) < 0).double() for i in range(2)]
    expected = weight * (1 - one * masks[0]) * (1 - other * masks[1])
    changes: list[tuple[Change, float]] = [(shut(masks[0] > 0), one), (shut(masks[1] > 0), other)]
    torch.testing.assert_close(merged(weight, changes), expected)
    torch.testing.assert_close(merged(weight, changes[::-1]), expected)


def test_what_others_add_to_a_shut_entry_stays() -> None:
    """Shutting takes the base's entry away, not what another concept adds to it."""
    weight, added = random(4, 3), Difference(torch.ones(4, 3))
    found = merged(weight, [(shut(torch.ones(4, 3)), 1.0), (added, 0.5)])
    assert torch.equal(found, torch.full((4, 3), 0.5))


def test_what_nothing_shuts_is_the_weight() -> None:
    weight = random(4, 3).half()
    assert torch.equal(merged(weight, [(shut(torch.zeros(4, 3)), 1.0)]), weight)


@pytest.mark.parametrize(
    "places",
    [
        torch.tensor([1, 0]),
        torch.tensor([2, 2]),
        torch.tensor([-1, 3]),
        torch.tensor([-(2**31), 2**31 - 1]),
    ],
    ids=str,
)
def test_places_that_do_not_rise_are_refused(places: torch.Tensor) -> None:
    with pytest.raises(ConceptError, match="expected places of shut entries that rise from 0, each once"):
        Shut(places.int())


@pytest.mark.parametrize(
    "places",
    [
        torch.tensor([0, 1]),
        torch.tensor([0.0, 1.0]),
        torch.tensor([True]),
        torch.zeros(1, 2).int(),
        torch.tensor(3).int(),
    ],
    ids=str,
)
def test_places_of_another_type_or_shape_are_refused(places: torch.Tensor) -> None:
    with pytest.raises(ConceptError, match="expected a list of int32 places of shut entries, got torch"):
        Shut(places)


def test_places_outside_of_the_weight_are_refused() -> None:
    assert merged(torch.ones(4, 3), [(Shut(torch.tensor([11]).int()), 1.0)])[3, 2] == 0
    with pytest.raises(ConceptError, match="expected places of shut entries below 12, got 12"):
        merged(torch.ones(4, 3), [(Shut(torch.tensor([0, 12]).int()), 1.0)])


def test_half_precision_rounds_once() -> None:
    """A sum in half precision of two changes that each round away would be the weight itself."""
    weight = torch.full((1, 1), 1.0, dtype=torch.float16)
    small = Difference(torch.full((1, 1), 4e-4))
    assert merged(weight, [(small, 1.0)]).item() == 1
    assert merged(weight, [(small, 1.0), (small, 1.0)]).item() > 1


@pytest.mark.parametrize("name", KINDS)
def test_a_change_comes_back_from_its_tensors(name: str) -> None:
    change = {each.kind: each for each in of_each_kind(random(4, 3), 0)}[name]
    stored = tensors(change)
    again = restored(name, stored)
    assert type(again) is type(change) and tensors(again).keys() == stored.keys()
    assert all(torch.equal(own, stored[field]) for field, own in tensors(again).items())


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ConceptError, match="expected a weight kept as full, difference, .*, got 'loha'"):
        restored("loha", {})


@pytest.mark.parametrize("shape", [(3, 4), (4, 4), (1, 12), (4, 3, 3, 3)])
def test_a_change_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    for change in (Full(torch.zeros(shape)), Difference(torch.zeros(shape))):
        with pytest.raises(ConceptError, match=r"expected weights of shape \(4, 3\), got"):
            merged(torch.zeros(4, 3), [(change, 0.5)])


def test_convolutions_of_1_and_linear_layers_are_one_anothers() -> None:
    weight = random(4, 3)
    assert torch.equal(merged(torch.zeros(4, 3, 1, 1), [(Full(weight), 1.0)])[..., 0, 0], weight)
    assert torch.equal(merged(torch.zeros(4, 3), [(Full(weight[..., None, None]), 1.0)]), weight)
