"""The same noise with other words: `method`, and its `options`, which do not import torch."""
