"""What tests compare with: the DDIM step from ᾱ in closed form; and short ways to call the package.

The package mixes a clean picture and a noise at each level; here a step is z′ = √(ᾱ′/ᾱ) z + c eps (Song et al. 2021,
eq. 12), a derivation of its own.
"""

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from wordbrush.attention import Attend
from wordbrush.editing.prompt_to_prompt import method
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.progress import Progress
from wordbrush.request import EditRequest
from wordbrush.result import Result
from wordbrush.schedule import Level, Schedule
from wordbrush.source import Source


def alphas(schedule: Schedule) -> list[float]:
    """ᾱ of each level."""
    return [level.signal**2 for level in schedule.levels]


def timesteps(schedule: Schedule) -> list[int]:
    """The timestep of each step."""
    return [level.t for level in schedule.levels[:-1]]


def level(model: Model, t: int) -> Level:
    """The level of a training timestep."""
    config = model.schedule_config
    low, high = config["beta_start"] ** 0.5, config["beta_end"] ** 0.5
    root = torch.linspace(low, high, config["num_train_timesteps"], dtype=torch.float64)
    alpha = float((1 - root * root).cumprod(0)[t])
    return Level(t, math.sqrt(alpha), math.sqrt(1 - alpha))


def predict_eps(
    model: Model,
    z: torch.Tensor,
    t: int,
    text: TextEmbeds | Conditioning,
    attend: Attend | None = None,
    step: int | None = None,
) -> torch.Tensor:
    """The model's noise at a training timestep."""
    conditioning = Conditioning(text) if isinstance(text, TextEmbeds) else text
    return model.predict(z, level(model, t), conditioning, attend=attend, step=step).noise


def predict_clean(z: torch.Tensor, eps: torch.Tensor, alpha: float) -> torch.Tensor:
    """ẑ_0 = (z_t − √(1−ᾱ) eps) / √ᾱ."""
    return (z - math.sqrt(1 - alpha) * eps) / math.sqrt(alpha)


def ddim_step(z: torch.Tensor, eps: torch.Tensor, alpha: float, alpha_next: float) -> torch.Tensor:
    """The deterministic DDIM step."""
    direction = math.sqrt(1 - alpha_next) - math.sqrt(alpha_next * (1 - alpha) / alpha)
    return math.sqrt(alpha_next / alpha) * z + direction * eps


def conditions(text: TextEmbeds, null: TextEmbeds) -> dict[str, Any]:
    """What `denoise` reads: the text, and no text for the run or for each step."""
    nulls = [Conditioning(null[i : i + 1]) for i in range(len(null))]
    return {"text": Conditioning(text), "null": nulls[0] if len(nulls) == 1 else nulls}


def prompt_to_prompt(
    model: Model, source: Source, targets: Sequence[str], options: Any
) -> Generator[Progress, None, list[Result]]:
    """Prompt-to-Prompt of a source."""
    return method.edit(model, EditRequest(tuple(targets), options, source.prompt, source))


@dataclass
class Passed:
    """Rows that went through the UNet, and those whose output can be differentiated."""

    rows: int = 0
    with_gradient: int = 0


@contextmanager
def counting(model: Model) -> Generator[Passed, None, None]:
    """Count the UNet's rows by a hook, while nothing else uses the model."""
    passed = Passed()

    def count(_: Any, given: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
        passed.rows += len(given[0])
        passed.with_gradient += len(given[0]) if output[0].requires_grad else 0

    hook = model.denoiser.unet.register_forward_hook(count)
    try:
        yield passed
    finally:
        hook.remove()
