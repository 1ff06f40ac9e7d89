"""The options of TurboEdit."""

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """How a picture is taken apart into noise, and how far an edit follows the difference of the prompts."""

    pseudo_guidance: float | None = Field(
        None,
        ge=0,
        le=100,
        description="how strongly an edit follows the difference of the prompts: 0 is the source (default: 1.5)",
    )
    timestep_shift: int | None = Field(
        None,
        ge=0,
        le=999,
        description="by how much the picture is noised less than the network is told, in training timesteps "
        "(default: 200; with the built-in model 100)",
    )
    noise_limit: float = Field(
        0.121,
        ge=0,
        le=100,
        description="root mean square of the last step's noise above which it is scaled down to that: less blurs, and "
        "keeps less of the picture's errors",
    )
    start: float = Field(
        0.2,
        ge=0,
        le=1,
        description="fraction of the run that is left out: the later, the more of the picture stays (1: all of it)",
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")
