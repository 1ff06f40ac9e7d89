"""The sizes of the published models, from nothing but the names and shapes in their files. No weight is made."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import original
from wordbrush.loading import names, sizes
from wordbrush.loading.share import Share

# The published configs, and how many weights the published files have of each.
SD1: dict[str, Any] = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD2 = {
    **SD1,
    "sample_size": 96,
    "cross_attention_dim": 1024,
    "attention_head_dim": [5, 10, 20, 20],
    "use_linear_projection": True,
}
SDXL = {
    "sample_size": 128,
    "in_channels": 4,
    "out_channels": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [320, 640, 1280],
    "layers_per_block": 2,
    "transformer_layers_per_block": [1, 2, 10],
    "cross_attention_dim": 2048,
    "attention_head_dim": [5, 10, 20],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNETS = {
    "sd1": (SD1, 686),
    "sd1 inpainting": ({**SD1, "in_channels": 9}, 686),
    "sd1 instructions": ({**SD1, "in_channels": 8}, 686),
    "sd2": (SD2, 686),
    "sdxl": (SDXL, 1680),
    "sdxl inpainting": ({**SDXL, "in_channels": 9}, 1680),
}
VAE: dict[str, Any] = {
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
}
VIT_H = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
}
VIT_BIG_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}


class Listed:
    """An open file of which only the names and shapes are known."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights

    def keys(self) -> list[str]:
        return list(self.weights)

    def get_slice(self, key: str) -> Any:
        return type("Slice", (), {"get_shape": lambda _: list(self.weights[key].shape)})()


def share(weights: Mapping[str, Tensor], prefix: str) -> Share:
    return Share.of("published.safetensors", Listed(weights), [prefix], ())


def built(make: Callable[[], Any]) -> Any:
    with torch.device("meta"):
        return make()


def shapes(network: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(weight.shape) for name, weight in network.state_dict().items()}


@pytest.mark.parametrize("version", UNETS)
@pytest.mark.parametrize("averaged", [False, True])
def test_unets(version: str, averaged: bool) -> None:
    config, count = UNETS[version]
    network = built(lambda: UNet2DConditionModel.from_config(config))
    weights = original.unet(network)
    assert len(weights) == count
    if averaged:
        own = share(original.averaged(weights), "model.diffusion_model.").averaged()
    else:
        own = share(weights, "model.diffusion_model.")
    found = sizes.unet(own, has_wide_heads=not version.startswith("sd1"), sample_size=config["sample_size"])
    again = built(lambda: UNet2DConditionModel.from_config(found))
    assert shapes(again) == shapes(network)
    for key in config:
        assert again.config[key] == network.config[key], key
    own.require(map(names.unet(again.config), shapes(again)), "UNet", "$.")


def test_autoencoders() -> None:
    network = built(lambda: AutoencoderKL.from_config(VAE))
    weights = original.vae(network)
    assert len(weights) == 248
    own = share(weights, "first_stage_model.")
    again = built(lambda: AutoencoderKL.from_config(sizes.vae(own, scale=0.18215)))
    assert shapes(again) == shapes(network)
    for key in VAE:
        assert again.config[key] == network.config[key], key
    own.require(map(names.vae(again.config), shapes(again)), "autoencoder", "$.")


def test_clip() -> None:
    network = built(lambda: CLIPTextModel(CLIPTextConfig(**CLIP_L)))
    weights = original.clip(network)
    assert len(weights) == 196
    own = share(weights, "cond_stage_model.transformer.text_model.")
    found = sizes.clip(own)
    assert found == {**CLIP_L, "vocab_size": 49408, "max_position_embeddings": 77}
    own.require(map(names.clip, shapes(network)), "CLIP text encoder", "$.")


@pytest.mark.parametrize(
    ("kind", "config", "most_layers", "count"),
    [(CLIPTextModel, VIT_H, 23, 280), (CLIPTextModelWithProjection, VIT_BIG_G, None, 389)],
)
def test_open_clip(kind: type, config: dict[str, Any], most_layers: int | None, count: int) -> None:
    network = built(lambda: kind(CLIPTextConfig(**config)))
    weights = original.open_clip(network)
    if most_layers:  # the published file has the layer that is not read as well
        last = [key for key in weights if ".resblocks.22." in key]
        weights |= {key.replace(".22.", ".23."): weights[key] for key in last}
    assert len(weights) == count + (12 if most_layers else 0)
    own = share(weights, "cond_stage_model.model.")
    found = sizes.open_clip(own, most_layers=most_layers)
    assert {**found, "projection_dim": config.get("projection_dim", 1024)} == {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "projection_dim": 1024,
        **config,
    }
    own.require(map(names.open_clip, shapes(network)), "text encoder", r"transformer\.resblocks\.23\.")
