"""Edit-friendly DDPM inversion: `method`, and its `options`, which do not import torch."""
