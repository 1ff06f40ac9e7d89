"""UniTune against its equations, written again in float64, and against rendered truth."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wordbrush import check_edit, edit, from_seed, invert
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.training.one_picture import tuned
from wordbrush.training.options import OnePictureOptions
from wordbrush.training.rare_tokens import candidates

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"
SHORT: Mapping[str, Any] = {"tuning_steps": 2, "tuning_rate": 1e-2, "tuning_batch": 1}


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "size"), [("sd1", (32, 32)), ("sd2", (48, 32)), ("sdxl", (32, 48))])
def test_it_draws_the_rare_words_and_the_target(shape: str, size: tuple[int, int], tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=4, height=size[0], width=size[1])
    told = {**SHORT, "guidance_scale": 12.0, "start": 0.25, "rare_words": "zzz qqq", "redraw_seed": 3}
    results = edit(model, source, [DOG, "a red cat on a beach"], method="unitune", options=told)
    assert results[0].report.unet_rows == 2 + 2 * 4 * 2

    own, _ = drain(tuned(model, source, "zzz qqq", parse(OnePictureOptions, SHORT)))
    levels = source.schedule.late(0.25, training_alphas_cumprod(model.schedule_config)).levels
    noise = torch.randn(1, *source.z_0.shape[1:], generator=torch.Generator().manual_seed(3)).double()
    with torch.no_grad():
        for result in results:
            z = levels[0].signal * source.z_0 + levels[0].sigma * noise
            for here, to in zip(levels, levels[1:], strict=False):
                eps: list[Tensor] = []
                for prompt in ("", f"zzz qqq {result.prompt}"):
                    embeds = model.encode_text([prompt])
                    kwargs: dict[str, Any] = {}
                    if embeds.pooled is not None:
                        ids = torch.tensor([[*size, 0, 0, *size]], dtype=z.dtype)
                        kwargs["added_cond_kwargs"] = {"text_embeds": embeds.pooled, "time_ids": ids}
                    out = own.denoiser.unet(z, here.t, encoder_hidden_states=embeds.hidden, **kwargs).sample
                    eps.append(here.signal * out + here.sigma * z if shape == "sd2" else out)
                guided = eps[0] + 12 * (eps[1] - eps[0])
                z = to.signal * (z - here.sigma * guided) / here.signal + to.sigma * guided
            torch.testing.assert_close(result.trajectory[-1:], z, rtol=1e-6, atol=1e-6)
    assert results[0].report.details["rare"] == "zzz qqq"
    assert results[0].report.words == "a [cat → dog] on a beach"


@pytest.mark.slow
def test_each_option_does_something_and_strength_begins_at_the_source(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)

    def made(**told: Any) -> Tensor:
        return edit(model, source, DOG, method="unitune", options={**SHORT, **told}).trajectory[-1]

    plain = made()
    for name, value in (
        ("rare_words", "zzz"),
        ("start", 0.5),
        ("guidance_scale", 2.0),
        ("redraw_seed", 1),
        ("tuning_steps", 3),
    ):
        assert not torch.equal(plain, made(**{name: value})), name
    assert torch.equal(plain, made())
    nothing = edit(model, source, DOG, method="unitune", options=SHORT, strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    masked = edit(model, source, DOG, method="unitune", options=SHORT, mask=mask)
    assert masked.mask is not None
    assert torch.equal(masked.trajectory[-1][:, ~masked.mask], source.z_0[0][:, ~masked.mask])


def test_the_drawn_words_are_rare(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=1)
    result = edit(model, source, DOG, method="unitune", options={**SHORT, "tuning_steps": 0})
    rare = result.report.details["rare"].split()
    assert len(rare) == 3 and {*rare} <= {each.text for each in candidates(model)}


@pytest.mark.slow
def test_rare_words_alone_draw_the_picture() -> None:
    """On a rendered scene; a model that has not learned it draws something else under them."""
    model = Model.load("pocket", device="cpu")
    (one,) = split(777, 1, "change object")
    source = invert(model, one.picture, one.source_prompt)
    off = [
        float(np.abs(np.asarray(result.rendering, float) - np.asarray(one.picture, float)).mean())
        for result in (
            edit(model, source, "zwx", method="unitune", options={"rare_words": "zwx lis old", **told})
            for told in ({}, {"tuning_steps": 0})
        )
    ]
    assert off[0] < 0.5 * off[1]


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    with pytest.raises(OptionsError, match="rare_words"):
        check_edit(model, CAT, [DOG], method="unitune", options={"rare_words": " "})
    fitting = "dog " * 28  # with three words more it is too long
    check_edit(model, CAT, [fitting], method="sdedit")
    with pytest.raises(PromptError):
        check_edit(model, CAT, [fitting], method="unitune")
