"""Fixed-point inversion and ReNoise: their iterations written again, and what they lead back to."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from reference import alphas, ddim_step, timesteps
from wordbrush.errors import OptionsError
from wordbrush.inversion import METHODS
from wordbrush.model import Conditioning, Model
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.schedule import Level, Prediction
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT = "a cat on a beach"


def picture(height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(2)) * 2 - 1


def inverted(model: Model, method: str, image: Tensor, **told: Any) -> Source:
    entry = METHODS[method]
    options = parse(entry.options(), {"steps": 3, "guidance_scale": 1.0, **told})
    return drain(entry.load().invert(model, image.to(model.dtype), CAT, options))


def noises(model: Model, z: Tensor, i: int, count: int) -> tuple[list[Tensor], Callable[[Tensor], Tensor]]:
    """The noises of the iterations of the step up to level i, by the closed form of DDIM's step; and that step."""
    schedule = model.schedule(3)
    alpha, t = alphas(schedule), timesteps(schedule)[i]
    text = Conditioning(model.encode_text([CAT]))

    def ask(latents: Tensor) -> Tensor:
        said = model.denoiser.output(latents, t, text)
        if model.denoiser.prediction == "epsilon":
            return said
        level = schedule.levels[i]
        return level.signal * said + level.sigma * latents

    def move(noise: Tensor) -> Tensor:
        return ddim_step(z, noise, alpha[i + 1], alpha[i])

    found = [ask(z)]
    for _ in range(count):
        found.append(ask(move(found[-1])))
    return found, move


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@pytest.mark.parametrize("shape", ["sd1", "sd2"])
def test_they_are_their_iterations(shape: str, size: tuple[int, int], tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    image = picture(*size).double()
    told = {"renoise_steps": 3, "average_from": 1, "average_late": 2}
    ways = {"fixed_point": {"iterations": 3}, "renoise": told}
    for method, options in ways.items():
        z = model.encode_image(image)
        for i in reversed(range(3)):
            found, move = noises(model, z, i, 3)
            is_early = timesteps(model.schedule(3))[i] < 250
            mean = torch.stack(found[1:] if is_early else found[2:]).mean(0)
            z = move(found[-1] if method == "fixed_point" else mean)
        torch.testing.assert_close(inverted(model, method, image, **options).z_T, z, rtol=1e-9, atol=1e-9)


def test_the_more_iterations_the_nearer_it_leads_back(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network whose steps are contractions."""

    def predict(_: Model, latents: Tensor, level: Level, *__: Any, **___: Any) -> Prediction:
        return level.from_noise(latents, torch.tanh(latents / 3) + 0.1 * latents.roll(1, -1))

    model = tiny("sd1", torch.float64)
    image = picture().double()
    z_0 = model.encode_image(image)
    monkeypatch.setattr(Model, "predict", predict)

    def off(method: str, **told: Any) -> float:
        return float((inverted(model, method, image, steps=10, **told).z_0 - z_0).abs().max())

    errors = [off("fixed_point", iterations=count) for count in (0, 1, 2, 4, 60)]
    assert all(later < earlier / 2 for earlier, later in pairwise(errors)) and errors[-1] < 1e-9
    assert off("renoise", renoise_steps=4, average_late=2) < errors[0] / 4


@pytest.mark.slow
def test_their_ends_are_what_they_should_be(tiny: Tiny) -> None:
    """DDIM inversion without an iteration, and fixed-point inversion where nothing is averaged."""
    model, image = tiny(), picture()
    ddim = inverted(model, "ddim", image)
    assert torch.equal(inverted(model, "fixed_point", image, iterations=0).trajectory, ddim.trajectory)
    none = {"renoise_steps": 0, "average_from": 0, "average_late": 0}
    assert torch.equal(inverted(model, "renoise", image, **none).trajectory, ddim.trajectory)
    last = {"renoise_steps": 2, "average_from": 2, "average_late": 2}
    fixed = inverted(model, "fixed_point", image, iterations=2)
    assert torch.equal(inverted(model, "renoise", image, **last).trajectory, fixed.trajectory)
    loose = inverted(model, "fixed_point", image, iterations=2, tolerance=1e9)
    assert torch.equal(loose.trajectory, inverted(model, "fixed_point", image, iterations=1).trajectory)


def test_an_average_of_nothing_is_refused() -> None:
    for name in ("average_from", "average_late"):
        with pytest.raises(OptionsError, match=f"option '{name}': expected at most renoise_steps, 2, got 3"):
            parse(METHODS["renoise"].options(), {name: 3})
