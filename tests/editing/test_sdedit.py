"""SDEdit against its algorithm, written again in float64, and against rendered truth."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wordbrush import edit, from_seed
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model
from wordbrush.result import Result
from wordbrush.schedule import training_alphas_cumprod

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"
SHAPES = ["sd1", "sd2", "sdxl"]


def redrawn(model: Model, result: Result, noise: Tensor, start: float, scale: float, clean: Tensor) -> Tensor:
    """Algorithm 1 with DDIM's steps between levels that are evenly spread in ᾱ's own timesteps."""
    source = result.source
    levels = source.schedule.late(start, training_alphas_cumprod(model.schedule_config)).levels
    z = levels[0].signal * clean + levels[0].sigma * noise
    for here, to in zip(levels, levels[1:], strict=False):
        eps: list[Tensor] = []
        for prompt in ("", result.prompt):
            embeds = model.encode_text([prompt])
            kwargs: dict[str, Any] = {}
            if embeds.pooled is not None:
                height, width = source.size(model)
                ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=z.dtype)
                kwargs["added_cond_kwargs"] = {"text_embeds": embeds.pooled, "time_ids": ids}
            said = model.denoiser.unet(z, here.t, encoder_hidden_states=embeds.hidden, **kwargs).sample
            eps.append(
                said if model.denoiser.prediction == "epsilon" else here.signal * said + here.sigma * z
            )
        guided = eps[0] + scale * (eps[1] - eps[0])
        z = to.signal * (z - here.sigma * guided) / here.signal + to.sigma * guided
    return z


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_its_algorithm(shape: str, size: tuple[int, int], tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=4, height=size[0], width=size[1])
    told = {"start": 0.4, "guidance_scale": 2.5, "repeats": 2, "redraw_seed": 3}
    results = edit(model, source, [DOG, "a red cat on a beach"], method="sdedit", options=told)
    for result in results:
        clean = source.z_0
        for seed in (3, 4):
            noise = torch.randn(
                1, *source.z_0.shape[1:], generator=torch.Generator().manual_seed(seed)
            ).double()
            clean = redrawn(model, result, noise, 0.4, 2.5, clean)
        torch.testing.assert_close(result.trajectory[-1:], clean, rtol=1e-9, atol=1e-9)
        assert result.report.unet_rows == 2 * 2 * 4 * 2 and result.report.edited_share == 1
    assert results[0].report.words == "a [cat → dog] on a beach"


def test_another_seed_is_another_result_and_the_same_is_the_same(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)

    def made(**told: Any) -> Tensor:
        return edit(model, source, DOG, method="sdedit", options=told).trajectory[-1]

    assert torch.equal(made(), made(redraw_seed=0)) and not torch.equal(made(), made(redraw_seed=1))
    assert not torch.equal(made(), made(repeats=2))


def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=5)
    nothing = edit(model, source, DOG, method="sdedit", strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert nothing.report.notices
    whole = edit(model, source, DOG, method="sdedit", strength=1.0)
    assert torch.equal(whole.trajectory[-1], edit(model, source, DOG, method="sdedit").trajectory[-1])


def test_outside_of_a_mask_the_picture_is_put_back(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    result = edit(model, source, DOG, method="sdedit", mask=mask)
    assert result.mask is not None and 0 < result.report.edited_share < 1
    end, kept = result.trajectory[-1], ~result.mask
    assert torch.equal(end[:, kept], source.z_0[0][:, kept]) and not torch.equal(end, source.z_0[0])
    changed = np.asarray(result.image, int) != np.asarray(source.image(model), int)
    assert not changed[np.asarray(mask) == 0].any()


@pytest.mark.slow
def test_the_later_it_begins_the_more_of_the_picture_stays() -> None:
    """And early enough, it draws what the words say: on rendered scenes."""
    model = Model.load("pocket", device="cpu")
    for one in split(555, 2, "change place"):
        off: dict[float, list[float]] = {}
        for start in (0.2, 0.5, 0.8):
            result = edit(
                model,
                one.picture,
                one.target_prompt,
                prompt=one.source_prompt,
                method="sdedit",
                options={"start": start},
            )
            ours = np.asarray(result.image, float)
            off[start] = [
                float(np.abs(ours - np.asarray(picture, float)).mean())
                for picture in (one.picture, one.truth)
            ]
        from_source = [off[start][0] for start in (0.2, 0.5, 0.8)]
        assert from_source == sorted(from_source, reverse=True)
        assert off[0.2][0] > off[0.2][1], "early, the place is the new one"


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    with pytest.raises(OptionsError, match="start"):
        edit(model, source, DOG, method="sdedit", options={"start": 1.5})
    with pytest.raises(PromptError):
        edit(model, source, DOG + " dog" * 100, method="sdedit")
