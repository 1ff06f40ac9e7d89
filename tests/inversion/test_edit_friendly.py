"""Edit-friendly DDPM inversion: against a transcription of the paper's equations, and its laws."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from reference import alphas, conditions, predict_clean, predict_eps, prompt_to_prompt, timesteps
from wordbrush import edit
from wordbrush.denoise import denoise
from wordbrush.editing.prompt_to_prompt.options import Options as EditOptions
from wordbrush.errors import OptionsError
from wordbrush.guidance import TextGuidance
from wordbrush.inversion.edit_friendly import method
from wordbrush.inversion.edit_friendly.options import Options
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.source import Source
from wordbrush.states import NoiseMaps

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]
CAT, DOG = "a cat on a beach", "a dog on a beach"
FREE: dict[str, Any] = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0, "local_blend": "off"}


def picture() -> torch.Tensor:
    return torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(4)) * 2 - 1


def inverted(model: Model, **options: Any) -> Source:
    settings = parse(Options, {"steps": 5, "skip": 0.0, **options})
    return drain(method.invert(model, picture(), CAT, settings))


def maps(source: Source) -> NoiseMaps:
    assert isinstance(source.states, NoiseMaps)
    return source.states


def down(model: Model, source: Source, prompt: str, scale: float) -> torch.Tensor:
    """What the loop makes of the source's first latents with a prompt."""
    given = conditions(model.encode_text([prompt]), source.null)
    z, guidance, row = source.z_T, TextGuidance(scale), source.row(model)
    for step in denoise(model, z, given, source.schedule, guidance, source=row):
        z = step.latents
    return z


def means(model: Model, z: torch.Tensor, i: int, source: Source, prompt: str, scale: float) -> torch.Tensor:
    """μ_t of the DDPM step i: Ho et al. 2020 in DDIM's form (Song et al. 2021, eq. 12 and 16), with its σ_t."""
    bar, t, eta = alphas(source.schedule), timesteps(source.schedule)[i], maps(source).eta
    with torch.no_grad():
        free = predict_eps(model, z, t, source.null)
        eps = free + scale * (predict_eps(model, z, t, model.encode_text([prompt])) - free)
    sigma = sigmas(bar[i], bar[i + 1], eta)
    direction = math.sqrt(1 - bar[i + 1] - sigma**2)
    return math.sqrt(bar[i + 1]) * predict_clean(z, eps, bar[i]) + direction * eps


def sigmas(bar: float, bar_next: float, eta: float) -> float:
    return eta * math.sqrt((1 - bar_next) / (1 - bar)) * math.sqrt(1 - bar / bar_next)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("eta", [1.0, 0.4])
