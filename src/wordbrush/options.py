"""One definition of every option: library keywords, command-line flags, TOML keys and web forms all derive
from a method's `Options` class and are checked here, with the same messages."""

import os
import types
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from wordbrush import reading
from wordbrush.errors import OptionsError, nearest, short

DType = Literal["float32", "bfloat16", "float16", "float64"]
"""What a model may compute in."""


class Options(BaseModel):
    """The base of every method's options: an immutable value; unknown names, not-a-number and infinity are
    refused. Each field carries its range and its help:

        class Options(wordbrush.options.Options):
            steps: int = Field(50, ge=1, le=1000, description="denoising steps")

    A mapping does as well wherever options are taken.

    >>> from wordbrush.editing.prompt_to_prompt.options import Options
    >>> Options(self_replace_steps=0.4).given()
    {'self_replace_steps': 0.4}
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def given(self) -> dict[str, Any]:
        """The options that are not at their default, by name."""
        return self.model_dump(exclude_defaults=True)

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, values: Any) -> Any:
        """pydantic reads True as 1: steps=True would be one step."""
        # Options within a record may be anything: pydantic says what is no mapping.
        known: Mapping[str, Any] = cast(Any, values if isinstance(values, Mapping) else {})
        for name, field in cls.model_fields.items():
            given = _parts(known.get(name))
            if any(isinstance(part, bool) for part in given) and not _mentions(field.annotation, bool):
                raise ValueError(f"option '{name}': expected a number or text, got {known[name]}")
        return cast(Any, values)


def _mentions(annotation: Any, kind: type) -> bool:
    return annotation is kind or any(_mentions(part, kind) for part in get_args(annotation))


def _parts(value: Any) -> list[Any]:
    """A value, or the values of a mapping or a list."""
    if isinstance(value, Mapping):
        return list(cast(Mapping[Any, Any], value).values())
    return list(cast(list[Any], value)) if isinstance(value, list | tuple) else [value]


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("expected some words")
    return text


def _not_blank(text: str) -> str:
    return _said(text) if text else text


Said = Annotated[str, AfterValidator(_said)]
"""Text that is not blank."""

MaybeSaid = Annotated[str, AfterValidator(_not_blank)]
"""The same, or nothing."""


def _texts(given: Any) -> Any:
    texts = [given] if isinstance(given, str) else given
    return () if texts in ([""], ("",)) else texts


WHOLE = object()
"""Marks an option of several texts each of which may have commas in it: it is typed once for each."""

Texts = Annotated[tuple[Said, ...], BeforeValidator(_texts), WHOLE]
"""Several texts that are not blank, or one; nothing is none."""


class GuidedOptions(Options):
    """The option of methods that follow a CLIP."""

    guide_clip: MaybeSaid = Field(
        "",
        description="the CLIP that is followed: pocket (built in), a hub id or a folder (default: that of the model, "
        "which the built-in one has)",
    )


class InversionOptions(Options):
    """The options that every inversion has."""

    steps: int | None = Field(None, ge=1, le=1000, description="DDIM steps (default: the model's own)")
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="guidance of the source and of the edits made from it (default: the model's own)",
    )
    negative_prompt: str = Field("", description="what guidance leads away from: what shall not be seen")


Solver = Literal["ddim", "dpm++"]
"""What takes the steps: DDIM, or DPM-Solver++(2M)."""


class SolvedOptions(InversionOptions):
    """Those of the inversions that walk up and down by a solver of the user's choice."""

    solver: Solver = Field(
        "ddim",
        description="what takes the steps: dpm++ (DPM-Solver++ 2M) is of second order and needs fewer of them",
    )


class ProximalOptions(InversionOptions):
    """How edits are kept from what their texts hardly disagree of (`states.Proximal`)."""

    proximal: Literal["off", "hard", "soft"] = Field(
        "off",
        description="leave what the source's and the target's text hardly disagree of as it is: hard cuts small "
        "differences off; soft makes the others smaller, too",
    )
    proximal_quantile: float | None = Field(
        None, ge=0, le=1, description="share of the differences that count as small (default: 0.7)"
    )
    proximal_rule: Literal["published", "released"] | None = Field(
        None,
        description="by the paper, or as its code computes it, where hard is soft and soft has an error (default: "
        "published)",
    )
    inversion_guidance: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how far each of the last steps is pulled back to the source where nothing is edited "
        "(default: 0)",
    )
    inversion_guidance_start: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="fraction of steps before inversion guidance starts (default: 0.6)",
    )


class StrengthOptions(Options):
    """What every edit has: one slider. `editing.dialled` says it in the method's own option."""

    strength: float | None = Field(
        None,
        ge=0,
        le=1,
        description="how far to go from the source (0) to the whole edit (1) (default: all the way)",
    )


class ConceptOptions(Options):
    """How a concept is applied."""

    strength: float = Field(1.0, ge=-10, le=10, description="0 is the model without it, 1 what was trained")


