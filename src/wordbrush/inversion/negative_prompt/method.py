"""Negative-prompt inversion (Miyake et al. 2023, arXiv 2305.16807), and its proximal guidance (Han et al. 2023,
"Improving Tuning-Free Real Image Editing with Proximal Guidance", arXiv 2306.05414).

The source's own prompt stands for "no text". For the source, the guided eps is then its conditional eps at any
guidance scale, so it is reconstructed as well as unguided DDIM inversion can; a target is guided away from the
source's prompt and towards its own. Nothing is optimised.

With the source's prompt for no text, an edit's eps differs from the source's by w (eps(target) − eps(source)).
Proximal guidance leaves out what is small of this difference. Inversion guidance pulls the last steps back to the
latents of the way up where nothing is edited, and the source's own steps everywhere.
"""

from collections.abc import Generator
from dataclasses import replace
from functools import partial

from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import OptionsError
from wordbrush.inversion.negative_prompt.options import SCALES, Options
from wordbrush.model import Conditioning, Model
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.sampling import reconstruct, walk_up
from wordbrush.source import Source
from wordbrush.states import Proximal, ProximalPath, pulled


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes.

    Raises `OptionsError` for a negative prompt, or for options without proximal guidance that are read by it alone.
    """
    if options.negative_prompt:
        raise OptionsError(
            "in negative-prompt inversion the source's own prompt is the negative prompt: leave negative_prompt out"
        )
    proximal = Proximal.asked(options)
    chosen = filled(options, {"guidance_scale": SCALES.get(model.name)})
    up = yield from walk_up(model, image, prompt, "negative_prompt", chosen, solver=options.solver)
    up = replace(up, options=options.given())
    text = model.encode_text([prompt])
    conditioning = Conditioning(text)
    # With null = text every guidance scale is scale 1: the source's row needs no unconditional one.
    if proximal is None:
        states = yield from reconstruct(model, up, conditioning, guidance_scale=1.0)
        return replace(up, states=states, null=text)
    pivots = up.trajectory
    through = partial(pulled, pivots=pivots, proximal=proximal, everywhere=True)
    path = yield from reconstruct(model, up, conditioning, guidance_scale=1.0, through=through)
    return replace(up, states=ProximalPath(path, pivots, proximal), null=text)
