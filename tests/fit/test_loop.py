"""The optimisation loop: its draws, its schedules, its arithmetic against plain torch, and going on anywhere."""

import importlib.util
import math
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wordbrush.errors import MissingExtraError, NumericsError, OptionsError
from wordbrush.fit import State, Step, fit, generator, rate
from wordbrush.options import FitOptions, parse

SEEDS = st.integers(0, 2**63 - 1)
PURPOSES = st.lists(st.one_of(st.integers(0, 2**40), st.text(max_size=5)), max_size=4)


def options(**given: Any) -> FitOptions:
    return parse(FitOptions, {"steps": 8, "learning_rate": 0.1, "max_norm": None, **given})


def parameters() -> dict[str, nn.Parameter]:
    random = torch.Generator().manual_seed(1)
    return {
        name: nn.Parameter(torch.randn(*shape, generator=random))
        for name, shape in (("weight", (3, 4)), ("bias", (3,)))
    }


def row(number: int) -> tuple[Tensor, Tensor]:
    random = generator(5, "row", number)
    return torch.randn(4, generator=random), torch.randn(3, generator=random)


def loss_of(learning: dict[str, nn.Parameter], size: int = 2) -> Callable[[int], tuple[Tensor, int]]:
    """The mean square error of a linear layer over `size` rows of an endless row."""

    def loss(number: int) -> tuple[Tensor, int]:
        rows = [row(number * size + k) for k in range(size)]
        given, wanted = (torch.stack(each) for each in zip(*rows, strict=True))
        return (given @ learning["weight"].T + learning["bias"] - wanted).square().mean(), size

    return loss


def run(
    told: FitOptions, *, size: int = 2, loss: Any = None, **more: Any
) -> tuple[list[Step], dict[str, Tensor]]:
    learning = parameters()
    steps = fit(learning, loss or loss_of(learning, size), told, **more)
    found: list[Step] = []
    while True:
        try:
            found.append(next(steps))
        except StopIteration as end:
            return found, end.value


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What is drawn -----------------------------------------------------------------------------------------------


@given(SEEDS, PURPOSES)
def test_a_generator_is_a_function(seed: int, which: list[int | str]):
    one, other = generator(seed, *which), generator(seed, *which)
    torch.rand(3)  # no global state is in it
    assert torch.equal(torch.rand(4, generator=one), torch.rand(4, generator=other))


@given(st.tuples(SEEDS, PURPOSES), st.tuples(SEEDS, PURPOSES))
def test_two_generators_differ(one: tuple[int, list[int | str]], other: tuple[int, list[int | str]]):
    same = generator(one[0], *one[1]).initial_seed() == generator(other[0], *other[1]).initial_seed()
    assert same == (one == other)


def test_generators_that_a_padded_seed_confuses():
    """A zero more, a large seed, and a number that reads as two."""
    pairs = [((0, 1), (0, 1, 0)), ((2**32,), (0, 1)), ((5, 12), (51, 2)), ((1, "2"), (1, 2)), ((0,), (0, 0))]
    for one, other in pairs:
        assert generator(*one).initial_seed() != generator(*other).initial_seed()  # type: ignore[arg-type]


# The learning rate -------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.data(), st.sampled_from(["constant", "linear", "cosine"]))
def test_schedules(steps: int, data: st.DataObject, schedule: str):
    warmup = data.draw(st.integers(0, steps - 1))
    told = options(steps=steps, warmup_steps=warmup, schedule=schedule)
    rates = [rate(step, told) for step in range(steps)]
    assert all(0 < each <= 1 for each in rates)
    assert rates[:warmup] == pytest.approx([(k + 1) / (warmup + 1) for k in range(warmup)])
    assert rates[warmup] == 1
    falling = rates[warmup:]
    n = steps - warmup
    expected = {
        "constant": [1.0] * n,
        "linear": [1 - k / n for k in range(n)],
        "cosine": [math.cos(math.pi * k / n / 2) ** 2 for k in range(n)],
    }
    assert falling == pytest.approx(expected[schedule])


def test_rates_are_the_optimiser_s():
    told = options(warmup_steps=3, schedule="linear")
    steps, _ = run(told)
    assert [step.rate for step in steps] == [0.1 * rate(k, told) for k in range(8)]


@pytest.mark.parametrize("warmup", [8, 9, 100])
def test_a_warm_up_that_never_ends(warmup: int):
    with pytest.raises(OptionsError, match=f"'warmup_steps': expected fewer than the 8 steps, got {warmup}"):
        options(warmup_steps=warmup)


# Against plain torch -----------------------------------------------------------------------------------------


