"""The options of EDICT."""

from pydantic import Field

from wordbrush.options import InversionOptions


class Options(InversionOptions):
    """How a picture is walked up, and its edits down."""

    steps: int | None = Field(
        None, ge=1, le=1000, description="steps of the whole run (default: 50; with the built-in model 20)"
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=100, description="guidance up and of the edits down (default: 3)"
    )
    mixing: float = Field(
        0.93,
        ge=0.5,
        le=1,
        description="how much of each of the two latents is its own after a step; 1: they are not drawn together",
    )
    skip: float = Field(
        0.2, ge=0, lt=1, description="share of the run that edits leave out: more keeps more of the picture"
    )
