"""Negative-prompt inversion (Miyake et al. 2023, arXiv 2305.16807).

The source's own prompt stands for "no text". For the source, the guided eps is then its conditional eps at any
guidance scale, so it is reconstructed as well as unguided DDIM inversion can; a target is guided away from the
source's prompt and towards its own. Nothing is optimised.
"""

from collections.abc import Generator

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from wordbrush.denoise import denoise, noise_up
from wordbrush.model import Model
from wordbrush.options import Options as BaseOptions
from wordbrush.progress import Progress
from wordbrush.source import Source, watched


class Options(BaseOptions):
    """How to invert."""

    steps: int | None = Field(None, ge=1, le=1000, description="DDIM steps (default: the model's own)")
    guidance_scale: float | None = Field(
        None,
        ge=0,
        le=100,
        description="guidance of the edits made from this source (default: the model's own)",
    )


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""
    schedule = model.schedule(options.steps)
    scale = model.defaults.guidance_scale if options.guidance_scale is None else options.guidance_scale
    text = model.encode_text([prompt])
    z_0 = model.encode_image(image)
    path = yield from watched("inverting", noise_up(model, z_0, text, schedule), model)
    z_T = path[-1]  # noqa: N806
    # With null = text every guidance scale is scale 1: the source's row needs no unconditional one.
    steps_down = denoise(model, z_T, text, text, schedule, guidance_scale=1.0)
    states = yield from watched("reconstructing", steps_down, model)
    return Source(
        prompt=prompt,
        trajectory=torch.cat([z_T, *states]),
        null=text,
        schedule=schedule,
        guidance_scale=scale,
        method="negative_prompt",
        model_hash=model.hash,
        options=options.model_dump(exclude_none=True),
    )
