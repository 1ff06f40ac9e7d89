"""InfEdit: `method`, its attention control (`attention`), and its `options`, which do not import torch."""
