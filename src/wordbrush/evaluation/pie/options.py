"""PIE-Bench's settings: how its metrics are computed, and what the methods are given. Importable without torch.

Two things are called "released". The released *preset* computes the metrics as the published harness does, with each
of its quirks; the released *protocol* gives Prompt-to-Prompt the options that the published table was made with.
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from wordbrush.options import Options as BaseOptions

Preset = Literal["honest", "released"]
Protocol = Literal["wordbrush", "released"]


class Options(BaseOptions):
    """How the metrics are computed: the quirks of the released harness one by one, and the networks."""

    forced_border: bool = Field(
        False, description="count the outermost pixels as edited, as the released mask decoder does"
    )
    cut_masks: bool = Field(
        False,
        description="let a run of a mask that leaves the picture end there, which is an error otherwise",
    )
    whole_canvas: bool = Field(
        False,
        description="blacken the edited part of both pictures and average over the whole canvas: black equals black, "
        "which flatters PSNR, SSIM, MSE and LPIPS, the more the larger the mask",
    )
    full_masks: Literal["exclude", "drop"] = Field(
        "exclude",
        description="cases without a background: exclude them from its means (the released nan), or drop them from "
        "all, so that every column is over the same cases",
    )
    structure_0_to_255: bool = Field(
        False, description="give the structure distance values of 0 to 255 where its network expects 0 to 1"
    )
    rightmost_panel: bool = Field(
        False, description="an edited picture larger than its source is a strip: score its lower right panel"
    )
    lpips_network: Literal["alex", "squeeze", "vgg"] = Field(
        "alex", description="the network whose weights are given; the released harness has squeeze"
    )
    lpips_weights: str | None = Field(
        None,
        description="a file of that network's weights (default: a distance by the encoder, which is no LPIPS)",
    )
    clip: str = Field(
        "pocket", description="a CLIP's hub id or folder; published: openai/clip-vit-large-patch14"
    )
    encoder: str = Field(
        "pocket", description="the structure distance's hub id or folder; published: facebook/dino-vitb8"
    )


PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "honest": {},
    "released": {
        "forced_border": True,
        "cut_masks": True,
        "whole_canvas": True,
        "full_masks": "exclude",
        "structure_0_to_255": True,
        "rightmost_panel": True,
        "lpips_network": "squeeze",
    },
}
"""The metrics' options by preset."""

RELEASED_INVERSION: Mapping[str, Any] = {"steps": 50, "guidance_scale": 7.5}
RELEASED_EDITING: Mapping[str, Any] = {
    "word_edit": "refine",
    "cross_replace_steps": 0.4,
    "self_replace_steps": 0.6,
    "self_limit": 32**2,
    "blend_start": 0.2,
    "blend_threshold": 0.3,
    "local_blend": "off",
}
"""What the released protocol gives to the inversion and to the edit; `run.settings` adds a case's blended words."""
