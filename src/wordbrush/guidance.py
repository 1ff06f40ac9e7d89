"""Guidance as values: which branches a step predicts, and how their noise predictions combine.

A branch is one row for each target, under a name: "null" sees no text, "text" sees the target's. The last branch is
the one whose attention an edit changes. A new kind of guidance is a class with the two functions of `Guidance`; the
loop lays out its batch from the branches (`rows.Rows`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import OptionsError


@runtime_checkable
class Guidance(Protocol):
    """How several noise predictions combine into one."""

    def branches(self, progress: float) -> tuple[str, ...]:
        """The branches of a step, the edited one last. progress: the fraction of the run before it, 0 ≤ p < 1."""
        ...

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]]) -> Float[Tensor, "*s"]:
        """The guided noise, from the noise of each branch by name."""
        ...


@dataclass(frozen=True)
class TextGuidance:
    """eps_∅ + w (eps_text − eps_∅); at w = 1 the null branch cancels and is not predicted (Ho & Salimans 2022, eq. 6,
    their w + 1).

    reference: the branch to guide away from. It may be another model's (`denoise`'s `others`): that guides a model by a
    weaker version of itself (Karras et al. 2024, eq. 3).
    """

    scale: float
    reference: str = "null"

    def branches(self, progress: float) -> tuple[str, ...]:
        """The reference and text; at scale 1 text alone."""
        return ("text",) if self.scale == 1 else (self.reference, "text")

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]]) -> Float[Tensor, "*s"]:
        """The guided noise."""
        if self.reference not in noise:
            return noise["text"]
        away = noise[self.reference]
        return away + self.scale * (noise["text"] - away)


@dataclass(frozen=True)
class TextImageGuidance:
    """eps_∅ + w_I (eps_image − eps_∅) + w_T (eps_text − eps_image), for models that also read a picture (Brooks et al.
    2023, eq. 3). The branch "image" sees the picture and no text, "null" sees neither."""

    text_scale: float
    image_scale: float

    def branches(self, progress: float) -> tuple[str, ...]:
        """Null, image and text."""
        return "null", "image", "text"

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]]) -> Float[Tensor, "*s"]:
        """The guided noise."""
        null, image, text = noise["null"], noise["image"], noise["text"]
        return null + self.image_scale * (image - null) + self.text_scale * (text - image)


@dataclass(frozen=True)
class PerpendicularGuidance:
    """Guides away from a negative prompt only as far as that does not oppose the prompt (Armandpour et al. 2023,
    Perp-Neg): of eps_negative − eps_∅ the part that is perpendicular to eps_text − eps_∅ is subtracted."""

    scale: float
    negative_scale: float = 1.0

    def branches(self, progress: float) -> tuple[str, ...]:
        """Null, negative and text."""
        return "null", "negative", "text"

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]]) -> Float[Tensor, "*s"]:
        """The guided noise."""
        null = noise["null"]
        towards, away = noise["text"] - null, noise["negative"] - null
        inner = (towards * away).sum((1, 2, 3), keepdim=True)
        along = inner / towards.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-12) * towards
        return null + self.scale * (towards - self.negative_scale * (away - along))


@dataclass(frozen=True)
class IntervalGuidance:
    """Another guidance inside an interval of the run, the text branch alone outside of it (Kynkäänniemi et al. 2024).

    start, stop: fractions of the run.
    """

    inside: Guidance
    start: float
    stop: float

    def branches(self, progress: float) -> tuple[str, ...]:
        """Those of the guidance inside, or text alone."""
        return self.inside.branches(progress) if self.start <= progress < self.stop else ("text",)

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]]) -> Float[Tensor, "*s"]:
        """The guided noise; outside of the interval, the text's."""
        return noise["text"] if len(noise) == 1 else self.inside.combine(noise)


def check_scale(guidance_scale: float) -> None:
    """Raise `OptionsError` for a guidance scale that is not a number from 0 to 100."""
    if not 0 <= guidance_scale <= 100:
        raise OptionsError(f"guidance_scale must be between 0 and 100, got {guidance_scale}")
