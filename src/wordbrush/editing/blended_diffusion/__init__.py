"""Blended Diffusion: `method`, and its `options`, which do not import torch."""
