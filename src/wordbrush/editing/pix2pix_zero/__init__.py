"""pix2pix-zero: `method`, and its `options`, which do not import torch."""
