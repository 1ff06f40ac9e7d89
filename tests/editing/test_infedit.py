"""InfEdit against its equations, written again in float64 with explicit maps; its laws; and rendered truth."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import oracle
from wordbrush import edit, from_seed, invert
from wordbrush.editing.infedit.method import plan
from wordbrush.editing.infedit.options import Options
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model, TextEmbeds
from wordbrush.options import parse
from wordbrush.request import EditRequest
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT, DOG, NIGHT = "a cat on a beach", "a dog on a beach", "a cat on a beach at night"
OFF: dict[str, Any] = {"local_blend": "off"}
NO_CONTROL: dict[str, Any] = {"cross_control": 0.0, "self_control": 0.0, "local_blend": "off"}


def photo() -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def straight(model: Model, **options: Any) -> Source:
    return invert(model, photo(), CAT, method="straight", options={"steps": 6, **options})


# The paper's equations, again -------------------------------------------------------------------------------


@dataclass
class Unified:
    """A diffusers attention processor for the rows [no text, layout, source, target], which builds every map."""

    index: Tensor
    matched: Tensor
    cross_stop: int
    self_stop: int
    step: int = 0
    kept: list[Tensor] = field(default_factory=list[Tensor])

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        is_cross = encoder_hidden_states is not None
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(x: Tensor) -> Tensor:
            return x.view(x.shape[0], x.shape[1], attn.heads, -1).transpose(1, 2)

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))

        def maps(queries: Tensor, keys: Tensor) -> Tensor:
            return (queries @ keys.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)

        null, layout, source, target = (maps(q[i], k[i]) for i in range(4))
        values: list[Tensor] = [v[0], v[1], v[2], v[3]]
        if is_cross and self.step < self.cross_stop:
            target = layout[:, :, self.index] * self.matched + target * (1 - self.matched)
        elif not is_cross and self.step < self.self_stop:
            layout, target, values[1] = source, source, v[2]
        elif not is_cross:
            layout, values[1] = maps(q[3], k[2]), v[2]
        if is_cross:
            self.kept.append(torch.stack([source, target]))
        found = [one @ value for one, value in zip((null, layout, source, target), values, strict=True)]
        out: Tensor = attn.to_out[1](attn.to_out[0](torch.stack(found).transpose(1, 2).flatten(2)))
        return out


@torch.no_grad()
def explicit(
    model: Model,
    source: Source,
    target: str,
    words: tuple[int, int] | None,
    *,
    steps: int,
    seed: int,
    scale: float,
    eta: float,
    cross_stop: int,
    self_stop: int,
    threshold: float,
) -> tuple[Tensor, Tensor]:
    """The target's latents at each level, and its last mask. words: the place of the word to edit in each prompt."""
    tokenizer, length = model.text.tokenizers[0], model.tokens
    spans = [oracle.spans(tokenizer, prompt.split()) for prompt in (CAT, target)]
    same = [(i, i) for i in range(5) if CAT.split()[i] == target.split()[i]]
    unified = Unified(*oracle.refine_mapper(spans[0], spans[1], same, length), cross_stop, self_stop)
    bar = oracle.alphas_cumprod(dict(model.schedule_config))
    times = [level.t for level in source.schedule.levels[:-1]]
    a = [float(bar[t]) for t in times] + [source.schedule.levels[-1].signal ** 2]
    generator = torch.Generator().manual_seed(seed)
    z_0 = source.z_0.double()

    def draw() -> Tensor:
        return torch.randn(z_0.shape, generator=generator).double()

    text = TextEmbeds.concat([model.encode_text([prompt]) for prompt in ("", CAT, CAT, target)])
    before = dict(model.denoiser.unet.attn_processors)
    model.denoiser.unet.set_attn_processor(unified)
    noise = draw()
    z_s = z_l = z_t = a[0] ** 0.5 * z_0 + (1 - a[0]) ** 0.5 * noise
    path, mask, heat = [z_t], torch.ones(1, 1, *z_0.shape[-2:], dtype=torch.bool), torch.zeros(2, 1)
    try:
        for i, t in enumerate(times):
            unified.step, unified.kept = i, []
            null, layout, own, told = oracle.predict(model, torch.cat([z_t, z_l, z_s, z_t]), t, text).chunk(4)
            consistent = (z_s - a[i] ** 0.5 * z_0) / (1 - a[i]) ** 0.5
            followed_t = null + scale * (told - null) - own + consistent
            followed_l = layout - own + consistent
            clean_t, clean_l = (
                (z - (1 - a[i]) ** 0.5 * eps) / a[i] ** 0.5
                for z, eps in ((z_t, followed_t), (z_l, followed_l))
            )
            fresh, up, over = draw(), a[i + 1] ** 0.5, (1 - a[i + 1]) ** 0.5
            if i + 1 < steps:
                z_t, z_l, z_s = (
                    up * clean + over * ((1 - eta) ** 0.5 * eps + eta**0.5 * fresh)
                    for clean, eps in ((clean_t, followed_t), (clean_l, followed_l), (z_0, consistent))
                )
            else:
                z_t, z_s = clean_t, z_0
            if words is not None:
                positions = model.map_positions((z_0.shape[-2], z_0.shape[-1]))
                maps = torch.stack([one for one in unified.kept if one.shape[2] == positions]).mean((0, 2))
                columns = [maps[j][:, spans[j][words[j]]].sum(-1) for j in (0, 1)]
                heat = heat + torch.stack(columns)
                if i >= 1:
                    grid = (z_0.shape[-2], z_0.shape[-1])
                    while grid[0] * grid[1] > positions:
                        grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
                    pooled = F.max_pool2d(heat.view(2, 1, *grid), 3, 1, 1)
                    large = F.interpolate(pooled, z_0.shape[-2:])
                    mask = (large > threshold * large.amax((2, 3), keepdim=True)).any(0, keepdim=True)
            z_t = torch.where(mask, z_t, z_s)
            path.append(z_t)
    finally:
        model.denoiser.unet.set_attn_processor(before)
    return torch.cat(path), mask


