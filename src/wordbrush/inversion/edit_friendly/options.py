"""The options of edit-friendly DDPM inversion."""

from pydantic import Field

from wordbrush.options import InversionOptions


class Options(InversionOptions):
    """Which noise a picture is taken apart into."""

    steps: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="steps of the whole run (default: 100; with the built-in model 20)",
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=100, description="guidance of the edits (default: 9; with the built-in model 3)"
    )
    source_guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="guidance towards the picture's own prompt, while its noise is found (default: 3.5; with the "
        "built-in model 1)",
    )
    eta: float = Field(
        1.0, gt=0, le=1, description="how much of each step is noise: 1 is DDPM, near 0 as good as DDIM"
    )
    skip: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the run that edits leave out: more keeps more of the picture (default: 0.12; with the "
        "built-in model 0.2)",
    )
    noise_seed: int = Field(
        0, ge=0, lt=2**63, description="the noise; another seed is another variation of an edit"
    )
