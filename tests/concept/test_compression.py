"""Concepts in low rank: what is lost, what it saves, and what cannot be."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from teaching import changes, concept, customised
from wordbrush.concept import Base, Concept, Use, applied
from wordbrush.concept.compression import Compressed, compress
from wordbrush.concept.weights import Change, Difference, Full, LowRank
from wordbrush.errors import ConceptError, OptionsError
from wordbrush.model import Model
from wordbrush.progress import Progress, drain

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]


def compressed(own: Concept, model: Model, **told: float) -> Compressed:
    return drain(compress(own, model, **told))  # pyright: ignore[reportArgumentType]


def deltas(own: Concept, model: Model) -> dict[str, Tensor]:
    return {name: each.delta(model.weights[name]) for name, each in own.weights.items()}


def values(delta: Tensor) -> Tensor:
    return cast(Tensor, torch.linalg.svdvals(delta.flatten(1)))


def learned_whole(model: Model, kind: type = Full, seed: int = 0) -> Concept:
    """A concept as DreamBooth leaves it, with weights of full rank: linear layers, convolutions, biases, scales."""
    random = torch.Generator().manual_seed(seed)
    own: dict[str, Change] = {}
    for name, weight in model.weights.items():
        if name.startswith("unet.") and ("mid_block" in name or "conv_in" in name):
            change = 0.1 * torch.randn(weight.shape, generator=random, dtype=weight.dtype)
            own[name] = kind(weight + change if kind is Full else change)
    return replace(concept(model), method="dreambooth", weights=own)


# What is lost -----------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6), st.booleans())
def test_no_change_of_that_rank_is_nearer(
    out: int, inner: int, rank: int, seed: int, is_kernel: bool
) -> None:
    shape = (out, inner, 3, 3) if is_kernel else (out, inner)
    change = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    nearest = LowRank.nearest(change, rank)
    lost = change - nearest.delta(torch.zeros_like(change))
    dropped = values(change)[rank:]  # Eckart and Young: no other loses less, in either norm
    assert lost.square().sum() == pytest.approx(float(dropped.square().sum()), rel=1e-9, abs=1e-24)
    assert float(values(lost)[0]) == pytest.approx(
        float(dropped[0]) if len(dropped) else 0, rel=1e-9, abs=1e-12
    )
    assert nearest.rank == float(nearest.alpha) == min(rank, *change.flatten(1).shape)


@pytest.mark.parametrize("kind", [Full, Difference])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_lost_are_the_smallest_values(shape: str, kind: type, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    whole = learned_whole(model, kind)
    found = compressed(whole, model, share=0.3)
    before, after = deltas(whole, model), deltas(found.concept, model)
    assert before.keys() == after.keys() and found.concept.placeholders is whole.placeholders
    lost = 0.0
    for name, delta in before.items():
        own = found.concept.weights[name]
        if delta.ndim < 2:
            assert own is whole.weights[name]
            continue
        assert isinstance(own, LowRank)
        each = values(delta)
        assert float(each[: own.rank].sum()) >= 0.3 * float(each.sum()) > float(each[: own.rank - 1].sum())
        dropped = float(each[own.rank :].square().sum())
        assert float((delta - after[name]).square().sum()) == pytest.approx(dropped, rel=1e-9)
        lost += dropped
    total = sum(float(each.square().sum()) for each in before.values())
    assert found.kept == pytest.approx((1 - lost / total) ** 0.5, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_strengths(dtype: torch.dtype, tiny: Tiny) -> None:
    model = tiny("sd1", dtype)
    whole = customised(model)
    small = compressed(whole, model, share=0.9).concept
    assert any(isinstance(own, LowRank) for own in small.weights.values())
    at_0 = applied(model, [Use(replace(small, placeholders={}), 0.0)])
    assert at_0.hash == model.hash
    for strength in (1.0, 0.5):
        after = applied(model, [Use(small, strength)]).weights
        for name, own in small.weights.items():
            expected = model.weights[name].float() + strength * own.delta(model.weights[name])
            torch.testing.assert_close(after[name], expected.to(dtype), rtol=1e-2, atol=1e-3)


def test_all_of_it_is_all_of_it(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    whole = customised(model, kind=Difference)  # of rank 2
    found = compressed(whole, model, share=1.0)
    for name, delta in deltas(whole, model).items():
        torch.testing.assert_close(found.concept.weights[name].delta(model.weights[name]), delta)
    assert found.kept == pytest.approx(1, abs=1e-9)


def test_what_would_not_get_smaller_stays(tiny: Tiny) -> None:
    model = tiny("sd1")
    whole = learned_whole(model)
    found = compressed(whole, model, share=0.8)
    kept = {name for name, own in found.concept.weights.items() if own is whole.weights[name]}
    for name, weight in model.weights.items():
        if name in whole.weights and weight.ndim > 1:
            each = values(whole.weights[name].delta(weight))
            rank = int((each.cumsum(0) < 0.8 * each.sum()).sum()) + 1
            numbers = rank * (weight.shape[0] + weight[0].numel()) + 1
            assert (name in kept) == (numbers >= weight.numel()), name
    assert {weight.ndim for name, weight in model.weights.items() if name in kept} >= {1, 2}
    assert len(kept) < len(whole.weights) and len(found.concept.content()) < len(whole.content())


def test_a_change_that_is_none_is_left_out(tiny: Tiny) -> None:
    model = tiny("sd1")
    whole = customised(model)
    name = min(whole.weights)
    still = replace(whole, weights={**whole.weights, name: Full(model.weights[name])})
    assert compressed(still, model, share=0.6).concept.weights.keys() == whole.weights.keys() - {name}
    nothing = replace(whole, weights={name: Full(model.weights[name])})
    found = compressed(nothing, model, share=0.6)
    assert not found.concept.weights and found.kept == 1


def test_a_change_of_low_rank_gets_a_lower_one(tiny: Tiny) -> None:
    model = tiny("sd1")
    lora = concept(model, (), weights=LowRank)
    found = compressed(lora, model, share=0.1).concept
    assert {own.rank for own in found.weights.values() if isinstance(own, LowRank)} == {1}


def test_a_round_trip(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sdxl")
    small = compressed(learned_whole(model), model, share=0.4).concept
    assert small.save(tmp_path / "one").record == compressed(
        learned_whole(model), model, share=0.4
    ).concept.save(tmp_path / "two").record.model_copy(update={"path": str(tmp_path / "one")})
    read = Concept.load(tmp_path / "one")
    assert read.options == {"steps": 10, "compressed": 0.4} and read.method == "dreambooth"
    for name, delta in deltas(small, model).items():
        assert torch.equal(read.weights[name].delta(model.weights[name]), delta)
    assert applied(model, [Use(read)]).hash == applied(model, [Use(small)]).hash


# Size -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@settings(max_examples=8, deadline=None)
@given(share=st.floats(0.02, 1))
def test_a_size_is_respected_and_used(shape: str, tiny: Tiny, share: float) -> None:
    model = tiny(shape)
    whole = customised(model, kind=Difference)
    most = int(share * len(whole.content()))
    try:
        found = compressed(whole, model, size=most)
    except ConceptError as error:
        least = int(str(error).split("at least ")[1].split()[0])
        assert least > most
        assert len(compressed(whole, model, size=least).concept.content()) <= least
        return
    written = len(found.concept.content())
    assert written <= most
    # One more value would not have fitted, but for the names and shapes that come with a weight's first one.
    largest = max(4 * sum(weight.shape) for name, weight in model.weights.items() if name in whole.weights)
    assert written > most - largest - 800 or found.kept > 0.999


def test_what_counts_most_is_kept(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    whole = learned_whole(model, Difference)
    some = len(whole.content()) // 3
    found = compressed(whole, model, size=some)
    gains: dict[bool, list[float]] = {True: [], False: []}
    for name, delta in deltas(whole, model).items():
        if delta.ndim > 1:
            own = found.concept.weights.get(name)
            rank = own.rank if isinstance(own, LowRank) else 0 if own is None else len(values(delta))
            for number, each in enumerate(values(delta)):
                gains[number < rank].append(float(each) ** 2 / (delta.shape[0] + delta[0].numel()))
    assert min(gains[True]) >= max(gains[False])
    alike = compressed(whole, model, share=0.2)
    assert found.kept > alike.kept or len(alike.concept.content()) > some


def test_a_larger_size_changes_nothing(tiny: Tiny) -> None:
    model = tiny("sd1")
    whole = learned_whole(model)
    found = compressed(whole, model, size=10**9)
    assert found.concept.weights == whole.weights and found.kept == 1
    words = concept(model)
    assert compressed(words, model, size=10**6).concept.placeholders is words.placeholders


def test_a_size_that_cannot_be_says_the_smallest(tiny: Tiny) -> None:
    model = tiny("sd1")
    for own in (customised(model), concept(model), learned_whole(model)):
        with pytest.raises(
            ConceptError, match="expected a size of at least [0-9]+ bytes, .+, got 10"
        ) as caught:
            compressed(own, model, size=10)
        least = int(str(caught.value).split()[6])
        assert len(compressed(own, model, size=least).concept.content()) <= least
        with pytest.raises(ConceptError, match=f"at least {least} bytes"):
            compressed(own, model, size=least - 1)


def test_any_measure_of_size(tiny: Tiny) -> None:
    model = tiny("sd1")
    steps = compress(customised(model), model, size=60_000, measured=lambda own: 2 * len(own.content()))
    assert 29_000 < len(drain(steps).concept.content()) <= 30_000


# What cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "got both or neither"),
        ({"share": 0.5, "size": 100}, "got both or neither"),
        ({"share": 0.0}, "option 'compress': expected greater than 0"),
        ({"share": 1.5}, "option 'compress': expected less than or equal to 1"),
        ({"share": float("nan")}, "option 'compress'"),
        ({"size": 0}, "option 'size': expected greater than or equal to 1"),
    ],
)
def test_what_is_asked(told: dict[str, float], said: str, tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=said):
        compressed(customised(tiny("sd1")), tiny("sd1"), **told)


def test_a_concept_of_another_model(tiny: Tiny) -> None:
    model = tiny("sd1")
    own = customised(model)
    with pytest.raises(ConceptError, match="mean nothing on another model"):
        compressed(replace(own, base=Base(name="another", hash="1" * 64)), model, share=0.6)
    with pytest.raises(ConceptError, match="expected changes of weights that tiny SD1 has, got unet.none"):
        compressed(replace(own, weights={"unet.none": own.weights[min(own.weights)]}), model, share=0.6)
    for kind in (Full, Difference, LowRank):
        other = replace(concept(tiny("sdxl"), (), weights=kind), base=Base())
        name = min(own.weights)
        away = replace(other, weights={name: other.weights[min(other.weights)]})
        with pytest.raises(ConceptError, match=f"{name} does not fit this model"):
            compressed(away, model, share=0.6)


def test_it_says_how_far_it_is(tiny: Tiny) -> None:
    model = tiny("sd1")
    seen: list[Progress] = []
    count = len(changes(model)) * 2
    drain(compress(customised(model), model, share=0.6), seen.append)
    assert [(each.stage, each.step, each.total) for each in seen] == [
        (stage, step, count) for stage in ("measuring", "compressing") for step in range(1, count + 1)
    ]
