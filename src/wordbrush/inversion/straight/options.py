"""The options of the straight path."""

from pydantic import Field

from wordbrush.options import InversionOptions


class Options(InversionOptions):
    """One noise, and the levels at which an edit follows it."""

    steps: int | None = Field(None, ge=1, le=1000, description="steps of an edit (default: 8)")
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="how strongly an edit follows the difference of the texts (default: 3)",
    )
    noise_seed: int = Field(
        0, ge=0, lt=2**63, description="the noise; another seed is another variation of an edit"
    )
