"""The options of the same noise with other words."""

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """Where the run with the target's words begins, and how it is guided."""

    start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the source's run after which the target's words take over, with all its steps: the "
        "later, the less changes (1: nothing)",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance (default: the source's; on the straight path the model's own)",
    )
