"""DDIM inversion (Song et al. 2021, section 4.3; Dhariwal & Nichol 2021, section F).

The picture is walked up to z_T without guidance, and what sampling makes of that z_T *with* guidance is the
source. Guidance amplifies the drift of the way up (Mokady et al. 2023, figure 3), so the reconstruction is
faithful at guidance scale 1 and loose above it: this is the baseline that the other inversions mend.
"""

from collections.abc import Generator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.denoise import denoise
from wordbrush.model import Model
from wordbrush.options import InversionOptions
from wordbrush.progress import Progress
from wordbrush.source import Source, walk_up, watched


class Options(InversionOptions):
    """How to invert: in how many steps, and the guidance to reconstruct and to edit with."""


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""
    up = yield from walk_up(model, image, prompt, "ddim", options)
    text = model.encode_text([prompt])
    steps_down = denoise(model, up.z_T, text, up.null, up.schedule, guidance_scale=up.guidance_scale)
    states = yield from watched("reconstructing", steps_down, model)
    return replace(up, trajectory=torch.cat([up.z_T, *states]))
