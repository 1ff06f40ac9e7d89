"""DiffEdit against its three steps, written again in float64, and its masks against rendered truth."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import oracle
from wordbrush import edit, from_seed, invert
from wordbrush.cli import main
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model
from wordbrush.schedule import training_alphas_cumprod

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("encoding", ["source", "no-text"])
@pytest.mark.parametrize(("shape", "size"), [("sd1", (32, 32)), ("sd2", (48, 32)), ("sdxl", (32, 48))])
def test_it_is_its_three_steps(shape: str, size: tuple[int, int], encoding: str, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=5, guidance_scale=2.0, height=size[0], width=size[1])
    told: dict[str, Any] = {"start": 0.4, "guidance_scale": 2.5, "encoding": encoding, "mask_draws": 3}
    results = edit(model, source, [DOG, "a red cat on a beach"], method="diffedit", options=told)
    alphas = training_alphas_cumprod(model.schedule_config)
    half = source.schedule.late(0.5, alphas).levels[0]
    schedule, states = source.schedule.late(0.4, alphas), source.states.late(0.4, source.schedule, alphas)[1]
    levels, z_0 = schedule.levels, source.z_0
    known = [states.at(i) for i in range(6)]
    if encoding == "no-text":  # the DDIM step with its levels exchanged, labelled with the noisier one
        known = [z_0]
        for to, here in reversed(list(zip(levels, levels[1:], strict=False))):
            eps = oracle.predict(model, known[-1], to.t, model.encode_text([""]))
            known.append(to.signal * (known[-1] - here.sigma * eps) / here.signal + to.sigma * eps)
        known = known[::-1]
    for result in results:
        generator = torch.Generator().manual_seed(0)
        d = torch.zeros(1, 1, *z_0.shape[-2:], dtype=torch.float64)
        for _ in range(3):
            z = half.signal * z_0 + half.sigma * torch.randn(z_0.shape, generator=generator).double()
            said = [
                oracle.predict(model, z, half.t, model.encode_text([prompt]))
                for prompt in (result.prompt, CAT)
            ]
            d += (said[0] - said[1]).abs().mean(1, keepdim=True) / 3
        m = d.clamp(max=3 * float(d.mean()))
        mask = m / m.max() > 0.5
        assert (
            result.mask is not None and torch.equal(mask[0, 0], result.mask) and 0 < mask.sum() < mask.numel()
        )
        torch.testing.assert_close(
            result.maps["the difference"], (m / m.max())[0, 0].float(), rtol=1e-5, atol=1e-6
        )
        z = known[0]
        for i, (here, to) in enumerate(zip(levels, levels[1:], strict=False)):
            null, text = (
                oracle.predict(model, z, here.t, model.encode_text([prompt]))
                for prompt in ("", result.prompt)
            )
            eps = null + 2.5 * (text - null)
            z = to.signal * (z - here.sigma * eps) / here.signal + to.sigma * eps
            z = torch.where(mask, z, known[i + 1])
        torch.testing.assert_close(result.trajectory[-1:], z, rtol=1e-8, atol=1e-8)
        assert result.report.unet_rows == 3 * 3 + 5 * (encoding == "no-text") + 2 * 2 * 5


def test_equal_captions_have_an_empty_mask_and_change_nothing(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    result = edit(model, source, CAT, method="diffedit")
    assert result.mask is not None and not result.mask.any() and "the same" in result.report.notices[0]
    assert torch.equal(result.trajectory[-1:], source.z_0) and result.report.edited_share == 0


def test_a_users_mask_limits_the_words_mask_or_stands_for_it(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))

    def made(**told: Any) -> Tensor:
        given = edit(model, source, DOG, method="diffedit", options={"mask_draws": 2, **told}, mask=mask)
        assert given.mask is not None
        kept = ~given.mask
        assert torch.equal(given.trajectory[-1][:, kept], source.z_0[0][:, kept])
        return given.mask

    own = edit(model, source, DOG, method="diffedit", options={"mask_draws": 2}).mask
    limited, replaced = made(), made(own_mask=False)
    assert own is not None and torch.equal(limited, own & replaced)
    assert limited.sum() < replaced.sum() < replaced.numel()
    nothing = edit(model, source, CAT, method="diffedit", mask=mask)
    assert "inside of the mask" in nothing.report.notices[0]
    whole = edit(model, source, DOG, method="diffedit", options={"own_mask": False})
    assert whole.mask is not None and whole.mask.all() and whole.maps == {}


@pytest.mark.slow
def test_every_option_does_something(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)

    def made(**told: Any) -> Tensor:
        options = {"mask_draws": 2, **told}
        return edit(model, source, DOG, method="diffedit", options=options).trajectory[-1]

    plain = made()
    assert torch.equal(plain, made(start=0.2, mask_seed=0))
    for told in (
        {"start": 0.6},
        {"encoding": "source"},
        {"own_mask": False},
        {"difference_threshold": 0.8},
        {"mask_noise": 0.9},
        {"mask_draws": 1},
        {"mask_clamp": 1.0},
        {"mask_reference": "no-text"},
        {"mask_seed": 1},
        {"mask_grow": 1},
        {"guidance_scale": 1.0},
    ):
        assert not torch.equal(plain, made(**told)), told


def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    nothing = edit(model, source, DOG, method="diffedit", strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert nothing.report.notices
    whole = edit(model, source, DOG, method="diffedit", strength=1.0)
    assert torch.equal(whole.trajectory[-1], edit(model, source, DOG, method="diffedit").trajectory[-1])


def test_the_mask_is_a_picture_to_look_at_and_to_give_back(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    result = edit(model, source, DOG, method="diffedit")
    assert [name for name, _ in result.shown_maps()] == ["the difference", "what may change"]
    white = np.asarray(result.mask_image) > 0
    assert result.mask is not None
    assert white.mean() == pytest.approx(float(result.mask.float().mean()))
    again = edit(model, source, DOG, method="diffedit", mask=result.mask_image, options={"own_mask": False})
    assert torch.equal(again.trajectory[-1], result.trajectory[-1])
    assert edit(model, source, DOG).shown_maps() == []


@pytest.mark.slow
def test_the_command_writes_the_mask(tmp_path: Path) -> None:
    out = tmp_path / "dog.png"
    asked = ["edit", "examples/cat.png", "--source", CAT, "--target", DOG, "--method", "diffedit"]
    few = ["--steps", "2", "--mask-draws", "1", "--sheet", "--save-mask", "--out", str(out)]
    assert main([*asked, *few]) == 0
    with Image.open(tmp_path / "dog.mask.png") as mask, Image.open(tmp_path / "dog.sheet.png") as sheet:
        assert mask.size == (128, 128) and set(np.unique(np.asarray(mask))) == {0, 255}
        assert sheet.width > 4 * 256, "the picture, the difference, the mask and the edit"


@pytest.mark.slow
def test_its_masks_are_where_the_truth_changes() -> None:
    """Swapped things on rendered scenes: most of what changes is inside, and most of what is inside changes."""
    model = Model.load("pocket", device="cpu")
    for one in split(555, 3, "change object"):
        source = invert(model, one.picture, one.source_prompt)
        told = {"mask_draws": 4, "start": 0.9}
        result = edit(model, source, one.target_prompt, method="diffedit", options=told)
        found = np.asarray(result.mask_image) > 0
        both, either = (found & one.mask).sum(), (found | one.mask).sum()
        assert both / either > 0.4, one.name


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    with pytest.raises(OptionsError, match="mask_noise"):
        edit(model, source, DOG, method="diffedit", options={"mask_noise": 1.0})
    with pytest.raises(PromptError):
        edit(model, source, DOG + " dog" * 100, method="diffedit")
