"""The straight path: a source without inversion, from its picture and one noise (`docs/methods/straight.md`).

With one noise ε from a seed, the source's state at every level is known:

    z_src(t) = signal(t) z_0 + sigma(t) ε.

An edit starts from z_tgt(T) = z_src(T) and follows, at each level, a DDIM step with

    eps = ε + w (eps(z_tgt, target) − eps(z_src, source))            (`guidance.DifferenceGuidance`).

Of what the network says alike of both rows the true noise is kept in its place, so equal texts lead back to z_0 for any
network, any ε and any w, and no row without text is needed. Related: the pseudo-guidance of TurboEdit (Deutch et al.
2024), delta denoising (Hertz et al. 2023), FlowEdit (Kulikov et al. 2024), and the virtual inversion of InfEdit (Xu et
al. 2024, which draws new noise at every step).

The levels are evenly spaced and begin at the noisiest ("trailing"), and the last step leads to the clean picture
itself: a step at an almost clean level changes nothing and costs as much as any other.
"""

from collections.abc import Generator

from jaxtyping import Float
from torch import Tensor

from wordbrush.inversion.straight.options import Options
from wordbrush.model import Model
from wordbrush.progress import Progress
from wordbrush.sampling import initial_latents
from wordbrush.schedule import Schedule
from wordbrush.source import Source
from wordbrush.states import StraightPath

STEPS, SCALE = 8, 3.0  # chosen with the built-in model (`docs/benchmarks/defaults.md`)


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Encode a picture in [−1, 1] that `prompt` describes, and draw its noise; the UNet computes nothing."""
    config = {**model.schedule_config, "timestep_spacing": "trailing", "set_alpha_to_one": True}
    schedule = Schedule.from_config(config, STEPS if options.steps is None else options.steps)
    z_0 = model.encode_image(image)
    noise = initial_latents(model, options.noise_seed, *image.shape[-2:]).to(z_0)
    yield Progress("inverting", 1, 1, rows=0)
    return Source(
        prompt=prompt,
        states=StraightPath(z_0, noise, schedule.levels),
        null=model.encode_text([options.negative_prompt]),
        schedule=schedule,
        guidance_scale=SCALE if options.guidance_scale is None else options.guidance_scale,
        method="straight",
        model_hash=model.hash,
        concepts=model.concepts,
        options=options.given(),
    )
