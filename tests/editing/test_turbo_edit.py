"""TurboEdit against its update, written again in float64; its laws; and rendered truth."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import oracle
from wordbrush import edit, from_seed, invert
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT, DOG, RED = "a cat on a beach", "a dog on a beach", "a red cat on a beach"
HUGE: dict[str, Any] = {"noise_limit": 100.0}


def photo() -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def straight(model: Model, steps: int = 4) -> Source:
    return invert(model, photo(), CAT, method="straight", options={"steps": steps})


def posterior_mean(z: Tensor, eps: Tensor, a: float, a_next: float) -> Tensor:
    """μ of DDPM (Ho et al. 2020, eq. 7), in its own coefficients."""
    clean = (z - (1 - a) ** 0.5 * eps) / a**0.5
    step = a / a_next
    return (a_next**0.5 * (1 - step) * clean + step**0.5 * (1 - a_next) * z) / (1 - a)


@torch.no_grad()
def explicit(
    model: Model, z_0: Tensor, target: str, times: list[int], last: float, shift: int, w: float, limit: float
) -> Tensor:
    """Equation (2) of the page as the released code has it: three means a step, of which two are the target's."""
    bar = oracle.alphas_cumprod(dict(model.schedule_config))
    a = [float(bar[t]) for t in times] + [last]
    generator = torch.Generator().manual_seed(3)
    path = [z_0]
    for t in reversed(times):
        noise, seen = torch.randn(z_0.shape, generator=generator).double(), t - shift
        alpha = float(bar[seen]) if seen > 0 else 1.0
        path.append(alpha**0.5 * z_0 + (1 - alpha) ** 0.5 * noise)
    path.reverse()
    words, new = model.encode_text([CAT]), model.encode_text([target])
    z, found = path[0], [path[0]]
    for i, t in enumerate(times):
        own = posterior_mean(path[i], oracle.predict(model, path[i], t, words), a[i], a[i + 1])
        same = posterior_mean(z, oracle.predict(model, z, t, words), a[i], a[i + 1])
        told = posterior_mean(z, oracle.predict(model, z, t, new), a[i], a[i + 1])
        kept = 1.0
        if i + 1 == len(times):
            size = float((path[i + 1] - own).square().mean()) ** 0.5
            kept = min(1.0, limit / size)
        z = kept * path[i + 1] + (same - kept * own) + w * (told - same)
        found.append(z)
    return torch.cat(found)


@pytest.mark.parametrize("shape", ["sd1", pytest.param("sd2", marks=pytest.mark.slow)])
def test_it_is_its_update(shape: str, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = straight(model)
    told = {"pseudo_guidance": 1.7, "redraw_seed": 3, "noise_limit": 0.05}
    results = edit(model, source, [DOG, RED], method="turbo_edit", options=told)
    for result in results:
        # The published levels: four of a run of five steps, each noised one step less than the network is told.
        path = explicit(model, source.z_0, result.prompt, [799, 599, 399, 199], 1.0, 200, 1.7, 0.05)
        torch.testing.assert_close(result.trajectory, path, rtol=1e-8, atol=1e-8)
        details = result.report.details
        assert details["told"] == [799, 599, 399, 199] and details["noised_to"] == [599, 399, 199, 0]
        assert 0 < details["last_noise_kept"] < 1
        assert result.report.unet_rows == 4 * (1 + 2 * 2) and result.report.guidance_scale == 1.7
    assert results[0].report.words == "a [cat → dog] on a beach"


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_it_is_its_update_on_other_levels_and_pictures_that_are_not_square(shape: str, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=4, height=48, width=32)
    told = {"redraw_seed": 3, "start": 0.0, "timestep_shift": 90, **HUGE}
    result = edit(model, source, DOG, method="turbo_edit", options=told)
    levels = source.schedule.levels
    times = [level.t for level in levels[:-1]]
    path = explicit(model, source.z_0, DOG, times, levels[-1].signal ** 2, 90, 1.5, 100)
    torch.testing.assert_close(result.trajectory, path, rtol=1e-8, atol=1e-8)


def test_equal_prompts_or_no_guidance_lead_back_through_any_network(tiny: Tiny) -> None:
    model = tiny("sd2", torch.float64)
    source = straight(model)
    for target, w in ((CAT, 3.0), (DOG, 0.0)):
        result = edit(model, source, target, method="turbo_edit", options={"pseudo_guidance": w, **HUGE})
        torch.testing.assert_close(result.trajectory[-1:], source.z_0, rtol=1e-9, atol=1e-9)


def test_each_option_does_something(tiny: Tiny) -> None:
    model = tiny()
    source = straight(model)

    def made(**told: Any) -> Tensor:
        return edit(model, source, DOG, method="turbo_edit", options=told).trajectory[-1]

    first = made()
    assert torch.equal(first, made(redraw_seed=0, pseudo_guidance=1.5, timestep_shift=200, start=0.2))
    others: list[dict[str, Any]] = [
        {"redraw_seed": 1},
        {"pseudo_guidance": 1.0},
        {"timestep_shift": 0},
        {"noise_limit": 0.0},
        {"start": 0.5},
    ]
    assert all(not torch.equal(first, made(**told)) for told in others)


def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = straight(model)
    nothing = edit(model, source, DOG, method="turbo_edit", strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert nothing.report.notices
    whole = edit(model, source, DOG, method="turbo_edit", strength=1.0)
    assert torch.equal(whole.trajectory[-1], edit(model, source, DOG, method="turbo_edit").trajectory[-1])


def test_outside_of_a_mask_the_picture_is_put_back(tiny: Tiny) -> None:
    model = tiny()
    source = straight(model)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    result = edit(model, source, DOG, method="turbo_edit", mask=mask)
    assert result.mask is not None and 0 < result.report.edited_share < 1
    end, kept = result.trajectory[-1], ~result.mask
    # The picture's own step ends at μ + σ z, which is the picture but for rounding.
    torch.testing.assert_close(end[:, kept], source.z_0[0][:, kept], rtol=1e-5, atol=1e-5)
    assert (end - source.z_0[0]).abs().max() > 1e-3


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    with pytest.raises(OptionsError, match="timestep_shift"):
        edit(model, source, DOG, method="turbo_edit", options={"timestep_shift": -1})
    with pytest.raises(PromptError):
        edit(model, source, DOG + " dog" * 100, method="turbo_edit")


@pytest.mark.slow
def test_it_draws_what_the_words_say() -> None:
    """On rendered scenes: where something changes, nearer to the true answer than the source is."""
    model = Model.load("pocket", device="cpu")
    for kind in ("change object", "change place"):
        for one in split(556, 2, kind):
            result = edit(
                model, one.picture, one.target_prompt, prompt=one.source_prompt, method="turbo_edit"
            )
            ours, truth, before = (
                np.asarray(picture, float) for picture in (result.image, one.truth, one.picture)
            )
            changed = np.abs(truth - before).max(-1) > 8
            inside, was = (np.abs(each - truth)[changed].mean() for each in (ours, before))
            assert inside < 0.85 * was, (one.target_prompt, inside, was)
