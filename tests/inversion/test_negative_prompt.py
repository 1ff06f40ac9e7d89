"""Negative-prompt inversion: with the source's prompt for null text, every guidance is none."""

from collections.abc import Callable

import pytest
import torch

import reference
from wordbrush.denoise import denoise
from wordbrush.guidance import TextGuidance
from wordbrush.inversion import ddim, negative_prompt
from wordbrush.model import Model
from wordbrush.options import SolvedOptions
from wordbrush.progress import drain

Tiny = Callable[..., Model]


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 7.5])
def test_the_source_branch_is_unguided_at_any_scale(shape: str, guidance_scale: float, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    options = SolvedOptions(steps=4, guidance_scale=guidance_scale)
    source = drain(negative_prompt.invert(model, image, "a cat on a beach", options))
    text = model.encode_text(["a cat on a beach"])
    assert torch.equal(source.null.hidden, text.hidden) and source.guidance_scale == guidance_scale
    given, guidance = reference.conditions(text, source.null), TextGuidance(guidance_scale)
    guided = denoise(model, source.z_T, given, source.schedule, guidance)
    for i, step in enumerate(guided):
        torch.testing.assert_close(step.latents[0], source.trajectory[i + 1], atol=1e-10, rtol=0)
    unguided = SolvedOptions(steps=4, guidance_scale=1.0)
    baseline = drain(ddim.invert(model, image, "a cat on a beach", unguided))
    torch.testing.assert_close(source.trajectory, baseline.trajectory, atol=1e-12, rtol=0)
