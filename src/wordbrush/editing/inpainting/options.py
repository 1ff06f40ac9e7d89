"""The options of inpainting."""

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """How the inside of the mask is drawn."""

    start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the run that is left out: 0 begins with noise alone and forgets what was inside of "
        "the mask; the later, the more of it stays (1: all of it)",
    )
    room: int = Field(
        1,
        ge=0,
        le=32,
        description="by how many latents the mask of words reaches further, where no mask is given",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance (default: the source's; on the straight path the model's own)",
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")
