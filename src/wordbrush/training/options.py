"""What methods that learn from pictures can be told, besides how to optimise; nothing here imports torch."""

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator

from wordbrush.options import FitOptions, MaybeSaid, Options, Said, Texts

if TYPE_CHECKING:
    from wordbrush.training.pictures import Pictures


class PictureOptions(FitOptions):
    """How pictures are seen, and what is sampled meanwhile.

    SEVERAL: whether several things are learned at once. SEQUENTIAL: whether a model is taught more that has learned
    something by the same method.
    """

    SEVERAL: ClassVar[bool] = False
    SEQUENTIAL: ClassVar[bool] = False

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


class KeptOptions(Options):
    """What an edit that learns something of its picture is told of that."""

    tuning_seed: int = Field(0, ge=0, lt=2**63, description="of the noise that is learned with")
    tuned_in: MaybeSaid = Field(
        "",
        description="a folder where what is learned is kept, with checkpoints: another edit of the picture finds it, "
        "and a run that was stopped goes on (default: in memory, for this run)",
    )


class OnePictureOptions(KeptOptions):
    """What an edit is told of how it learns its one picture before it draws; what is None depends on the model."""

    tuning_steps: int | None = Field(
        None,
        ge=0,
        le=1_000_000,
        description="steps in which the network learns the picture; 0: it stays as it is (default: by the model)",
    )
    tuning_rate: float | None = Field(
        None, gt=0, le=1, description="learning rate of these steps (default: by the model)"
    )
    tuning_batch: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="rows of a step, each with a noise of its own (default: by the model)",
    )


class ClassOptions(PictureOptions):
    """What a method has that holds the model to what it knows of a class. WANTS_CLASS: whether it is always to."""

    WANTS_CLASS: ClassVar[bool] = False

    class_folder: MaybeSaid = Field(
        "",
        description="a folder of pictures of the class, with captions (NAME.txt) if they are not all the class prompt; "
        "used in place of pictures that the model makes",
    )
    class_pictures: int = Field(
        200, ge=1, le=100_000, description="pictures of the class, made by the model itself; of each class"
    )
    prior_weight: float = Field(
        1.0, ge=0, le=1000, description="weight of the class pictures' loss; 0: none are made or seen"
    )

    @property
    def prompts(self) -> tuple[str, ...]:
        """What the pictures show: a prompt for each thing."""
        raise NotImplementedError

    @property
    def class_prompts(self) -> tuple[str, ...]:
        """The classes: one for each thing, or for all, or none."""
        raise NotImplementedError

    def doubts(self, found: "Pictures") -> list[str]:
        """What to say of classes and captions before the work. Raises `OptionsError`."""
        raise NotImplementedError


class ThingOptions(ClassOptions):
    """What is said of one thing in words, and of its class."""

    prompt: Said = Field(
        description="what the pictures show, with a rare word: 'a sks cat'", examples=["a sks cat"]
    )
    class_prompt: MaybeSaid = Field(
        "",
        description="the class of the thing, 'a cat': what the model knows of it is preserved (default: it is not)",
    )

    @property
    def prompts(self) -> tuple[str, ...]:
        """The one prompt."""
        return (self.prompt,)

    @property
    def class_prompts(self) -> tuple[str, ...]:
        """The class, if there is one."""
        return (self.class_prompt,) if self.class_prompt else ()


class PriorOptions(ThingOptions):
    """What DreamBooth and its low-rank form have in common."""

    train_text_encoder: bool = Field(False, description="let the text encoder learn as well")


class JointOptions(ClassOptions):
    """The same for several things at once, which some draws show side by side (SVDiff's Cut-Mix-Unmix).

    MIXING: the options that are about such draws alone.
    """

    SEVERAL: ClassVar[bool] = True
    MIXING: ClassVar[tuple[str, ...]] = ("cut_mix", "side_by_side", "unmix")

    prompt: Texts = Field(
        description="what the pictures show, with a rare word: 'a sks cat'; of several things one for each folder",
        examples=["a sks cat"],
    )
    class_prompt: Texts = Field(
        (),
        description="the class of the thing, 'a cat': what the model knows of it is preserved; of several things one "
        "for all, or one for each folder (default: it is not)",
    )
    train_text_encoder: bool = Field(False, description="let the text encoder learn as well")
    cut_mix: float = Field(
        0.6, ge=0, le=1, description="of several things, how often pictures of two are seen side by side"
    )
    side_by_side: Texts = Field(
        ("{left} on the left and {right} on the right", "{right} and {left}"),
        description="what such pictures show, with {left} and {right} for the prompts of the two things",
    )

    unmix: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="weight of how much a thing's words look at the other's half of such pictures",
    )

    @field_validator("prompt", "side_by_side")
    @classmethod
    def _says_something(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        if not given:
            raise ValueError("expected some words")
        return given

    @field_validator("side_by_side")
    @classmethod
    def _names_both(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{left}") != 1 or template.count("{right}") != 1:
                raise ValueError("expected one {left} and one {right} in each")
        return templates

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts."""
        return self.prompt

    @property
    def class_prompts(self) -> tuple[str, ...]:
        """The classes."""
        return self.class_prompt
