"""Negative-prompt inversion (Miyake et al. 2023, arXiv 2305.16807).

The source's own prompt stands for "no text". For the source, the guided eps is then its conditional eps at any
guidance scale, so it is reconstructed as well as unguided DDIM inversion can; a target is guided away from the
source's prompt and towards its own. Nothing is optimised.
"""

from collections.abc import Generator
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import OptionsError
from wordbrush.model import Conditioning, Model
from wordbrush.options import SolvedOptions
from wordbrush.progress import Progress
from wordbrush.sampling import reconstruct, walk_up
from wordbrush.source import Source


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: SolvedOptions
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes. Raises `OptionsError` for a negative prompt."""
    if options.negative_prompt:
        raise OptionsError(
            "in negative-prompt inversion the source's own prompt is the negative prompt: leave negative_prompt out"
        )
    up = yield from walk_up(model, image, prompt, "negative_prompt", options, solver=options.solver)
    text = model.encode_text([prompt])
    # With null = text every guidance scale is scale 1: the source's row needs no unconditional one.
    states = yield from reconstruct(model, up, Conditioning(text), guidance_scale=1.0)
    return replace(up, states=states, null=text)
