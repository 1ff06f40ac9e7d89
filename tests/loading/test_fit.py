"""Parts that do not belong together, each refused by name when the model is put together."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import conftest
from wordbrush.errors import ModelError
from wordbrush.loading.fit import _SCHEDULERS
from wordbrush.model import Model

Tiny = Callable[..., Model]
Saved = Callable[[Model, Path], Path]
Parts = dict[str, Any]


@pytest.fixture
def parts(tiny: Tiny) -> Callable[[str], Parts]:
    """parts("sdxl"): a tiny model's parts, to exchange one of."""

    def of(shape: str) -> Parts:
        model = tiny(shape)
        return {
            "unet": model.denoiser.unet,
            "vae": model.autoencoder.vae,
            "text_encoders": list(model.text.encoders),
            "tokenizers": list(model.text.tokenizers),
            "schedule_config": model.schedule_config,
        }

    return of


XL: dict[str, Any] = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (16, 32),
    "cross_attention_dim": 56,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 32 + 6 * 8,
}


def unet(**settings: Any) -> Callable[[Parts], Parts]:
    return lambda parts: {**parts, "unet": conftest.unet(**settings)}


def schedule(**settings: Any) -> Callable[[Parts], Parts]:
    return lambda parts: {**parts, "schedule_config": {**parts["schedule_config"], **settings}}


def encoders(*kinds: tuple[type, int], context: int = 32) -> Callable[[Parts], Parts]:
    def swap(parts: Parts) -> Parts:
        tokenizer = parts["tokenizers"][0]
        made = [conftest.text_encoder(kind, tokenizer, width) for kind, width in kinds]
        made[-1].config.max_position_embeddings = context
        return {**parts, "text_encoders": made, "tokenizers": [tokenizer] * len(made)}

    return swap


def vae(**settings: Any) -> Callable[[Parts], Parts]:
    def swap(parts: Parts) -> Parts:
        other = conftest.vae(4)
        other.register_to_config(**settings)
        return {**parts, "vae": other}

    return swap


def meta(part: str) -> Callable[[Parts], Parts]:
    def swap(parts: Parts) -> Parts:
        with torch.device("meta"):
            return {**parts, part: conftest.unet() if part == "unet" else conftest.vae(4)}

    return swap


def tokenizer(change: Callable[[CLIPTokenizer], object]) -> Callable[[Parts], Parts]:
    def swap(parts: Parts) -> Parts:
        other = CLIPTokenizer.from_pretrained(conftest.POCKET / "tokenizer")
        return {**parts, "tokenizers": [change(other) or other]}

    return swap


