"""Direct inversion (Ju et al. 2024, "PnP Inversion: Boosting Diffusion-based Editing with 3 Lines of Code").

The picture is walked up by unguided DDIM inversion, and during editing the source's row is pinned to that path
while the target's row is left alone (Algorithm 1). The released code finds the offsets to the path in a second
pass; adding them *is* writing the path over the source's latents, which a `Source` does by holding the path. So
the inversion costs one row a step, and the source's row reconstructs the autoencoder's picture exactly.
"""

from collections.abc import Generator

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from wordbrush.denoise import noise_up
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
    return Source(
        prompt=prompt,
        trajectory=torch.cat([*reversed(path), z_0]),
        null=model.encode_text([""]),
        schedule=schedule,
        guidance_scale=scale,
        method="direct",
        model_hash=model.hash,
        options=options.model_dump(exclude_none=True),
    )
