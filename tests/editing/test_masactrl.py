"""MasaCtrl against its equations with every map built, and against rendered truth."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor

import injecting
from injecting import SOURCE, Branch, Maps, Run, weights
from wordbrush import edit, from_seed, invert
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.features import blocks
from wordbrush.model import Model
from wordbrush.source import Source

Tiny, Seeded = Callable[..., Model], Callable[..., Source]
CAT, DOG = "a cat on a beach", "a dog on a beach"
LATE = {  # the layers of the tiny models behind the first third of the decoder's
    "sd1": ("up_blocks.2.",),
    "sd2": ("up_blocks.2.",),
    "sdxl": ("up_blocks.0.attentions.1.",),
}
ALL = {"mutual_start": 0.34, "mutual_place": 1 / 3, "guidance_scale": 2.5}


def guided(scale: float, target: str = DOG) -> list[Branch]:
    return [Branch("", lambda _: 1 - scale), Branch(target, lambda _: scale)]


@pytest.mark.slow
@pytest.mark.parametrize("latent_size", [(16, 16), (16, 24)])
@pytest.mark.parametrize("shape", LATE)
def test_targets_ask_the_source_from_a_step_and_a_layer_on(
    shape: str, latent_size: tuple[int, int], tiny: Tiny, seeded: Seeded
) -> None:
    """In both halves of the guidance."""
    model = tiny(shape, torch.float64)
    source = seeded(shape, steps=3, latent_size=latent_size)

    def ask(name: str, step: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if step < 1 or not name.startswith(LATE[shape]):  # 34 % of three steps
            return None
        return torch.stack([weights(own, k[SOURCE]) @ v[SOURCE] for own in q])

    expected = injecting.edited(model, source, guided(2.5), Run(ask))
    result = edit(model, source, DOG, method="masactrl", options=ALL)
    torch.testing.assert_close(result.trajectory[-1:], expected, rtol=1e-9, atol=1e-9)
    assert result.report.unet_rows == 2 + 3 + 3
    assert result.report.details["mutual_blocks"]


@pytest.mark.parametrize(
    "foreground",
    [
        "auto",
        pytest.param(("cat", "dog"), marks=pytest.mark.slow),
        pytest.param(("beach",), marks=pytest.mark.slow),
    ],
)
def test_with_masks_the_foreground_asks_the_foreground(foreground: Any, tiny: Tiny, seeded: Seeded) -> None:
    """With the maps of all steps so far."""
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)
    word = {"auto": 2, ("cat", "dog"): 2, ("beach",): 5}[foreground]
    at = [model.read(CAT).words[word - 1].start]
    maps = Maps([at, at, at], (16, 16))

    def ask(name: str, step: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if step < 1 or not name.startswith(LATE["sd1"]):
            return None
        of_source = (maps.stretched(SOURCE, q.shape[-2]) >= 0.4).double()
        of_target = maps.stretched(2, q.shape[-2])[:, None]
        own = [weights(q[SOURCE], k[SOURCE]) @ v[SOURCE]]
        for row in (1, 2):
            of_object = weights(q[row], k[SOURCE], of_source) @ v[SOURCE]
            of_rest = weights(q[row], k[SOURCE], 1 - of_source) @ v[SOURCE]
            own.append(of_object * of_target + of_rest * (1 - of_target))
        return torch.stack(own)

    expected = injecting.edited(model, source, guided(2.5), Run(ask, see=maps.see))
    told = {**ALL, "foreground": foreground, "foreground_threshold": 0.4}
    result = edit(model, source, DOG, method="masactrl", options=told)
    torch.testing.assert_close(result.trajectory[-1:], expected, rtol=1e-9, atol=1e-9)
    assert result.report.unet_rows == 3 * 3


@pytest.mark.slow
def test_several_targets_are_each_its_own(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)
    targets = [DOG, "a red fox on a beach"]
    told = {"foreground": ("cat", "dog", "fox"), "foreground_threshold": 0.4}
    together = edit(model, source, targets, method="masactrl", options=told)
    for target, one in zip(targets, together, strict=True):
        alone = edit(model, source, target, method="masactrl", options=told)
        torch.testing.assert_close(alone.trajectory, one.trajectory, rtol=1e-9, atol=1e-9)
    assert together[0].report.unet_rows == 3 * 5
    assert together[1].report.details["foreground"] == ["cat", "fox"]


def test_a_third_of_the_decoder_is_the_released_codes_layer() -> None:
    """Layer 10 of Stable Diffusion's 16, and of SDXL's 70 the 54th, one of the three that the released code tries."""
    sd = UNet2DConditionModel(
        block_out_channels=(8,) * 4, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2
    )
    sdxl = UNet2DConditionModel(
        block_out_channels=(8,) * 3,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
    )
    for unet, count, layer in ((sd, 16, 10), (sdxl, 70, 54)):
        names = [name.removesuffix(".processor") for name in unet.attn_processors if ".attn1." in name]
        names = [name for part in ("down", "mid", "up") for name in names if name.startswith(part)]
        found = blocks(unet)
        late = found[-(-len(found) // 3) :]
        assert len(names) == count
        assert sorted(name for block in late for name in block.self_attention) == sorted(names[layer:])


@pytest.mark.slow
def test_options_decide_how_much_is_the_sources(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=4)

    def made(**told: Any) -> Tensor:
        return edit(model, source, DOG, method="masactrl", options=told).trajectory[-1]

    default = made()
    for other in (
        {"mutual_start": 0.5},
        {"mutual_place": 0.0},
        {"foreground": "auto"},
        {"start": 0.5},
        {"guidance_scale": 1.0},
    ):
        assert not torch.equal(default, made(**other)), other
    assert not torch.equal(made(foreground="auto"), made(foreground="auto", foreground_threshold=0.9))
    untied = edit(model, source, DOG, method="masactrl", options={"mutual_place": 1.0})
    assert any("mutual_place" in notice for notice in untied.report.notices)
    assert torch.equal(untied.trajectory[-1], made(mutual_start=1.0)) and untied.report.unet_rows == 8
    idle = edit(model, source, DOG, method="masactrl", options={"foreground_threshold": 0.5})
    assert any("foreground_threshold" in notice for notice in idle.report.notices)


def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    nothing = edit(model, source, DOG, method="masactrl", strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert nothing.report.notices and nothing.report.edited_share == 0
    whole = edit(model, source, DOG, method="masactrl", strength=1.0)
    assert torch.equal(whole.trajectory[-1], edit(model, source, DOG, method="masactrl").trajectory[-1])


def test_outside_of_a_mask_the_source_is_put_back(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    result = edit(model, source, DOG, method="masactrl", mask=mask)
    assert result.mask is not None and 0 < result.report.edited_share < 1
    end, kept = result.trajectory[-1], ~result.mask
    assert torch.equal(end[:, kept], source.z_0[0][:, kept]) and not torch.equal(end, source.z_0[0])


def test_a_map_without_a_foreground_is_looked_at_whole(tiny: Tiny) -> None:
    """A threshold of 0 leaves no background: its attention is over everything, and not a number nowhere."""
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    told = {"foreground": "auto", "foreground_threshold": 0.0}
    assert torch.isfinite(edit(model, source, DOG, method="masactrl", options=told).trajectory).all()


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    with pytest.raises(OptionsError, match="mutual_start"):
        edit(model, source, DOG, method="masactrl", options={"mutual_start": 1.5})
    with pytest.raises(PromptError, match="foreground in both prompts.*'cat'.*none"):
        edit(model, source, DOG, method="masactrl", options={"foreground": ("cat",)})
    with pytest.raises(PromptError):
        edit(model, source, DOG + " dog" * 100, method="masactrl")


@pytest.mark.slow
def test_things_change_size_and_the_rest_is_nearer_to_the_source_than_without() -> None:
    """On rendered scenes: the source's keys and values keep how the picture looks, and not where things are."""
    model = Model.load("pocket", device="cpu")
    shares: list[float] = []
    for one in split(555, 3, "change size"):
        source = invert(model, one.picture, one.source_prompt, method="straight")
        picture, outside = np.asarray(one.picture, float), list[float]()
        for place in (1 / 3, 1.0):
            told = {"mutual_place": place}
            result = edit(model, source, one.target_prompt, method="masactrl", options=told)
            changed = np.asarray(result.rendering, float) - picture
            assert np.abs(changed[one.mask]).mean() > 20, "the thing has another size"
            outside.append(float((changed[~one.mask] ** 2).mean()))
        shares.append(outside[0] / outside[1])
    assert np.mean(shares) < 0.9
