"""The baseline: exact without guidance but for the step's own error, loose with it."""

from collections.abc import Callable

import pytest
import torch

import reference
from wordbrush.denoise import denoise
from wordbrush.guidance import TextGuidance
from wordbrush.inversion import ddim
from wordbrush.model import Model
from wordbrush.options import SolvedOptions
from wordbrush.progress import drain
from wordbrush.schedule import Level, Prediction

Tiny = Callable[..., Model]


def reconstruction_error(model: Model, steps: int, guidance_scale: float) -> float:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(4)) * 2 - 1
    options = SolvedOptions(steps=steps, guidance_scale=guidance_scale)
    source = drain(ddim.invert(model, image, "a cat on a beach", options))
    z_0 = model.encode_image(image)
    return float((source.trajectory[-1:] - z_0).norm() / z_0.norm())


def test_without_guidance_the_round_trip_closes_as_steps_grow_finer(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a first-order scheme: ten times the steps, about a tenth of it.

    That is a claim about a smooth eps; a random network's is not.
    """

    def smooth(self: Model, z: torch.Tensor, level: Level, *_: object, **__: object) -> Prediction:
        return level.from_noise(z, torch.sin(z) / 4)

    monkeypatch.setattr(Model, "predict", smooth)
    model = tiny("sd1", torch.float64)
    coarse, fine = (reconstruction_error(model, steps, 1.0) for steps in (10, 100))
    assert fine < 0.05 and 5 < coarse / fine < 20


@pytest.mark.slow
def test_guidance_amplifies_the_drift(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    assert reconstruction_error(model, 10, 7.5) > 1.5 * reconstruction_error(model, 10, 1.0)


def test_the_trajectory_is_what_sampling_makes_of_the_noise(tiny: Tiny) -> None:
    model = tiny("sd2")
    source = drain(ddim.invert(model, torch.zeros(1, 3, 32, 32), "a cat", SolvedOptions(steps=3)))
    assert source.guidance_scale == model.defaults.guidance_scale
    text, null = model.encode_text(["a cat"]), model.encode_text([""])
    guidance = TextGuidance(source.guidance_scale)
    states = denoise(model, source.z_T, reference.conditions(text, null), source.schedule, guidance)
    assert torch.equal(source.trajectory[1:], torch.cat([s.latents for s in states]))
