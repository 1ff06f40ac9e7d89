"""The options of SVDiff."""

from typing import Literal

from pydantic import Field

from wordbrush.training.options import JointOptions


class Options(JointOptions):
    """What to learn, and how."""

    layers: Literal["cross-attention-kv", "all"] = Field(
        "all",
        description="which weights of the UNet learn; cross-attention-kv: those that the text's keys and values are "
        "made with",
    )
    steps: int = Field(500, ge=1, le=1_000_000, description="optimiser steps")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="of AdamW")
    norm_learning_rate: float = Field(1e-6, gt=0, le=1, description="of AdamW, for the scales of norms")
    batch_size: int = Field(
        1, ge=1, le=4096, description="pictures of a forward pass, and as many of the class"
    )
