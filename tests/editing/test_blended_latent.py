"""Blended Latent Diffusion against its algorithm, written again in float64 with every mask in numpy; its background
reconstruction against its equation; and masks from words."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from wordbrush import edit, from_seed, invert, masks
from wordbrush.editing.blended_latent.options import Options
from wordbrush.editing.blended_latent.reconstruction import reconstructed
from wordbrush.errors import OptionsError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.source import Source
from wordbrush.words import align

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"


def noised(model: Model, source: Source, prompt: str, scale: float, here: Any, z: Tensor) -> Tensor:
    """ε_∅ + w (ε_text − ε_∅) by the network itself."""
    eps: list[Tensor] = []
    for text in ("", prompt):
        embeds = model.encode_text([text])
        kwargs: dict[str, Any] = {}
        if embeds.pooled is not None:
            height, width = source.size(model)
            ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=z.dtype)
            kwargs["added_cond_kwargs"] = {"text_embeds": embeds.pooled, "time_ids": ids}
        said = model.denoiser.unet(z, here.t, encoder_hidden_states=embeds.hidden, **kwargs).sample
        eps.append(said if model.denoiser.prediction == "epsilon" else here.signal * said + here.sigma * z)
    return eps[0] + scale * (eps[1] - eps[0])


def latent_mask(mask: np.ndarray, cell: int, wider: int) -> Tensor:
    """Latents of which a pixel is white, and their neighbours up to `wider` cells away, one by one."""
    height, width = mask.shape[0] // cell, mask.shape[1] // cell
    own = [
        (y, x)
        for y in range(height)
        for x in range(width)
        if mask[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell].any()
    ]
    found = torch.zeros(1, 1, height, width, dtype=torch.bool)
    for y, x in own:
        found[..., max(0, y - wider) : y + wider + 1, max(0, x - wider) : x + wider + 1] = True
    return found


def blended(
    model: Model, source: Source, prompt: str, mask: np.ndarray, seed: int, levels: Any, told: dict[str, Any]
) -> Tensor:
    """Algorithm 1 with DDIM's steps, and what the released code does in other ways where `told` says so."""
    random = torch.Generator().manual_seed(seed)

    def fresh() -> Tensor:
        return torch.randn(source.z_0.shape, generator=random).double()

    z = fresh()
    if told.get("begin_from") != "noise":
        z = levels[0].signal * source.z_0 + levels[0].sigma * z
    n = len(levels) - 1
    for i, (here, to) in enumerate(zip(levels, levels[1:], strict=False)):
        eps = noised(model, source, prompt, 2.5, here, z)
        z = to.signal * (z - here.sigma * eps) / here.signal + to.sigma * eps
        at = here if told.get("paste_level") == "same" else to
        background = at.signal * source.z_0 + at.sigma * fresh()
        if at is to and i == n - 1:
            background = source.z_0
        k = told.get("shrink", 0)
        part = next(p for p in range(k + 1) if i * (k + 1) < (p + 1) * n)  # the equal parts of the run
        m = latent_mask(mask, model.downscale, k - part).to(z)
        z = z * m + background * (1 - m)
    return z


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize(
    ("size", "told"),
    [
        ((32, 32), {}),
        ((48, 32), {"begin_from": "noise", "paste_level": "same"}),
        ((32, 48), {"shrink": 2, "start": 0.4}),
    ],
)
def test_it_is_its_algorithm(shape: str, size: tuple[int, int], told: dict[str, Any], tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=4, height=size[0], width=size[1])
    mask = np.zeros(size, bool)
    mask[9:12, 8:20] = True
    levels = source.schedule.late(
        told.get("start", 0.5), training_alphas_cumprod(model.schedule_config)
    ).levels
    given = {"guidance_scale": 2.5, "redraw_seed": 3, **told}
    results = edit(
        model, source, [DOG, "a red cat on a beach"], method="blended_latent", options=given, mask=mask
    )
    for result in results:
        expected = blended(model, source, result.prompt, mask, 3, levels, told)
        torch.testing.assert_close(result.trajectory[-1:], expected, rtol=1e-9, atol=1e-9)
        assert result.report.unet_rows == 2 * 2 * 4 and result.report.details["mask"] == "given"


