"""How well captions explain a picture, by the model's own judgement.

A diffusion model bounds the likelihood of a picture under a caption by the error with which it predicts noise that was
added to the picture; of two captions, the one with the smaller error explains it better (Li et al. 2023, "Your
Diffusion Model is Secretly a Zero-Shot Classifier", eq. 4 and 5). One noise for all captions cancels most of the
variance (their section 3.2). One level is enough to tell whether a thing is there: the one with as much signal as
noise (docs/benchmarks/defaults.md).
"""

from collections.abc import Generator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.denoise import check_finite
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.sampling import initial_latents
from wordbrush.schedule import Level, Schedule

ROWS = 2
"""The rows that the UNet computes for one answer."""

_SEED = 2**32 + 1
"""Of the noise that pictures are judged with: not one that anybody draws with."""


def gain(
    model: Model, latents: Float[Tensor, "1 c h w"], before: str, after: str, schedule: Schedule
) -> Generator[Progress, None, float]:
    """How much worse the caption `before` explains a picture than the caption `after`: the share by which its error is
    larger; below 0 where it explains better."""
    level = _balanced(schedule)
    latents = latents.to(model.device, model.latent_dtype)
    height, width = (side * model.downscale for side in latents.shape[-2:])
    noise = initial_latents(model, _SEED, height, width).to(latents)
    old, new = _errors(model, level.mix(latents, noise), noise, level, [before, after])
    yield Progress("judging", 1, 1, rows=ROWS)
    return old / new - 1


@torch.no_grad()
def _errors(
    model: Model,
    noised: Float[Tensor, "1 c h w"],
    noise: Float[Tensor, "1 c h w"],
    level: Level,
    captions: Sequence[str],
) -> list[float]:
    """The squared error of the noise that the model predicts with each caption."""
    text = Conditioning(model.encode_text(list(captions)))
    predicted = model.predict(noised.expand(len(captions), -1, -1, -1), level, text).noise
    check_finite(predicted, "a look at an edit")
    errors = (predicted - noise).double().square().sum((1, 2, 3))
    return [float(error) for error in errors]


def _balanced(schedule: Schedule) -> Level:
    """Of the levels that a step is predicted at, the one whose shares of signal and noise are nearest to each other."""
    return min(schedule.levels[:-1], key=lambda level: abs(level.signal - level.sigma))
