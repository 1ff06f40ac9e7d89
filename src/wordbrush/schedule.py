"""The noise schedule as numbers, and the step between two of its levels.

A noise level is a pair (signal, sigma): z_t = signal · z_0 + sigma · noise. Variance-preserving models (DDPM and
Stable Diffusion) have signal = √ᾱ and sigma = √(1 − ᾱ); flow matching has signal = 1 − t and sigma = t. A *timestep* t
labels a level for the network (0…999); a *step* i counts the sampler's steps (0…n−1). The two are never mixed. Numbers
are float64.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.errors import ModelError, OptionsError

# The entries that are read of a diffusers scheduler config, with their defaults.
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


_LEFT_OUT = (
    0.1  # the largest share of the noisiest training timesteps that diffusers' leading spacing may leave out
)


@dataclass(frozen=True, slots=True)
class Level:
    """One noise level: the timestep that labels it for the network, and its shares of picture and noise."""

    t: int
    signal: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """λ = log(signal / sigma), half of the logarithm of the signal-to-noise ratio (Lu et al. 2022, section 2)."""
        return (
            math.inf
            if self.sigma == 0
            else -math.inf
            if self.signal == 0
            else math.log(self.signal / self.sigma)
        )

    def mix(self, clean: Float[Tensor, "*s"], noise: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """signal · clean + sigma · noise: latents at this level (DDPM, eq. 4)."""
        return self.signal * clean + self.sigma * noise

    def from_noise(self, z: Float[Tensor, "*s"], noise: Float[Tensor, "*s"]) -> "Prediction":
        """The prediction of an eps network: ẑ_0 = (z − sigma · noise) / signal."""
        return Prediction((z - self.sigma * noise) / self.signal, noise)

    def from_velocity(self, z: Float[Tensor, "*s"], v: Float[Tensor, "*s"]) -> "Prediction":
        """The prediction of a v network, v = signal · noise − sigma · z_0 (Salimans & Ho 2022, appendix D)."""
        return Prediction(self.signal * z - self.sigma * v, self.signal * v + self.sigma * z)


@dataclass(frozen=True, eq=False, slots=True)
class Prediction:
    """A network's prediction for noisy latents, in one form for all kinds of networks: clean latents and noise.

    edited: where the guidance of an edit changed it, by guidance that says so (`guidance.Localised`).
    """

    clean: Float[Tensor, "*s"]
    noise: Float[Tensor, "*s"]
    edited: Bool[Tensor, "*s"] | None = None

    def __getitem__(self, rows: slice) -> "Prediction":
        return Prediction(self.clean[rows], self.noise[rows])

    def step(
        self,
        here: Level,
        to: Level,
        *,
        eta: float = 0.0,
        fresh: Float[Tensor, "*s"] | None = None,
    ) -> Float[Tensor, "*s"]:
        """The latents at another level along this prediction (DDIM, eq. 12).

        to.signal · clean + √(to.sigma² − σ²) · noise + σ · fresh, with
        σ = η (to.sigma / here.sigma) √(1 − (here.signal / to.signal)²) (eq. 16). With η = 0 the step is
        deterministic, and it leads from a noisier to a cleaner level or back: an inversion has no step of its own.

        Raises `OptionsError` when η > 0 comes without fresh noise.
        """
        if eta == 0:
            return to.mix(self.clean, self.noise)
        if fresh is None:
            raise OptionsError("eta > 0 makes the DDIM step stochastic: pass the fresh noise to add")
        return self.mean(here, to, eta) + spread(here, to, eta) * fresh

    def mean(self, here: Level, to: Level, eta: float) -> Float[Tensor, "*s"]:
        """The latents at another level before fresh noise is added: μ of a stochastic step."""
        direction = math.sqrt(max(0.0, to.sigma**2 - spread(here, to, eta) ** 2))
        return to.signal * self.clean + direction * self.noise

    def extrapolated(
        self, z: Float[Tensor, "*s"], here: Level, to: Level, before: Level, last: Float[Tensor, "*s"]
    ) -> "Prediction":
        """What the clean latents will be predicted to be in the middle of the step from `here` to `to`, for z.

        A step along it is one of DPM-Solver++(2M) (Lu et al. 2022b, "DPM-Solver++", algorithm 2). Those predicted at
        the level before were `last`; half of the change since, per unit of λ, is added once more:
        D = ẑ + h / (2 h_before) (ẑ − last), h = λ(to) − λ(here). The noise is what D leaves of z, so that DDIM's step
        along it, to.signal · D + to.sigma · (z − here.signal · D) / here.sigma, is equation 13 of that paper.

        To or from a level without noise or without signal h is infinite, and between equal levels nothing is known of a
        change: there the prediction is left as it is.
        """
        step, before_step = to.log_snr - here.log_snr, here.log_snr - before.log_snr
        if not (math.isfinite(step) and math.isfinite(before_step)) or before_step == 0:
            return self
        clean = self.clean + step / (2 * before_step) * (self.clean - last)
        return Prediction(clean, (z - here.signal * clean) / here.sigma)

    def carry(self, z: Float[Tensor, "*s"], here: Level, to: Level) -> Float[Tensor, "*s"]:
        """Other latents than those that were predicted for, moved from one level to another along this noise.

        With the levels exchanged the same call leads back, exactly. At a level without signal, where a noise prediction
        says nothing, all of `z` is noise and the clean latents are predicted.
        """
        if here.signal == 0:
            return to.mix(self.clean, z)
        if to.signal == 0:
            return (z - here.signal * self.clean) / here.sigma
        return here.from_noise(z, self.noise).step(here, to)


def spread(here: Level, to: Level, eta: float) -> float:
    """σ of a stochastic step (DDIM, eq. 16)."""
    return eta * to.sigma / here.sigma * math.sqrt(max(0.0, 1 - (here.signal / to.signal) ** 2))


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a diffusers scheduler config that decide its schedules, with diffusers' defaults."""
    return {name: config.get(name, default) for name, default in _SETTINGS.items()}


