"""Guidance as pure functions of eps."""

from jaxtyping import Float
from torch import Tensor


def text_guidance(
    eps_null: Float[Tensor, "*s"], eps_text: Float[Tensor, "*s"], guidance_scale: float
) -> Float[Tensor, "*s"]:
    """eps_guided = eps_∅ + w (eps_text − eps_∅); w = 1 is unguided (Ho & Salimans 2022, eq. 6, their w + 1)."""
    return eps_null + guidance_scale * (eps_text - eps_null)
