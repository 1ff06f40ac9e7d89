"""SINE against its formula, written again in float64, and against rendered truth."""

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
from wordbrush.guidance import TextGuidance, TwoModelGuidance
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.training.one_picture import WHOLE, placed, tuned
from wordbrush.training.options import OnePictureOptions

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"
SHORT: Mapping[str, Any] = {"tuning_steps": 2, "tuning_rate": 1e-2, "tuning_batch": 1}


def said(model: Model, z: Tensor, here: Any, hidden: Tensor, pooled: Tensor | None) -> Tensor:
    """The noise that a network predicts."""
    kwargs: dict[str, Any] = {}
    if pooled is not None:
        height, width = z.shape[-2] * model.downscale, z.shape[-1] * model.downscale
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=z.dtype)
        kwargs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": ids}
    out = model.denoiser.unet(z, here.t, encoder_hidden_states=hidden, **kwargs).sample
    return out if model.denoiser.prediction == "epsilon" else here.signal * out + here.sigma * z


@pytest.mark.slow
@pytest.mark.parametrize("patches", [None, 0.5])
@pytest.mark.parametrize(("shape", "size"), [("sd1", (32, 32)), ("sd2", (48, 32)), ("sdxl", (32, 48))])
def test_it_is_its_formula(shape: str, size: tuple[int, int], patches: float | None, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=4, height=size[0], width=size[1])
    told = {**SHORT, "guidance_scale": 2.5, "picture_weight": 0.3, "until": 0.5, "patches": patches}
    targets = [DOG, "a red cat on a beach"]
    results = edit(model, source, targets, method="sine", options={**told, "redraw_seed": 3})
    assert results[0].report.unet_rows == 2 + 2 * 3 * 2 + 2 * 2 * 2

    settings = parse(OnePictureOptions, SHORT)
    own, found = drain(tuned(model, source, CAT, settings, train_text_encoder=True, patches=patches))
    with torch.no_grad():
        known, null = own.encode_text([CAT]), model.encode_text([""])
        assert not torch.equal(known.hidden, model.encode_text([CAT]).hidden)
        if patches is not None:
            known = placed(known, [WHOLE], found.tensors["position"])
        noise = torch.randn(1, *source.z_0.shape[1:], generator=torch.Generator().manual_seed(3)).double()
        levels = source.schedule.levels
        for result in results:
            text = model.encode_text([result.prompt])
            z = levels[0].signal * source.z_0 + levels[0].sigma * noise
            for i, (here, to) in enumerate(zip(levels, levels[1:], strict=False)):
                u = said(model, z, here, null.hidden, null.pooled)
                c = said(model, z, here, text.hidden, text.pooled)
                v = 0.3 if i < 2 else 0.0
                p = said(own, z, here, known.hidden, known.pooled)
                eps = u + 2.5 * ((1 - v) * c + v * p - u)
                z = to.signal * (z - here.sigma * eps) / here.signal + to.sigma * eps
            torch.testing.assert_close(result.trajectory[-1:], z, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_two_models_without_a_share_are_one(scale: float) -> None:
    noise = {name: torch.tensor([float(i)]) for i, name in enumerate(("null", "text", "picture"), 1)}
    assert torch.equal(
        TwoModelGuidance(scale, 0.0).combine(noise, 0.0), TextGuidance(scale).combine(noise, 0.0)
    )
    assert TwoModelGuidance(scale, 0.0).branches(0.0) == TextGuidance(scale).branches(0.0)
    assert TwoModelGuidance(scale, 0.25).combine(noise, 0.0) == 1 + scale * (0.75 * 2 + 0.25 * 3 - 1)
    assert TwoModelGuidance(1.0, 0.25).branches(0.0) == ("picture", "text")


@pytest.mark.slow
def test_each_option_does_something(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)

    def made(**told: Any) -> Tensor:
        return edit(model, source, DOG, method="sine", options={**SHORT, **told}).trajectory[-1]

    plain = made()
    for name, value in (
        ("picture_weight", 0.2),
        ("until", 0.3),
        ("patches", 0.5),
        ("train_text_encoder", False),
        ("start", 0.4),
        ("guidance_scale", 2.0),
        ("redraw_seed", 1),
        ("tuning_steps", 3),
    ):
        assert not torch.equal(plain, made(**{name: value})), name
    assert torch.equal(plain, made())
    # Without its copy it is an ordinary run: SDEdit's, from the same level.
    nothing = edit(model, source, DOG, method="sdedit", options={"start": 0.0}).trajectory[-1]
    assert torch.equal(nothing, made(picture_weight=0.0)) and torch.equal(nothing, made(until=0.0))


@pytest.mark.slow
def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    nothing = edit(model, source, DOG, method="sine", options=SHORT, strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert "the picture is the source" in " ".join(nothing.report.notices)
    whole = edit(model, source, DOG, method="sine", options=SHORT, strength=1.0)
    assert torch.equal(whole.trajectory, edit(model, source, DOG, method="sine", options=SHORT).trajectory)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    masked = edit(model, source, DOG, method="sine", options=SHORT, mask=mask)
    assert masked.mask is not None
    assert torch.equal(masked.trajectory[-1][:, ~masked.mask], source.z_0[0][:, ~masked.mask])


@pytest.mark.slow
def test_the_more_the_copy_says_the_nearer_the_picture() -> None:
    """On a rendered scene; and with some of it the target is drawn nearer to the true answer than without."""
    model = Model.load("pocket", device="cpu")
    (one,) = split(777, 1, "change object")
    source = invert(model, one.picture, one.source_prompt)
    pixels = [
        np.asarray(
            edit(
                model, source, one.target_prompt, method="sine", options={"picture_weight": weight}
            ).rendering,
            float,
        )
        for weight in (0.0, 0.6, 1.0)
    ]
    to_source, to_truth = (
        [float(np.abs(own - np.asarray(picture, float)).mean()) for own in pixels]
        for picture in (one.picture, one.truth)
    )
    assert to_source == sorted(to_source, reverse=True) and to_truth[1] < to_truth[0]


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    for told in ({"picture_weight": 1.5}, {"patches": 0.0}, {"until": 2}):
        with pytest.raises(OptionsError, match=next(iter(told))):
            check_edit(model, CAT, [DOG], method="sine", options=told)
    with pytest.raises(PromptError):
        check_edit(model, CAT, [DOG + " dog" * 100], method="sine")
