"""The configs of a single file's parts, read from the shapes of its weights.

Only what no shape says is given: the width of an attention head, the activation, the latents' scale. So the published
models, their inpainting and InstructPix2Pix versions, and smaller or wider ones of the same layout need no config.
Each function raises `ModelError`, from `Share.shape`, for a weight that has to be there and is not.
"""

from itertools import count, takewhile
from typing import Any

from wordbrush.loading.share import Share

_HEAD = 64  # channels per attention head: CLIP's, OpenCLIP's, and of the UNets of Stable Diffusion 2 and XL
_HEADS = 8  # attention heads of every layer in Stable Diffusion 1


def unet(share: Share, *, has_wide_heads: bool, sample_size: int) -> dict[str, Any]:
    """Of a UNet. has_wide_heads: 64 channels a head, where Stable Diffusion 1 has 8 heads whatever the width."""
    blocks = _count(share, "input_blocks.{}.0.in_layers.0.weight", "input_blocks.{}.0.op.weight")
    downsamplers = sum(f"input_blocks.{i}.0.op.weight" in share for i in range(1, blocks + 1))
    layers = (blocks - downsamplers) // (downsamplers + 1)
    firsts = [1 + level * (layers + 1) for level in range(downsamplers + 1)]
    widths = [share.shape(f"input_blocks.{i}.0.out_layers.3.weight")[0] for i in firsts]
    depths = [_depth(share, f"input_blocks.{i}.1") for i in firsts]
    attends = [depth > 0 for depth in depths]
    middle = _depth(share, "middle_block.1")  # which has the depth of the last level, if that one attends
    config: dict[str, Any] = {
        "sample_size": sample_size,
        "in_channels": share.shape("input_blocks.0.0.weight")[1],
        "out_channels": share.shape("out.2.weight")[0],
        "down_block_types": ["CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attends],
        "up_block_types": ["CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attends)],
        "block_out_channels": widths,
        "layers_per_block": layers,
        "transformer_layers_per_block": [*(depth or 1 for depth in depths[:-1]), depths[-1] or middle],
        "attention_head_dim": [width // _HEAD for width in widths] if has_wide_heads else _HEADS,
        "cross_attention_dim": share.shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight")[1],
        "use_linear_projection": len(share.shape("middle_block.1.proj_in.weight")) == 2,
    }
    if "label_emb.0.0.weight" in share:
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = 256
        config["projection_class_embeddings_input_dim"] = share.shape("label_emb.0.0.weight")[1]
    return config


def vae(share: Share, *, scale: float) -> dict[str, Any]:
    """Of an autoencoder. scale: what its latents are multiplied by."""
    levels = range(_count(share, "encoder.down.{}.block.0.norm1.weight", start=0))
    return {
        "latent_channels": share.shape("decoder.conv_in.weight")[1],
        "down_block_types": ["DownEncoderBlock2D" for _ in levels],
        "up_block_types": ["UpDecoderBlock2D" for _ in levels],
        "block_out_channels": [share.shape(f"encoder.down.{i}.block.0.conv2.weight")[0] for i in levels],
        "layers_per_block": _count(share, "encoder.down.0.block.{}.norm1.weight", start=0),
        "scaling_factor": scale,
        "use_quant_conv": "quant_conv.weight" in share,
        "use_post_quant_conv": "post_quant_conv.weight" in share,
    }


def clip(share: Share) -> dict[str, Any]:
    """Of OpenAI's CLIP text encoder."""
    tokens, width = share.shape("embeddings.token_embedding.weight")
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": share.shape("encoder.layers.0.mlp.fc1.weight")[0],
        "num_hidden_layers": _count(share, "encoder.layers.{}.layer_norm1.weight", start=0),
        "num_attention_heads": max(1, width // _HEAD),
        "max_position_embeddings": share.shape("embeddings.position_embedding.weight")[0],
        "hidden_act": "quick_gelu",
    }


def open_clip(share: Share, *, most_layers: int | None) -> dict[str, Any]:
    """Of OpenCLIP's. most_layers: those behind are left out."""
    tokens, width = share.shape("token_embedding.weight")
    layers = _count(share, "transformer.resblocks.{}.ln_1.weight", start=0)
    return {
        "vocab_size": tokens,
        "hidden_size": width,
        "intermediate_size": share.shape("transformer.resblocks.0.mlp.c_fc.weight")[0],
        "num_hidden_layers": min(layers, most_layers or layers),
        "num_attention_heads": max(1, width // _HEAD),
        "max_position_embeddings": share.shape("positional_embedding")[0],
        "hidden_act": "gelu",
        "projection_dim": share.shape("text_projection")[1] if "text_projection" in share else width,
    }


def _count(share: Share, *names: str, start: int = 1) -> int:
    """How many numbers in a row, from `start`, give one of these names a weight."""
    return sum(1 for _ in takewhile(lambda i: any(name.format(i) in share for name in names), count(start)))


def _depth(share: Share, attention: str) -> int:
    """The transformer blocks of an attention layer, 0 where there is none."""
    return _count(share, attention + ".transformer_blocks.{}.norm1.weight", start=0)
