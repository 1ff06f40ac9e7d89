"""The same noise with other words, against DDIM written again in float64, and against rendered truth."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wordbrush import edit, from_seed, invert
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"


def drawn(model: Model, source: Source, prompt: str, scale: float, z: Tensor) -> Tensor:
    """DDIM from z with ᾱ alone: z' = √ᾱ' (z − √(1−ᾱ) ε) / √ᾱ + √(1−ᾱ') ε, ε = ε_∅ + w (ε_text − ε_∅)."""
    levels = source.schedule.levels
    for here, to in zip(levels, levels[1:], strict=False):
        bar, bar_to = here.signal**2, to.signal**2
        eps: list[Tensor] = []
        for text in ("", prompt):
            embeds = model.encode_text([text])
            kwargs: dict[str, Any] = {}
            if embeds.pooled is not None:
                height, width = source.size(model)
                ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=z.dtype)
                kwargs["added_cond_kwargs"] = {"text_embeds": embeds.pooled, "time_ids": ids}
            said = model.denoiser.unet(z, here.t, encoder_hidden_states=embeds.hidden, **kwargs).sample
            is_eps = model.denoiser.prediction == "epsilon"
            eps.append(said if is_eps else bar**0.5 * said + (1 - bar) ** 0.5 * z)
        guided = eps[0] + scale * (eps[1] - eps[0])
        z = bar_to**0.5 * (z - (1 - bar) ** 0.5 * guided) / bar**0.5 + (1 - bar_to) ** 0.5 * guided
    return z


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_it_is_ddim_from_the_sources_noise(shape: str, size: tuple[int, int], tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=4, height=size[0], width=size[1])
    told = {"guidance_scale": 2.5}
    results = edit(model, source, [DOG, "a red cat on a beach"], method="fixed_seed", options=told)
    for result in results:
        expected = drawn(model, source, result.prompt, 2.5, source.z_T)
        torch.testing.assert_close(result.trajectory[-1:], expected, rtol=1e-9, atol=1e-9)
        assert result.report.unet_rows == 2 * 2 * 4 and result.report.edited_share == 1
    assert results[0].report.words == "a [cat → dog] on a beach"


@pytest.mark.parametrize(
    "inversion", ["seed", pytest.param("null_text", marks=pytest.mark.slow), "edict", "edit_friendly"]
)
def test_the_sources_own_words_lead_back_to_it(inversion: str, tiny: Tiny) -> None:
    """Everything else of the run is the source's: steps, null embeddings, the noise of each step, coupled latents."""
    model = tiny("sd1", torch.float64)
    if inversion == "seed":
        source = from_seed(model, CAT, steps=3)
    else:
        noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
        own = {"null_text": {"inner_steps": 2}, "edit_friendly": {"source_guidance_scale": 3.0}}
        told = {"steps": 3, "guidance_scale": 3.0, **own.get(inversion, {})}
        source = invert(model, Image.fromarray(noise), CAT, method=inversion, options=told)
    same, other = edit(model, source, [CAT, DOG], method="fixed_seed")
    assert not torch.allclose(other.trajectory[-1:], source.z_0, atol=1e-3)
    if inversion == "null_text":  # leads back as far as its embeddings do, which were hardly optimised here
        states = source.trajectory.double()
        assert (same.trajectory - states).norm() < (other.trajectory - states).norm()
    else:
        torch.testing.assert_close(same.trajectory[-1:], source.z_0, rtol=1e-6, atol=1e-6)


def test_the_straight_path_is_left_for_the_models_own_guidance(tiny: Tiny) -> None:
    """A difference of two rows is no baseline: without the source's row it is ordinary guidance."""
    model = tiny("sd1")
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    source = invert(model, noise, CAT, method="straight", options={"steps": 3})
    result = edit(model, source, DOG, method="fixed_seed")
    assert result.report.guidance_scale == model.defaults.guidance_scale and result.report.unet_rows == 2 * 3
    expected = drawn(model, source, DOG, model.defaults.guidance_scale, source.z_T)
    torch.testing.assert_close(result.trajectory[-1:], expected, rtol=1e-3, atol=1e-3)


def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=5)
    nothing = edit(model, source, DOG, method="fixed_seed", strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert nothing.report.notices
    whole = edit(model, source, DOG, method="fixed_seed", strength=1.0)
    assert torch.equal(whole.trajectory[-1], edit(model, source, DOG, method="fixed_seed").trajectory[-1])
    half = edit(model, source, DOG, method="fixed_seed", options={"start": 0.5})
    assert torch.equal(half.trajectory[:1], source.late(0.5, model).z_T)


def test_outside_of_a_mask_the_source_is_put_back(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    result = edit(model, source, DOG, method="fixed_seed", mask=mask)
    assert result.mask is not None and 0 < result.report.edited_share < 1
    kept = ~result.mask
    assert torch.equal(result.trajectory[:, :, kept], source.trajectory[:, :, kept])
    assert not torch.equal(result.trajectory[-1:], source.z_0)


@pytest.mark.slow
def test_one_word_changes_the_whole_picture() -> None:
    """Hertz et al. 2022, figure 2: the same seed, one other word, another picture; attention edits keep it."""
    model = Model.load("pocket", device="cpu")
    off: dict[str, list[float]] = {"fixed_seed": [], "prompt_to_prompt": []}
    for one in split(555, 4, "change object"):
        source = invert(model, one.picture, one.source_prompt)
        for method, found in off.items():
            picture = edit(model, source, one.target_prompt, method=method).rendering
            away = np.abs(np.asarray(picture, float) - np.asarray(one.picture, float))
            found.append(float(away[~one.mask].mean()))
    assert np.mean(off["fixed_seed"]) > 2 * np.mean(off["prompt_to_prompt"])


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    with pytest.raises(OptionsError, match="start"):
        edit(model, source, DOG, method="fixed_seed", options={"start": 1.5})
    with pytest.raises(PromptError):
        edit(model, source, DOG + " dog" * 100, method="fixed_seed")
