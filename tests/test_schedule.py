"""The schedule and the DDIM step, against diffusers' schedulers and against their own laws."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import alphas, ddim_step, predict_clean, timesteps
from wordbrush.errors import ModelError, OptionsError
from wordbrush.schedule import Level, Prediction, Schedule, training_alphas_cumprod

SD: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
}


def scheduler(config: dict[str, Any], kind: type = DDIMScheduler) -> Any:
    """diffusers' scheduler in float64: its own table is float32, and equal to ours as far as that goes."""
    made = kind(**config, clip_sample=False)
    exact = training_alphas_cumprod(config)
    torch.testing.assert_close(made.alphas_cumprod.double(), exact, rtol=3e-5, atol=1e-7)
    made.alphas_cumprod = exact
    for name in ("final_alpha_cumprod", "initial_alpha_cumprod"):
        if hasattr(made, name):
            setattr(
                made, name, torch.tensor(1.0).double() if config.get("set_alpha_to_one", True) else exact[0]
            )
    return made


def level(alpha: float) -> Level:
    return Level(0, math.sqrt(alpha), math.sqrt(1 - alpha))


def noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, 5, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beta_schedule": "linear"},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"num_train_timesteps": 100},
        {"trained_betas": np.linspace(0.001, 0.02, 1000).tolist()},
        {"rescale_betas_zero_snr": True},
    ],
    ids=str,
)
def test_training_levels_are_those_of_diffusers(changes: dict[str, Any]) -> None:
    config = {**SD, **changes}
    levels = training_alphas_cumprod(config)
    assert levels.dtype == torch.float64 and len(levels) == config["num_train_timesteps"]
    is_zero = config.get("rescale_betas_zero_snr", False)
    assert (levels[1:] < levels[:-1]).all() and (levels[-1] == 0) == is_zero and levels[0] < 1
    torch.testing.assert_close(DDIMScheduler(**config).alphas_cumprod.double(), levels, rtol=1e-3, atol=1e-6)


AGREEING = [
    *[
        {"timestep_spacing": "leading", "steps_offset": o, "set_alpha_to_one": a}
        for o in (0, 1)
        for a in (True, False)
    ],
    {"timestep_spacing": "trailing", "steps_offset": 0},
    {},
]