def test_it_is_the_papers_algorithm(shape: str, eta: float, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = inverted(model, eta=eta, noise_seed=3)
    bar, z_0 = alphas(source.schedule), model.encode_image(picture())
    # Independent noise at every level.
    generator = torch.Generator().manual_seed(3)
    for i in reversed(range(5)):
        noise = torch.randn(z_0.shape, generator=generator).double()
        expected = math.sqrt(bar[i]) * z_0 + math.sqrt(1 - bar[i]) * noise
        torch.testing.assert_close(source.states.at(i), expected, atol=1e-12, rtol=0)
    # z_t = (x_{t−1} − μ_t) / σ_t, and x_{t−1} = μ_t + σ_t z_t.
    for i in range(5):
        mean = means(model, source.states.at(i), i, source, CAT, 3.5)
        torch.testing.assert_close(
            maps(source).noises[i : i + 1], source.states.at(i + 1) - mean, atol=1e-10, rtol=0
        )
    # An edit: the target's means, the source's noise.
    z = source.z_T
    for i in range(5):
        sigma = sigmas(bar[i], bar[i + 1], eta)
        z_t = (source.states.at(i + 1) - means(model, source.states.at(i), i, source, CAT, 3.5)) / sigma
        z = means(model, z, i, source, DOG, 6.0) + sigma * z_t
    assert (z - source.z_0).abs().max() > 1e-3, "nothing was edited"
    torch.testing.assert_close(down(model, source, DOG, 6.0), z, atol=1e-9, rtol=0)
    (result,) = drain(prompt_to_prompt(model, source, [DOG], EditOptions(guidance_scale=6.0, **FREE)))
    torch.testing.assert_close(result.trajectory[-1:], z, atol=1e-9, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_sources_own_prompt_leads_back_exactly(shape: str, tiny: Tiny) -> None:
    for dtype, atol in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model = tiny(shape, dtype)
        source = inverted(model)
        z_0 = model.encode_image(picture())
        torch.testing.assert_close(down(model, source, CAT, 3.5), z_0, atol=atol, rtol=0)


def test_also_where_the_last_step_adds_no_noise(tiny: Tiny) -> None:
    """σ is 0 there, and z_t is not: what the network misses of the picture is added all the same."""
    model = tiny("sd1", torch.float64)
    exact = Model(
        unet=model.denoiser.unet,
        vae=model.autoencoder.vae,
        text_encoders=model.text.encoders,
        tokenizers=model.text.tokenizers,
        schedule_config={**model.schedule_config, "set_alpha_to_one": True},
        name="tiny",
    )
    source = inverted(exact)
    assert source.schedule.levels[-1].sigma == 0 and maps(source).noises[-1].abs().max() > 1e-4
    found = down(exact, source, CAT, 3.5)
    torch.testing.assert_close(found, exact.encode_image(picture()), atol=1e-12, rtol=0)


def test_another_seed_is_another_edit_of_the_same_picture(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    one, other = inverted(model), inverted(model, noise_seed=1)
    torch.testing.assert_close(one.z_0, other.z_0, atol=1e-12, rtol=0)
    edits = [down(model, source, DOG, 6.0) for source in (one, other, inverted(model))]
    assert (edits[0] - edits[1]).abs().max() > 1e-3 and torch.equal(edits[0], edits[2])


def test_what_is_skipped_changes_nothing_of_the_rest(tiny: Tiny) -> None:
    """And a strength leaves out whole steps in the same way."""
    model = tiny("sd1", torch.float64)
    whole, late = inverted(model), inverted(model, skip=0.4)
    assert late.steps == 3 and late.schedule.levels == whole.schedule.levels[2:]
    torch.testing.assert_close(late.trajectory, whole.trajectory[2:], atol=1e-12, rtol=0)
    torch.testing.assert_close(maps(late).noises, maps(whole).noises[2:], atol=1e-12, rtol=0)
    weaker = whole.late(0.4, model)
    assert weaker.schedule == late.schedule and torch.equal(weaker.trajectory, whole.trajectory[2:])
    torch.testing.assert_close(down(model, weaker, DOG, 6.0), down(model, late, DOG, 6.0), atol=1e-9, rtol=0)
    assert whole.late(0.99, model).steps == 1  # never none


def test_edits_follow_a_guidance_of_their_own(tiny: Tiny) -> None:
    model = tiny("sd1")
    assert inverted(model).guidance_scale == 9 and inverted(model, guidance_scale=2.0).guidance_scale == 2
    assert torch.equal(inverted(model).trajectory, inverted(model, guidance_scale=2.0).trajectory)
    assert not torch.equal(
        maps(inverted(model)).noises, maps(inverted(model, source_guidance_scale=1.0)).noises
    )


def test_outside_of_a_mask_is_the_source(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = inverted(model)
    result = edit(model, source, DOG, options={"blend_threshold": 0.7})
    assert result.mask is not None
    outside = ~result.mask
    assert 0.02 < outside.double().mean() < 0.98
    kept = (result.trajectory[-1] - source.z_0[0]).abs().amax(0)
    assert kept[outside].max() == 0 and kept[~outside].max() > 1e-3


@pytest.mark.parametrize("options", [{"eta": 0.0}, {"skip": 1.0}, {"noise_seed": -1}, {"eta": 1.5}])
def test_options_out_of_range_are_named(options: dict[str, Any], tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=next(iter(options))):
        inverted(tiny("sd1"), **options)
