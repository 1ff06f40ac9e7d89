"""Guidance as values: which branches a step predicts, and how their noise predictions combine.

A branch is one row for each target, under a name: "null" sees no text, "text" sees the target's. The last branch is
the one whose attention an edit changes. Where the source's own row is in the batch, its noise has the name "source",
and its true noise, where that is known, the name "known". A new kind of guidance is a class with the functions of
`Guidance`; the loop lays out its batch from the branches (`rows.Rows`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.errors import OptionsError


@runtime_checkable
class Guidance(Protocol):
    """How several noise predictions combine into one."""

    def branches(self, progress: float) -> tuple[str, ...]:
        """The branches of a step, the edited one last. progress: the fraction of the run before it, 0 ≤ p < 1."""
        ...

    def reads_source(self, progress: float) -> bool:
        """Whether the step needs the source's noise."""
        ...

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise of a step, from the noise of each branch by name; or the guided clean latents from theirs,
        at a level without signal, where noise says nothing."""
        ...


@runtime_checkable
class Localised(Protocol):
    """Guidance that can say where it edits; `Prediction.edited` hands that to the steps of a run."""

    def where_edited(
        self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float
    ) -> Bool[Tensor, "*s"] | None:
        """Where the guided noise of a step is not its reference's; None where a step has no say in it."""
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

    def reads_source(self, progress: float) -> bool:
        """Never."""
        return False

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise."""
        if self.reference not in noise:
            return noise["text"]
        away = noise[self.reference]
        return away + self.scale * (noise["text"] - away)


@dataclass(frozen=True)
class ProximalGuidance(TextGuidance):
    """eps_∅ + w prox(eps_text − eps_∅): what the texts hardly disagree of is not changed (Han et al. 2023, "Improving
    Tuning-Free Real Image Editing with Proximal Guidance", section 3.2).

    prox cuts off what is not larger than λ. Hard, the proximal operator of the L0 norm, leaves the rest as it is; soft,
    that of the L1 norm, takes λ off the rest as well. λ is a quantile of |eps_text − eps_∅|, each picture's own: 0 cuts
    off next to nothing, 1 everything.

    is_released: what the published code computes (phymhan/prompt-to-prompt), in which three things differ. λ is the
    quantile over the source's row and the target's together; in negative-prompt inversion the source's has zeros only,
    so 0.7 is 0.4 of the target's own. "Hard" shrinks, as soft does by the paper. "Soft" shrinks twice, one sign
    after the other: a negative difference of less than 2 λ turns positive. And what counts as edited must be larger
    than λ when it has been shrunk.
    """

    quantile: float = 0.7
    is_soft: bool = False
    is_released: bool = False

    def branches(self, progress: float) -> tuple[str, ...]:
        """The reference and text: they do not cancel at scale 1."""
        return self.reference, "text"

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise."""
        change = noise["text"] - noise[self.reference]
        return noise[self.reference] + self.scale * self._prox(change, self._limit(change))

    def where_edited(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Bool[Tensor, "*s"]:
        """Where something is left of the difference."""
        change = noise["text"] - noise[self.reference]
        limit = self._limit(change)
        return (self._prox(change, limit) if self.is_released else change).abs() > limit

    def _limit(self, change: Float[Tensor, "n c h w"]) -> Float[Tensor, "n 1 1 1"]:
        sizes = change.abs().flatten(1)
        if self.is_released:
            sizes = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
        # quantile has no half precision
        wide = torch.promote_types(sizes.dtype, torch.float32)
        return sizes.to(wide).quantile(self.quantile, dim=1).to(change)[:, None, None, None]

    def _prox(
        self, change: Float[Tensor, "n c h w"], limit: Float[Tensor, "n 1 1 1"]
    ) -> Float[Tensor, "n c h w"]:
        shrunk = change - change.clamp(-limit, limit)
        if not self.is_released:
            return shrunk if self.is_soft else torch.where(change.abs() > limit, change, 0.0)
        if self.is_soft:
            shrunk = torch.where(shrunk > 0, shrunk - limit, shrunk)
            shrunk = torch.where(shrunk < 0, shrunk + limit, shrunk)
        return shrunk


@dataclass(frozen=True)
class TextImageGuidance:
    """eps_∅ + w_I (eps_image − eps_∅) + w_T (eps_text − eps_image), for models that also read a picture (Brooks et al.
    2023, eq. 3). The branch "image" sees the picture and no text, "null" sees neither."""

    text_scale: float
    image_scale: float

    def branches(self, progress: float) -> tuple[str, ...]:
        """Null, image and text."""
        return "null", "image", "text"

    def reads_source(self, progress: float) -> bool:
        """Never."""
        return False

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise."""
        null, image, text = noise["null"], noise["image"], noise["text"]
        return null + self.image_scale * (image - null) + self.text_scale * (text - image)


@dataclass(frozen=True)
class FadingGuidance:
    """ε̃ + w (eps_text − ε̃), where ε̃ = (1 − p) eps_first + p eps_last: leads away from one branch in the beginning of
    the run and more and more from another (Tumanyan et al. 2023, negative-prompting with their released code's linear
    schedule). p: the fraction of the run."""

    scale: float
    first: str = "null"
    last: str = "negative"

    def branches(self, progress: float) -> tuple[str, ...]:
        """Both and text; the last is not needed in the very beginning, and at scale 1 text alone is."""
        if self.scale == 1:
            return ("text",)
        return (self.first, self.last, "text") if progress > 0 else (self.first, "text")

    def reads_source(self, progress: float) -> bool:
        """Never."""
        return False

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise."""
        if self.first not in noise:
            return noise["text"]
        away = noise[self.first]
        if self.last in noise:
            away = (1 - progress) * away + progress * noise[self.last]
        return away + self.scale * (noise["text"] - away)


@dataclass(frozen=True)
class PerpendicularGuidance:
    """Guides away from a negative prompt only as far as that does not oppose the prompt (Armandpour et al. 2023,
    Perp-Neg): of eps_negative − eps_∅ the part that is perpendicular to eps_text − eps_∅ is subtracted."""

    scale: float
    negative_scale: float = 1.0

    def branches(self, progress: float) -> tuple[str, ...]:
        """Null, negative and text."""
        return "null", "negative", "text"

    def reads_source(self, progress: float) -> bool:
        """Never."""
        return False

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
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
        return self.inside.branches(progress) if self._is_inside(progress) else ("text",)

    def reads_source(self, progress: float) -> bool:
        """What the guidance inside does, in its interval."""
        return self._is_inside(progress) and self.inside.reads_source(progress)

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise; outside of the interval, the text's."""
        return self.inside.combine(noise, progress) if self._is_inside(progress) else noise["text"]

    def _is_inside(self, progress: float) -> bool:
        return self.start <= progress < self.stop


@dataclass(frozen=True, eq=False)
class DifferenceGuidance:
    """ε + w (eps_text − eps_source): the straight path's noise (`docs/methods/straight.md`).

    The true noise ε of the source stands for everything that the network says of both rows alike, so no branch without
    text is needed. With equal rows the guided noise is ε, for any network and any w. The loop gives ε by the name
    "known".

    scale: w. share: how much of w counts where, asked for once a step; by default all of it everywhere.
    """

    scale: float
    share: Callable[[], float | Float[Tensor, "n 1 h w"]] = lambda: 1.0

    def branches(self, progress: float) -> tuple[str, ...]:
        """Text alone."""
        return ("text",)

    def reads_source(self, progress: float) -> bool:
        """In every step."""
        return True

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise."""
        return noise["known"] + self.scale * self.share() * (noise["text"] - noise["source"])


@dataclass(frozen=True)
class TwoModelGuidance:
    """eps_∅ + w ((1 − v) eps_text + v eps_picture − eps_∅), for a branch "picture" that another model predicts, which
    has learned one picture (`denoise`'s `others`; Zhang et al. 2023, SINE, section 3.2).

    scale: w. share: v, from 0, which is `TextGuidance`, to 1, where the text says nothing.
    """

    scale: float
    share: float

    def branches(self, progress: float) -> tuple[str, ...]:
        """Null, picture and text, but for those that have no weight; text is always there."""
        null = () if self.scale == 1 else ("null",)
        return (*null, *(("picture",) if self.share else ()), "text")

    def reads_source(self, progress: float) -> bool:
        """Never."""
        return False

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise."""
        towards = noise["text"]
        if self.share:
            towards = (1 - self.share) * towards + self.share * noise["picture"]
        if self.scale == 1:
            return towards
        return noise["null"] + self.scale * (towards - noise["null"])


@dataclass(frozen=True)
class SwitchedGuidance:
    """One guidance first, and another from a fraction of the run on."""

    first: Guidance
    then: Guidance
    at: float

    def branches(self, progress: float) -> tuple[str, ...]:
        """Those of the guidance in force."""
        return self._now(progress).branches(progress)

    def reads_source(self, progress: float) -> bool:
        """What the guidance in force does."""
        return self._now(progress).reads_source(progress)

    def combine(self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float) -> Float[Tensor, "*s"]:
        """The guided noise."""
        return self._now(progress).combine(noise, progress)

    def where_edited(
        self, noise: Mapping[str, Float[Tensor, "*s"]], progress: float
    ) -> Bool[Tensor, "*s"] | None:
        """What the guidance in force says."""
        now = self._now(progress)
        return now.where_edited(noise, progress) if isinstance(now, Localised) else None

    def _now(self, progress: float) -> Guidance:
        return self.first if progress < self.at else self.then


def check_scale(guidance_scale: float) -> None:
    """Raise `OptionsError` for a guidance scale that is not a number from 0 to 100."""
    if not 0 <= guidance_scale <= 100:
        raise OptionsError(f"guidance_scale must be between 0 and 100, got {guidance_scale}")
