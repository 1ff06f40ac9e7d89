"""Models in the layout of the original repositories, written block by block as those build their networks."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Weights = dict[str, Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def unet_modules(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Each module's name in diffusers and in the original."""
    yield from (("conv_in", "input_blocks.0.0"), ("conv_norm_out", "out.0"), ("conv_out", "out.2"))
    yield from (("time_embedding.linear_1", "time_embed.0"), ("time_embedding.linear_2", "time_embed.2"))
    yield from (("add_embedding.linear_1", "label_emb.0.0"), ("add_embedding.linear_2", "label_emb.0.2"))
    block, layers = 0, config["layers_per_block"]
    for level, kind in enumerate(config["down_block_types"]):
        for layer in range(layers):
            block += 1
            yield from resnet(f"down_blocks.{level}.resnets.{layer}", f"input_blocks.{block}.0")
            if kind.startswith("CrossAttn"):
                yield f"down_blocks.{level}.attentions.{layer}", f"input_blocks.{block}.1"
        if level + 1 < len(config["down_block_types"]):
            block += 1
            yield f"down_blocks.{level}.downsamplers.0.conv", f"input_blocks.{block}.0.op"
    yield from resnet("mid_block.resnets.0", "middle_block.0")
    yield "mid_block.attentions.0", "middle_block.1"
    yield from resnet("mid_block.resnets.1", "middle_block.2")
    block = -1
    for level, kind in enumerate(config["up_block_types"]):
        for layer in range(layers + 1):
            block, modules = block + 1, 1
            yield from resnet(f"up_blocks.{level}.resnets.{layer}", f"output_blocks.{block}.0")
            if kind.startswith("CrossAttn"):
                yield f"up_blocks.{level}.attentions.{layer}", f"output_blocks.{block}.1"
                modules += 1
            if layer == layers:
                yield f"up_blocks.{level}.upsamplers.0.conv", f"output_blocks.{block}.{modules}.conv"


def resnet(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    for mine, original in RESNET.items():
        yield f"{ours}.{mine}", f"{theirs}.{original}"


def vae_modules(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    levels, layers = len(config["block_out_channels"]), config["layers_per_block"]
    for name in ("encoder.conv_in", "decoder.conv_in", "encoder.conv_out", "decoder.conv_out"):
        yield name, name
    yield from (("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv"))
    for side, count in (("encoder", layers), ("decoder", layers + 1)):
        yield f"{side}.conv_norm_out", f"{side}.norm_out"
        for module in ("norm1", "conv1", "norm2", "conv2"):
            yield f"{side}.mid_block.resnets.0.{module}", f"{side}.mid.block_1.{module}"
            yield f"{side}.mid_block.resnets.1.{module}", f"{side}.mid.block_2.{module}"
        for ours, theirs in VAE_ATTENTION.items():
            yield f"{side}.mid_block.attentions.0.{ours}", f"{side}.mid.attn_1.{theirs}"
        for level in range(levels):
            down = side == "encoder"
            ours = f"{side}.{'down' if down else 'up'}_blocks.{level}"
            # The original counts both sides from the finest level.
            theirs = f"{side}.{f'down.{level}' if down else f'up.{levels - 1 - level}'}"
            for layer in range(count):
                for module in ("norm1", "conv1", "norm2", "conv2"):
                    yield f"{ours}.resnets.{layer}.{module}", f"{theirs}.block.{layer}.{module}"
                yield f"{ours}.resnets.{layer}.conv_shortcut", f"{theirs}.block.{layer}.nin_shortcut"
            sampler = "downsample" if down else "upsample"
            yield f"{ours}.{sampler}rs.0.conv", f"{theirs}.{sampler}.conv"


def renamed(modules: Iterator[tuple[str, str]], weights: Mapping[str, Tensor], prefix: str) -> Weights:
    """The weights by their original names; every weight has to have one."""
    found: Weights = {}
    for ours, theirs in modules:
        for name, weight in weights.items():
            if name.startswith(ours + "."):
                found[prefix + theirs + name.removeprefix(ours)] = weight
    assert len(found) == len(weights)
    return found


def unet(network: Any) -> Weights:
    return renamed(unet_modules(network.config), network.state_dict(), "model.diffusion_model.")


def averaged(weights: Mapping[str, Tensor]) -> Weights:
    """A UNet's weights as the moving average is kept: beside them, by names without dots."""
    return {"model_ema." + name.removeprefix("model.").replace(".", ""): w for name, w in weights.items()}


def vae(network: Any) -> Weights:
    convolved = {  # its attention was made of 1 × 1 convolutions
        name: weight[:, :, None, None] if "attentions" in name and weight.ndim == 2 else weight
        for name, weight in network.state_dict().items()
    }
    return renamed(vae_modules(network.config), convolved, "first_stage_model.")


def clip(network: Any, prefix: str = "cond_stage_model.transformer.text_model.") -> Weights:
    return {
        prefix + name.removeprefix("text_model."): weight for name, weight in network.state_dict().items()
    }


def open_clip(network: Any, prefix: str = "cond_stage_model.model.") -> Weights:
    own = {name.removeprefix("text_model."): weight for name, weight in network.state_dict().items()}
    found = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "ln_final.weight": own["final_layer_norm.weight"],
        "ln_final.bias": own["final_layer_norm.bias"],
    }
    if "text_projection.weight" in own:
        found["text_projection"] = own["text_projection.weight"].T
    for layer in range(network.config.num_hidden_layers):
        ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for kind in ("weight", "bias"):
            found[f"{theirs}.attn.in_proj_{kind}"] = torch.cat(
                [own[f"{ours}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            )
            found[f"{theirs}.attn.out_proj.{kind}"] = own[f"{ours}.self_attn.out_proj.{kind}"]
            found[f"{theirs}.ln_1.{kind}"] = own[f"{ours}.layer_norm1.{kind}"]
            found[f"{theirs}.ln_2.{kind}"] = own[f"{ours}.layer_norm2.{kind}"]
            found[f"{theirs}.mlp.c_fc.{kind}"] = own[f"{ours}.mlp.fc1.{kind}"]
            found[f"{theirs}.mlp.c_proj.{kind}"] = own[f"{ours}.mlp.fc2.{kind}"]
    return {prefix + name: weight for name, weight in found.items()}


def model(unet_: Any, vae_: Any, encoders: list[Any]) -> Weights:
    """A whole checkpoint: two text encoders are SDXL's, one is SD 2's if it is as OpenCLIP's are, or SD 1's."""
    weights = unet(unet_) | vae(vae_)
    if len(encoders) == 2:
        weights |= clip(encoders[0], "conditioner.embedders.0.transformer.text_model.")
        weights |= open_clip(encoders[1], "conditioner.embedders.1.model.")
    else:
        weights |= (open_clip if encoders[0].config.hidden_act == "gelu" else clip)(encoders[0])
    return {name: weight.detach().contiguous() for name, weight in weights.items()}
