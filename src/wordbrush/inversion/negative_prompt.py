"""Negative-prompt inversion (Miyake et al. 2023, arXiv 2305.16807).

The source's own prompt stands for "no text". For the source, the guided eps is then its conditional eps at any
guidance scale, so it is reconstructed as well as unguided DDIM inversion can; a target is guided away from the
source's prompt and towards its own. Nothing is optimised.
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
    """How to invert: in how many steps, and the guidance to edit with."""


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""
    up = yield from walk_up(model, image, prompt, "negative_prompt", options)
    text = model.encode_text([prompt])
    # With null = text every guidance scale is scale 1: the source's row needs no unconditional one.
    steps_down = denoise(model, up.z_T, text, text, up.schedule, guidance_scale=1.0)
    states = yield from watched("reconstructing", steps_down, model)
    return replace(up, trajectory=torch.cat([up.z_T, *states]), null=text)
