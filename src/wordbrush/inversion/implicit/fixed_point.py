"""Fixed-point inversion (Pan et al. 2023, "Effective Real Image Editing with Accelerated Iterative Diffusion
Inversion", section 4; Meiri et al. 2023).

A sampling step leads from z_t to z_{t−1} along the noise at z_t. To undo it, that noise is needed before z_t is known:

    z_t = f(z_t),   f(z) = what z_{t−1} becomes along ε(z, t).                                              (1)

DDIM inversion takes ε(z_{t−1}, t) for it, the first guess. Here (1) is iterated from there: z ← f(z). Where f is a
contraction the error shrinks by its factor each time, and without guidance the sampler then leads back to the picture
as exactly as one likes. What sampling makes of z_T with guidance is the source, as in `ddim`.
"""

from collections.abc import Generator
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from wordbrush.denoise import Ask, Move
from wordbrush.inversion.implicit.options import FixedPointOptions
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.sampling import reconstruct, walk_up
from wordbrush.source import Source


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: FixedPointOptions
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""

    def find(t: int, z: Tensor, ask: Ask, move: Move) -> Tensor:
        noise = ask(z)
        for _ in range(options.iterations):
            here = move(noise)
            noise = ask(here)
            if options.tolerance and float((move(noise) - here).square().mean().sqrt()) < options.tolerance:
                break
        return noise

    up = yield from walk_up(model, image, prompt, "fixed_point", options, find)
    text = Conditioning(model.encode_text([prompt]))
    return replace(up, states=(yield from reconstruct(model, up, text, up.guidance_scale)))
