"""DDIM inversion with noise regularisation: `method`, and its `options`, which do not import torch."""
