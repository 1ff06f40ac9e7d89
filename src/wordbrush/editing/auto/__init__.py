"""The automatic choice: `method`, `likelihood`, and `options`, which do not import torch."""
