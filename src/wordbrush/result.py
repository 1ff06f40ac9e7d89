"""What an edit gives back: the picture, a report of what was done, and word maps on request."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from wordbrush import provenance
from wordbrush.files import Opened, atomic_write
from wordbrush.images import save_png, to_image
from wordbrush.methods import key
from wordbrush.model import Model
from wordbrush.sheets import overlay
from wordbrush.source import Source
from wordbrush.word_map import word_map


@dataclass(frozen=True)
class Report:
    """What an edit did.

    words: the target's words, with what became of the source's: `a [cat → dog] on a beach`.
    edited_share: the share of the picture that the edit was free to change.
    notices: what a user should know of an edit that did not fail and may still disappoint.
    guidance_scale: the text guidance used. unet_rows: rows that the UNet computed for all targets together.
    seconds: wall-clock time for all targets. details: the method's own entries; plain values.
    """

    words: str
    edited_share: float
    guidance_scale: float
    unet_rows: int
    seconds: float
    notices: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def as_json(self) -> dict[str, Any]:
        """All entries as one mapping of plain values, the method's own among them."""
        own = asdict(self)
        return {**own.pop("details"), **own, "notices": list(self.notices)}


@dataclass(frozen=True, eq=False)
class Result:
    """One edited picture.

    trajectory: the target's latents, z_T first.

    >>> model = Model.load("pocket")
    >>> result = edit(model, from_seed(model, "a cat on a beach", steps=2), "a dog on a beach")
    >>> result.image.size, result.heatmap("dog").size, result.report.words
    ((128, 128), (128, 128), 'a [cat → dog] on a beach')
    """

    prompt: str
    report: Report
    source: Source
    trajectory: Float[Tensor, "steps_plus_1 c h w"]
    model: Model = field(repr=False)

    @cached_property
    def image(self) -> Image.Image:
        """The edited picture."""
        return to_image(self.model.decode(self.trajectory[-1:])[0].cpu())

    @cached_property
    def source_image(self) -> Image.Image:
        """The model's rendering of the source."""
        return self.source.image(self.model)

    def save(
        self,
        path: str | os.PathLike[str],
        source: provenance.SourceRecord,
        *,
        method: str,
        options: Mapping[str, Any],
        targets: Sequence[str] = (),
        index: int = 0,
        notices: Sequence[str] = (),
        opened: Opened = atomic_write,
    ) -> Report:
        """Write the edited picture as a PNG that records how it was made; returns the report that it contains.

        source: how the source was made. method, options: the edit's. targets: all prompts of the batch, by default the
        result's own; index: this one's place among them. notices: recorded before the edit's own. Raises `OutputError`.
        """
        report = replace(self.report, notices=(*notices, *self.report.notices))
        record = provenance.record(
            "edit",
            self.model,
            source,
            self.image,
            method=key(method),
            targets=targets or [self.prompt],
            index=index,
            options=options,
            report=report.as_json(),
        )
        save_png(self.image, path, record, opened)
        return report

    def heatmap(self, word: str) -> Image.Image:
        """Where `word` of the target's prompt looks in the edited picture, drawn over it.

        Raises `PromptError` if the prompt has no such word.
        """
        return overlay(self.image, self.word_map(word))

    def word_map(self, word: str) -> Float[torch.Tensor, "height width"]:
        """The map behind `heatmap`, in [0, 1], at the size of the latents."""
        return word_map(self.model, self.prompt, word, self.trajectory, self.source.schedule)
