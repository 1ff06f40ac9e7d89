"""Models to benchmark: the built-in one, and random weights in a middle size and in Stable Diffusion 1.5's shape."""

from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from wordbrush.model import POCKET, Model

_SD = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
RANDOM: dict[str, dict[str, Any]] = {
    "mid": {**_SD, "sample_size": 32, "block_out_channels": (128, 256, 512, 512), "cross_attention_dim": 512},
    "sd15": {
        **_SD,
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
    },
}
NAMES = ("pocket", *RANDOM)


def build(name: str, dtype: torch.dtype) -> Model:
    """The model of that name. The random ones have a two-layer text encoder and a tiny autoencoder (not timed)."""
    if name == "pocket":
        return Model.load("pocket", device="cpu", dtype=dtype)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**RANDOM[name])
    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "tokenizer")
    width = RANDOM[name]["cross_attention_dim"]
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width,
            num_hidden_layers=2,
            num_attention_heads=8,
            max_position_embeddings=77,
        )
    )
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4,) * 4,
        norm_num_groups=2,
        latent_channels=4,
    )
    for module in (unet, vae, text_encoder):
        module.to(dtype)
    schedule = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "steps_offset": 1,
        "set_alpha_to_one": False,
    }
    return Model(
        unet=unet,
        vae=vae,
        text_encoders=[text_encoder],
        tokenizers=[tokenizer],
        schedule_config=schedule,
        name=name,
    )
