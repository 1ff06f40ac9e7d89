"""Null-text inversion (Mokady et al. 2023, Algorithm 1).

The picture is walked up by unguided DDIM inversion (the pivots z*_t). Walking down again with guidance, the null
embedding of each step is optimised so that the step lands on the next pivot; prompt and weights stay as they
are. The embeddings make a faithful source at the full guidance scale, for any number of edits.

As released: the conditional eps is computed once per step, each step starts from the embedding of the one
before, with a fresh Adam whose rate falls as 1 − i/2n and whose early stop grows with i. The released rate,
1 − i/100, is the same at its 50 steps and would turn negative beyond 100.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from wordbrush.denoise import check_finite
from wordbrush.guidance import text_guidance
from wordbrush.model import Model, TextEmbeds
from wordbrush.options import InversionOptions
from wordbrush.progress import Progress
from wordbrush.schedule import ddim_step
from wordbrush.source import Source, walk_up


class Options(InversionOptions):
    """How to invert."""

    inner_steps: int = Field(
        10, ge=0, le=1000, description="optimisation steps for each sampling step, at most"
    )
    learning_rate: float = Field(1e-2, gt=0, le=1, description="Adam's rate at the first sampling step")
    early_stop: float = Field(
        1e-5, ge=0, description="mean squared error to the pivot that ends a step's optimisation"
    )
    early_stop_growth: float = Field(2e-5, ge=0, description="how much that error may grow with each step")


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""
    up = yield from walk_up(model, image, prompt, "null_text", options)
    schedule, scale, pivots = up.schedule, up.guidance_scale, up.trajectory
    text, null = model.encode_text([prompt]), up.null
    embeds: list[Tensor] = []
    z = up.z_T
    trajectory = [z]
    for i, t in enumerate(schedule.timesteps):
        with torch.no_grad():
            eps_text = model.predict_eps(z, t, text)
        land = partial(_land, model, z, t, eps_text, scale, schedule.alphas[i], schedule.alphas[i + 1])
        rate = options.learning_rate * (1 - i / (2 * schedule.steps))
        enough = options.early_stop + i * options.early_stop_growth
        null = _optimised(null, land, pivots[i + 1 : i + 2], rate, enough, options.inner_steps)
        with torch.no_grad():
            z = land(null)
        check_finite(z, f"null-text step {i + 1} of {schedule.steps}")
        embeds.append(null.hidden)
        trajectory.append(z)
        yield Progress("optimising null text", i + 1, schedule.steps)
    return replace(up, trajectory=torch.cat(trajectory), null=_per_step(embeds, null))


def _land(
    model: Model,
    z: Tensor,
    t: int,
    eps_text: Tensor,
    guidance_scale: float,
    alpha: float,
    alpha_next: float,
    null: TextEmbeds,
) -> Float[Tensor, "1 c h w"]:
    """Where one guided step from `z` leads with this null embedding."""
    eps = text_guidance(model.predict_eps(z, t, null), eps_text, guidance_scale)
    return ddim_step(z, eps, alpha, alpha_next)


def _optimised(
    null: TextEmbeds,
    land: Callable[[TextEmbeds], Tensor],
    pivot: Tensor,
    rate: float,
    enough: float,
    inner_steps: int,
) -> TextEmbeds:
    """The null embedding whose step lands nearest to the pivot (eq. 4), starting from `null`."""
    wide = torch.promote_types(null.hidden.dtype, torch.float32)  # Adam needs more digits than bfloat16 has
    hidden = null.hidden.detach().to(wide, copy=True).requires_grad_()
    adam = torch.optim.Adam([hidden], lr=rate)
    for _ in range(inner_steps):
        with torch.enable_grad():
            loss = F.mse_loss(land(TextEmbeds(hidden.to(null.hidden.dtype), null.pooled)), pivot)
        (hidden.grad,) = torch.autograd.grad(loss, [hidden])
        adam.step()
        if float(loss.detach()) < enough:
            break
    return TextEmbeds(hidden.detach().to(null.hidden.dtype), null.pooled)


def _per_step(hidden: list[Tensor], null: TextEmbeds) -> TextEmbeds:
    pooled = None if null.pooled is None else null.pooled.expand(len(hidden), -1)
    return TextEmbeds(torch.cat(hidden), pooled)
