"""The options of SDEdit."""

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """How much of the picture is noised away, and what is drawn instead."""

    start: float = Field(
        0.5,
        ge=0,
        le=1,
        description="fraction of the run that is left out: the later the picture is noised to, the more of it stays "
        "(1: all of it)",
    )
    repeats: int = Field(
        1,
        ge=1,
        le=100,
        description="how often the result is noised and drawn again, from other noise each time",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance (default: the source's; on the straight path the model's own)",
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")
