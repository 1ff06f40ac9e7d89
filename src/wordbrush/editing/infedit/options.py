"""The options of InfEdit."""

from typing import Literal

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """Which noise the picture is seen through, and how its attention is shared. Windows are fractions of the run."""

    cross_control: float = Field(
        0.7,
        ge=0,
        le=1,
        description="fraction of steps in which words that both prompts have take the layout's cross-attention maps",
    )
    self_control: float = Field(
        0.3,
        ge=0,
        le=1,
        description="fraction of steps that use the source's self-attention maps; afterwards the layout looks at the "
        "source with the target's queries",
    )
    fresh_noise: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of each step's noise that is drawn anew: 1 is consistency sampling, 0 goes on with the "
        "predicted noise as DDIM does",
    )
    local_blend: Literal["auto", "off"] | tuple[str, ...] = Field(
        "auto",
        description="words outside of which the source is kept; auto takes the things that change",
    )
    blend_threshold: float = Field(
        0.6, ge=0, le=1, description="share of a word's strongest attention that counts as it"
    )
    spare: Literal["auto", "things"] | tuple[str, ...] = Field(
        "auto",
        description="words of the source to leave alone, cut out of the local blend; things: whatever stays as it is; "
        "auto: none",
    )
    spare_threshold: float = Field(0.6, ge=0, le=1, description="the same share for the words to leave alone")
    start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the run that is left out: the later, the more of the picture stays (1: all of it)",
    )
    guidance_scale: float = Field(
        2.0, ge=0, le=100, description="text guidance of the target; the source has none"
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")
