"""Inversions that iterate the implicit equation of a step: `fixed_point`, `renoise`, and their `options`."""
