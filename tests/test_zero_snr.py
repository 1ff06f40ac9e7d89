"""Models whose schedule begins without any signal: v-prediction, by rescaled betas (Lin et al. 2024)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler

from reference import alphas
from wordbrush import edit, from_seed, inversion_methods, invert
from wordbrush.denoise import denoise
from wordbrush.errors import ModelError
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.schedule import training_alphas_cumprod

Tiny = Callable[..., Model]
SETTINGS = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "steps_offset": 0}


@pytest.fixture
def model(tiny: Tiny) -> Model:
    return with_schedule(tiny("sd2", torch.float64), SETTINGS)


def with_schedule(base: Model, settings: dict[str, Any]) -> Model:
    return Model(
        unet=base.denoiser.unet,
        vae=base.autoencoder.vae,
        text_encoders=base.text.encoders,
        tokenizers=base.text.tokenizers,
        schedule_config={**base.schedule_config, **settings},
        name="tiny",
    )


def test_sampling_is_that_of_diffusers(model: Model) -> None:
    """From pure noise, with guidance on v, which is the same as guidance on the noise wherever that says something."""
    schedule = model.schedule(4)
    assert schedule.levels[0].signal == 0 and schedule.levels[0].t == 999
    theirs = DDIMScheduler(**model.schedule_config, clip_sample=False)
    theirs.alphas_cumprod = training_alphas_cumprod(model.schedule_config)
    theirs.final_alpha_cumprod = theirs.alphas_cumprod[0]
    theirs.set_timesteps(4)
    assert theirs.timesteps.tolist() == [level.t for level in schedule.levels[:-1]]
    text, null = model.encode_text(["a cat"]), model.encode_text([""])
    z = noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = {"text": Conditioning(text), "null": Conditioning(null)}
    for step in denoise(model, noise, given, schedule, TextGuidance(5.0)):
        t = schedule.levels[step.index].t
        with torch.no_grad():
            v, v_null = (
                model.denoiser.unet(z, t, encoder_hidden_states=each.hidden).sample for each in (text, null)
            )
        z = theirs.step(v_null + 5.0 * (v - v_null), t, z).prev_sample
        torch.testing.assert_close(step.latents, z, atol=1e-9, rtol=1e-9)
    assert alphas(schedule)[0] == 0


@pytest.mark.parametrize("method", sorted(inversion_methods()))
def test_pictures_are_inverted_and_edited(method: str, model: Model) -> None:
    photo = from_seed(model, "a cat on a beach", seed=3, steps=4).image(model)
    options: dict[str, Any] = {"steps": 4, **({"inner_steps": 2} if method == "null_text" else {})}
    source = invert(model, photo, "a cat on a beach", method=method, options=options)
    assert source.trajectory.isfinite().all()
    result = edit(model, source, "a dog on a beach", options={"guidance_scale": 3.0})
    assert result.trajectory.isfinite().all()
    assert not torch.equal(result.trajectory[-1], source.trajectory[-1])


def test_the_straight_path_leads_back_from_pure_noise(model: Model) -> None:
    """Equal texts: the edited prompt differs in a mark alone, so the edit runs and changes nothing."""
    photo = from_seed(model, "a cat on a beach", seed=3, steps=4).image(model)
    source = invert(model, photo, "a cat on a beach", method="straight", options={"steps": 5})
    assert source.schedule.levels[0].signal == 0
    options = {"reweight": {"cat": 1.0}, "finish": 1.0, "local_blend": "off"}
    result = edit(model, source, "a cat on a beach", options=options)
    torch.testing.assert_close(result.trajectory, source.trajectory, atol=1e-9, rtol=0)


def test_a_network_that_predicts_noise_cannot_begin_there(tiny: Tiny) -> None:
    with pytest.raises(
        ModelError, match="expected a network that predicts v, as its schedule begins without"
    ):
        with_schedule(tiny("sd1"), SETTINGS)
