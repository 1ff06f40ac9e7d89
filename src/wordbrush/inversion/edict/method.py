"""EDICT (Wallace et al. 2023, "EDICT: Exact Diffusion Inversion via Coupled Transformations", algorithms 1 and 2).

DDIM inversion asks the network for the noise at latents that it does not have yet, and uses those before the step
instead. Two coupled latents need no such guess: each is moved along what the network says of the other, which is at
hand in both directions (`states.CoupledPath`). So the way up is undone exactly on the way down, with classifier-free
guidance too, for any network. Both begin as the picture.

As released: which of the two is moved first alternates (`leapfrog_steps`), here counted from the picture; the latents
are double, since the way up divides by the mixing p in every step and rounding grows. Deviations: the network keeps its
own precision; the picture is encoded as the mean of the autoencoder's distribution.
"""

from collections.abc import Generator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.denoise import Predictor, check_finite
from wordbrush.guidance import TextGuidance
from wordbrush.inversion.edict.options import Options
from wordbrush.model import Conditioning, Model
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.source import Source
from wordbrush.states import CoupledPath, order, unmixed

_PUBLISHED: Mapping[str, Any] = {"steps": 50, "guidance_scale": 3.0, "skip": 0.2}
_CHOSEN: Mapping[str, Mapping[str, Any]] = {"pocket": {"steps": 20, "guidance_scale": 3.0, "skip": 0.2}}
"""Defaults by model, where others than the published ones were chosen (`docs/methods/edict.md`)."""


@torch.no_grad()
def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Walk a picture in [−1, 1] that `prompt` describes up, so that the way down leads back."""
    chosen = filled(options, _CHOSEN.get(model.name, _PUBLISHED))
    assert chosen.skip is not None and chosen.guidance_scale is not None, "these have defaults"
    schedule = model.schedule(chosen.steps).rest(chosen.skip)
    null, z_0 = model.encode_text([chosen.negative_prompt]), model.encode_image(image)
    if z_0.device.type != "mps":  # which has no doubles
        z_0 = z_0.double()
    conditions = {"text": Conditioning(model.encode_text([prompt])), "null": Conditioning(null)}
    scale, steps = chosen.guidance_scale, schedule.steps
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
        x, y = unmixed(*order(steps - i, first[-1], second[-1]), chosen.mixing)
        y = ask.predict(i, x).carry(y, to, here)
        x = ask.predict(i, y).carry(x, to, here)
        check_finite(x, f"inversion step {steps - i} of {steps}")
        for path, z in zip((first, second), order(steps - i, x, y), strict=True):
            path.append(z)
        yield Progress("inverting", steps - i, steps, rows=ask.rows)
    return Source(
        prompt=prompt,
        states=CoupledPath(torch.cat(first[::-1]), torch.cat(second[::-1]), chosen.mixing),
        null=null,
        schedule=schedule,
        guidance_scale=scale,
        method="edict",
        model_hash=model.hash,
        concepts=model.concepts,
        options=options.given(),
    )
