"""VQGAN+CLIP: `method`, and its `options`, which do not import torch."""
