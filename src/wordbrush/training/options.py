"""What methods that learn from pictures can be told, besides how to optimise; nothing here imports torch."""

from typing import Literal

from pydantic import Field

from wordbrush.options import FitOptions, MaybeSaid, Said


class PictureOptions(FitOptions):
    """How pictures are seen, and what is sampled meanwhile."""

    crop: Literal["random", "center", "stretch"] = Field(
        "random",
        description="where a picture's part is cut that the model sees; stretch: the whole, stretched to it",
    )
    flip: float = Field(0.0, ge=0, le=1, description="how often a picture is mirrored")
    snr_gamma: float | None = Field(
        None,
        gt=0,
        description="weight the loss by min(signal-to-noise ratio, this); 5 is usual (default: equal weights)",
    )
    sample_prompt: MaybeSaid = Field("", description="prompt of the samples (default: the concept's own)")


class ClassOptions(PictureOptions):
    """What is said of a thing in words, and of its class, which is preserved."""

    prompt: Said = Field(
        description="what the pictures show, with a rare word: 'a sks cat'", examples=["a sks cat"]
    )
    class_prompt: MaybeSaid = Field(
        "",
        description="the class of the thing, 'a cat': what the model knows of it is preserved (default: it is not)",
    )
    class_pictures: int = Field(
        200, ge=1, le=100_000, description="pictures of the class, made by the model itself"
    )
    prior_weight: float = Field(1.0, ge=0, le=1000, description="weight of the class pictures' loss")


class PriorOptions(ClassOptions):
    """What DreamBooth and its low-rank form have in common."""

    train_text_encoder: bool = Field(False, description="let the text encoder learn as well")