@dataclass(frozen=True)
class Schedule:
    """n sampling steps over n + 1 levels, noisiest first: step i leads from `levels[i]` to `levels[i + 1]`.

    The last level is what counts as clean. `levels[i].t` labels step i for the network, when sampling *and* when
    inverting: DDIM inversion labels the cleaner latents with the timestep of the noisier level that they move to.
    """

    levels: tuple[Level, ...]

    @property
    def steps(self) -> int:
        """The number of sampling steps, n."""
        return len(self.levels) - 1

    @classmethod
    def from_config(cls, config: Mapping[str, Any], steps: int) -> "Schedule":
        """The schedule that a diffusers scheduler config describes, for `steps` sampling steps.

        Reads what `settings` does; `timestep_spacing` may be leading, trailing or linspace. A step always leads to
        the level of the next timestep, so that sampling and inversion visit the same levels: where they do not, an
        inversion does not lead back to its picture.

        Raises `OptionsError` if `steps` is out of range, `ModelError` for an unknown schedule.
        """
        known = settings(config)
        train_steps = int(known["num_train_timesteps"])
        if not 1 <= steps <= train_steps:
            raise OptionsError(
                f"steps must be between 1 and {train_steps} (the model's training timesteps), got {steps}"
            )
        alphas_cumprod = training_alphas_cumprod(config)
        spacing = known["timestep_spacing"]
        offset = int(known["steps_offset"])
        if spacing == "leading":
            stride = train_steps // steps
            if train_steps - steps * stride > _LEFT_OUT * train_steps:
                # A whole stride would begin in the middle: with pure noise at timestep 500 of 1,000 for 501 steps.
                timesteps = [i * train_steps // steps for i in reversed(range(steps))]
            else:
                timesteps = [i * stride for i in reversed(range(steps))]
            timesteps = [min(t + offset, train_steps - 1) for t in timesteps]
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
        clean = 1.0 if known["set_alpha_to_one"] else float(alphas_cumprod[0])
        alphas = [float(alphas_cumprod[t]) for t in timesteps]
        return cls.from_alphas([*timesteps, 0], [*alphas, clean])

    def late(self, start: float, alphas_cumprod: Float[Tensor, " timesteps"]) -> "Schedule":
        """As many steps over what is left of the run after its fraction `start`, 0 ≤ start < 1.

        Step i of n begins where step start · n + i · (1 − start) would. Between two levels that is the level of the
        nearest training timestep; alphas_cumprod: ᾱ of those.
        """
        levels: list[Level] = []
        for k, part in (self.at(start, i) for i in range(self.steps + 1)):
            here, to = self.levels[k], self.levels[k + 1]
            t = round(here.t + part * (to.t - here.t))
            alpha = float(alphas_cumprod[t])
            between = Level(t, math.sqrt(alpha), math.sqrt(1 - alpha))
            levels.append(here if part == 0 else to if part == 1 else between)
        return Schedule(tuple(levels))

    def rest(self, start: float) -> "Schedule":
        """Of its own steps the last ones: the fraction `start` of them is left out, but never all."""
        return Schedule(self.levels[min(round(start * self.steps), self.steps - 1) :])

    def at(self, start: float, i: int) -> tuple[int, float]:
        """Where step i of `late` begins: a step of this schedule, and the fraction of it that is over (1: all)."""
        position = start * self.steps + i * (1 - start)
        k = min(int(position), self.steps - 1)
        # The last level is the end of the run, however the products above were rounded.
        return k, 1.0 if i == self.steps else position - k

    @classmethod
    def from_alphas(cls, timesteps: Sequence[int], alphas: Sequence[float]) -> "Schedule":
        """A variance-preserving schedule from the timestep and ᾱ of each of its n + 1 levels."""
        pairs = zip(timesteps, alphas, strict=True)
        return cls(tuple(Level(t, math.sqrt(alpha), math.sqrt(1 - alpha)) for t, alpha in pairs))


def training_alphas_cumprod(config: Mapping[str, Any]) -> Float[Tensor, " timesteps"]:
    """ᾱ of every training timestep, float64, from a diffusers scheduler config.

    Raises `ModelError` for a beta schedule other than linear, scaled_linear, squaredcos_cap_v2 or trained betas.
    """
    known = settings(config)
    count = int(known["num_train_timesteps"])
    low, high = float(known["beta_start"]), float(known["beta_end"])
    kind, trained = known["beta_schedule"], known["trained_betas"]
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
    alphas_cumprod = torch.cumprod(1 - betas, 0)
    return _without_signal(alphas_cumprod) if known["rescale_betas_zero_snr"] else alphas_cumprod


def _without_signal(alphas_cumprod: Float[Tensor, " timesteps"]) -> Float[Tensor, " timesteps"]:
    """The schedule shifted and scaled so that nothing of the picture is left at its end, and its first level stays
    (Lin et al. 2024, "Common Diffusion Noise Schedules and Sample Steps are Flawed", algorithm 1)."""
    signal = alphas_cumprod.sqrt()
    return ((signal - signal[-1]) * signal[0] / (signal[0] - signal[-1])) ** 2
