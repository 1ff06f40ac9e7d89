"""ReNoise (Garibi et al. 2024, "ReNoise: Real Image Inversion Through Iterative Noising", algorithm 1).

Each step up is undone and done again: of the latents z_t^(k) that it leads to, the network is asked once more, and
z_{t−1} is moved along that noise,

    z_t^(k+1) = what z_{t−1} becomes along ε(z_t^(k), t),

and in the end along the mean of the noises from some k on. The iterates circle around the solution, so that their mean
is nearer to it than the last (section 3.3). With the mean of the last one alone it is `fixed_point`.

The window by timestep and the steps of DDIM are as released for Stable Diffusion 1.5. Not here: the corrections for
samplers that add noise, which DDIM does not, and the regularisation of the noise, which the paper uses for models of
few steps and which moves a step away from what is solved here (it is an inversion of its own, `regularised`).
"""

from collections.abc import Generator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.denoise import Ask, Move
from wordbrush.inversion.implicit.options import ReNoiseOptions
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.sampling import reconstruct, walk_up
from wordbrush.source import Source

_LATE = 250  # timestep, as released


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: ReNoiseOptions
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""

    def find(t: int, z: Tensor, ask: Ask, move: Move) -> Tensor:
        noises = [ask(z)]
        for _ in range(options.renoise_steps):
            noises.append(ask(move(noises[-1])))
        first = options.average_from if t < _LATE else options.average_late
        return torch.stack(noises[first:]).mean(0)

    up = yield from walk_up(model, image, prompt, "renoise", options, find)
    text = Conditioning(model.encode_text([prompt]))
    return replace(up, states=(yield from reconstruct(model, up, text, up.guidance_scale)))
