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
from torch import Tensor

from wordbrush.denoise import check_finite, combined
from wordbrush.guidance import TextGuidance
from wordbrush.inversion.null_text.options import Options
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.progress import Progress
from wordbrush.sampling import walk_up
from wordbrush.schedule import Level, Prediction
from wordbrush.source import Source
from wordbrush.states import Trajectory


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes."""
    up = yield from walk_up(model, image, prompt, "null_text", options)
    schedule, guidance = up.schedule, TextGuidance(up.guidance_scale)
    text, null = Conditioning(model.encode_text([prompt])), up.null
    embeds: list[Tensor] = []
    z = up.z_T
    trajectory = [z]
    for i in range(schedule.steps):
        here, to = schedule.levels[i], schedule.levels[i + 1]
        with torch.no_grad():
            conditional = model.predict(z, here, text)
        land = partial(_land, model, guidance, z, here, to, conditional)
        rate = options.learning_rate * (1 - i / (2 * schedule.steps))
        enough = options.early_stop + i * options.early_stop_growth
        null, tries = _optimised(null, land, up.states.at(i + 1), rate, enough, options.inner_steps)
        with torch.no_grad():
            z = land(null)
        check_finite(z, f"null-text step {i + 1} of {schedule.steps}")
        embeds.append(null.hidden)
        trajectory.append(z)
        yield Progress("optimising null text", i + 1, schedule.steps, rows=2 + tries, gradient_rows=tries)
    return replace(up, states=Trajectory(torch.cat(trajectory)), null=_per_step(embeds, null))


def _land(
    model: Model,
    guidance: TextGuidance,
    z: Tensor,
    here: Level,
    to: Level,
    conditional: Prediction,
    null: TextEmbeds,
) -> Float[Tensor, "1 c h w"]:
    """Where one guided step from `z` leads with this null embedding."""
    found = {"null": model.predict(z, here, Conditioning(null)), "text": conditional}
    return combined(guidance, z, here, found, 0.0).step(here, to)  # the guidance is the same in every step


def _optimised(
    null: TextEmbeds,
    land: Callable[[TextEmbeds], Tensor],
    pivot: Tensor,
    rate: float,
    enough: float,
    inner_steps: int,
) -> tuple[TextEmbeds, int]:
    """The null embedding whose step lands nearest to the pivot (eq. 4), starting from `null`, and in how many tries."""
    wide = torch.promote_types(null.hidden.dtype, torch.float32)  # Adam needs more digits than bfloat16 has
    hidden = null.hidden.detach().to(wide, copy=True).requires_grad_()
    adam = torch.optim.Adam([hidden], lr=rate)
    tries = 0
    while tries < inner_steps:
        tries += 1
        with torch.enable_grad():
            loss = F.mse_loss(land(TextEmbeds(hidden.to(null.hidden.dtype), null.pooled)), pivot)
        (hidden.grad,) = torch.autograd.grad(loss, [hidden])
        adam.step()
        if float(loss.detach()) < enough:
            break
    return TextEmbeds(hidden.detach().to(null.hidden.dtype), null.pooled), tries


def _per_step(hidden: list[Tensor], null: TextEmbeds) -> TextEmbeds:
    pooled = None if null.pooled is None else null.pooled.expand(len(hidden), -1)
    return TextEmbeds(torch.cat(hidden), pooled)
