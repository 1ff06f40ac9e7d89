"""The noise schedule as numbers, and the DDIM step that walks it.

Everything here is a pure function of ᾱ (`alphas_cumprod`), kept in float64. A *timestep* t is one of the
model's training noise levels (0…999); a *step* i counts what a sampler does (0…n−1). The two are never mixed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import ModelError, OptionsError

# All that is read of a diffusers scheduler config, and what a config means that is silent about it.
_SETTINGS: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
    "timestep_spacing": "leading",
    "steps_offset": 0,
    "set_alpha_to_one": True,
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a diffusers scheduler config decides its schedules: equal settings, equal schedules."""
    return {name: config.get(name, default) for name, default in _SETTINGS.items()}


@dataclass(frozen=True)
class Schedule:
    """n sampling steps: step i leads from noise level `timesteps[i]` to the one below it.

    `alphas[i]` is ᾱ before step i and `alphas[i + 1]` after it, so `alphas` has n + 1 entries and its last is
    the level that counts as clean. `timesteps[i]` labels step i for the model, when sampling *and* when
    inverting: DDIM inversion feeds the cleaner latents with the label of the noisier level they are moved to.
    """

    timesteps: tuple[int, ...]
    alphas: tuple[float, ...]

    @property
    def steps(self) -> int:
        """The number of sampling steps, n."""
        return len(self.timesteps)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> "Schedule":
        """The schedule that a diffusers scheduler config describes, for `steps` sampling steps.

        Reads what `settings` does; `timestep_spacing` may be leading, trailing or linspace. Consecutive
        timesteps are each other's neighbours, so the walk down and the walk up visit the same levels: a
        mismatch there is what breaks the round trip of an inversion.

        Raises `OptionsError` if `steps` does not fit, `ModelError` for a schedule that is not known.
        """
        told = settings(config)
        train_steps = int(told["num_train_timesteps"])
        if not 1 <= steps <= train_steps:
            raise OptionsError(
                f"steps must lie between 1 and {train_steps} (the model's training timesteps), got {steps}"
            )
        if told["rescale_betas_zero_snr"]:
            raise ModelError(
                "the model's schedule ends at zero signal (rescale_betas_zero_snr), where no eps can be told from "
                "its prediction: use a model whose schedule does not"
            )
        alphas_cumprod = training_alphas_cumprod(config)
        spacing = told["timestep_spacing"]
        offset = int(told["steps_offset"])
        if spacing == "leading":
            stride = train_steps // steps
            timesteps = [min(i * stride + offset, train_steps - 1) for i in reversed(range(steps))]
        elif spacing == "trailing":
            timesteps = [round(train_steps - i * train_steps / steps) - 1 for i in range(steps)]
        elif spacing == "linspace":
            timesteps = [
                round(float(t)) for t in torch.linspace(train_steps - 1, 0, steps, dtype=torch.float64)
            ]
        else:
            raise ModelError(
                f"the model's timestep_spacing must be leading, trailing or linspace, got {spacing!r}"
            )
        clean = 1.0 if told["set_alpha_to_one"] else float(alphas_cumprod[0])
        alphas = [float(alphas_cumprod[t]) for t in timesteps]
        return cls(tuple(timesteps), (*alphas, clean))


def training_alphas_cumprod(config: Mapping[str, Any]) -> Float[Tensor, " timesteps"]:
    """ᾱ of every training timestep, float64, from a diffusers scheduler config.

    Raises `ModelError` for a beta schedule other than linear, scaled_linear, squaredcos_cap_v2 or trained betas.
    """
    told = settings(config)
    count = int(told["num_train_timesteps"])
    low, high = float(told["beta_start"]), float(told["beta_end"])
    kind, trained = told["beta_schedule"], told["trained_betas"]
    if trained is not None:
        betas = torch.tensor(trained, dtype=torch.float64)
    elif kind == "linear":
        betas = torch.linspace(low, high, count, dtype=torch.float64)
    elif kind == "scaled_linear":
        betas = torch.linspace(low**0.5, high**0.5, count, dtype=torch.float64) ** 2
    elif kind == "squaredcos_cap_v2":
        # Nichol & Dhariwal 2021, eq. 17, with their cap on beta.
        bar = (
            torch.cos((torch.arange(count + 1, dtype=torch.float64) / count + 0.008) / 1.008 * math.pi / 2)
            ** 2
        )
        betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    else:
        raise ModelError(
            f"the model's beta_schedule must be linear, scaled_linear or squaredcos_cap_v2, got {kind!r}"
        )
    return torch.cumprod(1 - betas, 0)


def add_noise(z_0: Float[Tensor, "*s"], noise: Float[Tensor, "*s"], alpha: float) -> Float[Tensor, "*s"]:
    """√ᾱ z_0 + √(1−ᾱ) noise: clean latents brought to the noise level ᾱ (DDPM, eq. 4)."""
    return math.sqrt(alpha) * z_0 + math.sqrt(1 - alpha) * noise


def predict_clean(z_t: Float[Tensor, "*s"], eps: Float[Tensor, "*s"], alpha: float) -> Float[Tensor, "*s"]:
    """ẑ_0 = (z_t − √(1−ᾱ) eps) / √ᾱ: the clean latents that `eps` implies."""
    return (z_t - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)


def ddim_step(
    z: Float[Tensor, "*s"],
    eps: Float[Tensor, "*s"],
    alpha: float,
    alpha_next: float,
    *,
    eta: float = 0.0,
    noise: Float[Tensor, "*s"] | None = None,
) -> Float[Tensor, "*s"]:
    """Move latents from the level ᾱ to ᾱ′ along `eps` (DDIM, eq. 12).

    z′ = √ᾱ′ ẑ_0 + √(1−ᾱ′−σ²) eps + σ noise, with σ = η √((1−ᾱ′)/(1−ᾱ)) √(1−ᾱ/ᾱ′) (eq. 16).
    With η = 0 the step is deterministic, and exchanging the two levels inverts it for the same `eps`: the
    inverse has no function of its own.

    Raises `OptionsError` when η > 0 comes without noise.
    """
    sigma = 0.0
    if eta > 0:
        if noise is None:
            raise OptionsError("eta > 0 makes the DDIM step stochastic: pass the noise it should add")
        sigma = eta * math.sqrt((1 - alpha_next) / (1 - alpha) * max(0.0, 1 - alpha / alpha_next))
    scale = math.sqrt(alpha_next / alpha)
    direction = math.sqrt(max(0.0, 1 - alpha_next - sigma**2)) - math.sqrt(alpha_next * (1 - alpha) / alpha)
    z_next = scale * z + direction * eps
    return z_next if noise is None or sigma == 0.0 else z_next + sigma * noise
