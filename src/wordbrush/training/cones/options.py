"""The options of Cones."""

from pydantic import Field

from wordbrush.training.options import ThingOptions


class Options(ThingOptions):
    """What to learn, and how. Experimental: see docs/methods/cones.md."""

    threshold: float = Field(
        0.9, gt=0, lt=1, description="what the mask, 1 at first, has brought below this is shut: set to 0"
    )
    limit: float = Field(
        0.1, gt=0, le=1, description="at most this share of the entries is shut, the lowest of the mask"
    )
    steps: int = Field(1000, ge=1, le=1_000_000, description="optimiser steps")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="of AdamW, for the mask")
    weight_decay: float = Field(0.0, ge=0, le=1, description="of AdamW: it draws the whole mask to 0")
    batch_size: int = Field(
        1, ge=1, le=4096, description="pictures of a forward pass, and as many of the class"
    )
