"""Conditions besides text: extra input channels, and a guidance scale that the network is told."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import CLIPTokenizer

import conftest
from reference import level
from wordbrush import generate
from wordbrush.denoise import denoise
from wordbrush.errors import ModelError
from wordbrush.guidance import TextImageGuidance
from wordbrush.model import Conditioning, Model, TextEmbeds

Tiny = Callable[..., Model]


def with_unet(tokenizer: CLIPTokenizer, **settings: Any) -> Model:
    """The tiny SD 1 with another UNet, in float64."""
    torch.manual_seed(0)
    base = conftest.sd1(tokenizer)
    model = Model(
        unet=conftest.unet(**settings),
        vae=base.autoencoder.vae,
        text_encoders=base.text.encoders,
        tokenizers=[tokenizer],
        schedule_config=base.schedule_config,
        name="tiny",
    )
    for module in (model.denoiser.unet, model.autoencoder.vae, *model.text.encoders):
        module.to(torch.float64)
    return model


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("extra", [4, 5])
def test_a_unet_of_eight_or_nine_channels_reads_them_after_the_latents(
    extra: int, tokenizer: CLIPTokenizer
) -> None:
    model = with_unet(tokenizer, in_channels=4 + extra)
    assert model.latent_channels == 4  # the autoencoder's
    z, channels, text = noise(2, 4, 16, 16), noise(2, extra, 16, 16), model.encode_text(["a cat", "a dog"])
    with torch.no_grad():
        predicted = model.predict(z, level(model, 401), Conditioning(text, channels))
        expected = model.denoiser.unet(torch.cat([z, channels], 1), 401, text.hidden).sample
    assert torch.equal(predicted.noise, expected) and predicted.clean.shape == z.shape


def test_such_a_model_says_what_it_needs(tokenizer: CLIPTokenizer, tiny: Tiny) -> None:
    model = with_unet(tokenizer, in_channels=8)
    with pytest.raises(ModelError, match=r"reads 4 channels beside the latents' 4, got 0: use a method"):
        generate(model, "a cat", steps=1)
    plain = tiny("sd1", torch.float64)
    channels = Conditioning(plain.encode_text(["a cat"]), noise(1, 4, 16, 16))
    with pytest.raises(ModelError, match=r"reads 0 channels beside.*got 4: leave them out"):
        plain.predict(noise(1, 4, 16, 16), level(plain, 401), channels)


def test_three_branches_of_an_instruction_model_in_one_batch(tokenizer: CLIPTokenizer) -> None:
    """Brooks et al. 2023: neither, the picture alone, the picture and the text; each branch with its own channels."""
    model = with_unet(tokenizer, in_channels=8)
    picture, nothing = noise(1, 4, 16, 16, seed=5), torch.zeros(1, 4, 16, 16, dtype=torch.float64)
    text, null = model.encode_text(["make it a dog"]), model.encode_text([""])
    given = {
        "null": Conditioning(null, nothing),
        "image": Conditioning(null, picture),
        "text": Conditioning(text, picture),
    }
    z, schedule, guidance = noise(1, 4, 16, 16), model.schedule(2), TextImageGuidance(7.5, 1.5)
    step = next(denoise(model, z, given, schedule, guidance))
    with torch.no_grad():
        alone = {name: model.predict(z, schedule.levels[0], each).noise for name, each in given.items()}
    guided = -0.5 * alone["null"] - 6.0 * alone["image"] + 7.5 * alone["text"]
    expected = schedule.levels[0].from_noise(z, guided).clean
    torch.testing.assert_close(step.clean, expected, atol=1e-9, rtol=0)
    assert step.rows == 3


def test_a_distilled_model_is_told_the_guidance_scale(tokenizer: CLIPTokenizer) -> None:
    """Sines and cosines of 1000 (w − 1) at rates 10000^(−k/(half−1)) (Meng et al. 2023, as LCM has them)."""
    model = with_unet(tokenizer, time_cond_proj_dim=8)
    z, text = noise(2, 4, 16, 16), model.encode_text(["a cat", "a dog"])
    angles = [1000 * (7.5 - 1) * 10_000 ** (-k / 3) for k in range(4)]
    embedding = torch.tensor([[*map(math.sin, angles), *map(math.cos, angles)]] * 2, dtype=torch.float64)
    with torch.no_grad():
        told = model.predict(z, level(model, 401), Conditioning(text, guidance_scale=7.5)).noise
        expected = model.denoiser.unet(z, 401, text.hidden, timestep_cond=embedding).sample
        other = model.predict(z, level(model, 401), Conditioning(text, guidance_scale=2.0)).noise
    torch.testing.assert_close(told, expected, atol=1e-8, rtol=0)
    assert not torch.equal(told, other)


def test_a_distilled_model_that_is_told_no_scale_says_so(tokenizer: CLIPTokenizer) -> None:
    model = with_unet(tokenizer, time_cond_proj_dim=8)
    with pytest.raises(ModelError, match="reads the guidance scale as an input, got none"):
        model.predict(noise(1, 4, 16, 16), level(model, 401), Conditioning(model.encode_text(["a cat"])))


def test_a_model_that_reads_no_scale_says_so(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    given = Conditioning(model.encode_text(["a cat"]), guidance_scale=7.5)
    with pytest.raises(ModelError, match="reads no guidance scale"):
        model.predict(noise(1, 4, 16, 16), level(model, 401), given)


def test_rows_are_joined_and_repeated_in_all_their_parts() -> None:
    text = TextEmbeds(noise(2, 3, 4), noise(2, 5))
    both = Conditioning(text, noise(2, 4, 8, 8), 3.0)
    one = Conditioning(text[0:1], noise(1, 4, 8, 8, seed=9), 3.0).expand(3)
    joined = Conditioning.concat([both, one])
    assert len(joined) == 5 and joined.guidance_scale == 3.0 and not joined.cache
    assert joined.channels is not None and torch.equal(joined.channels[4], noise(1, 4, 8, 8, seed=9)[0])
    assert joined.text.pooled is not None and torch.equal(
        joined.text.pooled[2:], text.pooled[:1].expand(3, -1)
    )
