"""Edit-friendly DDPM inversion (Huberman-Spiegelglas et al. 2024, "An Edit Friendly DDPM Noise Space", algorithm 1).

A DDPM step goes to its mean μ_t and adds noise: x_{t−1} = μ_t(x_t) + σ_t z_t. Here the states come first. Each x_t is
the picture with noise of its own, drawn independently of the other levels'; then

    σ_t z_t = x_{t−1} − μ_t(x_t)

is the noise with which a step leads from one to the next. These z_t are larger than a sampler's, and correlated: they
have the picture's layout in them. An edit takes the same steps with another prompt's μ_t and the same z_t. With the
source's own prompt and guidance it ends at the picture itself.

As released: x_{t−1} is computed again from μ_t and z_t, so that rounding does not add up; the first steps are skipped;
the DDIM form of the step with η, of which 1 is DDPM. Deviations: what is kept is σ_t z_t, and the last step's is kept,
too. The released code sets that to 0, because σ may be 0 there, and its reconstruction is not exact.
"""

from collections.abc import Generator, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.guidance import TextGuidance
from wordbrush.inversion.edit_friendly.options import Options
from wordbrush.model import Conditioning, Model
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.sampling import noised, taken_apart
from wordbrush.source import Source

_PUBLISHED: Mapping[str, Any] = {  # with Prompt-to-Prompt
    "steps": 100,
    "guidance_scale": 9.0,
    "source_guidance_scale": 3.5,
    "skip": 0.12,
}
_CHOSEN: Mapping[str, Mapping[str, Any]] = {
    "pocket": {"steps": 20, "guidance_scale": 3.0, "source_guidance_scale": 1.0, "skip": 0.2}
}
"""Defaults by model, where others than the published ones were chosen (`docs/methods/edit-friendly.md`)."""


@torch.no_grad()
def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Take a picture in [−1, 1] that `prompt` describes apart into the noise of its steps."""
    chosen = filled(options, _CHOSEN.get(model.name, _PUBLISHED))
    assert chosen.skip is not None and chosen.guidance_scale is not None, "these have defaults"
    assert chosen.source_guidance_scale is not None, "this too"
    schedule = model.schedule(chosen.steps).rest(chosen.skip)
    null, z_0 = model.encode_text([chosen.negative_prompt]), model.encode_image(image)
    conditions = {"text": Conditioning(model.encode_text([prompt])), "null": Conditioning(null)}
    guidance = TextGuidance(chosen.source_guidance_scale)
    path = noised(z_0, schedule, chosen.noise_seed)
    states = yield from taken_apart(model, path, schedule, conditions, guidance, chosen.eta)
    return Source(
        prompt=prompt,
        states=states,
        null=null,
        schedule=schedule,
        guidance_scale=chosen.guidance_scale,
        method="edit_friendly",
        model_hash=model.hash,
        concepts=model.concepts,
        options=options.given(),
    )
