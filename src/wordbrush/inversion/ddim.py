"""DDIM inversion (Song et al. 2021, section 4.3; Dhariwal & Nichol 2021, section F).

The picture is walked up to z_T without guidance, and what sampling makes of that z_T *with* guidance is the
source. Guidance amplifies the drift of the inversion (Mokady et al. 2023, figure 3), so the reconstruction is
faithful at guidance scale 1 and loose above it: this is the baseline that the other inversions improve on.
"""

from collections.abc import Generator
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from wordbrush.model import Conditioning, Model
from wordbrush.options import SolvedOptions
from wordbrush.progress import Progress
from wordbrush.sampling import reconstruct, walk_up
from wordbrush.source import Source


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: SolvedOptions
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""
    up = yield from walk_up(model, image, prompt, "ddim", options, solver=options.solver)
    text = Conditioning(model.encode_text([prompt]))
    return replace(up, states=(yield from reconstruct(model, up, text, up.guidance_scale)))
