"""The options of LoRA."""

from typing import Literal

from pydantic import Field

from wordbrush.training.options import PriorOptions


class Options(PriorOptions):
    """What to learn, and how."""

    rank: int = Field(4, ge=1, le=1024, description="of each change: its size grows with it")
    alpha: float | None = Field(
        None, gt=0, le=10_000, description="a change is multiplied by alpha / rank (default: the rank)"
    )
    layers: Literal["attention", "cross-attention", "all"] = Field(
        "attention", description="which layers of the UNet learn; all: every linear layer and convolution"
    )
    steps: int = Field(500, ge=1, le=1_000_000, description="optimiser steps")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="of AdamW")
    batch_size: int = Field(
        1, ge=1, le=4096, description="pictures of a forward pass, and as many of the class"
    )
