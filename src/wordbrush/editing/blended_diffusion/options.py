"""The options of Blended Diffusion."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from wordbrush.options import GuidedOptions


class Options(GuidedOptions):
    """How a CLIP draws the inside of the mask, and how the outside is kept; what is None depends on the model."""

    start: float = Field(
        0.25,
        ge=0,
        le=1,
        description="fraction of the run that is left out: the later it begins, the more of the picture stays inside "
        "of the mask (1: all of it)",
    )
    guided_steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="steps of a whole run, of which `start` is left out (default: by the model)",
    )
    clip_weight: float | None = Field(
        None,
        ge=0,
        le=1e6,
        description="how strongly CLIP's gradient moves the latents (default: by the model)",
    )
    augmentations: int = Field(
        8,
        ge=0,
        le=1024,
        description="random views of the picture whose mean gradient is followed; 0: CLIP sees it as it is",
    )
    range_weight: float = Field(
        50.0, ge=0, le=1e6, description="weight of pixels that are beyond black and white"
    )
    blend: bool = Field(
        True,
        description="put the noised picture back outside of the mask in every step; off: the background weight alone "
        "keeps it, the paper's local CLIP-guided diffusion",
    )
    background_weight: float = Field(
        0.0, ge=0, le=1e6, description="weight of the difference from the picture outside of the mask"
    )
    samples: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="how many are drawn; the one that CLIP finds nearest to the target is kept (default: by the model)",
    )
    room: int = Field(
        1,
        ge=0,
        le=32,
        description="by how many latents the mask of words reaches further, where no mask is given",
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")


# The released code's; the paper ranks 64 samples, which takes two minutes each on a GPU of its time.
PUBLISHED: Mapping[str, Any] = {"guided_steps": 100, "clip_weight": 1000.0, "samples": 8}

MEASURED: Mapping[str, Mapping[str, Any]] = {
    "pocket": {"guided_steps": 30, "clip_weight": 200.0, "samples": 1},
}
"""The models for which other defaults were measured, by name, and those."""
