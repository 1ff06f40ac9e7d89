"""DDIM inversion with noise regularisation (Parmar et al. 2023, section 3.1: pix2pix-zero's inversion).

The noise that the network predicts on the way up is not white: neighbouring values are alike, and its variance is not
1. In each step a few gradient steps are taken on the noise itself, on

    Σ_scales Σ_channels (mean of η · η shifted down)² + (mean of η · η shifted right)²             (autocorrelation)
    σ² + μ² − 1 − log σ²                                                                           (divergence)

so that z_T is more like what sampling begins from. The noise of a step is then not what the network says, so nothing
promises that the way down leads back; what sampling makes of z_T with guidance is the source, as in `ddim`.

As released: correlations are averaged before they are squared (the paper sums products), the pyramid halves until a
side is at most 8, and λ = 20 for both. Deviations: shifts are at least 1 (the released code also draws 0, which is no
correlation but the variance), and the levels and their labels are those of all inversions here.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wordbrush.inversion.regularised.options import Options
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.sampling import reconstruct, walk_up
from wordbrush.source import Source

_SMALLEST = 8  # side of the last scale


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""
    generator = torch.Generator().manual_seed(options.roll_seed)
    up = yield from walk_up(
        model,
        image,
        prompt,
        "regularised",
        options,
        lambda t, z, ask, move: regularised(ask(z), options, generator),
    )
    text = Conditioning(model.encode_text([prompt]))
    return replace(up, states=(yield from reconstruct(model, up, text, up.guidance_scale)))


def regularised(
    noise: Float[Tensor, "1 c h w"], options: Options, generator: torch.Generator
) -> Float[Tensor, "1 c h w"]:
    """The noise after gradient steps on its autocorrelation and its divergence from a standard normal one."""
    for _ in range(options.rounds):
        for _ in range(options.rolls if options.autocorrelation else 0):
            rate = options.autocorrelation / options.rolls
            noise = noise - rate * _gradient(partial(autocorrelation, generator=generator), noise)
        if options.divergence:
            noise = noise - options.divergence * _gradient(divergence, noise)
    return noise


def autocorrelation(noise: Float[Tensor, "1 c h w"], generator: torch.Generator) -> Float[Tensor, ""]:
    """Squared mean products of each channel with itself, shifted at random along each side, at each scale."""
    loss = noise.new_zeros(())
    while True:
        for side in (2, 3):
            most = max(2, noise.shape[side] // 2)
            for channel in noise.unbind(1):
                shift = int(torch.randint(1, most, (), generator=generator))
                loss = loss + (channel * channel.roll(shift, side - 1)).mean() ** 2
        if min(noise.shape[2:]) <= _SMALLEST:
            return loss
        noise = F.avg_pool2d(noise, 2)


def divergence(noise: Float[Tensor, "1 c h w"]) -> Float[Tensor, ""]:
    """Twice the divergence of a normal distribution of this mean and variance from the standard one."""
    mean, variance = noise.mean(), noise.var()
    return variance + mean**2 - 1 - torch.log(variance + 1e-7)


def _gradient(loss: Callable[[Tensor], Tensor], noise: Tensor) -> Tensor:
    with torch.enable_grad():
        own = noise.detach().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(own), own)
    return gradient
