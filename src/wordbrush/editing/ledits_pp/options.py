"""The options of LEDITS++."""

from typing import Literal

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """Which concepts are edited, and how strongly, where and when each."""

    add: Literal["auto", "nothing"] | tuple[str, ...] = Field(
        "auto", description="what shall be seen, each a concept of its own; auto: what the target says anew"
    )
    remove: Literal["auto", "nothing"] | tuple[str, ...] = Field(
        "auto",
        description="what shall be seen no more, each a concept of its own; auto: what the target no longer says",
    )
    concept_text: Literal["alone", "caption"] | None = Field(
        None,
        description="what a concept is read in: alone, beside no text, or in the source's caption, beside that caption "
        "(default: alone; with the built-in model caption, unless concepts are named)",
    )
    edit_guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="guidance of each concept (default: 5; with the built-in model 2 in captions)",
    )
    word_guidance: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="guidance of the concepts with single words, e.g. dog=8,cat=2",
    )
    edit_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the picture that a concept leaves alone: 0.9 edits its strongest tenth (default: 0.9 for "
        "things, with the built-in model 0.8 in captions; 0 for a place, light or style)",
    )
    word_thresholds: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="the same for the concepts with single words, e.g. dog=0.8",
    )
    edit_warmup: float = Field(0.0, ge=0, lt=1, description="fraction of the run before concepts act")
    word_warmups: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="the same for the concepts with single words, e.g. night=0.2",
    )
    implicit_masks: Literal["both", "attention", "difference", "none"] = Field(
        "both",
        description="what decides where a concept acts: where its words look, where it changes the noise most, both, "
        "or nothing",
    )
    solver_order: Literal[1, 2] = Field(
        2, description="of the steps whose noise is taken from the picture: 2 is SDE-DPM-Solver++, 1 is DDPM"
    )
    start: float = Field(
        0.15,
        ge=0,
        le=1,
        description="fraction of the run that is left out: the later it begins, the more of the picture stays (1: all)",
    )
    redraw_seed: int = Field(0, ge=0, lt=2**63, description="of the noise: another one is another result")
