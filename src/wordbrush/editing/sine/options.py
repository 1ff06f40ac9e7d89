"""The options of SINE."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from wordbrush.training.options import OnePictureOptions


class Options(OnePictureOptions):
    """How the picture is learned, and how much the model that knows it has to say."""

    picture_weight: float = Field(
        0.7,
        ge=0,
        le=1,
        description="v: how much of the guidance is of the model that knows the picture, and not of the target's text",
    )
    until: float = Field(
        0.6,
        ge=0,
        le=1,
        description="fraction of the run in which it counts; afterwards the text alone guides",
    )
    patches: float | None = Field(
        None,
        gt=0,
        le=1,
        description="learn from parts of the picture, with where they are; the smallest one's side as a share of the "
        "picture's (default: the whole is seen)",
    )
    train_text_encoder: bool = Field(True, description="let the text encoder learn as well")
    start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the run that is left out: the later the picture is noised to, the more of it stays "
        "(1: all of it)",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance (default: the source's; on the straight path the model's own)",
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")


# The released configuration's rate; it allows 10,000 steps and leaves it to the user when to stop.
PUBLISHED: Mapping[str, Any] = {"tuning_steps": 1000, "tuning_rate": 1e-6, "tuning_batch": 1}

MEASURED: Mapping[str, Mapping[str, Any]] = {
    "pocket": {"tuning_steps": 60, "tuning_rate": 4e-4, "tuning_batch": 1},
}
"""The models for which other defaults were measured, by name, and those."""
