"""The loss that every method here minimises: how far the network's output is from what it was trained to say."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Attend
from wordbrush.model import Conditioning, Model
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.training.examples import Batch


def _noise(clean: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    return noise


def _velocity(clean: Tensor, noise: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    return signal * noise - sigma * clean


TARGETS: Mapping[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": _noise,
    "v_prediction": _velocity,
}
"""What each kind of network is to say of latents with this signal, sigma and noise."""


def losses(
    model: Model,
    batch: Batch,
    text: Conditioning,
    snr_gamma: float | None = None,
    attend: Attend | None = None,
) -> Float[Tensor, " rows"]:
    """The mean squared error of each row: ‖ε − ε_θ(z_t, t, c)‖² (Ho et al. 2020, eq. 14), or of v where it predicts v.
    Where a row has a mask, the mean is over what it shows.

    snr_gamma: weights by the signal-to-noise ratio, min(SNR, γ) / SNR, of v min(SNR, γ) / (SNR + 1) (Hang et al. 2023,
    section 3.4). Each row has its own weight, those of class pictures too.

    attend: computes the attention layers.
    """
    alphas = training_alphas_cumprod(model.schedule_config)[batch.timesteps]
    signal, sigma = (share.sqrt().to(batch.latents)[:, None, None, None] for share in (alphas, 1 - alphas))
    noisy = signal * batch.latents + sigma * batch.noise
    output = model.denoiser.output(noisy, batch.timesteps.to(noisy.device), text, attend=attend)
    target = TARGETS[model.denoiser.prediction](batch.latents, batch.noise, signal, sigma)
    squares, parts = (output - target).square(), (1, 2, 3)
    if batch.masks is None:
        errors = squares.mean(parts)
    else:
        errors = (squares.mean(1, keepdim=True) * batch.masks).sum(parts) / batch.masks.sum(parts)
    if snr_gamma is None:
        return errors
    ratio = alphas / (1 - alphas)  # 0 at a level without signal
    if model.denoiser.prediction == "epsilon":
        weights = (snr_gamma / ratio).clamp(max=1)
    else:
        weights = ratio.clamp(max=snr_gamma) / (ratio + 1)
    return errors * weights.to(errors)


def with_prior(errors: Float[Tensor, " rows"], instances: int, weight: float) -> Float[Tensor, ""]:
    """The instances' mean plus `weight` times that of the class pictures behind them (Ruiz et al. 2023, eq. 2)."""
    loss = errors[:instances].mean()
    return loss if instances == len(errors) else loss + weight * errors[instances:].mean()


def joined(first: Batch, second: Batch) -> Batch:
    """The rows of both, in order: one forward pass computes them."""
    both, masks = (first, second), None
    if any(each.masks is not None for each in both):
        masks = torch.cat(
            [torch.ones_like(each.latents[:, :1]) if each.masks is None else each.masks for each in both]
        )
    return Batch(
        first.pictures + second.pictures,
        first.beside + second.beside,
        first.choices + second.choices,
        torch.cat([first.latents, second.latents]),
        torch.cat([first.noise, second.noise]),
        torch.cat([first.timesteps, second.timesteps]),
        first.prefixes + second.prefixes,
        masks,
    )
