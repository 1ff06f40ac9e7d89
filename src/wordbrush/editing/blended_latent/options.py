"""The options of Blended Latent Diffusion."""

from typing import Literal

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """How the inside of the mask is drawn, and how the outside is kept."""

    start: float = Field(
        0.5,
        ge=0,
        le=1,
        description="fraction of the run that is left out: the later it begins, the more of the picture stays inside "
        "of the mask (1: all of it)",
    )
    begin_from: Literal["picture", "noise"] = Field(
        "picture",
        description="what the run begins from: the noised picture, as in the paper, or noise alone, as in its code",
    )
    paste_level: Literal["next", "same"] = Field(
        "next",
        description="the level of the noised picture that is put back outside of the mask: the one that the step leads "
        "to, or the one before, as in the released code, which leaves noise behind",
    )
    shrink: int = Field(
        0,
        ge=0,
        le=32,
        description="by how many latents the mask is wider at first; it shrinks to itself in steps of equal length "
        "(for thin masks)",
    )
    room: int = Field(
        1,
        ge=0,
        le=32,
        description="by how many latents the mask of words reaches further, where no mask is given",
    )
    decoder_steps: int = Field(
        0,
        ge=0,
        le=10_000,
        description="steps in which the decoder learns the outside of the mask of this picture; 75 in the released "
        "code (0: it does not; pasting alone brings the outside back)",
    )
    decoder_rate: float = Field(1e-4, gt=0, le=1, description="learning rate of the decoder")
    preservation_ratio: float = Field(
        100.0,
        gt=0,
        le=1e6,
        description="how much the outside weighs while the decoder learns; the inside weighs 1",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance (default: the source's; on the straight path the model's own)",
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")
