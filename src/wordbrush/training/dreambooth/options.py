"""The options of DreamBooth."""

from typing import ClassVar, Literal

from pydantic import Field

from wordbrush.training.options import PriorOptions


class Options(PriorOptions):
    """What to learn, and how."""

    WANTS_CLASS: ClassVar[bool] = True

    keep: Literal["full", "delta"] = Field(
        "full", description="keep the weights themselves, or what was added to the base's"
    )
    steps: int = Field(800, ge=1, le=1_000_000, description="optimiser steps")
    learning_rate: float = Field(5e-6, gt=0, le=1, description="of AdamW, for the UNet")
    text_learning_rate: float = Field(2e-6, gt=0, le=1, description="of AdamW, for the text encoder")
    batch_size: int = Field(
        1, ge=1, le=4096, description="pictures of a forward pass, and as many of the class"
    )
