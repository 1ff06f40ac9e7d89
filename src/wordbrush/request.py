"""What an editing method is asked for, as one value."""

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush import masks
from wordbrush.errors import InputError, PromptError, SourceError
from wordbrush.model import Model
from wordbrush.picture import Picture
from wordbrush.progress import Progress
from wordbrush.source import Source
from wordbrush.words import Alignment, align

Need = Literal["source", "picture", "mask", "instruction", "references"]

_TOUCHED = 0.02
"""The share from which on a mask frees a pixel for the model."""


@dataclass(frozen=True, eq=False)
class EditRequest:
    """An edit.

    targets: what the edited pictures shall show. options: the method's.
    prompt: what the source shows; known before the source is made. source: None while it is not made yet.
    picture: a picture that is edited without an inversion.
    mask: 1 where the picture may change, at the size of the model's rendering. Any method may be given one: what it
    does outside of it is not kept when the edit is brought back into the picture.
    instruction: what to do, for methods that read one. references: pictures of what the edit shall bring in.

    Learned concepts are not here: they are applied to the model, and a method sees a model.
    """

    targets: tuple[str, ...]
    options: Any
    prompt: str | None = None
    source: Source | None = None
    picture: Picture | None = None
    mask: Float[Tensor, "1 1 height width"] | None = None
    instruction: str | None = None
    references: tuple[Picture, ...] = ()

    def check(self, needs: Collection[Need], method: str) -> None:
        """Raise `InputError` for what the method needs and has not got, and for what it got and does not read."""
        given: dict[Need, object] = {
            "source": self.prompt,
            "picture": self.picture,
            "mask": self.mask,
            "instruction": self.instruction,
            "references": self.references or None,
        }
        for name, value in given.items():
            if name in needs and value is None:
                raise InputError(f"{method} needs a value for {name}, got none")
            if name not in needs and value is not None and name not in ("source", "mask"):
                raise InputError(f"{method} does not read {name}: leave it out")

    def alignments(self, model: Model) -> list[Alignment]:
        """The targets, each read beside the source's prompt. Raises `PromptError` for what the model cannot read."""
        if not self.targets or self.prompt is None:
            raise PromptError("expected the source's prompt and at least one target prompt, got none")
        source = model.read(self.prompt)
        return [align(source, model.read(target)) for target in self.targets]

    def free(self, source: Source) -> Bool[Tensor, "1 1 h w"]:
        """The mask at the size of the latents: those that a free pixel is part of; without a mask all of them."""
        if self.mask is None:
            return torch.ones(1, 1, *source.latent_size, dtype=torch.bool)
        return touched(self.mask, source)

    def regions(
        self, model: Model, source: Source, targets: Sequence[Alignment], room: int
    ) -> Generator[Progress, None, Float[Tensor, "targets 1 height width"]]:
        """Where each target may change the picture, at the size of the model's rendering: the user's mask for all of
        them; without one, where the words of each change are (`masks.Changed`)."""
        height, width = source.size(model)
        if self.mask is not None:
            return self.mask.expand(len(targets), -1, -1, -1)
        found, changed = torch.ones(len(targets), 1, height, width), masks.Changed(model, source, room)
        for i, target in enumerate(targets):
            shares = changed.shares(target)
            if shares is not None:
                found[i] = masks.seen(shares, source, model)[0] if shares.any() else 0
        yield Progress("finding words", 1, 1, rows=changed.rows)
        return found

    def mask_notices(self, alignment: Alignment, where: Bool[Tensor, "h w"]) -> Generator[str, None, None]:
        """What a user should know of the region of a method that draws inside of one: where the words of its mask were
        not found, and that `room`, which widens those, does nothing to a mask that was given."""
        if self.mask is None and (said := masks.unfound(alignment, where)):
            yield said
        if "room" in self.options.model_fields_set and self.mask is not None:
            yield "room has no effect: a mask was given, and it is used as it is"

    def started(self, model: Model) -> Source:
        """The source to edit. Raises `SourceError` if it was made with another model."""
        if self.source is None:
            raise SourceError("expected a source to edit, got none: invert a picture, or generate one")
        self.source.check(model)
        return self.source


def touched(mask: Float[Tensor, "n 1 height width"], source: Source) -> Bool[Tensor, "n 1 h w"]:
    """Masks at the size of the latents: those that a free pixel is part of, so that no thin mask vanishes."""
    return F.adaptive_max_pool2d(mask, source.z_T.shape[-2:]) > _TOUCHED
