"""What a prediction is conditioned on, besides the latents and their level."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import TextCache
from wordbrush.model.text import TextEmbeds


@dataclass(frozen=True, eq=False)
class Conditioning:
    """One row of conditions for each row of latents.

    text: the encoded prompts. channels: what a UNet with more input channels reads beside the latents: a picture's
    latents (8 channels), or a mask and the masked picture's latents (9). guidance_scale: for guidance-distilled models,
    which read the scale as an input.

    Use the same object in every step: with it, the text's keys and values are computed once.
    """

    text: TextEmbeds
    channels: Float[Tensor, "rows extra h w"] | None = None
    guidance_scale: float | None = None
    cache: TextCache = field(init=False, repr=False, default_factory=TextCache)

    def __len__(self) -> int:
        return len(self.text)

    def expand(self, rows: int) -> "Conditioning":
        """The conditions of one row, for each of `rows` rows."""
        channels = None if self.channels is None else self.channels.expand(rows, -1, -1, -1)
        return Conditioning(self.text.expand(rows), channels, self.guidance_scale)

    @staticmethod
    def concat(parts: Sequence["Conditioning"]) -> "Conditioning":
        """The rows of all parts, in order; the parts agree in what they have."""
        channels = [part.channels for part in parts if part.channels is not None]
        assert len(channels) in (0, len(parts)), "some rows have extra channels and others have none"
        scales = {part.guidance_scale for part in parts}
        assert len(scales) == 1, "the rows of one batch share one guidance scale"
        return Conditioning(
            TextEmbeds.concat([part.text for part in parts]),
            torch.cat(channels) if channels else None,
            scales.pop(),
        )
