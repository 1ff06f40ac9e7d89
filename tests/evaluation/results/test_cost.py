"""Rows of the UNet's batch, counted where they pass."""

from collections.abc import Callable

import pytest
import torch

from reference import predict_eps
from wordbrush import edit, from_seed, invert
from wordbrush.evaluation.results.cost import RowCount, counting
from wordbrush.images import to_image
from wordbrush.model import Model

CAT, DOG = "a cat on a beach", "a dog on a beach"
Tiny = Callable[..., Model]


def picture() -> torch.Tensor:
    return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1


def predicted(model: Model) -> torch.Tensor:
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return predict_eps(model, latents, 500, model.encode_text([CAT, DOG]))


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_the_model_stays_as_it_was(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    before, hooks = predicted(model), dict(model.denoiser.unet._forward_hooks)
    with counting(model) as count:
        within = predicted(model)
    assert torch.equal(within, before) and torch.equal(predicted(model), before)
    assert model.denoiser.unet._forward_hooks == hooks
    assert count == RowCount(rows=2, with_gradient=0)  # the last call came after the block


def test_it_leaves_nothing_behind_when_the_block_raises(tiny: Tiny) -> None:
    model = tiny()
    hooks = dict(model.denoiser.unet._forward_hooks)
    with pytest.raises(RuntimeError, match="stop"), counting(model):
        raise RuntimeError("stop")
    assert model.denoiser.unet._forward_hooks == hooks


@pytest.mark.parametrize("target", [DOG, "a cat on a beach at night", "a beach"])
@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_it_counts_what_an_edit_says_of_itself(tiny: Tiny, target: str, guidance_scale: float) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=5, guidance_scale=guidance_scale, width=32, height=32)
    with counting(model) as count:
        results = edit(model, source, [target, CAT])
    assert count == RowCount(results[0].report.unet_rows, with_gradient=0)


def test_it_counts_what_an_inversion_does(tiny: Tiny) -> None:
    model, photo = tiny(), to_image(picture())
    told = {"steps": 4, "guidance_scale": 3.0}
    with counting(model) as both:
        with counting(model) as direct:
            invert(model, photo, CAT, method="direct", options=told)
        with counting(model) as null_text:  # a rate this small never comes near enough to stop early
            never = {"inner_steps": 3, "learning_rate": 1e-9, "early_stop": 0.0, "early_stop_growth": 0.0}
            invert(model, photo, CAT, method="null_text", options={**told, **never})
    assert direct == RowCount(4, 0)
    # Up, and for each step one conditional row, three that are optimised, and the one that lands.
    assert null_text == RowCount(4 + 4 * (1 + 3 + 1), with_gradient=4 * 3)
    assert both == RowCount(direct.rows + null_text.rows, null_text.with_gradient)


def test_rows_are_counted_whatever_batch_they_come_in(tiny: Tiny) -> None:
    model = tiny()
    text = model.encode_text([CAT] * 3)
    latents = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with counting(model) as count, torch.no_grad():
        predict_eps(model, latents, 500, text)
        predict_eps(model, latents[:1], 500, text[:1])
    assert count.rows == 4