class CompressOptions(Options):
    """How small a concept gets."""

    compress: float | None = Field(None, gt=0, le=1, description="share of the sum of singular values")
    size: int | None = Field(None, ge=1, description="bytes")


class SeedOptions(SolvedOptions):
    """What a picture is generated from, besides its prompt."""

    seed: int = Field(ge=0, lt=2**63)
    width: int | None
    height: int | None


class RecordOptions(Options):
    """How to record what edits read of a source."""

    memory: int = Field(1200, ge=1, le=10**6, description="MB that a recording may take")
    precision: Literal["half", "full"] = Field(
        "half", description="what recorded queries and keys are kept in; full: the model's own type"
    )


class FitOptions(Options):
    """How to optimise, which every training can be told."""

    steps: int = Field(500, ge=1, le=1_000_000, description="optimiser steps")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="of AdamW")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="how the learning rate goes on after the warm-up, to 0 or not"
    )
    warmup_steps: int = Field(0, ge=0, description="steps over which the learning rate rises from 0")
    batch_size: int = Field(4, ge=1, le=4096, description="pictures of a forward pass")
    accumulate: int = Field(
        1, ge=1, le=4096, description="forward passes of a step, whose gradients are averaged"
    )
    weight_decay: float = Field(1e-2, ge=0, le=1, description="of AdamW")
    max_norm: float | None = Field(
        1.0, gt=0, description="gradients longer than this are shortened to it; none: they are not"
    )
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the averaged weights that are kept instead of the last ones; 0: the last",
    )
    optimizer: Literal["adamw", "adamw-8bit"] = Field(
        "adamw", description="adamw-8bit needs the package bitsandbytes, and saves memory"
    )
    precision: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="what the networks compute in; what learns is kept in float32 (default: the model's own)",
    )
    checkpointing: bool = Field(
        False, description="compute activations again in the backward pass: less memory, a third more time"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of batches, noise, crops and flips")
    checkpoint_every: int = Field(100, ge=1, le=1_000_000, description="steps between checkpoints")
    tensorboard: bool = Field(False, description="also write TensorBoard's files (needs the extra [train])")
    sample_every: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="steps between the samples that show the thing appearing (default: five in all)",
    )

    @model_validator(mode="after")
    def _warms_up_first(self) -> "FitOptions":
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"option 'warmup_steps': expected fewer than the {self.steps} steps, got {self.warmup_steps}"
            )
        return self

    def deciding(self) -> dict[str, Any]:
        """The options that decide what is learned: all but how often something is written."""
        return self.model_dump(mode="json", exclude={"checkpoint_every", "sample_every", "tensorboard"})


def branches(annotation: Any) -> tuple[Any, ...]:
    """The members of a union, without None; any other type alone, without its validators."""
    if get_origin(annotation) is Annotated:
        return branches(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        members = (branch for branch in get_args(annotation) if branch is not type(None))
        return tuple(branch for member in members for branch in branches(member))
    return (annotation,)


def numeric(options: type[Options]) -> list[str]:
    """The names of the options that may be one number."""
    return [
        name for name, field in options.model_fields.items() if {int, float} & {*branches(field.annotation)}
    ]


O = TypeVar("O", bound=Options)  # noqa: E741


def parse(options: type[O], values: Mapping[str, Any]) -> O:
    """Check `values` against an `Options` class and return them as one.

    Raises `OptionsError` naming every wrong field, its value and its limit; an unknown name is answered with
    the nearest known one.
    """
    try:
        return options.model_validate(dict(values))
    except ValidationError as error:
        known = options.model_fields
        problems = [_explain(detail, known) for detail in error.errors()]
    more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
    raise OptionsError("; ".join(problems[:5]) + more)


def filled(options: O, values: Mapping[str, Any]) -> O:
    """The same options, with these values for those that are None."""
    left_out = {name: value for name, value in values.items() if getattr(options, name) is None}
    return options.model_copy(update=left_out)


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The keys and values of a TOML file, to be handed to `parse`.

    Raises `OptionsError` if the file is missing, cannot be read or, with the line, if it is not TOML.
    """
    return reading.toml_file(path, OptionsError)


def _explain(detail: ErrorDetails, known: Mapping[str, FieldInfo]) -> str:
    name = ".".join(map(str, detail["loc"]))
    if not name:  # from a validator of the whole class, which names the option itself
        return detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        return f"unknown option {short(name)}" + nearest(name, known)
    if detail["type"] == "missing":
        examples = known[name].examples if name in known else None
        return f"option '{name}' is missing" + (
            f": say --{name.replace('_', '-')} {examples[0]!r}" if examples else ""
        )
    # pydantic says "Input should be greater than or equal to 1"; messages of our own validators are kept.
    expected = detail["msg"].removeprefix("Value error, ").replace("Input should be", "expected", 1)
    return f"option {short(name)}: {expected}, got {short(detail['input'])}"