CLIP, PROJECTED = CLIPTextModel, CLIPTextModelWithProjection
MISFITS: dict[str, tuple[str, Callable[[Parts], Parts], str]] = {
    "five channels": ("sd1", unet(in_channels=5), r"has 4 \(the latents\), 8 .*, 9 .* channels.*, got 5"),
    "sixteen latent channels": (
        "sd1",
        lambda parts: {**parts, "vae": conftest.vae(16)},
        "as the autoencoder's latents have 16, got 4",
    ),
    "a learned variance": ("sd1", unet(out_channels=8), "predicts 4 channels, as .*, got 8"),
    "latents of their own mean": ("sd1", vae(latents_mean=[0.0] * 4), "an autoencoder with latents_mean"),
    "latents of their own spread": ("sd1", vae(latents_std=[1.0] * 4), "an autoencoder with latents_std"),
    "classes": ("sd1", unet(num_class_embeds=10), "text only, got one with num_class_embeds = 10"),
    "an image embedding": (
        "sd1",
        unet(class_embed_type="projection", projection_class_embeddings_input_dim=8),
        "text only, got one with class_embed_type = projection",
    ),
    "another text projection": ("sd1", unet(encoder_hid_dim=16), "text only, got one with encoder_hid_dim"),
    "a picture as condition": (
        "sd1",
        unet(addition_embed_type="text", addition_embed_type_num_heads=2),
        "addition_embed_type is text_time or null, got text,",
    ),
    "a wider text": ("sd1", unet(cross_attention_dim=32), "texts 24 wide, as the text encoders.*, got 32"),
    "one level with a wider text": ("sd1", unet(cross_attention_dim=(24, 24, 32)), "24 wide.*, got 32"),
    "SD's UNet with SDXL's encoders": ("sdxl", unet(), "expected 1 text encoder, .* one text encoder, got 2"),
    "SDXL's UNet with one encoder": (
        "sd1",
        unet(**XL),
        "expected 2 text encoders, as the UNet reads the pooled text of SDXL's second text encoder, got 1",
    ),
    "SDXL's refiner": (
        "sdxl",
        unet(**{**XL, "projection_class_embeddings_input_dim": 32 + 5 * 8}),
        "expected SDXL's base model, got its refiner",
    ),
    "another pooled text": (
        "sdxl",
        unet(**{**XL, "projection_class_embeddings_input_dim": 64 + 6 * 8}),
        "is 32 \\+ 6 · 8, the pooled text and six sizes, got 112",
    ),
    "no pooled text": (
        "sdxl",
        encoders((CLIP, 24), (CLIP, 32)),
        "to be a CLIPTextModelWithProjection, got one",
    ),
    "encoders the wrong way round": ("sdxl", encoders((PROJECTED, 32), (CLIP, 24)), "without a projection"),
    "three encoders": (
        "sdxl",
        encoders((CLIP, 8), (CLIP, 16), (PROJECTED, 32)),
        "expected 2 text enc.*, got 3",
    ),
    "two contexts": (
        "sdxl",
        encoders((CLIP, 24), (PROJECTED, 32), context=77),
        "text encoders that read equally many tokens, got 32 and 77",
    ),
    "a tokenizer too few": (
        "sdxl",
        lambda parts: {**parts, "tokenizers": parts["tokenizers"][:1]},
        "each text encoder needs its tokenizer: got 2 text encoders and 1 tokenizers",
    ),
    "no vocabulary": ("sd1", tokenizer(lambda _: CLIPTokenizer()), "with a vocabulary, got one of 2 tokens"),
    "a token beyond the embeddings": (
        "sd1",
        tokenizer(lambda one: one.add_tokens(["<my-cat>"]) and None),
        "a tokenizer of at most 985 tokens, for which the text encoder has embeddings, got 986",
    ),
    "no padding": (
        "sd1",
        tokenizer(lambda one: setattr(one, "pad_token", None)),
        "with a token for padding, got none",
    ),
    "flow matching": (
        "sd1",
        schedule(_class_name="FlowMatchEulerDiscreteScheduler", shift=3.0),
        "a scheduler of DDPM's kind, such as DDIMScheduler, got FlowMatchEulerDiscreteScheduler",
    ),
    "EDM": ("sdxl", schedule(_class_name="EDMDPMSolverMultistepScheduler"), "got EDMDPMSolverMultistepSch"),
    "consistency": ("sd1", schedule(_class_name="CMStochasticIterativeScheduler"), "got CMStochasticIter"),
    "a flow's shift": ("sd1", schedule(shift=3.0), "trained with betas, got shift = 3.0"),
    "a flow's sigmas": (
        "sd1",
        schedule(use_flow_sigmas=True),
        "trained with betas, got use_flow_sigmas = True",
    ),
    "EDM's data": ("sd1", schedule(sigma_data=0.5), "trained with betas, got sigma_data = 0.5"),
    "continuous timesteps": (
        "sd1",
        schedule(_class_name="EulerDiscreteScheduler", timestep_type="continuous"),
        "expected discrete timesteps, got continuous",
    ),
    "a prediction that is no name": (
        "sd1",
        schedule(prediction_type=["epsilon"]),
        "prediction_type of the schedule to be text, got \\['epsilon'\\]",
    ),
    "a UNet without numbers": (
        "sd1",
        meta("unet"),
        "expected weights, got a UNet2DConditionModel on the meta",
    ),
    "a VAE without numbers": ("sd1", meta("vae"), "expected weights, got a AutoencoderKL on the meta device"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused(case: str, parts: Callable[[str], Parts]) -> None:
    shape, change, said = MISFITS[case]
    with pytest.raises(ModelError, match=f"^mine: .*{said}"):
        Model(**change(parts(shape)), name="mine")


FITS: dict[str, tuple[str, Callable[[Parts], Parts]]] = {
    "inpainting": ("sd1", unet(in_channels=9)),
    "instructions": ("sd1", unet(in_channels=8)),
    "SDXL inpainting": ("sdxl", unet(**XL, in_channels=9)),
    "a distilled model": ("sd1", unet(time_cond_proj_dim=8)),
    "a width per level": ("sd1", unet(cross_attention_dim=(24, 24, 24))),
    "an encoder with a projection": ("sd1", encoders((PROJECTED, 24))),
    "two with projections": ("sdxl", encoders((PROJECTED, 24), (PROJECTED, 32))),
    **{
        kind: (
            "sd1",
            schedule(_class_name=kind + "Scheduler", sigma_max=None, use_flow_sigmas=False, flow_shift=1.0),
        )
        for kind in (
            *(
                "DDIM",
                "PNDM",
                "DDPM",
                "EulerDiscrete",
                "EulerAncestralDiscrete",
                "LMSDiscrete",
                "UniPCMultistep",
            ),
            *("DPMSolverMultistep", "DPMSolverSinglestep", "HeunDiscrete", "KDPM2Discrete"),
            *("KDPM2AncestralDiscrete", "DEISMultistep", "LCM", "TCD"),
        )
    },
}


@pytest.mark.parametrize("case", FITS)
def test_what_fits_is_not_refused(case: str, parts: Callable[[str], Parts]) -> None:
    shape, change = FITS[case]
    assert Model(**change(parts(shape))).schedule(5).steps == 5


def test_schedulers_that_are_let_pass_are_diffusers_own_and_have_betas() -> None:
    for kind in _SCHEDULERS - {"DPMSolverSDEScheduler"}:  # which needs torchsde
        assert "beta_schedule" in inspect.signature(getattr(diffusers, kind).__init__).parameters, kind


def test_the_parts_of_a_folder_are_held_against_each_other(tiny: Tiny, saved: Saved, tmp_path: Path) -> None:
    path = saved(tiny("sd1"), tmp_path / "model")
    config = {**tiny("sd1").schedule_config, "_class_name": "EDMEulerScheduler"}
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    with pytest.raises(
        ModelError, match=f"{path}: expected a scheduler of DDPM's kind.*got EDMEulerScheduler"
    ):
        Model.load(path, device="cpu")


@pytest.mark.parametrize("device", ["meta", "cuda:99", "abacus"])
def test_devices_that_do_not_compute(device: str) -> None:
    with pytest.raises(ModelError, match=f"there is no device '{device}' here; there is cpu"):
        Model.load("pocket", device=device)
