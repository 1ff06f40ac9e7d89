"""Text2LIVE: `method`, its `generator` and `losses`, and its `options`, which do not import torch."""
