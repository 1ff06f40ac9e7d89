"""TurboEdit (Deutch et al. 2024, "TurboEdit: Text-Based Image Editing Using Few-Step Diffusion Models").

The picture is taken apart into noise as in edit-friendly DDPM inversion, in a few steps: x_t are noised independently
of one another, and a step's noise is what its mean leaves out,

    σ_t z_t = x_{t−1} − μ_t(x_t, c).                                                          (1)

With few steps z_t is larger than a sampler's, as if it were a noisier level's. So the network is told a noisier
timestep than x_t was noised to, and μ_t is computed with it (**shifted timesteps**): x_t at level t, μ at t + Δ. The
noise of the last step is scaled down where it is larger than a limit, or what it holds shows as artefacts.

An edit takes the same steps with the same noise. **Pseudo-guidance** takes its step apart into what the other latents
change and what the other words change, and scales the second:

    x̂_{t−1} = x_{t−1} + [μ_t(x̂_t, c) − μ_t(x_t, c)] + w [μ_t(x̂_t, ĉ) − μ_t(x̂_t, c)]        (2)

μ_t is linear in the noise that is predicted, so with (1) this is a step with guided noise and with the picture's own:

    x̂_{t−1} = μ_t(x̂_t, ε_c + w (ε_ĉ − ε_c)) + σ_t z_t                                        (3)

Guidance leads away from the source's words at the target's latents; no row without text is needed. Three rows a step,
of which the source's serve all targets: they are computed first. With equal words or w = 0 the edit is the picture,
exactly, for any network, if the last noise is below its limit.

The limit is a norm of 15.5 in the released code, at 4 × 64 × 64 latents. Here it is the root mean square of as much,
15.5 / 128, so that it means the same at every size.
"""

import time
from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.denoise import SourceRow, denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.turbo_edit.options import Options
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import noised, taken_apart, watched
from wordbrush.schedule import Level, Schedule, training_alphas_cumprod
from wordbrush.states import NoiseMaps
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.2)

_PUBLISHED: Mapping[str, Any] = {"pseudo_guidance": 1.5, "timestep_shift": 200}
_CHOSEN: Mapping[str, Mapping[str, Any]] = {"pocket": {"timestep_shift": 100}}
"""Defaults by model, where others than the published ones were chosen (`docs/methods/turbo-edit.md`)."""


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model cannot read."""
    return request.alignments(model)


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source = request.started(model)
    given: Options = request.options
    began = time.perf_counter()
    targets = plan(model, request)
    options = filled(given, {**_PUBLISHED, **_CHOSEN.get(model.name, {})})
    assert options.pseudo_guidance is not None and options.timestep_shift is not None, "these have defaults"
    n, free = len(targets), request.free(source).to(model.device)
    trajectories = source.trajectory.expand(n, -1, -1, -1, -1).to(model.device, model.latent_dtype)
    rows, notices = 0, [UNCHANGED]
    details: dict[str, Any] = {}
    if options.start < 1:
        alphas_cumprod = training_alphas_cumprod(model.schedule_config)
        told = source.schedule.late(options.start, alphas_cumprod)
        seen = shifted(told, options.timestep_shift, alphas_cumprod)
        own = Conditioning(model.encode_text([source.prompt]))
        z_0 = source.z_0.to(model.device, model.latent_dtype)
        path = noised(z_0, seen, options.redraw_seed)
        states = yield from taken_apart(model, path, told, {"text": own}, TextGuidance(1.0), eta=1.0)
        states, kept = limited(states, options.noise_limit)
        guidance = TextGuidance(options.pseudo_guidance, reference="caption")
        loop = denoise(
            model,
            states.at(0).expand(n, -1, -1, -1),
            {"caption": own, "text": Conditioning(model.encode_text(list(request.targets)))},
            told,
            guidance,
            source=SourceRow(states, own),
            after_step=lambda i, z, _: torch.where(free, z, states.at(i + 1)),
        )
        after = yield from watched("editing", loop, model)
        trajectories = torch.stack([states.at(0).expand_as(after[0]), *after], dim=1)
        rows, notices = told.steps * (1 + n * len(guidance.branches(0.0))), []
        details = {
            "told": [level.t for level in told.levels[:-1]],
            "noised_to": [level.t for level in seen.levels[:-1]],
            "last_noise_kept": round(kept, 3),
            "chosen": {name: getattr(options, name) for name in _PUBLISHED if getattr(given, name) is None},
        }
    seconds = round(time.perf_counter() - began, 3)
    share = float(free.float().mean()) if rows else 0.0
    return [
        Result(
            alignment.target.prompt,
            Report(
                alignment.describe(), share, options.pseudo_guidance, rows, seconds, tuple(notices), details
            ),
            source,
            trajectory,
            model,
            free[0, 0],
        )
        for alignment, trajectory in zip(targets, trajectories, strict=True)
    ]


def shifted(told: Schedule, shift: int, alphas_cumprod: Float[Tensor, " timesteps"]) -> Schedule:
    """The levels that a picture is noised to, where the network is told these: earlier by `shift` timesteps, and where
    that is before the first, the picture itself."""

    def earlier(level: Level) -> Level:
        t, alpha = level.t - shift, 1.0
        if t > 0:
            alpha = float(alphas_cumprod[t])
        return Level(max(t, 0), alpha**0.5, (1 - alpha) ** 0.5)

    return Schedule((*map(earlier, told.levels[:-1]), told.levels[-1]) if shift else told.levels)


def limited(states: NoiseMaps, limit: float) -> tuple[NoiseMaps, float]:
    """The same states with the noise of the last step scaled down to this root mean square, and the share of it that is
    left."""
    last = states.noises[-1:]
    size = float(last.square().mean().sqrt())
    if size <= limit:
        return states, 1.0
    return replace(states, noises=torch.cat([states.noises[:-1], last * (limit / size)])), limit / size
