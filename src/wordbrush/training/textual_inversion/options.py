"""The options of Textual Inversion."""

from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from wordbrush.errors import short
from wordbrush.options import Said
from wordbrush.training.options import PictureOptions


class Options(PictureOptions):
    """What to learn, and how."""

    token: Said = Field(description="the new word, '<my-cat>'", examples=["<my-cat>"])
    init: Said = Field(
        description="the known word that it starts from, 'cat'; several words are taken together",
        examples=["cat"],
    )
    vectors: int | None = Field(
        None, ge=1, le=32, description="vectors of the word (default: as many as the tokens of --init)"
    )
    progressive: tuple[int, ...] = Field(
        (), description="begin with one vector, and add one at each of these steps: 2000,4000"
    )
    kind: Literal["object", "style"] = Field("object", description="which prompts it is learned in")
    templates: tuple[str, ...] = Field(
        (), description="prompts to learn it in, with {} for the word, in place of those"
    )
    steps: int = Field(3000, ge=1, le=1_000_000, description="optimiser steps")
    learning_rate: float = Field(2e-3, gt=0, le=10, description="of AdamW")
    crop: Literal["random", "center", "stretch"] = Field(
        "stretch",
        description="where a picture's part is cut that the model sees; stretch: the whole, stretched to it",
    )
    flip: float = Field(0.5, ge=0, le=1, description="how often a picture is mirrored")

    @model_validator(mode="after")
    def _makes_sense(self) -> "Options":
        for template in self.templates:
            if template.count("{}") != 1:
                raise ValueError(f"option 'templates': expected one {{}} for the word, got {short(template)}")
        if any(later <= first for first, later in pairwise((0, *self.progressive, self.steps))):
            raise ValueError(
                f"option 'progressive': expected steps that rise, between 1 and {self.steps - 1}, got "
                f"{','.join(map(str, self.progressive))}"
            )
        return self
