"""The configuration of every network of the pocket model, the same for `--preset cpu` and `--preset gpu`."""

from __future__ import annotations

from typing import Any

# diffusers.AutoencoderKL. Few channels at high resolution, where they are most expensive on a CPU, and many at low.
AUTOENCODER: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (24, 48, 96, 192),
    "layers_per_block": 1,
    "latent_channels": 8,
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
    "sample_size": 128,
    # The latents are normalised inside the weights, so they need no factor.
    "scaling_factor": 1.0,
}

# transformers.CLIPTextModel, used as in Stable Diffusion: the last hidden state of all 32 tokens.
TEXT_ENCODER: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}

# diffusers.UNet2DConditionModel. Attention at 16 × 16 and 8 × 8, where Prompt-to-Prompt edits, and in the middle.
UNET: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 8,
    "out_channels": 8,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "block_out_channels": (64, 192, 256),
    "layers_per_block": 1,
    "cross_attention_dim": 256,
    # diffusers reads this as the number of heads: 32 numbers wide each.
    "attention_head_dim": (2, 6, 8),
    "norm_num_groups": 32,
}

# Stable Diffusion's noise schedule, and the sampler's settings.
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}

# transformers.VisionTextDualEncoderModel, the judge: CLIP with a ConvNeXt as image encoder, which learns small pictures
# from a fraction of the examples that a vision transformer needs. It shares nothing with the networks above.
JUDGE_IMAGE: dict[str, Any] = {
    "image_size": 128,
    "patch_size": 4,
    "num_stages": 3,
    "hidden_sizes": [48, 96, 224],
    "depths": [1, 2, 4],
    "hidden_act": "relu",
    "layer_scale_init_value": 0.5,
    "hidden_size": 224,  # of the features of a whole picture; the dual encoder expects this name
}
JUDGE_TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
JUDGE_PROJECTION = 192

# transformers.ConvNextModel, the image network of the reader and the encoder: the judge's, a little narrower.
ENCODER: dict[str, Any] = {
    "image_size": 128,
    "patch_size": 4,
    "num_stages": 3,
    "hidden_sizes": [48, 96, 192],
    "depths": [1, 2, 4],
    "hidden_act": "relu",
    "layer_scale_init_value": 0.5,
}