@pytest.mark.slow
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_it_is_its_equations(shape: str, size: tuple[int, int], tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=4, height=size[0], width=size[1])
    told = {
        "cross_control": 0.75,
        "self_control": 0.25,
        "fresh_noise": 0.7,
        "guidance_scale": 2.5,
        "redraw_seed": 3,
    }
    results = edit(
        model,
        source,
        [DOG, NIGHT],
        method="infedit",
        options={**told, "local_blend": ("cat", "dog"), "blend_threshold": 0.8},
    )
    for result in results:
        path, mask = explicit(
            model,
            source,
            result.prompt,
            (1, 1),
            steps=4,
            seed=3,
            scale=2.5,
            eta=0.7,
            cross_stop=3,
            self_stop=1,
            threshold=0.8,
        )
        torch.testing.assert_close(result.trajectory, path, rtol=1e-8, atol=1e-8)
        assert result.mask is not None and torch.equal(result.mask, mask[0, 0])
        assert 0.02 < result.report.edited_share < 1
        # No text and the target twice each, the source once; the layout's two while they are read.
        assert result.report.unet_rows == 3 * 7 + 1 * 5
    assert results[0].report.words == "a [cat → dog] on a beach"


def test_one_shape_in_the_fast_suite(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = from_seed(model, CAT, steps=2)
    told = {"cross_control": 1.0, "self_control": 0.5, "guidance_scale": 2.5}
    result = edit(model, source, DOG, method="infedit", options={**told, **OFF})
    path, _ = explicit(
        model, source, DOG, None, steps=2, seed=0, scale=2.5, eta=1, cross_stop=2, self_stop=1, threshold=0
    )
    torch.testing.assert_close(result.trajectory, path, rtol=1e-8, atol=1e-8)


# Laws -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh_noise", [0.0, 0.4, 1.0])
def test_equal_prompts_and_equal_guidance_lead_back_through_any_network(
    fresh_noise: float, tiny: Tiny
) -> None:
    model = tiny("sd1", torch.float64)
    source = straight(model)
    told = {"guidance_scale": 1.0, "fresh_noise": fresh_noise, "self_control": 0.0, "cross_control": 0.0}
    result = edit(model, source, CAT, method="infedit", options=told)
    torch.testing.assert_close(result.trajectory[-1:], source.z_0, rtol=1e-10, atol=1e-10)
    guided = edit(model, source, CAT, method="infedit", options={**told, "guidance_scale": 2.0})
    assert (guided.trajectory[-1:] - source.z_0).abs().max() > 1e-3, "the source is not guided, the target is"


def test_without_fresh_noise_text_guidance_and_control_it_is_the_straight_path(tiny: Tiny) -> None:
    """What sets the two apart is these three, and nothing else."""
    model = tiny("sd1", torch.float64)
    source = straight(model, noise_seed=7, guidance_scale=1.0)
    told = {
        "cross_replace_steps": 0.0,
        "self_replace_steps": 0.0,
        "local_blend": "off",
        "hold": 0.0,
        "finish": 1.0,
    }
    told |= {"blend_difference": 0.0, "guidance_scale": 1.0}
    theirs = edit(model, source, DOG, options=told)
    bare = {**NO_CONTROL, "guidance_scale": 1.0, "fresh_noise": 0.0, "redraw_seed": 7}
    ours = edit(model, source, DOG, method="infedit", options=bare)
    torch.testing.assert_close(ours.trajectory, theirs.trajectory, rtol=1e-9, atol=1e-9)
    assert ours.report.unet_rows == theirs.report.unet_rows == 12
    fresh = edit(model, source, DOG, method="infedit", options={**bare, "fresh_noise": 1.0})
    assert (fresh.trajectory[-1] - ours.trajectory[-1]).abs().max() > 1e-3


@pytest.mark.slow
def test_each_option_does_something(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=4)

    def made(target: str = DOG, **told: Any) -> Tensor:
        return edit(model, source, target, method="infedit", options=told).trajectory[-1]

    first = made()
    assert torch.equal(first, made(redraw_seed=0, cross_control=0.7, self_control=0.3, guidance_scale=2.0))
    told: list[dict[str, Any]] = [
        {"redraw_seed": 1},
        {"cross_control": 0.0},
        {"self_control": 0.0},
        {"guidance_scale": 1.0},
        {"fresh_noise": 0.5},
        {"local_blend": "off"},
        {"local_blend": ("beach",)},
        {"blend_threshold": 0.95},
        {"spare": "things", "local_blend": "off"},
        {"spare": ("beach",), "spare_threshold": 0.99},
        {"start": 0.5},
    ]
    others = [made(**one) for one in told]
    assert all(not torch.equal(first, other) for other in others)
    low, high = (made(spare=("beach",), spare_threshold=threshold) for threshold in (0.3, 0.99))
    assert not torch.equal(low, high)


def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=4)
    nothing = edit(model, source, DOG, method="infedit", strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert nothing.report.notices
    whole = edit(model, source, DOG, method="infedit", strength=1.0)
    assert torch.equal(whole.trajectory[-1], edit(model, source, DOG, method="infedit").trajectory[-1])


def test_outside_of_a_mask_it_is_the_source_exactly(tiny: Tiny) -> None:
    model = tiny()
    source = straight(model)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    result = edit(model, source, DOG, method="infedit", mask=mask, options=OFF)
    assert result.mask is not None and 0 < result.report.edited_share < 1
    end, kept = result.trajectory[-1], ~result.mask
    assert torch.equal(end[:, kept], source.z_0[0][:, kept]) and not torch.equal(end, source.z_0[0])


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    with pytest.raises(OptionsError, match="fresh_noise"):
        edit(model, source, DOG, method="infedit", options={"fresh_noise": 1.5})
    with pytest.raises(PromptError):
        edit(model, source, DOG + " dog" * 100, method="infedit")
    for name in ("local_blend", "spare"):
        with pytest.raises(PromptError, match="fox"):
            edit(model, source, DOG, method="infedit", options={name: ("fox",)})
    empty = edit(model, source, DOG, method="infedit", options={"blend_threshold": 1.0})
    assert empty.report.edited_share == 0 and "blend_threshold" in empty.report.notices[0]


def test_things_that_stay_are_spared_and_those_that_change_are_not() -> None:
    model = Model.load("pocket", device="cpu")
    asked = parse(Options, {"spare": "things"})
    (one,) = plan(
        model, EditRequest(("a dog and a red car on a beach",), asked, "a cat and a red car on a beach")
    )
    assert [word.text for word in one.spared] == ["car"]
    assert [[word.text for word in side] for side in one.edited] == [["cat"], ["dog"]]


@pytest.mark.slow
def test_it_draws_what_the_words_say_and_keeps_the_rest() -> None:
    """On rendered scenes: nearer to the true answer than the source is, and the rest as it was."""
    model = Model.load("pocket", device="cpu")
    for kind in ("change object", "change colour"):
        for one in split(556, 2, kind):
            result = edit(model, one.picture, one.target_prompt, prompt=one.source_prompt, method="infedit")
            ours, truth, before = (
                np.asarray(picture, float) for picture in (result.image, one.truth, one.picture)
            )
            changed = np.abs(truth - before).max(-1) > 8
            inside, was = (np.abs(each - truth)[changed].mean() for each in (ours, before))
            assert inside < 0.7 * was, (one.target_prompt, inside, was)
            assert np.abs(ours - before)[~changed].mean() < 8