def plain(told: FitOptions, rates: dict[str, float] | None = None) -> dict[str, Tensor]:
    """The same training as anybody would write it."""
    learning = parameters()
    groups = [{"params": [each], "lr": (rates or {}).get(n, 0.1)} for n, each in learning.items()]
    own = [group["lr"] for group in groups]
    adam = torch.optim.AdamW(groups, weight_decay=told.weight_decay, foreach=False, fused=False)
    for step in range(told.steps):
        adam.zero_grad()
        for group, each in zip(adam.param_groups, own, strict=True):
            group["lr"] = each * rate(step, told)
        for part in range(told.accumulate):
            (loss_of(learning)(step * told.accumulate + part)[0] / told.accumulate).backward()
        if told.max_norm is not None:
            nn.utils.clip_grad_norm_(list(learning.values()), told.max_norm)
        adam.step()
    return {name: each.detach() for name, each in learning.items()}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"weight_decay": 0.5},
        {"schedule": "cosine", "warmup_steps": 3},
        {"max_norm": 0.05},
        {"accumulate": 3, "max_norm": 1.0},
    ],
    ids=str,
)
def test_adamw(given: dict[str, Any]):
    told = options(**given)
    found = run(told)[1]
    for name, expected in plain(told).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_rates_of_their_own():
    found = run(options(), rates={"bias": 0.003})[1]
    for name, expected in plain(options(), {"bias": 0.003}).items():
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found["bias"], run(options())[1]["bias"])


@pytest.mark.parametrize(("accumulate", "size"), [(2, 3), (3, 2), (6, 1)])
def test_accumulated_passes_are_one(accumulate: int, size: int):
    whole_steps, whole = run(options(), size=6)
    steps, found = run(options(accumulate=accumulate), size=size)
    for one, other in zip(steps, whole_steps, strict=True):
        assert (one.loss, one.norm) == pytest.approx((other.loss, other.norm), rel=1e-5)
        assert one.rows == other.rows == 6
    for name, expected in whole.items():
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def gradient_of(value: Tensor) -> Any:
    """A loss whose gradient is this, whatever is learned."""

    def loss_for(learning: dict[str, nn.Parameter]) -> Callable[[int], tuple[Tensor, int]]:
        return lambda number: ((learning["weight"] * value).sum() + 0 * learning["bias"].sum(), 1)

    return loss_for


@pytest.mark.parametrize("limit", [0.5, 1e6, None])
def test_clipping(limit: float | None):
    """The norm that is told is that before; what Adam sees is no longer than the limit."""
    learning, seen = parameters(), []
    value = torch.full((3, 4), 2.0)
    grads: list[Tensor] = []
    learning["weight"].register_post_accumulate_grad_hook(lambda own: seen.append(own.grad))  # type: ignore[arg-type]
    for step in fit(learning, gradient_of(value)(learning), options(steps=1, max_norm=limit)):
        assert step.norm == pytest.approx(math.sqrt(12) * 2)
        grads.append(seen[0])
    expected = math.sqrt(12) * 2 if limit is None else min(limit, math.sqrt(12) * 2)
    assert float(grads[0].norm()) == pytest.approx(expected, rel=1e-5)


@given(st.floats(0.01, 0.9999), st.integers(1, 30))
def test_the_average_in_closed_form(decay: float, count: int):
    """e_n = Σ_k (1 − d_k) Π_{j>k} d_j p_k, with d_k = min(decay, (1 + k) / (10 + k)) and the start with the rest."""
    told = options(steps=count, ema=decay)
    learning = {"weight": nn.Parameter(torch.tensor([3.0]))}
    passed = [learning["weight"].item()]
    steps = fit(learning, lambda number: ((learning["weight"] - number).square().sum(), 1), told)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found = float(end.value["weight"])
            break
        passed.append(learning["weight"].item())
    decays = [min(decay, (1 + k) / (10 + k)) for k in range(count)]
    weights = [math.prod(decays)] + [(1 - d) * math.prod(decays[k + 1 :]) for k, d in enumerate(decays)]
    assert sum(weights) == pytest.approx(1)
    assert found == pytest.approx(
        sum(w * p for w, p in zip(weights, passed, strict=True)), rel=1e-4, abs=1e-4
    )


def test_only_what_learns_has_gradients():
    learning = parameters()
    other = nn.Parameter(torch.ones(3))
    loss = loss_of(learning)
    for _ in fit(learning, lambda number: (loss(number)[0] + other.sum(), 1), options()):
        assert all(each.grad is None for each in learning.values())
    assert other.grad is None


# Going on ----------------------------------------------------------------------------------------------------


def kept(told: FitOptions, **more: Any) -> tuple[dict[int, State], list[Step], dict[str, Tensor]]:
    """A checkpoint of every step, as values."""
    states: dict[int, State] = {}

    def save(state: State) -> None:
        tensors = {k: {n: t.detach().clone() for n, t in own.items()} for k, own in state.tensors.items()}
        states[state.step] = State(state.step, tensors, dict(state.numbers))

    steps, found = run(told, save=save, **more)
    return states, steps, found


def overflowing(at: Iterable[int]) -> Callable[[dict[str, nn.Parameter]], Any]:
    """A loss whose gradients are infinite in some passes while they are scaled by more than 1024."""

    def loss_for(learning: dict[str, nn.Parameter]) -> Any:
        plain = loss_of(learning)

        def loss(number: int) -> tuple[Tensor, int]:
            value, rows = plain(number)
            if number in set(at):
                value.register_hook(lambda g: g * math.inf if g > 1024 else g)
            return value * 1, rows

        return loss

    return loss_for


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "average": {"ema": 0.9, "schedule": "cosine", "warmup_steps": 2},
    "accumulated": {"accumulate": 2, "max_norm": 0.3},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scaled", [False, True])
