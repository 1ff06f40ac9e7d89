"""The options of Custom Diffusion."""

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from wordbrush.errors import OptionsError, short
from wordbrush.options import Said
from wordbrush.training.options import ClassOptions

if TYPE_CHECKING:
    from wordbrush.training.pictures import Pictures

# What comes before the class in a prompt such as "a photo of a cat".
_BEFORE = re.compile(r"((an?\s+)?(photo|picture)\s+of\s+)?((an?|the)\s+)?", re.IGNORECASE)


class Options(ClassOptions):
    """What to learn, and how. What there is of each thing is in the order of the folders."""

    SEVERAL: ClassVar[bool] = True
    SEQUENTIAL: ClassVar[bool] = True

    token: tuple[Said, ...] = Field(
        min_length=1,
        description="the new word, '<my-cat>'; repeat it for each folder",
        examples=["<my-cat>"],
    )
    class_prompt: tuple[Said, ...] = Field(
        (),
        description="the class of the thing, 'a cat': it is named beside the word, and what the model knows of it is "
        "preserved; repeat it for each folder (default: none)",
    )
    prompt: tuple[Said, ...] = Field(
        (),
        description="what the pictures show, with the word; repeat it for each folder (default: 'photo of a <my-cat> "
        "cat', or for a style 'painting in the style of <my-cat> art')",
    )
    init: tuple[Said, ...] = Field(
        (),
        description="what the word starts from; repeat it for each folder (default: rare words, drawn by the seed)",
    )
    vectors: int | None = Field(
        None, ge=1, le=32, description="vectors of each word (default: as many as the tokens of --init)"
    )
    kind: Literal["object", "style"] = Field("object", description="which prompt is the default")
    layers: Literal["kv", "all"] = Field(
        "kv",
        description="what learns of the UNet: what it reads from the text (keys and values), or all of it",
    )
    train_word: bool = Field(True, description="let the word learn as well")
    sizes: bool = Field(
        True, description="show the pictures in many sizes, and say of the largest and smallest that they are"
    )
    steps: int = Field(250, ge=1, le=1_000_000, description="optimiser steps; two things need twice as many")
    learning_rate: float = Field(8e-5, gt=0, le=1, description="of AdamW, for the UNet")
    word_learning_rate: float = Field(8e-5, gt=0, le=10, description="of AdamW, for the word")
    batch_size: int = Field(
        8, ge=1, le=4096, description="pictures of a forward pass, and as many of the class"
    )

    @field_validator("token", "class_prompt", "prompt", "init", mode="before")
    @classmethod
    def _one_is_a_row_of_one(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _makes_sense(self) -> "Options":
        count = len(self.token)
        for name in ("class_prompt", "prompt", "init"):
            if len(getattr(self, name)) not in (0, count):
                raise ValueError(
                    f"option '{name}': expected one for each of {count} words, or none, got "
                    f"{len(getattr(self, name))}"
                )
        if len({token.casefold() for token in self.token}) < count:
            raise ValueError(
                f"option 'token': expected another word for each thing, got {', '.join(self.token)}"
            )
        for token, prompt in zip(self.token, self.prompt, strict=False):
            if token not in prompt:
                raise ValueError(f"option 'prompt': expected {token} in it, got {short(prompt)}")
        return self

    @property
    def class_prompts(self) -> tuple[str, ...]:
        """The class of each thing, or none."""
        return self.class_prompt

    def doubts(self, found: "Pictures") -> list[str]:
        """A class that is not said, and captions without the word. Raises `OptionsError` for another number of things
        than of words."""
        if found.count_of_things != len(self.token):
            raise OptionsError(
                f"option 'token': expected a word for each thing, of which there are {found.count_of_things} (a folder "
                f"each), got {len(self.token)}: {', '.join(self.token)}"
            )
        said: list[str] = []
        if not (self.class_prompt or self.class_folder):
            said.append(
                "without --class-prompt nothing keeps the class as it is, and the prompt does not say what the thing "
                "is: say --class-prompt 'a cat', if it is a cat"
            )
        rows = zip(found.names, found.captions, map(found.thing, range(len(found))), strict=True)
        if without := [name for name, caption, thing in rows if caption and self.token[thing] not in caption]:
            from wordbrush.training.pictures import listed

            said.append(
                f"the captions of {listed(without)} do not have the new word: what these pictures show does not "
                "become its meaning"
            )
        return said

    @property
    def prompts(self) -> tuple[str, ...]:
        """What the pictures of each thing show."""
        if self.prompt:
            return self.prompt
        if self.kind == "style":
            return tuple(f"painting in the style of {token} art" for token in self.token)
        kinds = [_BEFORE.sub("", each, count=1) for each in self.class_prompt] or [""] * len(self.token)
        return tuple(
            f"photo of a {token} {kind}".strip() for token, kind in zip(self.token, kinds, strict=True)
        )
