"""Imagic against its three equations, written again in float64, and against rendered truth."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wordbrush import check_edit, edit, from_seed, invert, sweep
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.fit import generator
from wordbrush.model import Model
from wordbrush.schedule import training_alphas_cumprod

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"
SHORT: Mapping[str, Any] = {
    "embedding_steps": 2,
    "embedding_rate": 1e-2,
    "tuning_steps": 2,
    "tuning_rate": 1e-3,
    "tuning_batch": 2,
}


class Adam:
    """Kingma & Ba 2015, algorithm 1, of gradients that are shortened to a norm of 1."""

    def __init__(self, rate: float, parameters: Iterable[Tensor]) -> None:
        self.rate, self.parameters, self.t = rate, list(parameters), 0
        self.m = [torch.zeros_like(each) for each in self.parameters]
        self.v = [torch.zeros_like(each) for each in self.parameters]

    def step(self, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        norm = math.sqrt(sum(float(each.square().sum()) for each in gradients if each is not None))
        self.t += 1
        with torch.no_grad():
            for own, m, v, g in zip(self.parameters, self.m, self.v, gradients, strict=True):
                if g is None:
                    continue
                g = g * min(1.0, 1 / (norm + 1e-6))
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g * g)
                own -= self.rate * (m / (1 - 0.9**self.t)) / ((v / (1 - 0.999**self.t)).sqrt() + 1e-8)


def said(
    unet: Any, z: Tensor, t: Any, hidden: Tensor, pooled: Tensor | None, pixels: tuple[int, int]
) -> Tensor:
    kwargs: dict[str, Any] = {}
    if pooled is not None:
        ids = torch.tensor([[*pixels, 0, 0, *pixels]], dtype=z.dtype).expand(len(z), -1)
        kwargs["added_cond_kwargs"] = {"text_embeds": pooled.expand(len(z), -1), "time_ids": ids}
    return unet(z, t, encoder_hidden_states=hidden.expand(len(z), -1, -1), **kwargs).sample


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_it_is_its_three_equations(shape: str, size: tuple[int, int], tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=3, height=size[0], width=size[1])
    told = {**SHORT, "interpolation": 0.7, "guidance_scale": 2.5, "redraw_seed": 3, "tuning_seed": 5}
    before = [each.clone() for each in model.denoiser.unet.parameters()]
    result = edit(model, source, DOG, method="imagic", options=told)

    alphas, picture, is_v = training_alphas_cumprod(model.schedule_config), source.z_0, shape == "sd2"
    unet, embeds = model.denoiser.unet, model.encode_text([DOG])
    learning = [embeds.hidden.clone().requires_grad_()]
    if embeds.pooled is not None:
        learning.append(embeds.pooled.clone().requires_grad_())

    def loss(step: int) -> Tensor:
        """Equation 2, mean over two draws."""
        errors: list[Tensor] = []
        for place in (2 * step, 2 * step + 1):
            random = generator(5, "one picture", place)
            t = torch.randint(1000, (1,), generator=random)
            noise = torch.randn(picture.shape, generator=random).double()
            signal, sigma = alphas[t].sqrt(), (1 - alphas[t]).sqrt()
            z = signal * picture + sigma * noise
            truth = signal * noise - sigma * picture if is_v else noise
            pooled = learning[1] if len(learning) > 1 else None
            errors.append((said(unet, z, t, learning[0], pooled, size) - truth).square().mean())
        return torch.stack(errors).mean()

    adam = Adam(1e-2, learning)
    for step in range(2):
        adam.step(loss(step))
    optimised = [each.detach().clone() for each in learning]
    learning = optimised
    parameters = list(unet.parameters())
    for each in parameters:
        each.requires_grad_(True)
    adam = Adam(1e-3, parameters)
    for step in range(2):
        adam.step(loss(step))
    asked = [each for each in (embeds.hidden, embeds.pooled) if each is not None]
    mixed = [0.7 * own + 0.3 * found for own, found in zip(asked, optimised, strict=True)]
    null = model.encode_text([""])
    levels = source.schedule.levels
    noise = torch.randn(1, *picture.shape[1:], generator=torch.Generator().manual_seed(3)).double()
    z = levels[0].signal * picture + levels[0].sigma * noise
    with torch.no_grad():
        for here, to in zip(levels, levels[1:], strict=False):
            eps: list[Tensor] = []
            for hidden, *pooled in ([null.hidden, null.pooled], mixed):
                out = said(unet, z, here.t, hidden, pooled[0] if pooled else None, size)
                eps.append(here.signal * out + here.sigma * z if is_v else out)
            guided = eps[0] + 2.5 * (eps[1] - eps[0])
            z = to.signal * (z - here.sigma * guided) / here.signal + to.sigma * guided
        for own, was in zip(parameters, before, strict=True):
            own.copy_(was)
            own.requires_grad_(False)
    torch.testing.assert_close(result.trajectory[-1:], z, rtol=1e-6, atol=1e-6)
    assert result.report.unet_rows == 2 * 2 + 2 * 2 + 3 * 2 and result.report.edited_share == 1
    assert result.report.words == "a [cat → dog] on a beach"


@pytest.mark.slow
def test_a_strip_learns_once_and_each_value_is_the_edit_alone(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    strip = sweep(model, source, DOG, "interpolation", [0.0, 0.4, 1.2], method="imagic", options=SHORT)
    assert [result.report.unet_rows for result in strip] == [0, 8 + 4, 4]
    for value, result in zip((0.4, 1.2), strip[1:], strict=True):
        fresh = from_seed(model, CAT, steps=2)
        alone = edit(model, fresh, DOG, method="imagic", options={**SHORT, "interpolation": value})
        assert torch.equal(alone.trajectory, result.trajectory) and alone.report.unet_rows == 12


def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    nothing, half, whole = (
        edit(model, source, DOG, method="imagic", options=SHORT, strength=strength)
        for strength in (0.0, 0.5, 1.0)
    )
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.notices
    untold = edit(model, source, DOG, method="imagic", options=SHORT)
    assert torch.equal(whole.trajectory, untold.trajectory)
    assert not torch.equal(half.trajectory, whole.trajectory)


@pytest.mark.slow
def test_each_option_does_something(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)

    def made(**told: Any) -> Tensor:
        return edit(model, source, DOG, method="imagic", options={**SHORT, **told}).trajectory[-1]

    plain = made()
    assert torch.equal(plain, made())
    for name, value in (
        ("interpolation", 0.5),
        ("embedding_steps", 0),
        ("embedding_steps", 3),
        ("embedding_rate", 2e-2),
        ("tuning_steps", 0),
        ("tuning_steps", 3),
        ("tuning_rate", 2e-3),
        ("tuning_batch", 1),
        ("tuning_seed", 1),
        ("guidance_scale", 2.0),
        ("redraw_seed", 1),
    ):
        assert not torch.equal(plain, made(**{name: value})), name
    several = edit(model, source, [DOG, "a red cat on a beach"], method="imagic", options=SHORT)
    assert torch.equal(several[0].trajectory[-1], plain)
    assert not torch.equal(several[1].trajectory[-1], plain)


def test_outside_of_a_mask_the_picture_is_put_back(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    result = edit(model, source, DOG, method="imagic", options=SHORT, mask=mask)
    assert result.mask is not None and 0 < result.report.edited_share < 1
    end, kept = result.trajectory[-1], ~result.mask
    assert torch.equal(end[:, kept], source.z_0[0][:, kept]) and not torch.equal(end, source.z_0[0])


@pytest.mark.slow
def test_the_picture_is_learned_and_left_as_the_interpolation_rises() -> None:
    """On a rendered scene: near 0 the picture is drawn again, far nearer than without learning it; towards 1 it becomes
    the true answer."""
    model = Model.load("pocket", device="cpu")
    (one,) = split(777, 1, "change object")
    source = invert(model, one.picture, one.source_prompt)
    strip = sweep(model, source, one.target_prompt, "interpolation", [0.01, 0.5, 0.9], method="imagic")
    pixels = [np.asarray(result.rendering, float) for result in strip]
    to_source, to_truth = (
        [float(np.abs(own - np.asarray(picture, float)).mean()) for own in pixels]
        for picture in (one.picture, one.truth)
    )
    assert to_source == sorted(to_source) and to_truth[2] < to_truth[0]
    told = {"embedding_steps": 0, "tuning_steps": 0, "interpolation": 0.01}
    untaught = edit(model, source, one.target_prompt, method="imagic", options=told)
    off = np.abs(np.asarray(untaught.rendering, float) - np.asarray(one.picture, float)).mean()
    assert to_source[0] < 0.75 * off


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    for told in ({"interpolation": 2.5}, {"tuning_steps": -1}, {"tuned_in": "  "}):
        with pytest.raises(OptionsError, match=next(iter(told))):
            check_edit(model, CAT, [DOG], method="imagic", options=told)
    with pytest.raises(PromptError):
        check_edit(model, CAT, [DOG + " dog" * 100], method="imagic")
