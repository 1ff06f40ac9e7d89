"""The options of MasaCtrl."""

from typing import Literal

from pydantic import Field

from wordbrush.options import Options as BaseOptions


class Options(BaseOptions):
    """When and where the target looks at the source, and how far the source's run is left."""

    mutual_start: float = Field(
        0.08,
        ge=0,
        le=1,
        description="fraction of steps that are drawn by the target's words alone, before its self-attention looks at "
        "the source: the more, the more freely it takes shape",
    )
    mutual_place: float = Field(
        1 / 3,
        ge=0,
        le=1,
        description="fraction of the decoder's self-attention, the coarsest first, that does not look at the source",
    )
    foreground: Literal["off", "auto"] | tuple[str, ...] = Field(
        "off",
        description="words of one part of the picture: it looks at that part of the source, and the rest at the rest; "
        "auto: the words that change, or all things",
    )
    foreground_threshold: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the words' attention, from its least to its most, that counts as that part of the source",
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
