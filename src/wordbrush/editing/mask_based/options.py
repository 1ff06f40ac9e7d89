"""The options of mask-based editing."""

from typing import Literal

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """Where to edit, and how far."""

    blend_words: Literal["auto"] | tuple[str, ...] = Field(
        "auto",
        description="words of the target outside of which the picture is kept; auto: those that are new",
    )
    mask_threshold: float = Field(
        0.4, ge=0, le=1, description="share of a word's strongest attention that counts as it"
    )
    start: float = Field(
        0.4,
        ge=0,
        le=1,
        description="fraction of the source's run after which the edit begins, with all its steps: the later, the less "
        "changes (1: nothing)",
    )
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="text guidance (default: the source's; on the straight path the model's own)",
    )
