"""What the original repositories call each weight: diffusers' and transformers' names to theirs.

Names are without the prefix of their part. An original UNet is two flat lists of blocks, where diffusers has levels of
layers; an original autoencoder counts its decoder's levels from the finest; OpenCLIP keeps the three projections of
an attention layer in one matrix.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

Rename = Callable[[str], str]

_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_BLOCK = re.compile(
    r"(down|mid|up)_blocks?\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)"
)
_VAE = {
    r"down_blocks\.(\d+)\.resnets\.": r"down.\1.block.",
    r"down_blocks\.(\d+)\.downsamplers\.0\.": r"down.\1.downsample.",
    r"up_blocks\.(\d+)\.resnets\.": r"up.\1.block.",
    r"up_blocks\.(\d+)\.upsamplers\.0\.": r"up.\1.upsample.",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0\.group_norm": "mid.attn_1.norm",
    r"mid_block\.attentions\.0\.to_out\.0": "mid.attn_1.proj_out",
    r"mid_block\.attentions\.0\.to_([qkv])": r"mid.attn_1.\1",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
}
_OPEN_CLIP = {
    r"^text_model\.": "",
    r"^embeddings\.token_embedding\.weight$": "token_embedding.weight",
    r"^embeddings\.position_embedding\.weight$": "positional_embedding",
    r"^encoder\.layers\.": "transformer.resblocks.",
    r"\.layer_norm(\d)\.": r".ln_\1.",
    r"\.self_attn\.out_proj\.": ".attn.out_proj.",
    r"\.self_attn\.[qkv]_proj\.(weight|bias)$": r".attn.in_proj_\1",
    r"\.mlp\.fc1\.": ".mlp.c_fc.",
    r"\.mlp\.fc2\.": ".mlp.c_proj.",
    r"^final_layer_norm\.": "ln_final.",
    r"^text_projection\.weight$": "text_projection",
}


def unet(config: Mapping[str, Any]) -> Rename:
    """For diffusers' UNet2DConditionModel of this config."""
    layers = int(config["layers_per_block"])
    attends = ["CrossAttn" in kind for kind in config["up_block_types"]]

    def rename(name: str) -> str:
        if not (found := _UNET_BLOCK.fullmatch(name)):
            end, _, rest = name.rpartition(".")
            return f"{_UNET_ENDS.get(end, end)}.{rest}"
        side, level, kind, index, rest = found.groups()
        first, index = int(level or 0) * (layers + 1), int(index)
        if kind == "resnets":
            layer, _, weight = rest.rpartition(".")
            rest = f"{_UNET_RESNET.get(layer, layer)}.{weight}"
        match side, kind:
            case "mid", _:
                return f"middle_block.{2 * index if kind == 'resnets' else 1}.{rest}"
            case "down", "downsamplers":
                return f"input_blocks.{first + layers + 1}.0.{rest.replace('conv', 'op')}"
            case "down", _:
                return f"input_blocks.{first + index + 1}.{int(kind == 'attentions')}.{rest}"
            case _, "upsamplers":  # behind the level's last layer and its attention
                return f"output_blocks.{first + layers}.{1 + attends[int(level)]}.{rest}"
            case _:
                return f"output_blocks.{first + index}.{int(kind == 'attentions')}.{rest}"

    return rename


def vae(config: Mapping[str, Any]) -> Rename:
    """For diffusers' AutoencoderKL of this config."""
    last = len(config["block_out_channels"]) - 1

    def rename(name: str) -> str:
        for pattern, original in _VAE.items():
            name = re.sub(pattern, original, name)
        return re.sub(r"^decoder\.up\.(\d+)", lambda level: f"decoder.up.{last - int(level[1])}", name)

    return rename


def clip(name: str) -> str:
    """For transformers' CLIP text models, whose names are the original's but for an optional `text_model.`."""
    return name.removeprefix("text_model.")


def open_clip(name: str) -> str:
    """For transformers' CLIP text models where the original is OpenCLIP's; q, k and v have one name there."""
    for pattern, original in _OPEN_CLIP.items():
        name = re.sub(pattern, original, name)
    return name