def test_going_on_from_every_step(case: str, scaled: bool):
    told = options(**CASES[case], checkpoint_every=1)
    states, whole, found = kept(told, scaled=scaled)
    assert list(states) == list(range(1, 9))
    for step, state in states.items():
        again, learned = run(told, state=state, scaled=scaled)
        assert again == whole[step:]
        assert equal(learned, found)


def test_going_on_after_an_overflow():
    """The scale is part of a checkpoint: a step that was left out is so again."""
    told = options(checkpoint_every=1)
    first = parameters()
    found: list[Step] = []
    states: dict[int, State] = {}

    def save(state: State) -> None:
        tensors = {k: {n: t.detach().clone() for n, t in own.items()} for k, own in state.tensors.items()}
        states[state.step] = State(state.step, tensors, dict(state.numbers))

    values: list[dict[str, Tensor]] = []
    for step in fit(first, overflowing({2, 3})(first), told, scaled=True, save=save):
        found.append(step)
        values.append({name: each.detach().clone() for name, each in first.items()})
    assert [math.isfinite(step.norm) for step in found] == [True, True, False, False, *[True] * 4]
    assert equal(values[1], values[2]) and equal(values[2], values[3]) and not equal(values[3], values[4])
    assert states[8].numbers["scale"] == [2.0**14, 4]
    for number, state in states.items():
        learning = parameters()
        again = list(fit(learning, overflowing({2, 3})(learning), told, scaled=True, state=state))
        assert str(again) == str(found[number:])  # a norm that is not a number is no other's equal
        assert equal({n: each.detach() for n, each in learning.items()}, values[-1])


def test_scaling_changes_nothing():
    """A scale is a power of 2: it is undone to the bit."""
    assert equal(run(options(), scaled=True)[1], run(options())[1])


def test_checkpoints_come_when_the_caller_is_done_with_a_step():
    """What the caller writes of a step is there before its checkpoint."""
    learning, told = parameters(), []
    for step in fit(
        learning,
        loss_of(learning),
        options(steps=5, checkpoint_every=2),
        save=lambda s: told.append(("saved", s.step)),
    ):
        told.append(("written", step.number))
    assert told == [
        *[("written", 1), ("written", 2), ("saved", 2), ("written", 3), ("written", 4), ("saved", 4)],
        *[("written", 5), ("saved", 5)],
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_loss_that_is_not_finite(value: float, scaled: bool):
    """Nothing is learned from it, and what was saved stays."""
    learning = parameters()
    plain, saved = loss_of(learning), []
    before: dict[str, Tensor] = {}

    def loss(number: int) -> tuple[Tensor, int]:
        if number == 5:
            before.update({name: each.detach().clone() for name, each in learning.items()})
        return plain(number)[0] * (value if number == 5 else 1), 1

    steps = fit(
        learning, loss, options(checkpoint_every=1), scaled=scaled, save=lambda s: saved.append(s.step)
    )
    with pytest.raises(
        NumericsError, match=f"got {value} and (nan|inf) in training step 6.*checkpoint is kept"
    ):
        list(steps)
    assert saved == [1, 2, 3, 4, 5]
    assert equal(before, {name: each.detach() for name, each in learning.items()})


def test_gradients_that_never_are_finite():
    """The scale falls to 1, where an infinite gradient is one."""
    learning = parameters()

    def loss(number: int) -> tuple[Tensor, int]:
        value = loss_of(learning)(number)[0]
        value.register_hook(lambda g: g * math.inf)
        return value * 1, 1

    with pytest.raises(NumericsError, match="in training step 17"):
        list(fit(learning, loss, options(steps=100), scaled=True))


def test_without_bitsandbytes():
    if importlib.util.find_spec("bitsandbytes") is not None:
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(MissingExtraError, match="pip install bitsandbytes, or choose adamw"):
        run(options(optimizer="adamw-8bit"))


def test_going_on_with_8_bits(tmp_path: Any):
    pytest.importorskip("bitsandbytes")
    from wordbrush.fit import Checkpoints

    told = options(optimizer="adamw-8bit", checkpoint_every=1, steps=4)

    def learn(**more: Any) -> dict[str, Tensor]:
        random = torch.Generator().manual_seed(1)
        own = {n: nn.Parameter(torch.randn(100, 100, generator=random)) for n in ("one", "two")}
        steps = fit(
            own, lambda n: (sum((each - n).square().mean() for each in own.values()), 1), told, **more
        )  # type: ignore[misc,return-value]
        with suppress(StopIteration):
            while True:
                next(steps)
        return {name: each.detach() for name, each in own.items()}

    checkpoints = Checkpoints(tmp_path, {})
    states: list[State] = []

    def save(state: State) -> None:
        checkpoints.save(state)
        last = checkpoints.last()
        assert last is not None
        states.append(last)

    whole = learn(save=save)
    for state in states:
        assert equal(learn(state=state), whole)
