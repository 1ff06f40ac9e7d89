"""The options of Imagic."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from wordbrush.training.options import OnePictureOptions

WHOLE = 0.9
"""How far towards the target's text an edit goes by default."""


class Options(OnePictureOptions):
    """How the picture is learned, and how far the edit goes from it towards the target."""

    interpolation: float = Field(
        WHOLE,
        ge=0,
        le=2,
        description="η, between the text that stands for the picture (0) and the target's (1); more goes beyond it",
    )
    embedding_steps: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="steps in which the target's text becomes one that stands for the picture; 0: it stays the "
        "target's (default: by the model)",
    )
    embedding_rate: float | None = Field(
        None, gt=0, le=1, description="learning rate of these steps (default: by the model)"
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance (default: the source's; on the straight path the model's own)",
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")


# What is used with Stable Diffusion: diffusers' community pipeline, whose numbers are nearest to the paper's.
PUBLISHED: Mapping[str, Any] = {
    "embedding_steps": 500,
    "embedding_rate": 1e-3,
    "tuning_steps": 1000,
    "tuning_rate": 2e-6,
    "tuning_batch": 1,
}

MEASURED: Mapping[str, Mapping[str, Any]] = {
    "pocket": {
        "embedding_steps": 40,
        "embedding_rate": 1e-2,
        "tuning_steps": 40,
        "tuning_rate": 4e-4,
        "tuning_batch": 1,
    },
}
"""The models for which other defaults were measured, by name, and those."""
