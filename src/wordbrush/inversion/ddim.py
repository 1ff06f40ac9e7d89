"""DDIM inversion (Song et al. 2021, section 4.3; Dhariwal & Nichol 2021, section F).

The picture is walked up to z_T without guidance, and what sampling makes of that z_T *with* guidance is the
source. Guidance amplifies the drift of the way up (Mokady et al. 2023, figure 3), so the reconstruction is
faithful at guidance scale 1 and loose above it: this is the baseline that the other inversions mend.
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
        description="guidance of the reconstruction and of the edits made from it (default: the model's own)",
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
    z_T, null = path[-1], model.encode_text([""])  # noqa: N806
    steps_down = denoise(model, z_T, text, null, schedule, guidance_scale=scale)
    states = yield from watched("reconstructing", steps_down, model)
    return Source(
        prompt=prompt,
        trajectory=torch.cat([z_T, *states]),
        null=null,
        schedule=schedule,
        guidance_scale=scale,
        method="ddim",
        model_hash=model.hash,
        options=options.model_dump(exclude_none=True),
    )
