"""Plug-and-Play against its algorithm with every map built, and against rendered truth."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor

import injecting
from injecting import SOURCE, Branch, Run, weights
from wordbrush import edit, from_seed, invert
from wordbrush.editing.plug_and_play import method
from wordbrush.editing.plug_and_play.options import Options
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.features import blocks
from wordbrush.model import Model
from wordbrush.progress import drain
from wordbrush.request import EditRequest
from wordbrush.source import Source

Tiny, Seeded = Callable[..., Model], Callable[..., Source]
CAT, DOG = "a cat on a beach", "a dog on a beach"
PLACES = {  # in the tiny models: the block behind a ninth of the decoder's, and the layers behind half of them
    "sd1": ("up_blocks.1.resnets.1", "up_blocks.2."),
    "sd2": ("up_blocks.1.resnets.1", "up_blocks.2."),
    "sdxl": ("up_blocks.0.resnets.1", "up_blocks.0.attentions.1."),
}
ALL = {"feature_steps": 0.7, "attention_steps": 0.5, "attention_place": 0.5, "guidance_scale": 2.5}


def injected(shape: str) -> Run:
    """Algorithm 1: features in two of three steps, maps in one."""
    block, layers = PLACES[shape]

    def maps(name: str, step: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
        if step >= 1 or not name.startswith(layers):
            return None
        return weights(q[SOURCE], k[SOURCE]) @ v

    def features(name: str, step: int, added: Tensor) -> Tensor:
        return added[[SOURCE] * len(added)] if name == block and step < 2 else added

    return Run(maps, features)


@pytest.mark.slow
@pytest.mark.parametrize("latent_size", [(16, 16), (16, 24)])
@pytest.mark.parametrize("shape", PLACES)
def test_features_and_maps_are_the_sources(
    shape: str, latent_size: tuple[int, int], tiny: Tiny, seeded: Seeded
) -> None:
    model = tiny(shape, torch.float64)
    source = seeded(shape, steps=3, latent_size=latent_size)
    branches = [Branch("", lambda _: -1.5), Branch(DOG, lambda _: 2.5)]
    expected = injecting.edited(model, source, branches, injected(shape))
    result = edit(model, source, DOG, method="plug_and_play", options=ALL)
    torch.testing.assert_close(result.trajectory[-1:], expected, rtol=1e-9, atol=1e-9)
    assert result.report.unet_rows == 3 + 3 + 2
    assert result.report.details["feature_block"] == PLACES[shape][0]


@pytest.mark.parametrize("schedule", ["linear", pytest.param("constant", marks=pytest.mark.slow)])
def test_guidance_leads_away_from_the_negative_prompt(schedule: str, tiny: Tiny, seeded: Seeded) -> None:
    """α falls over the run, or is 0."""
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)

    def alpha(step: int) -> float:
        return 1 - step / 3 if schedule == "linear" else 0.0

    branches = [
        Branch("", lambda i: -1.5 * alpha(i)),
        Branch(CAT, lambda i: -1.5 * (1 - alpha(i))),
        Branch(DOG, lambda _: 2.5),
    ]
    expected = injecting.edited(model, source, branches, injected("sd1"))
    told = {**ALL, "negative_prompt": CAT, "negative_schedule": schedule}
    result = edit(model, source, DOG, method="plug_and_play", options=told)
    torch.testing.assert_close(result.trajectory[-1:], expected, rtol=1e-9, atol=1e-9)
    assert result.report.unet_rows == (3 + 4 + 3 if schedule == "linear" else 3 + 3 + 2)


def test_places_are_the_released_codes_in_stable_diffusion() -> None:
    """Features of output block 4 of the twelve, which is the second with attention, and maps from there on."""
    unet = UNet2DConditionModel(
        block_out_channels=(8,) * 4, norm_num_groups=4, cross_attention_dim=8, attention_head_dim=2
    )
    found = blocks(unet)
    first = -(-len(found) // 9)
    assert len(found) == 9 and found[first].name == "up_blocks.1.resnets.1"
    layers = [name for block in found[first:] for name in block.self_attention]
    expected = [(1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2)]
    assert layers == [f"up_blocks.{i}.attentions.{j}.transformer_blocks.0.attn1" for i, j in expected]


@pytest.mark.slow
def test_several_targets_are_each_its_own(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)
    targets = [DOG, "a red fox on a beach"]
    told = {"negative_prompt": CAT}
    together = edit(model, source, targets, method="plug_and_play", options=told)
    for target, one in zip(targets, together, strict=True):
        alone = edit(model, source, target, method="plug_and_play", options=told)
        torch.testing.assert_close(alone.trajectory, one.trajectory, rtol=1e-9, atol=1e-9)


def test_the_sources_own_words_give_the_source_back_without_guidance(tiny: Tiny, seeded: Seeded) -> None:
    """With everything injected and nothing changed, the target is its source."""
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3, guidance_scale=1.0)
    told = {"feature_steps": 1.0, "attention_steps": 1.0, "attention_place": 0.0}
    same = edit(model, source, CAT, method="plug_and_play", options=told)
    torch.testing.assert_close(same.trajectory, source.trajectory, rtol=1e-9, atol=1e-9)


def runs(model: Model, source: Source, target: str, **told: Any) -> Any:
    request = EditRequest((target,), Options(**told), source.prompt, source)
    return method.edit(model, request)


def test_two_edits_advanced_in_turn_give_the_pixels_of_serial_runs(tiny: Tiny, seeded: Seeded) -> None:
    """The features belong to a call of the network and to nothing that lasts longer."""
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)
    first: dict[str, Any] = {"target": DOG}
    second: dict[str, Any] = {"target": "a teapot", "feature_place": 0.6, "feature_steps": 0.4}
    serial = [drain(runs(model, source, **each))[0].trajectory for each in (first, second)]
    going: list[Any] = [runs(model, source, **each) for each in (first, second)]
    ended: dict[int, Tensor] = {}
    while len(ended) < 2:
        for i, run in enumerate(going):
            if i not in ended:
                try:
                    next(run)
                except StopIteration as end:
                    ended[i] = end.value[0].trajectory
    assert torch.equal(ended[0], serial[0]) and torch.equal(ended[1], serial[1])


@pytest.mark.slow
def test_edits_in_two_threads_give_the_pixels_of_serial_runs(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)

    def injecting_run() -> Tensor:
        return edit(model, source, DOG, method="plug_and_play").trajectory

    def without() -> Tensor:
        return edit(model, source, DOG, method="sdedit").trajectory

    serial = injecting_run(), without()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(3):
            found = pool.submit(injecting_run), pool.submit(without)
            assert all(torch.equal(one.result(), own) for one, own in zip(found, serial, strict=True))


@pytest.mark.slow
def test_options_decide_how_much_is_the_sources(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=4)

    def made(**told: Any) -> Tensor:
        return edit(model, source, DOG, method="plug_and_play", options=told).trajectory[-1]

    default = made()
    for other in (
        {"feature_steps": 0.2},
        {"feature_place": 0.8},
        {"attention_steps": 0.9},
        {"attention_place": 0.8},
        {"negative_prompt": CAT},
        {"start": 0.5},
        {"guidance_scale": 2.0},
    ):
        assert not torch.equal(default, made(**other)), other


@pytest.mark.slow
def test_options_without_effect_are_said(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)

    def said(**told: Any) -> str:
        return " ".join(edit(model, source, DOG, method="plug_and_play", options=told).report.notices)

    assert said() == ""
    assert "feature_steps" in said(feature_steps=0.0, attention_place=1.0)
    assert "negative_prompt does nothing" in said(negative_prompt=CAT, guidance_scale=1.0)
    assert "negative_schedule does nothing" in said(negative_schedule="constant")
    straight = invert(model, source.image(model), CAT, method="straight", options={"steps": 2})
    told = {"negative_prompt": CAT}
    result = edit(model, straight, DOG, method="plug_and_play", options=told)
    assert "negative_prompt does nothing" in result.report.notices[-1]


def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    nothing = edit(model, source, DOG, method="plug_and_play", strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert nothing.report.notices and nothing.report.edited_share == 0
    whole = edit(model, source, DOG, method="plug_and_play", strength=1.0)
    assert torch.equal(whole.trajectory[-1], edit(model, source, DOG, method="plug_and_play").trajectory[-1])


def test_outside_of_a_mask_the_source_is_put_back(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    result = edit(model, source, DOG, method="plug_and_play", mask=mask)
    assert result.mask is not None and 0 < result.report.edited_share < 1
    end, kept = result.trajectory[-1], ~result.mask
    assert torch.equal(end[:, kept], source.z_0[0][:, kept]) and not torch.equal(end, source.z_0[0])


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    with pytest.raises(OptionsError, match="feature_place"):
        edit(model, source, DOG, method="plug_and_play", options={"feature_place": 1.0})
    with pytest.raises(PromptError):
        edit(model, source, DOG + " dog" * 100, method="plug_and_play")
    with pytest.raises(PromptError):
        edit(model, source, DOG, method="plug_and_play", options={"negative_prompt": "dog " * 100})


@pytest.mark.slow
def test_what_is_not_said_to_change_keeps_its_place() -> None:
    """On rendered scenes: with features and maps the rest of the picture is nearer to the source, and the whole picture
    nearer to the true answer."""
    model = Model.load("pocket", device="cpu")
    errors: dict[str, list[float]] = {"default": [], "without": []}
    nothing = {"feature_steps": 0.0, "attention_steps": 0.0}
    for one in split(555, 2, "change colour"):
        source = invert(model, one.picture, one.source_prompt, method="straight")
        picture, truth = (np.asarray(each, float) for each in (one.picture, one.truth))
        for name, told in (("default", {}), ("without", nothing)):
            result = edit(model, source, one.target_prompt, method="plug_and_play", options=told)
            ours = np.asarray(result.rendering, float)
            errors[name] += [((ours - picture)[~one.mask] ** 2).mean(), ((ours - truth) ** 2).mean()]
    for part in (0, 1):
        assert sum(errors["default"][part::2]) < 0.5 * sum(errors["without"][part::2])
