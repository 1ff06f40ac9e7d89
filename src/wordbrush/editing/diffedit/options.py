"""The options of DiffEdit."""

from typing import Literal

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """How the mask is found, and how far the picture is encoded."""

    start: float = Field(
        0.2,
        ge=0,
        le=1,
        description="fraction of the run that is left out; 1 less the paper's encoding ratio: the later the picture is "
        "encoded to, the more of it stays (1: all of it)",
    )
    encoding: Literal["no-text", "source"] = Field(
        "no-text",
        description="where the edit begins, and what is put back outside of the mask: no-text: the picture encoded by "
        "DDIM without any text, as in the paper; source: the source's own states, however it was inverted",
    )
    own_mask: bool = Field(
        True,
        description="whether the words make a mask; a mask that is given limits it. false: the given mask alone, or "
        "the whole picture",
    )
    difference_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the largest difference between the captions that counts as changed: less of it is more "
        "of the picture (default: 0.5 where things change, 0.1 for a place, light or style)",
    )
    mask_noise: float = Field(
        0.5, gt=0, lt=1, description="fraction of the run at whose noise the captions are compared"
    )
    mask_draws: int = Field(10, ge=1, le=1000, description="noises whose differences are averaged")
    mask_clamp: float = Field(
        3.0,
        ge=1,
        le=1000,
        description="differences above this many times the mean count as that much: one spot alone is no scale",
    )
    mask_reference: Literal["source", "no-text"] = Field(
        "source", description="what the target's caption is compared with: the source's caption, or no text"
    )
    mask_grow: int = Field(
        0,
        ge=0,
        le=100,
        description="room around the mask, in latent pixels: what comes may have another outline",
    )
    mask_seed: int = Field(0, ge=0, lt=2**63, description="of those noises")
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance (default: the source's; on the straight path the model's own)",
    )
