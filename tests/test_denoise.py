"""The loop: guidance, the rows it spends, and what it does with numbers that are none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import alphas, conditions, ddim_step, predict_clean, predict_eps, timesteps
from wordbrush.denoise import SourceRow, denoise, noise_up
from wordbrush.errors import NumericsError
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.rows import Rows
from wordbrush.schedule import Level, Prediction, Schedule
from wordbrush.states import Trajectory

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def count_rows(model: Model, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    rows: list[int] = []
    forward = model.denoiser.unet.forward

    def counted(sample: torch.Tensor, *args: object, **kwargs: object) -> object:
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(model.denoiser.unet, "forward", counted)
    return rows


@settings(deadline=None)
@given(scale=st.floats(0, 20))
def test_guidance_is_linear_in_its_scale(scale: float) -> None:
    u, c = noise(2, 3)
    guidance = TextGuidance(scale)
    guided = guidance.combine({"null": u, "text": c}, 0.0)
    torch.testing.assert_close(guided, (1 - scale) * u + scale * c, atol=1e-12, rtol=0)
    torch.testing.assert_close(guidance.combine({"null": c, "text": c}, 0.0), c, atol=0, rtol=0)


@given(n=st.integers(1, 8), others=st.integers(0, 3), source=st.booleans())
def test_rows_are_side_by_side_and_leave_no_gap(n: int, others: int, source: bool) -> None:
    names = tuple(f"other {i}" for i in range(others))
    rows = Rows(n, (*names, "text"), source=source)
    batch = list(range(rows.count))
    before = [row for name in names for row in batch[rows.branch(name)]]
    assert before + batch[rows.source_row] + batch[rows.branch("text")] == batch
    assert batch[rows.untouched] + batch[rows.edited] == batch
    assert rows.count == n * (1 + others) + source
    assert len(before) == n * others and len(batch[rows.edited]) == n


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 7.5])
def test_a_step_is_guidance_then_ddim(
    shape: str, guidance_scale: float, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, schedule = tiny(shape, torch.float64), tiny(shape).schedule(3)
    text, null = model.encode_text(["a cat", "a dog on a beach"]), model.encode_text([""])
    z = z_T = noise(2, 4, 16, 12)  # noqa: N806
    expected: list[tuple[torch.Tensor, torch.Tensor]] = []
    bars = alphas(schedule)
    for i, t in enumerate(timesteps(schedule)):
        with torch.no_grad():
            u, c = predict_eps(model, z, t, null.expand(2)), predict_eps(model, z, t, text)
        eps = u + guidance_scale * (c - u)
        clean = predict_clean(z, eps, bars[i])
        z = ddim_step(z, eps, bars[i], bars[i + 1])
        expected.append((z, clean))
    rows = count_rows(model, monkeypatch)
    steps = list(denoise(model, z_T, conditions(text, null), schedule, TextGuidance(guidance_scale)))
    for step, (latents, clean) in zip(steps, expected, strict=True):
        torch.testing.assert_close(step.latents, latents, atol=1e-11, rtol=0)
        torch.testing.assert_close(step.clean, clean, atol=1e-10, rtol=0)
        assert not step.latents.requires_grad
    assert [(step.index, step.total) for step in steps] == [(0, 3), (1, 3), (2, 3)]
    # At guidance scale 1 the null text cancels out, so no row is spent on it.
    assert rows == [step.rows for step in steps] == [2 if guidance_scale == 1 else 4] * 3


def test_v_prediction_becomes_eps(tiny: Tiny) -> None:
    """A step with `Model.predict` is the step of diffusers' scheduler told prediction_type v_prediction."""
    model = tiny("sd2", torch.float64)
    text, z, schedule = model.encode_text(["a cat"]), noise(1, 4, 16, 16), model.schedule(10)
    theirs = DDIMScheduler(**model.schedule_config, clip_sample=False)
    assert theirs.config.prediction_type == "v_prediction"
    theirs.set_timesteps(10)
    for i in (0, 4, 9):
        here, to = schedule.levels[i : i + 2]
        with torch.no_grad():
            v = model.denoiser.unet(z, here.t, encoder_hidden_states=text.hidden).sample
            predicted = model.predict(z, here, Conditioning(text))
        expected = theirs.step(v, here.t, z)
        ours, clean = predicted.step(here, to), predicted.clean
        # diffusers' ᾱ is float32
        torch.testing.assert_close(ours, expected.prev_sample, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(clean, expected.pred_original_sample, atol=1e-3, rtol=1e-3)
        # exactly: ẑ_0 = √ᾱ z − √(1−ᾱ) v
        alpha = alphas(schedule)[i]
        torch.testing.assert_close(predict_clean(z, predicted.noise, alpha), clean, atol=1e-12, rtol=0)
        torch.testing.assert_close(clean, alpha**0.5 * z - (1 - alpha) ** 0.5 * v, atol=1e-12, rtol=0)


def test_a_null_embedding_for_each_step(tiny: Tiny) -> None:
    model, schedule = tiny("sd1", torch.float64), tiny("sd1").schedule(3)
    text, z = model.encode_text(["a cat"]), noise(1, 4, 16, 16)
    nulls = model.encode_text(["", "a dog", "a beach"])
    guidance = TextGuidance(4.0)
    for i, step in enumerate(denoise(model, z, conditions(text, nulls), schedule, guidance)):
        rest = Schedule(schedule.levels[i:])
        alone = next(denoise(model, z, conditions(text, nulls[i : i + 1]), rest, guidance))
        torch.testing.assert_close(step.latents, alone.latents, atol=1e-12, rtol=0)
        z = step.latents


def test_a_source_row_changes_nothing_for_the_others(tiny: Tiny) -> None:
    model, schedule = tiny("sd1", torch.float64), tiny("sd1").schedule(3)
    text, null = model.encode_text(["a cat", "a dog"]), model.encode_text([""])
    z = noise(2, 4, 16, 16)
    fox = Conditioning(model.encode_text(["a fox"]))
    source = SourceRow(Trajectory(noise(4, 4, 16, 16)), fox)
    given, guidance = conditions(text, null), TextGuidance(3.0)
    without = list(denoise(model, z, given, schedule, guidance))
    with_it = list(
        denoise(
            model,
            z,
            given,
            schedule,
            guidance,
            rows=lambda i: Rows(2, source=i != 1),
            source=source,
        )
    )
    for a, b in zip(without, with_it, strict=True):
        torch.testing.assert_close(a.latents, b.latents, atol=1e-12, rtol=0)


def test_after_step_has_the_last_word(tiny: Tiny) -> None:
    model, schedule = tiny("sd1", torch.float64), tiny("sd1").schedule(3)
    text, null = model.encode_text(["a cat"]), model.encode_text([""])
    seen: list[int] = []

    def pinned(step: int, z: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        assert clean.shape == z.shape
        seen.append(step)
        return torch.full_like(z, step)

    loop = denoise(
        model, noise(1, 4, 16, 16), conditions(text, null), schedule, TextGuidance(3.0), after_step=pinned
    )
    for step in loop:
        assert (step.latents == step.index).all()
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("shape", SHAPES)
def test_noise_up_climbs_with_the_label_of_the_noisier_level(shape: str, tiny: Tiny) -> None:
    model, schedule = tiny(shape, torch.float64), tiny(shape).schedule(4)
    text, z_0 = model.encode_text(["a cat"]), noise(1, 4, 15, 10)
    z, path = z_0, [z_0]
    bars = alphas(schedule)
    for t, low, high in zip(timesteps(schedule)[::-1], bars[:0:-1], bars[-2::-1], strict=True):
        with torch.no_grad():
            eps = predict_eps(model, z, t, text)
        z = ddim_step(z, eps, low, high)
        path.append(z)
    loop = noise_up(model, z_0, Conditioning(text), schedule)
    steps = []
    try:
        while True:
            steps.append(next(loop))
    except StopIteration as end:
        result = end.value
    torch.testing.assert_close(result, torch.cat(path[::-1]), atol=1e-12, rtol=0)
    assert torch.equal(result[-1:], z_0) and [s.index for s in steps] == [0, 1, 2, 3]


def test_up_and_down_meet_when_eps_does_not_depend_on_the_latents(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk down visits the walk up's levels with the walk up's labels, so only eps can part them."""
    model, schedule = tiny("sd1", torch.float64), tiny("sd1").schedule(7)
    fixed = {t: noise(1, 4, 8, 8) * (t + 1) / 1000 for t in timesteps(schedule)}

    def predict(self: Model, z: torch.Tensor, level: Level, *_: object, **__: object) -> Prediction:
        return level.from_noise(z, fixed[level.t].expand_as(z))

    monkeypatch.setattr(Model, "predict", predict)
    text, z_0 = Conditioning(model.encode_text(["a cat"])), noise(1, 4, 8, 8)
    up = [step.latents for step in noise_up(model, z_0, text, schedule)]
    down = [s.latents for s in denoise(model, up[-1], {"text": text}, schedule, TextGuidance(1.0))]
    for a, b in zip(up[-2::-1] + [z_0], down, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_none_stop_the_loop(bad: float, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model, schedule = tiny("sd1", torch.float64), tiny("sd1").schedule(4)
    predict = Model.predict

    def spoiled(self: Model, z: torch.Tensor, level: Level, *args: Any, **kwargs: Any) -> Prediction:
        predicted = predict(self, z, level, *args, **kwargs)
        if level is schedule.levels[2]:
            predicted.noise[0, 0, 0, 0] = bad
        return predicted

    monkeypatch.setattr(Model, "predict", spoiled)
    text = Conditioning(model.encode_text(["a cat"]))
    down = denoise(model, noise(1, 4, 16, 16), {"text": text}, schedule, TextGuidance(1.0))
    assert next(down).index == 0 and next(down).index == 1
    with pytest.raises(NumericsError, match="step 3 of 4"):
        next(down)
    with pytest.raises(NumericsError, match="inversion step 2 of 4"):
        list(noise_up(model, noise(1, 4, 16, 16), text, schedule))
