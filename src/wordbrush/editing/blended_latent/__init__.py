"""Blended Latent Diffusion: `method`, its background `reconstruction`, and its `options`, which do not import torch."""
