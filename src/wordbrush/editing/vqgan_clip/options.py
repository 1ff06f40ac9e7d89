"""The options of VQGAN+CLIP."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from wordbrush.options import GuidedOptions
from wordbrush.training.options import KeptOptions


class Options(GuidedOptions, KeptOptions):
    """How the latents are optimised, and how far the edit goes; what is None depends on the model."""

    latent_share: float = Field(
        1.0,
        ge=0,
        le=1,
        description="how far the latents go from the picture's own (0) to those that were found (1)",
    )
    latent_steps: int | None = Field(
        None, ge=1, le=1_000_000, description="steps of the optimisation (default: by the model)"
    )
    latent_rate: float | None = Field(
        None, gt=0, le=1, description="learning rate of the latents (default: by the model)"
    )
    cutouts: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="random parts of the picture that CLIP sees in a step (default: by the model)",
    )
    smallest_cutout: float = Field(
        0.4, gt=0, le=1, description="side of the smallest part, as a share of the picture's shorter side"
    )
    cutout_noise: float = Field(
        0.1, ge=0, le=10, description="the strongest noise that is added to a part, in the pixels' [−1, 1]"
    )
    init_weight: float = Field(
        0.0, ge=0, le=1e6, description="weight of the difference from the picture's own latents"
    )


# The released notebook's and its command line's.
PUBLISHED: Mapping[str, Any] = {"latent_steps": 500, "latent_rate": 0.1, "cutouts": 32}

MEASURED: Mapping[str, Mapping[str, Any]] = {
    "pocket": {"latent_steps": 30, "latent_rate": 0.1, "cutouts": 8},
}
"""The models for which other defaults were measured, by name, and those."""
