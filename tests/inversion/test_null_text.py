"""Null-text inversion: only the null embedding moves, and it moves the source closer to the picture."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import reference
from wordbrush.denoise import denoise, noise_up
from wordbrush.errors import OptionsError
from wordbrush.guidance import TextGuidance
from wordbrush.inversion import ddim
from wordbrush.inversion.null_text import method as null_text
from wordbrush.inversion.null_text.gauss_newton import Aim, Found, GaussNewton
from wordbrush.inversion.null_text.options import Options
from wordbrush.model import Conditioning, Model
from wordbrush.options import SolvedOptions, parse
from wordbrush.progress import Progress, drain
from wordbrush.schedule import Level, Prediction
from wordbrush.source import Source

Tiny = Callable[..., Model]
PROMPT = "a cat on a beach"


def picture() -> torch.Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1


def invert(model: Model, **options: Any) -> Source:
    settings = parse(Options, {"steps": 4, "guidance_scale": 7.5, "null_optimizer": "adam", **options})
    return drain(null_text.invert(model, picture(), PROMPT, settings))


def walked_up(model: Model) -> torch.Tensor:
    """The pivots, z_T first."""
    z_0 = model.encode_image(picture())
    up = noise_up(model, z_0, Conditioning(model.encode_text([PROMPT])), model.schedule(4))
    return torch.cat([z_0, *(step.latents for step in up)]).flip(0)


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_without_inner_steps_it_is_guided_ddim(shape: str, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = invert(model, inner_steps=0)
    baseline = drain(ddim.invert(model, picture(), PROMPT, SolvedOptions(steps=4, guidance_scale=7.5)))
    torch.testing.assert_close(source.trajectory, baseline.trajectory, atol=1e-11, rtol=0)
    assert torch.equal(source.null.hidden, model.encode_text([""]).hidden.expand(4, -1, -1))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_optimising_brings_every_step_nearer_to_its_pivot(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    pivots = walked_up(model)
    plain, optimised = invert(model, inner_steps=0), invert(model, inner_steps=8, early_stop=0.0)

    def errors(source: Source) -> list[float]:
        return (source.trajectory - pivots).square().mean((1, 2, 3)).tolist()

    before, after = errors(plain), errors(optimised)
    assert after[0] == before[0] == 0
    assert all(b < a for a, b in zip(before[1:], after[1:], strict=True)), (before, after)


def test_the_first_adam_step_shows_warm_start_rate_and_early_stop(tiny: Tiny) -> None:
    """Stopped after one step each, every element has moved from the last embedding by just that step's rate.

    (A fresh Adam's first step is the rate times the gradient's sign.)
    """
    model = tiny("sd1")
    source = invert(model, early_stop=1e9, learning_rate=0.02, inner_steps=10)
    last = model.encode_text([""]).hidden
    for i in range(4):
        moved = (source.null.hidden[i : i + 1] - last).abs()
        rate = 0.02 * (1 - i / 8)
        assert float(moved.median()) == pytest.approx(rate, rel=1e-2)
        assert float(moved.max()) <= rate * 1.001
        last = source.null.hidden[i : i + 1]


def test_the_edit_walks_down_with_the_optimised_embeddings(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = invert(model, inner_steps=2)
    text = model.encode_text([PROMPT])
    given = reference.conditions(text, source.null)
    states = denoise(model, source.z_T, given, source.schedule, TextGuidance(7.5))
    path = torch.cat([s.latents for s in states])
    torch.testing.assert_close(path, source.trajectory[1:], atol=1e-11, rtol=0)


def test_the_weights_stay_frozen_and_the_conditional_prediction_is_made_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("sd1")
    before = [p.clone() for p in model.denoiser.unet.parameters()]
    with_text = model.encode_text([PROMPT]).hidden
    calls: list[bool] = []
    forward = model.denoiser.unet.forward

    def counted(
        sample: torch.Tensor, t: int, encoder_hidden_states: torch.Tensor, **kwargs: object
    ) -> object:
        calls.append(torch.equal(encoder_hidden_states, with_text))
        return forward(sample, t, encoder_hidden_states=encoder_hidden_states, **kwargs)

    monkeypatch.setattr(model.denoiser.unet, "forward", counted)
    invert(model, inner_steps=3, early_stop=0.0, early_stop_growth=0.0)
    assert all(p.grad is None and not p.requires_grad for p in model.denoiser.unet.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.denoiser.unet.parameters(), before, strict=True))
    # up: one each; down: one with text, three inner steps, and the step itself without text
    assert calls == [True] * 4 + [True, False, False, False, False] * 4


def test_progress_tells_both_stages(tiny: Tiny) -> None:
    stages: list[Progress] = []
    options = parse(Options, {"steps": 2, "inner_steps": 1, "null_optimizer": "adam"})
    drain(null_text.invert(tiny("sd1"), picture(), PROMPT, options), stages.append)
    assert [(p.stage, p.step, p.total) for p in stages] == [
        ("inverting", 1, 2),
        ("inverting", 2, 2),
        ("optimising null text", 1, 2),
        ("optimising null text", 2, 2),
    ]


@pytest.mark.parametrize("options", [{"inner_steps": -1}, {"learning_rate": 0.0}, {"early_stop": -1.0}])
def test_options_out_of_range_are_named(options: dict[str, Any], tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=next(iter(options))):
        invert(tiny("sd1"), **options)


GAUSS_NEWTON: dict[str, Any] = {"null_optimizer": "gauss-newton", "early_stop": 0.0}


def level(t: int, bar: float) -> Level:
    return Level(t, math.sqrt(bar), math.sqrt(1 - bar))


@pytest.mark.parametrize("bar", [0.3, 0.0])
@pytest.mark.parametrize("scale", [7.5, 0.0, 1.5])
def test_the_wanted_prediction_lands_on_the_pivot(bar: float, scale: float) -> None:
    """The guided step written out in ᾱ; without signal it is the clean latents that are guided."""
    draw = torch.Generator().manual_seed(3)
    z, pivot, text = (torch.randn(1, 4, 5, 3, dtype=torch.float64, generator=draw) for _ in range(3))
    here, to = level(500, bar), level(400, 0.55)
    conditional = Prediction(text, text) if bar == 0 else here.from_noise(z, text)
    aim = Aim.at(pivot, z, here, to, conditional, TextGuidance(scale))

    def landed(null: torch.Tensor) -> torch.Tensor:
        guided = null + scale * (text - null)
        clean = guided if bar == 0 else (z - math.sqrt(1 - bar) * guided) / math.sqrt(bar)
        return math.sqrt(0.55) * clean + math.sqrt(0.45) * (z if bar == 0 else guided)

    torch.testing.assert_close(landed(aim.wanted), pivot, atol=1e-12, rtol=0)
    other = aim.wanted + torch.randn(1, 4, 5, 3, dtype=torch.float64, generator=draw)
    assert aim.error(other) == pytest.approx(float((landed(other) - pivot).square().mean()), rel=1e-12)


def test_at_scale_1_nothing_can_be_reached() -> None:
    z = torch.ones(1, 4, 2, 2, dtype=torch.float64)
    here, to = level(500, 0.3), level(400, 0.55)
    assert Aim.at(z, z, here, to, here.from_noise(z, z), TextGuidance(1.0)).reach == 0
    assert Aim.at(z, z, here, here, here.from_noise(z, z), TextGuidance(3.0)).reach == 0


def test_on_a_linear_network_the_kept_displacements_give_the_least_squares() -> None:
    """Against the pseudoinverse: after enough gradients one row finds another aim's best embedding."""
    draw = torch.Generator().manual_seed(5)
    unknowns, values = 3, 16
    jacobian = torch.randn(values, unknowns, dtype=torch.float64, generator=draw)

    def say(hidden: torch.Tensor) -> torch.Tensor:
        return (jacobian @ hidden.flatten()).reshape(1, 4, 2, 2)

    def aim() -> Aim:
        hidden = torch.randn(1, 1, unknowns, dtype=torch.float64, generator=draw)
        noise = 0.1 * torch.randn(1, 4, 2, 2, dtype=torch.float64, generator=draw)
        return Aim(say(hidden) + noise, 1.0, False)

    def begin(aim: Aim) -> Found:
        hidden = torch.zeros(1, 1, unknowns, dtype=torch.float64, requires_grad=True)
        return Found(hidden, say(hidden), aim.error(say(hidden)))

    optimizer = GaussNewton(rate=0.03)
    for _ in range(4):
        first = aim()
        optimizer.last = None
        optimizer.optimised(begin(first), first, say, 0.0, 6)
    assert torch.linalg.matrix_rank(torch.stack(optimizer.moved).flatten(1)) == unknowns
    wanted, optimizer.last = aim(), None
    found = optimizer.optimised(begin(wanted), wanted, say, 0.0, 1)
    best: torch.Tensor = torch.linalg.pinv(jacobian) @ wanted.wanted.flatten()
    assert optimizer.rows == 1 and optimizer.backward == 0
    assert wanted.error(found.said) < 1.1 * wanted.error(say(best)) < 0.1 * begin(wanted).error


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_gauss_newton_brings_the_source_nearer_and_edits_walk_down_with_it(shape: str, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    plain = invert(model, null_optimizer="gauss-newton", inner_steps=0)
    unguided = invert(model, null_optimizer="gauss-newton", inner_steps=0, guidance_scale=1.0)
    source = invert(model, **GAUSS_NEWTON, inner_steps=4)
    text = model.encode_text([PROMPT])
    # The prompt in place of no text is no guidance.
    assert torch.equal(plain.null.hidden, text.hidden.expand(4, -1, -1))
    torch.testing.assert_close(plain.trajectory, unguided.trajectory, atol=1e-11, rtol=0)
    # From where a step begins, the prompt's embedding leads no nearer to the pivot, and somewhere less near.
    gains: list[float] = []
    for i in range(4):
        here, to = source.schedule.levels[i], source.schedule.levels[i + 1]
        with torch.no_grad():
            step = model.predict(source.states.at(i), here, Conditioning(text)).step(here, to)
        pivot = walked_up(model)[i + 1]
        gains.append(
            float((step - pivot).square().mean() - (source.states.at(i + 1) - pivot).square().mean())
        )
    assert min(gains) >= -1e-12 and max(gains) > 1e-9, gains
    given = reference.conditions(text, source.null)
    states = denoise(model, source.z_T, given, source.schedule, TextGuidance(7.5))
    path = torch.cat([s.latents for s in states])
    torch.testing.assert_close(path, source.trajectory[1:], atol=1e-10, rtol=0)


def test_a_step_that_is_near_enough_has_the_prompts_row_alone(tiny: Tiny) -> None:
    model = tiny("sd1")
    seen: list[Progress] = []
    options = parse(Options, {"null_optimizer": "gauss-newton", "steps": 3, "early_stop": 1e9})
    source = drain(null_text.invert(model, picture(), PROMPT, options), seen.append)
    assert [(p.rows, p.gradient_rows) for p in seen] == [(1, 0)] * 6
    assert torch.equal(source.null.hidden, model.encode_text([PROMPT]).hidden.expand(3, -1, -1))


def test_its_rows_are_the_unets(tiny: Tiny) -> None:
    model = tiny("sd1")
    seen: list[Progress] = []
    options = parse(
        Options, {"null_optimizer": "gauss-newton", "steps": 3, "early_stop": 0.0, "guidance_scale": 7.5}
    )
    with reference.counting(model) as passed:
        drain(null_text.invert(model, picture(), PROMPT, options), seen.append)
    assert sum(p.rows for p in seen) == passed.rows > 6
    assert 0 < sum(p.gradient_rows for p in seen) < passed.with_gradient


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"null_optimizer": "gauss-newton", "learning_rate": 0.1},
            "learning_rate is Adam's.*say null_optimizer adam",
        ),
        (
            {"null_optimizer": "gauss-newton", "negative_prompt": "a dog"},
            "reads no negative_prompt.*null_optimizer adam",
        ),
    ],
)
def test_options_that_the_optimiser_does_not_read(options: dict[str, Any], says: str, tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=says):
        invert(tiny("sd1"), **options)


def test_what_is_left_out_is_decided_by_the_optimiser() -> None:
    given = null_text.decided(parse(Options, {"early_stop": 0.1}))
    assert (given.early_stop, given.inner_steps, given.learning_rate) == (0.1, 10, 0.01)
    given = null_text.decided(parse(Options, {"null_optimizer": "gauss-newton"}))
    assert (given.early_stop, given.inner_steps, given.learning_rate) == (5e-4, 4, None)
