"""DPM-Solver++(2M) against the paper's formula, diffusers' scheduler and the exact solution, in float64."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

import reference
from wordbrush import OptionsError, Source, edit, from_seed, invert
from wordbrush.cli import main
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.images import read_provenance
from wordbrush.model import Model
from wordbrush.progress import drain
from wordbrush.schedule import Level, Prediction, Schedule, training_alphas_cumprod
from wordbrush.states import Walk, ddim, multistep

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"
RUN = Options(reweight={"cat": 1.0}, local_blend="off")  # a run, though the words are the same


def schedule(steps: int) -> Schedule:
    """Cosine levels from nearly all noise to nearly none."""
    angles = [math.pi / 2 * (0.97 - 0.96 * i / steps) for i in range(steps + 1)]
    return Schedule(tuple(Level(round(999 * a * 2 / math.pi), math.cos(a), math.sin(a)) for a in angles))


def blurred(z: Tensor, level: Level) -> Tensor:
    """The exact prediction of the clean value where that is normal, of mean 1 and deviation 0.5."""
    mean, variance = 1.0, 0.25
    gain = level.signal * variance / (level.signal**2 * variance + level.sigma**2)
    return mean + gain * (z - level.signal * mean)


def exact(z: Tensor, here: Level, to: Level) -> Tensor:
    """Where the probability flow leads there: it keeps how many deviations a value is from the mean."""
    deviation = [math.sqrt(level.signal**2 * 0.25 + level.sigma**2) for level in (here, to)]
    return to.signal + (z - here.signal) * deviation[1] / deviation[0]


def run(levels: tuple[Level, ...], walk: Walk, z: Tensor) -> Tensor:
    for i, (here, to) in enumerate(zip(levels, levels[1:], strict=False)):

        def predict(z: Tensor, _: Tensor | None, here: Level = here) -> Prediction:
            clean = blurred(z, here)
            return Prediction(clean, (z - here.signal * clean) / here.sigma)

        z, _ = walk(i, here, to, z, predict)
    return z


def test_it_is_the_papers_formula() -> None:
    """x_i = (σ_i/σ_{i−1}) x_{i−1} − α_i (e^{−h_i} − 1) D_i, D_i = (1 + 1/2r_i) x̂_{i−1} − 1/(2r_i) x̂_{i−2}."""
    levels = schedule(6).levels
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    mine, x, before = run(levels, multistep(6), z), z, None
    lam = [math.log(level.signal / level.sigma) for level in levels]
    for i, (here, to) in enumerate(zip(levels, levels[1:], strict=False), start=1):
        h, now = lam[i] - lam[i - 1], blurred(x, here)
        d = now
        if before is not None and i < 6:
            r = (lam[i - 1] - lam[i - 2]) / h
            d = (1 + 1 / (2 * r)) * now - 1 / (2 * r) * before
        x = to.sigma / here.sigma * x - to.signal * (math.exp(-h) - 1) * d
        before = now
    torch.testing.assert_close(mine, x, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' own, of numpy
def test_it_is_diffusers_scheduler() -> None:
    config: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    theirs = DPMSolverMultistepScheduler(
        **config, solver_order=2, algorithm_type="dpmsolver++", solver_type="midpoint", euler_at_final=True
    )
    theirs.set_timesteps(12)
    labels = [int(t) for t in theirs.timesteps]
    alphas = [float(training_alphas_cumprod(config)[t]) for t in labels]
    levels = Schedule.from_alphas([*labels, 0], [*alphas, 1.0]).levels  # they end without noise
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    found = run(levels, multistep(12), z)
    x = z
    for t, level in zip(theirs.timesteps, levels, strict=False):
        x = theirs.step((x - level.signal * blurred(x, level)) / level.sigma, t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-5, atol=1e-5)  # their levels are float32


def test_it_is_of_second_order_down_and_up() -> None:
    """Twice the steps leave about a quarter of the error, where DDIM leaves a half; up as down."""
    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors: dict[tuple[str, str], list[float]] = {}
    for steps in (32, 64, 128):
        levels = schedule(steps).levels[: steps // 2 + 1]  # without the last leap, which is of first order
        for way, found in (("down", levels), ("up", levels[::-1])):
            true = exact(z, found[0], found[-1])
            for name, walk in (("ddim", ddim()), ("dpm++", multistep(steps))):
                errors.setdefault((name, way), []).append(float((run(found, walk, z) - true).abs().max()))
    for way in ("down", "up"):
        for a, b in zip(errors["dpm++", way], errors["dpm++", way][1:], strict=False):
            assert 3.5 < a / b < 4.5
        for a, b in zip(errors["ddim", way], errors["ddim", way][1:], strict=False):
            assert 1.7 < a / b < 2.3
        assert errors["dpm++", way][0] < errors["ddim", way][0] / 4


@pytest.mark.parametrize("to", [Level(0, 1.0, 0.0), Level(999, 0.0, 1.0)])
def test_a_level_without_noise_or_without_signal_is_reached_along_the_prediction_itself(to: Level) -> None:
    here, before = Level(500, 0.6, 0.8), Level(700, 0.8, 0.6)
    clean = torch.tensor([0.5, -1.0], dtype=torch.float64)
    predicted = Prediction(clean, -clean)
    assert predicted.extrapolated(clean, here, to, before, 2 * clean) is predicted
    assert predicted.extrapolated(clean, here, before, here, 2 * clean) is predicted  # no step was before


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_a_source_and_its_edits_take_its_steps(shape: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, seed=7, steps=6, height=32, width=48, solver="dpm++")
    assert source.options == {"seed": 7, "solver": "dpm++"} and source.states.kind == "multistep"
    source.save(tmp_path / "cat.source")
    again = Source.load(tmp_path / "cat.source", model)
    options = {"local_blend": "off"}
    (same,) = drain(reference.prompt_to_prompt(model, again, [CAT], RUN))
    torch.testing.assert_close(same.trajectory, source.trajectory, atol=1e-10, rtol=0)
    (dog,) = edit(model, again, [DOG], options=options)
    assert not torch.allclose(dog.trajectory, source.trajectory)
    (late,) = edit(model, again, [DOG], options={**options, "start": 0.5})
    assert len(late.trajectory) == 4, "the last three of its own steps"


@pytest.mark.parametrize("method", ["ddim", "direct", "negative_prompt"])
def test_a_picture_is_walked_up_and_down_by_the_same_solver(method: str, tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    picture = from_seed(model, CAT, seed=3, steps=4).image(model)
    paths = {
        solver: invert(model, picture, CAT, method=method, options={"steps": 4, "solver": solver})
        for solver in ("ddim", "dpm++")
    }
    assert [paths[solver].states.kind for solver in paths] == ["trajectory", "multistep"]
    assert not torch.allclose(paths["ddim"].z_T, paths["dpm++"].z_T)
    # Pinned or walked down again by the same steps, the source's own words lead along the source's own path.
    (same,) = drain(reference.prompt_to_prompt(model, paths["dpm++"], [CAT], RUN))
    off = (same.trajectory - paths["dpm++"].trajectory).abs().max()
    assert (off < 1e-9) == (method != "direct")


def test_the_command_records_the_solver_and_replays_it(
    saved: Callable[[Model, Path], Path], tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(saved(tiny(), tmp_path / "model"))
    command = ["generate", CAT, "--steps", "4", "--model", folder]
    assert main([*command, "--solver", "dpm++", "--out", "a.png"]) == 0
    assert read_provenance("a.png")["source"]["options"] == {"seed": 0, "solver": "dpm++"}
    assert main(["replay", "a.png"]) == 0
    with pytest.raises(OptionsError, match="solver.*'ddim' or 'dpm\\+\\+'"):
        invert(tiny(), "a.png", CAT, method="ddim", options={"solver": "euler"})


@pytest.mark.slow
def test_on_the_built_in_model_it_is_nearer_to_where_many_steps_lead() -> None:
    model = Model.load("pocket")
    true = from_seed(model, CAT, seed=1, steps=40, solver="dpm++").z_0
    far = {
        solver: float((from_seed(model, CAT, seed=1, steps=10, solver=solver).z_0 - true).norm())
        for solver in ("ddim", "dpm++")
    }
    assert far["dpm++"] < 0.8 * far["ddim"]
