"""The options of Text2LIVE."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from wordbrush.options import GuidedOptions, MaybeSaid
from wordbrush.training.options import KeptOptions


class Options(GuidedOptions, KeptOptions):
    """How the layer is learned, and how much of it is seen; what is None depends on the model."""

    opacity: float = Field(1.0, ge=0, le=1, description="how much of the layer is seen; 0: nothing")
    layer_text: MaybeSaid = Field(
        "", description="what the layer alone shows (default: the things that the target's words are about)"
    )
    layer_steps: int | None = Field(
        None, ge=1, le=1_000_000, description="steps in which the layer is learned (default: by the model)"
    )
    layer_rate: float | None = Field(
        None, gt=0, le=1, description="learning rate of its network, falling to 0 (default: by the model)"
    )
    layer_channels: int | None = Field(
        None, ge=1, le=4096, description="channels of its network (default: by the model)"
    )
    layer_views: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="random views of the picture that CLIP sees in a step (default: by the model)",
    )
    composition_weight: float = Field(
        1.0, ge=0, le=1e6, description="weight of how far the picture and its change are from the words"
    )
    screen_weight: float = Field(
        1.0, ge=0, le=1e6, description="weight of how far the layer over a green screen is from its words"
    )
    structure_weight: float = Field(
        2.0, ge=0, le=1e6, description="weight of how the picture's parts are like one another"
    )
    sparsity_weight: float | None = Field(
        None, ge=0, le=1e6, description="weight of how much the layer covers (default: by the model)"
    )
    bootstrap_weight: float = Field(
        10.0,
        ge=0,
        le=1e6,
        description="weight, at first, of the layer's being where CLIP finds the thing that changes",
    )
    bootstrap_until: float = Field(
        0.5, ge=0, le=1, description="fraction of the steps over which that weight falls to 0"
    )


# The released configuration; its bootstrap is that of its examples.
PUBLISHED: Mapping[str, Any] = {
    "layer_steps": 1000,
    "layer_rate": 2.5e-3,
    "layer_channels": 128,
    "layer_views": 16,
    "sparsity_weight": 0.06,
}

MEASURED: Mapping[str, Mapping[str, Any]] = {
    "pocket": {
        "layer_steps": 50,
        "layer_rate": 1e-2,
        "layer_channels": 24,
        "layer_views": 4,
        "sparsity_weight": 0.06,
    },
}
"""The models for which other defaults were measured, by name, and those."""
