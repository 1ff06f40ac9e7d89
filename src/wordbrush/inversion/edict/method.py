"""EDICT (Wallace et al. 2023, "EDICT: Exact Diffusion Inversion via Coupled Transformations", algorithms 1 and 2).

DDIM inversion asks the network for the noise at latents that it does not have yet, and uses those before the step
instead. Two coupled latents need no such guess: each is moved along what the network says of the other, which is at
hand in both directions (`states.CoupledPath`). So the way up is undone exactly on the way down, with classifier-free
guidance too, for any network. Both begin as the picture.

As released: which of the two is moved first alternates (`leapfrog_steps`), here counted from the picture; the latents
are double, since the way up divides by the mixing p in every step and rounding grows. Deviations: the network keeps its
own precision; the picture is encoded as the mean of the autoencoder's distribution.
"""

from collections.abc import Generator

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.denoise import Predictor, check_finite
from wordbrush.guidance import TextGuidance
from wordbrush.inversion.edict.options import Options
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.source import Source
from wordbrush.states import CoupledPath, order, unmixed

STEPS, SCALE = 50, 3.0  # as released
POCKET_STEPS = 20  # of the built-in model's other inversions, too


@torch.no_grad()
def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Walk a picture in [−1, 1] that `prompt` describes up, so that the way down leads back."""
    scale = SCALE if options.guidance_scale is None else options.guidance_scale
    usual = POCKET_STEPS if model.name == "pocket" else STEPS
    schedule = model.schedule(options.steps or usual).rest(options.skip)
    null, z_0 = model.encode_text([options.negative_prompt]), model.encode_image(image)
    if z_0.device.type != "mps":  # which has no doubles
        z_0 = z_0.double()
    conditions = {"text": Conditioning(model.encode_text([prompt])), "null": Conditioning(null)}
    steps = schedule.steps
    ask = Predictor(
        model,
        conditions,
        schedule,
        TextGuidance(scale),
        where=lambda i: f"inversion step {steps - i} of {steps}",
    )
    first, second = [z_0], [z_0]
    for i in reversed(range(steps)):
        ask.rows = 0
        here, to = schedule.levels[i], schedule.levels[i + 1]
        x, y = unmixed(*order(steps - i, first[-1], second[-1]), options.mixing)
        y = ask.predict(i, x).carry(y, to, here)
        x = ask.predict(i, y).carry(x, to, here)
        check_finite(x, f"inversion step {steps - i} of {steps}")
        for path, z in zip((first, second), order(steps - i, x, y), strict=True):
            path.append(z)
        yield Progress("inverting", steps - i, steps, rows=ask.rows)
    return Source(
        prompt=prompt,
        states=CoupledPath(torch.cat(first[::-1]), torch.cat(second[::-1]), options.mixing),
        null=null,
        schedule=schedule,
        guidance_scale=scale,
        method="edict",
        model_hash=model.hash,
        concepts=model.concepts,
        options=options.given(),
    )
