"""Inpainting: networks that read a mask, against their equation; others, against blending, both written again."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

import conftest
from wordbrush import check_edit, edit, from_seed, invert
from wordbrush.errors import ImageError, ModelError, OptionsError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"


def inpainter(tokenizer: CLIPTokenizer, channels: int = 9, prediction: str = "epsilon") -> Model:
    """The tiny SD 1 with a UNet of more channels, in float64."""
    torch.manual_seed(0)
    base = conftest.sd1(tokenizer)
    model = Model(
        unet=conftest.unet(in_channels=channels),
        vae=base.autoencoder.vae,
        text_encoders=base.text.encoders,
        tokenizers=[tokenizer],
        schedule_config={**conftest.SD_SCHEDULE, "prediction_type": prediction},
        name="tiny inpainter",
    )
    for module in (model.denoiser.unet, model.autoencoder.vae, *model.text.encoders):
        module.to(torch.float64)
    return model


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8))


def box(width: int, height: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[8:23, 8:21] = True
    return mask


def guided(model: Model, source: Source, prompt: str, here: Any, z: Tensor, extra: Tensor | None) -> Tensor:
    """ε_∅ + 2.5 (ε_text − ε_∅); both see the same channels, in the order latents, mask, masked picture."""
    eps: list[Tensor] = []
    for text in ("", prompt):
        embeds = model.encode_text([text])
        kwargs: dict[str, Any] = {}
        if embeds.pooled is not None:
            height, width = source.size(model)
            ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=z.dtype)
            kwargs["added_cond_kwargs"] = {"text_embeds": embeds.pooled, "time_ids": ids}
        seen = z if extra is None else torch.cat([z, extra], dim=1)
        said = model.denoiser.unet(seen, here.t, encoder_hidden_states=embeds.hidden, **kwargs).sample
        eps.append(said if model.denoiser.prediction == "epsilon" else here.signal * said + here.sigma * z)
    return eps[0] + 2.5 * (eps[1] - eps[0])


@torch.no_grad()
@pytest.mark.parametrize("start", [0.0, pytest.param(0.4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("prediction", ["epsilon", pytest.param("v_prediction", marks=pytest.mark.slow)])
def test_an_inpainting_network_reads_the_mask_and_the_masked_picture(
    prediction: str, start: float, tokenizer: CLIPTokenizer
) -> None:
    model = inpainter(tokenizer, prediction=prediction)
    picture, mask = photo(24, 36), box(24, 36)
    source = invert(model, picture, CAT, method="straight", options={"steps": 3})
    told = {"guidance_scale": 2.5, "redraw_seed": 3, "start": start}
    results = edit(model, source, [DOG, "a red cat on a beach"], method="inpainting", options=told, mask=mask)

    height, width = source.size(model)
    x = source.picture.seen(height, width).double() if source.picture else None
    assert x is not None and (height, width) == (36, 24)
    white = torch.from_numpy(mask).double()[None, None]
    vae = model.autoencoder.vae
    masked = vae.encode(x * (1 - white)).latent_dist.mode() * vae.config.scaling_factor
    small = white[..., :: model.downscale, :: model.downscale]  # the nearest pixel of each latent
    extra = torch.cat([small, masked], dim=1)
    noise = torch.randn(1, 4, 18, 12, generator=torch.Generator().manual_seed(3)).double()
    levels = source.schedule.late(start, training_alphas_cumprod(model.schedule_config)).levels
    for result in results:
        z = noise if start == 0 else levels[0].signal * source.z_0 + levels[0].sigma * noise
        for here, to in zip(levels, levels[1:], strict=False):
            eps = guided(model, source, result.prompt, here, z, extra)
            z = to.signal * (z - here.sigma * eps) / here.signal + to.sigma * eps
        torch.testing.assert_close(result.trajectory[-1:], z, rtol=1e-9, atol=1e-9)
        assert result.report.details == {"mask": "given", "by": "channels"}
        assert result.report.unet_rows == 2 * 2 * 3
        # Nothing was put back, and still the picture outside is the file's.
        assert not torch.allclose(z[..., -1, :], source.z_0[..., -1, :], atol=1e-3)
        assert (np.asarray(result.image)[~mask] == np.asarray(picture)[~mask]).all()


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("size", [(32, 32), (48, 32)])
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_another_network_inpaints_by_blending(shape: str, size: tuple[int, int], tiny: Tiny) -> None:
    """As diffusers' fallback for networks of four channels: one noise, put back at the level that the step leads to."""
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=4, height=size[0], width=size[1])
    mask = box(size[1], size[0])
    told = {"guidance_scale": 2.5, "redraw_seed": 3}
    (result, _) = edit(
        model, source, [DOG, "a red cat on a beach"], method="inpainting", options=told, mask=mask
    )
    noise = torch.randn(1, *source.z_0.shape[1:], generator=torch.Generator().manual_seed(3)).double()
    free = F.max_pool2d(torch.from_numpy(mask).double()[None, None], model.downscale)
    z, levels = noise, source.schedule.levels
    for i, (here, to) in enumerate(zip(levels, levels[1:], strict=False)):
        eps = guided(model, source, DOG, here, z, None)
        z = to.signal * (z - here.sigma * eps) / here.signal + to.sigma * eps
        last = i == len(levels) - 2
        known = source.z_0 if last else to.signal * source.z_0 + to.sigma * noise
        z = free * z + (1 - free) * known
    torch.testing.assert_close(result.trajectory[-1:], z, rtol=1e-9, atol=1e-9)
    assert result.report.details["by"] == "blending"