def test_outside_of_the_mask_the_latents_are_the_pictures_own(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))

    def made(**told: Any) -> Tensor:
        return edit(model, source, DOG, method="blended_latent", mask=mask, options=told).trajectory[-1:]

    end = made()
    kept = ~latent_mask(np.asarray(mask) > 0, model.downscale, 0).expand_as(end)
    assert torch.equal(end[kept], source.z_0[kept]) and not torch.equal(end[~kept], source.z_0[~kept])
    # The released code pastes at the level before the step: noise is left.
    assert not torch.allclose(made(paste_level="same")[kept], source.z_0[kept], atol=1e-3)
    assert torch.equal(made(redraw_seed=0), end) and not torch.equal(made(redraw_seed=1), end)
    assert torch.equal(made(shrink=2)[kept], source.z_0[kept]) and not torch.equal(made(shrink=2), end)
    nothing = edit(model, source, DOG, method="blended_latent", mask=mask, strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert nothing.report.notices and nothing.report.edited_share == 0


def test_the_decoder_learns_the_background_and_the_model_does_not(tiny: Tiny) -> None:
    """One step of Adam moves every weight by its rate against the sign of the gradient of the equation's loss."""
    model = tiny("sd1", torch.float64)
    source = from_seed(model, CAT, steps=2)
    before = {name: weight.clone() for name, weight in model.autoencoder.vae.named_parameters()}
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double() * 2 - 1
    m = torch.zeros(1, 1, 32, 32).double()
    m[..., 8:24, 8:24] = 1
    told = parse(Options, {"decoder_steps": 1, "decoder_rate": 1e-3, "preservation_ratio": 7.0})
    found = drain(reconstructed(model, source.z_0, x, m, told))

    vae: Any = copy.deepcopy(model.autoencoder.vae)
    vae.decoder.requires_grad_(True)
    z = source.z_0 / vae.config.scaling_factor
    drawn = vae.decode(z).sample.detach().clamp(-1, 1)
    now = vae.decode(z).sample
    inside = ((now * m - drawn * m) ** 2).mean()
    (inside + 7.0 * ((now * (1 - m) - x * (1 - m)) ** 2).mean()).backward()
    with torch.no_grad():
        for weight in vae.decoder.parameters():
            if weight.grad is not None:
                weight -= 1e-3 * weight.grad / (weight.grad.abs() + 1e-8)
        expected = vae.decode(z).sample.clamp(-1, 1)[0]
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, drawn[0].float(), atol=1e-3)
    after = dict(model.autoencoder.vae.named_parameters())
    assert all(torch.equal(before[name], after[name]) and not after[name].requires_grad for name in before)


def test_the_edit_that_comes_back_is_the_learned_decoders(tiny: Tiny) -> None:
    model = tiny()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8))
    source = invert(model, picture, CAT, method="straight", options={"steps": 2})
    mask = np.zeros((32, 32), bool)
    mask[8:24, 8:24] = True
    off: list[float] = []
    for steps in (0, 20):
        told = {"decoder_steps": steps, "decoder_rate": 1e-3}
        result = edit(model, source, DOG, method="blended_latent", options=told, mask=mask)
        away = np.abs(np.asarray(result.rendering, float) - np.asarray(picture, float))
        off.append(float(away[~mask].mean()))
    assert off[1] < off[0] - 1


