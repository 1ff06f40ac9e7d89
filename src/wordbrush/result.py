"""What an edit gives back: the pictures, what was done, and the way to ask for more."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from wordbrush.images import overlay, to_image
from wordbrush.model import Model
from wordbrush.source import Source
from wordbrush.word_map import word_map


@dataclass(frozen=True, eq=False)
class Result:
    """One edited picture.

    report: which words matched and how, the edit used, what was computed; plain values, ready for JSON.
    trajectory: the target's latents, z_T first.

    >>> model = Model.load("pocket")
    >>> result = edit(model, from_seed(model, "a cat on a beach", steps=2), "a dog on a beach")
    >>> result.image.size, result.heatmap("dog").size, result.report["kind"]
    ((128, 128), (128, 128), 'replace')
    """

    prompt: str
    report: Mapping[str, Any]
    source: Source
    trajectory: Float[Tensor, "steps_plus_1 c h w"]
    model: Model = field(repr=False)

    @cached_property
    def image(self) -> Image.Image:
        """The edited picture."""
        return to_image(self.model.decode(self.trajectory[-1:])[0].cpu())

    @cached_property
    def source_image(self) -> Image.Image:
        """The source as the model sees it: the end of its trajectory, decoded."""
        return self.source.image(self.model)

    def heatmap(self, word: str) -> Image.Image:
        """Where `word` of the target's prompt looks in the edited picture, drawn over it.

        Raises `PromptError` if the prompt has no such word.
        """
        return overlay(self.image, self.word_map(word))

    def word_map(self, word: str) -> Float[torch.Tensor, "height width"]:
        """The map behind `heatmap`, in [0, 1], at the size of the latents."""
        return word_map(self.model, self.prompt, word, self.trajectory, self.source.schedule)
