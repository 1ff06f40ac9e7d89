"""The options of pix2pix-zero."""

from typing import Literal

from pydantic import Field

from wordbrush.options import Options as BaseOptions
from wordbrush.options import Texts


class Options(BaseOptions):
    """Where the text is led, and how firmly the source's attention is held."""

    sentences: Literal["captions", "endings"] = Field(
        "captions",
        description="what the direction is made of where none is given: the two captions, or their beginnings, up to "
        "what changes, with many endings",
    )
    source_sentences: Texts = Field(
        (),
        description="sentences about what is in the picture: their own mean is where the direction begins; one each, "
        "or a .txt file with one a line",
    )
    target_sentences: Texts = Field(
        (), description="sentences about what shall be there instead: the direction leads to their mean"
    )
    direction: str | None = Field(
        None, description="a direction's file, as Direction.save writes it, in place of sentences"
    )
    direction_scale: float = Field(
        1.0, ge=0, le=10, description="how far the text goes along the direction (1: to its end)"
    )
    attention_guidance: float | None = Field(
        None,
        ge=0,
        le=100,
        description="how far the latents go down the distance of the attention maps to the source's, in each step "
        "(default: 0.05, the released 0.1; with the built-in model 1)",
    )
    attention_until: float = Field(
        1.0, ge=0, le=1, description="fraction of the steps after which the maps are not held any more"
    )
    held_maps: Literal["target", "source"] = Field(
        "target",
        description="whose maps are held to the source's: those of the edited text, or of the source's own text",
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