@pytest.mark.slow
def test_without_a_mask_the_words_say_where(tiny: Tiny) -> None:
    model = tiny()
    prompt = "a cat and a dog on a beach"
    source = from_seed(model, prompt, steps=3)

    def shares(target: str, room: int = 0) -> Any:
        changed = masks.Changed(model, source, room)
        return changed.shares(align(model.read(prompt), model.read(target))), changed.rows

    cat, dog = (masks.word_shares(model, source, word, 0) for word in ("cat", "dog"))
    things = np.maximum(cat, dog)
    swapped, rows = shares("a fox and a dog on a beach")
    assert np.array_equal(swapped, cat) and rows == 3  # a row for each step that the map is read at
    assert np.array_equal(shares("a cat on a beach")[0], dog)
    assert np.array_equal(shares("a red cat and a dog on a beach")[0], cat)
    assert np.array_equal(shares("a cat and a dog in a forest")[0], 255 - things)
    assert np.array_equal(shares("a cat and a dog and a fox on a beach")[0], 255 - things)
    assert np.array_equal(shares("a fox and a dog in a forest")[0], np.maximum(cat, 255 - dog))
    assert shares("a cat and a dog on a beach at night") == (None, 0)
    assert not shares(prompt)[0].any()
    assert (shares("a fox and a dog on a beach", 1)[0] >= cat).all()
    assert np.array_equal(
        shares("a fox and a dog on a beach", 2)[0],
        masks.word_shares(model, source, "cat", 2 * model.downscale),
    )


def test_each_target_has_the_mask_of_its_own_words(tiny: Tiny) -> None:
    model = tiny()
    prompt = "a cat and a dog on a beach"
    source = from_seed(model, prompt, steps=3)
    targets = ["a fox and a dog on a beach", "a cat and a fox on a beach", prompt]
    results = edit(model, source, targets, method="blended_latent")
    first, second, same = (result.mask for result in results)
    assert first is not None and second is not None and same is not None
    assert not torch.equal(first, second) and not same.any()
    assert torch.equal(results[2].trajectory[-1:], source.z_0)
    assert results[0].report.details["mask"] == "words" and results[2].report.notices


def test_options_without_effect_and_wrong_ones_are_named(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    mask = np.zeros((32, 32), bool)
    mask[8:10, 4:28] = True

    def said(mask: Any = mask, **told: Any) -> str:
        return " ".join(
            edit(model, source, DOG, method="blended_latent", options=told, mask=mask).report.notices
        )

    assert "the mask is thin" in said() and "thin" not in said(shrink=2)
    assert "room has no effect" in said(room=2) and "decoder_rate without effect" in said(decoder_rate=1e-3)
    whole = np.ones((32, 32), bool)
    assert "nothing is outside" in said(whole, decoder_steps=1)
    for wrong in ({"start": 1.5}, {"begin_from": "z"}, {"shrink": -1}, {"decoder_steps": -1}):
        with pytest.raises(OptionsError):
            said(**wrong)


def test_words_that_are_nowhere_leave_the_picture_free_and_say_so(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)

    def nowhere(*_: object) -> Any:
        return np.zeros((32, 32), np.uint8)

    monkeypatch.setattr(masks, "word_shares", nowhere)
    result = edit(model, source, DOG, method="blended_latent")
    assert result.report.edited_share == 1 and "were not found" in " ".join(result.report.notices)
    night = edit(model, source, "a cat on a beach at night", method="blended_latent")
    assert night.report.edited_share == 1 and not night.report.notices


@pytest.mark.slow
def test_the_inside_shows_the_new_thing_and_the_outside_stays() -> None:
    model = Model.load("pocket", device="cpu")
    for one in split(555, 2, "change object"):
        source = invert(model, one.picture, one.source_prompt)
        result = edit(model, source, one.target_prompt, method="blended_latent", mask=one.mask)
        ours, own, true = (np.asarray(image, float) for image in (result.image, one.picture, one.truth))
        assert (ours[~one.mask] == own[~one.mask]).all()
        assert np.abs(ours - own)[one.mask].mean() > 10
        assert np.abs(ours - true)[one.mask].mean() < np.abs(own - true)[one.mask].mean()
