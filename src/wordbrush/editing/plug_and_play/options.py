"""The options of Plug-and-Play."""

from typing import Literal

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """What of the source's layout is put into the target, where and for how long, and what guidance leads away from."""

    feature_steps: float = Field(
        0.8,
        ge=0,
        le=1,
        description="fraction of steps that put the source's features into the target: its coarse layout",
    )
    feature_place: float = Field(
        1 / 9,
        ge=0,
        lt=1,
        description="which of the decoder's blocks has those features: the fraction of them that comes before it, the "
        "coarsest first",
    )
    attention_steps: float = Field(
        0.5,
        ge=0,
        le=1,
        description="fraction of steps whose self-attention maps are the source's: what belongs together",
    )
    attention_place: float = Field(
        1 / 9,
        ge=0,
        le=1,
        description="fraction of the decoder's self-attention, the coarsest first, that is left alone",
    )
    negative_prompt: str | None = Field(
        None,
        description="what guidance leads away from, such as the source's own words (default: what the source was made "
        "with)",
    )
    negative_schedule: Literal["linear", "constant"] = Field(
        "linear",
        description="how the negative prompt counts: more and more over the run, for one more row a step; or in every "
        "step",
    )
    start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the source's run after which the edit begins, with all its steps: the later, the less "
        "changes (1: nothing)",
    )
    guidance_scale: float | None = Field(
        None, ge=0, le=100, description="text guidance (default: the source's)"
    )