def test_options_change_the_result_or_say_that_they_do_not(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    mask = box(32, 32)

    def made(**told: Any) -> Any:
        return edit(model, source, DOG, method="inpainting", options=told, mask=mask)

    end = made().trajectory[-1]
    for told in ({"start": 0.5}, {"redraw_seed": 1}, {"guidance_scale": 1.0}):
        assert not torch.equal(made(**told).trajectory[-1], end)
    assert "room has no effect" in made(room=2).report.notices[0]
    nothing = edit(model, source, DOG, method="inpainting", mask=mask, strength=0.0)
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.notices
    words = edit(model, source, DOG, method="inpainting")
    wider = edit(model, source, DOG, method="inpainting", options={"room": 4})
    assert words.report.details["mask"] == "words" and words.report.edited_share < wider.report.edited_share
    with pytest.raises(OptionsError, match="start"):
        made(start=2)


def test_an_inpainting_network_needs_a_mask_and_says_what_else(tokenizer: CLIPTokenizer) -> None:
    model = inpainter(tokenizer)
    source = invert(model, photo(32, 32), CAT, method="straight", options={"steps": 2})
    with pytest.raises(ImageError, match="expected a mask, as an inpainting model reads one, got none"):
        edit(model, source, DOG, method="inpainting")
    said = r"reads 5 channels beside the latents' 4, got 0.*this one inpaints \(method inpainting"
    with pytest.raises(ModelError, match=said):
        invert(model, photo(32, 32), CAT, method="direct", options={"steps": 2})
    with pytest.raises(ModelError, match=said):
        edit(model, source, DOG, method="inpainting", mask_words="cat")
    for method in ("prompt_to_prompt", "sdedit", "fixed_seed", "blended_latent"):
        with pytest.raises(ModelError, match=said):
            edit(model, source, DOG, method=method, mask=box(32, 32))


def test_a_network_of_other_channels_is_refused_before_any_work(tokenizer: CLIPTokenizer) -> None:
    with pytest.raises(ModelError, match="reads 4 channels, or 9 with a mask .*got one that reads 8"):
        check_edit(inpainter(tokenizer, 8), CAT, [DOG], method="inpainting")


class Pixels(torch.nn.Module):
    """An autoencoder that leaves pictures as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(latent_channels=3, block_out_channels=(8,), scaling_factor=1.0)
        self.one = torch.nn.Parameter(torch.ones(()))

    device = property(lambda self: self.one.device)
    dtype = property(lambda self: self.one.dtype)

    def encode(self, image: Tensor) -> Any:
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: self.one * image))

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=self.one * latents)


@torch.no_grad()
def test_a_network_of_pixels_inpaints_them(tokenizer: CLIPTokenizer) -> None:
    """Seven channels: pixels, the mask, and the masked picture itself."""
    torch.manual_seed(0)
    model = Model(
        unet=conftest.unet(in_channels=7, out_channels=3),
        vae=Pixels(),
        text_encoders=conftest.sd1(tokenizer).text.encoders,
        tokenizers=[tokenizer],
        schedule_config=conftest.SD_SCHEDULE,
        name="tiny pixels",
    )
    picture, mask = photo(16, 16), np.zeros((16, 16), bool)
    mask[4:9, 3:12] = True
    seen: list[Tensor] = []

    def see(_: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(given[0])

    model.denoiser.unet.register_forward_pre_hook(see)
    source = invert(model, picture, CAT, method="straight", options={"steps": 2})
    result = edit(model, source, DOG, method="inpainting", mask=mask)
    white = torch.from_numpy(mask).float()
    x = torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 127.5 - 1
    assert result.image.size == (16, 16) and len(seen) == 2 and seen[0].shape == (2, 7, 16, 16)
    for row in seen[1]:
        assert torch.equal(row[3], white)
        torch.testing.assert_close(row[4:], x * (1 - white), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_what_was_inside_is_forgotten() -> None:
    """From noise alone the inside says nothing of the old thing: two pictures that differ there give one result."""
    model = Model.load("pocket", device="cpu")
    (one,) = split(555, 1, "delete object")
    ends: list[Tensor] = []
    for picture in (one.picture, one.truth):
        source = invert(model, picture, one.source_prompt)
        result = edit(model, source, one.target_prompt, method="inpainting", mask=one.mask)
        ends.append(result.trajectory[-1])
    inside = result.mask
    assert inside is not None
    apart = (ends[0] - ends[1]).abs()
    assert (
        apart[:, inside].mean()
        < 0.2 * (source.z_0 - invert(model, one.picture, one.source_prompt).z_0).abs()[0][:, inside].mean()
    )