@pytest.mark.parametrize("steps", [1, 2, 10, 50])
@pytest.mark.parametrize("changes", AGREEING, ids=str)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_sampling_is_that_of_diffusers(steps: int, changes: dict[str, Any], eta: float) -> None:
    config = {**SD, **changes}
    schedule, theirs = Schedule.from_config(config, steps), scheduler(config)
    theirs.set_timesteps(steps)
    assert timesteps(schedule) == theirs.timesteps.tolist()
    assert len(schedule.levels) == steps + 1 == schedule.steps + 1
    z = noise(0)
    for i in sorted({0, steps // 2, steps - 1}):
        eps, fresh = noise(i + 1), noise(i + 1000)
        here, to = schedule.levels[i : i + 2]
        expected = theirs.step(eps, here.t, z, eta=eta, variance_noise=fresh if eta else None)
        predicted = here.from_noise(z, eps)
        ours = predicted.step(here, to, eta=eta, fresh=fresh)
        torch.testing.assert_close(ours, expected.prev_sample, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(predicted.clean, expected.pred_original_sample, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [3, 7, 30, 999])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_step_counts_that_do_not_divide_visit_neighbours(steps: int, spacing: str) -> None:
    """The same timesteps as diffusers; but a step always leads to the next timestep's level, on any spacing.

    diffusers goes to t − ⌊1000/n⌋ instead, which for trailing and linspace is no level that is ever visited.
    """
    config = {**SD, "timestep_spacing": spacing}
    schedule, theirs = Schedule.from_config(config, steps), scheduler(config)
    theirs.set_timesteps(steps)
    assert timesteps(schedule) == theirs.timesteps.tolist()
    trained = training_alphas_cumprod(config)
    labels = [*timesteps(schedule), 0]
    assert [each.signal for each in schedule.levels] == [math.sqrt(trained[t]) for t in labels]
    assert [each.sigma for each in schedule.levels] == [math.sqrt(1 - trained[t]) for t in labels]


@pytest.mark.parametrize("steps", [*range(1, 60), 120, 251, 334, 500, 501, 502, 700, 998, 999, 1000])
def test_sampling_begins_in_noise_whatever_the_step_count(steps: int) -> None:
    """diffusers' leading spacing begins at timestep 500 for 501 steps: with pure noise where ᾱ is 0.275."""
    schedule = Schedule.from_config({**SD, "timestep_spacing": "leading"}, steps)
    labels, theirs = timesteps(schedule), scheduler({**SD, "timestep_spacing": "leading"})
    theirs.set_timesteps(steps)
    assert len(labels) == steps and labels == sorted(labels, reverse=True)
    assert labels[0] >= 0.9 * 1000 * (steps - 1) / steps
    if steps <= 100 or 1000 % steps == 0:
        assert labels == [min(int(t), 999) for t in theirs.timesteps]
    gaps = {a - b for a, b in zip(labels, labels[1:], strict=False)}
    assert max(gaps, default=1) - min(gaps, default=1) <= 1


def test_every_step_count_gives_a_descending_schedule() -> None:
    for spacing in ("leading", "trailing", "linspace"):
        for steps in (1, 2, 13, 500, 1000):
            schedule = Schedule.from_config({**SD, "timestep_spacing": spacing}, steps)
            assert timesteps(schedule) == sorted(timesteps(schedule), reverse=True)
            assert alphas(schedule) == sorted(alphas(schedule))
            assert all(0 <= t <= 999 for t in timesteps(schedule)) and schedule.steps == steps


@pytest.mark.parametrize("changes", AGREEING[:4], ids=str)
@pytest.mark.parametrize("steps", [5, 50])
def test_the_inverse_step_is_that_of_diffusers(changes: dict[str, Any], steps: int) -> None:
    """Same labels and levels: the cleaner latents are fed with the label of the noisier level."""
    config = {**SD, **changes}
    schedule, theirs = Schedule.from_config(config, steps), scheduler(config, DDIMInverseScheduler)
    theirs.set_timesteps(steps)
    z = z_theirs = noise(0)
    for k, i in enumerate(reversed(range(steps))):
        t = int(theirs.timesteps[k])
        here, to = schedule.levels[i + 1], schedule.levels[i]
        assert t == to.t
        eps = noise(k + 1)
        z = here.from_noise(z, eps).step(here, to)
        z_theirs = theirs.step(eps, t, z_theirs).prev_sample
    torch.testing.assert_close(z, z_theirs, rtol=1e-9, atol=1e-9)


levels = st.floats(0.005, 0.999)


@settings(deadline=None)
@given(alpha=levels, alpha_next=levels)
def test_exchanging_the_levels_inverts_the_step(alpha: float, alpha_next: float) -> None:
    z, eps = noise(1), noise(2)
    here, to = level(alpha), level(alpha_next)
    there = here.from_noise(z, eps).step(here, to)
    torch.testing.assert_close(to.from_noise(there, eps).step(to, here), z, rtol=1e-9, atol=1e-9)
    # eq. 12 with σ = 0, from ᾱ in closed form
    torch.testing.assert_close(there, ddim_step(z, eps, alpha, alpha_next), rtol=1e-9, atol=1e-9)
    # The step keeps ẑ_0 and eps, and only moves between levels.
    clean = predict_clean(z, eps, alpha)
    torch.testing.assert_close(there, to.mix(clean, eps), rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(alpha=levels)
def test_eps_and_velocity_say_the_same(alpha: float) -> None:
    """v = √ᾱ eps − √(1−ᾱ) z_0 of the same latents gives the same clean latents and the same noise."""
    z, eps, here = noise(1), noise(2), level(alpha)
    by_noise = here.from_noise(z, eps)
    v = math.sqrt(alpha) * eps - math.sqrt(1 - alpha) * predict_clean(z, eps, alpha)
    by_velocity = here.from_velocity(z, v)
    torch.testing.assert_close(by_velocity.clean, by_noise.clean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(by_velocity.noise, eps, rtol=1e-9, atol=1e-9)


@settings(deadline=None)
@given(t=st.floats(0.01, 0.99), t_next=st.floats(0.01, 0.99))
def test_a_step_of_flow_matching_is_eulers(t: float, t_next: float) -> None:
    """With signal 1 − t and sigma t, a step is z + (t′ − t)(noise − clean): nothing assumes preserved variance."""
    here, to = Level(0, 1 - t, t), Level(0, 1 - t_next, t_next)
    z, velocity = noise(1), noise(2)
    clean = z - t * velocity
    stepped = Prediction(clean, clean + velocity).step(here, to)
    torch.testing.assert_close(stepped, z + (t_next - t) * velocity, rtol=1e-10, atol=1e-10)


@settings(deadline=None)
@given(alpha=levels)
def test_noise_added_is_noise_found(alpha: float) -> None:
    z_0, eps = noise(1), noise(2)
    here = level(alpha)
    z_t = here.mix(z_0, eps)
    predicted = here.from_noise(z_t, eps)
    torch.testing.assert_close(predicted.clean, z_0, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(predicted.step(here, here), z_t, rtol=1e-12, atol=1e-12)


def test_eta_one_keeps_the_variance_of_the_level() -> None:
    """With eps and noise of unit variance and no picture, each level's variance is 1 − ᾱ whatever η."""
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    alpha, alpha_next = 0.3, 0.6
    here, to = level(alpha), level(alpha_next)
    sigma = float(Prediction(zero, zero).step(here, to, eta=1.0, fresh=one))
    along = float(Prediction(zero, one).step(here, to, eta=1.0, fresh=zero))
    assert sigma == pytest.approx(math.sqrt((1 - alpha_next) / (1 - alpha) * (1 - alpha / alpha_next)))
    assert along**2 + sigma**2 == pytest.approx(1 - alpha_next)


def test_a_stochastic_step_wants_its_noise() -> None:
    with pytest.raises(OptionsError, match="pass the fresh noise"):
        Prediction(noise(0), noise(1)).step(level(0.5), level(0.6), eta=0.1)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("start", [0.25, 0.3, 0.5, 0.999])
def test_a_late_schedule_has_as_many_steps_over_what_is_left(start: float, spacing: str) -> None:
    whole = Schedule.from_config({**SD, "timestep_spacing": spacing}, 4)
    late = whole.late(start, training_alphas_cumprod(SD))
    ts = [level.t for level in late.levels]
    assert late.steps == 4 and ts == sorted(ts, reverse=True) and ts[0] <= whole.levels[int(4 * start)].t
    assert late.levels[-1] == whole.levels[-1]
    known = alphas(Schedule.from_alphas(range(1000), training_alphas_cumprod(SD).tolist()))
    assert all(level in whole.levels or level.signal**2 == known[level.t] for level in late.levels)
    if start == 0.5:
        assert late.levels[::2] == whole.levels[2:]


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_step_counts_out_of_range_are_named(steps: int) -> None:
    with pytest.raises(OptionsError, match=rf"between 1 and 1000.*got {steps}"):
        Schedule.from_config(SD, steps)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"beta_schedule": "sigmoid"}, "beta_schedule must be.*got 'sigmoid'"),
        ({"timestep_spacing": "karras"}, "timestep_spacing must be.*got 'karras'"),
    ],
)
def test_unknown_schedules_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Schedule.from_config({**SD, **changes}, 10)
