"""The options of Prompt-to-Prompt. What is left out is decided by what the words change (`defaults`)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wordbrush.options import Options as BaseOptions

Window = tuple[float, float]


def window_of(steps: float | Window) -> Window:
    """The window that an option means: a number f is (0, f)."""
    return steps if isinstance(steps, tuple) else (0.0, steps)


def _in_order(steps: float | Window) -> float | Window:
    start, stop = window_of(steps)
    if not 0 <= start <= stop <= 1:
        raise ValueError("expected a fraction from 0 to 1, or two in order (start, stop)")
    return steps


Steps = Annotated[float | Window, AfterValidator(_in_order)]


class Options(BaseOptions):
    """How to edit. Windows are fractions of the run: a number f means (0, f). Options without a value follow from what
    the words change; the report says what was chosen, and why."""

    word_edit: Literal["auto", "replace", "refine"] = Field(
        "auto", description="replace hands maps from word to word; refine keeps new words free; auto chooses"
    )
    cross_replace_steps: Steps | None = Field(
        None,
        description="fraction of steps that use the source's cross-attention maps (default: by what changes)",
    )
    self_replace_steps: Steps | None = Field(
        None,
        description="fraction of steps that use the source's self-attention maps (default: by what changes)",
    )
    self_limit: int | None = Field(
        None,
        ge=0,
        description="largest site, in positions, for self-attention injection (default: where maps are read)",
    )
    word_steps: dict[str, Steps] = Field(
        default_factory=dict[str, Steps], description="windows of single target words, e.g. lion=0.4"
    )
    reweight: dict[str, float] = Field(
        default_factory=dict[str, float],
        description="weights of single target words, e.g. night=3 or beach=-1",
    )
    local_blend: Literal["auto", "off"] | tuple[str, ...] = Field(
        "auto",
        description="words outside of which the source is kept; auto takes the things that change",
    )
    blend_start: float | None = Field(
        None, ge=0, le=1, description="fraction of steps before local blend starts (default: by what changes)"
    )
    blend_threshold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of a word's strongest attention that counts as it (default: by what changes)",
    )
    blend_difference: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of the largest difference to the source that counts as changed; "
        "what changed less is kept too (0: nothing is; default: by what changes)",
    )
    spare: Literal["auto", "things"] | tuple[str, ...] = Field(
        "auto",
        description="words to leave alone, cut out of the local blend; things: whatever stays as it is; "
        "auto: by what changes",
    )
    spare_threshold: float | None = Field(
        None, ge=0, le=1, description="the same share for the words to leave alone (default: by what changes)"
    )
    hold: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how much less than elsewhere an edit does at the things that stay "
        "(straight path only; default: by what changes)",
    )
    finish: float | None = Field(
        None,
        gt=0,
        le=1,
        description="fraction of steps after which the mask is fixed and what is inside is drawn with the model's "
        "ordinary guidance (1: never; default: by what changes)",
    )
    start: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of the source's run after which the edit begins, with all its steps: the later, the less "
        "changes (1: nothing)",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance (default: the source's; on the straight path 2 for colours and looks)",
    )
    negative_prompt: str | None = Field(
        None, description="what guidance leads away from (default: what the source was made with)"
    )
