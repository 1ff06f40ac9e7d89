"""VQGAN+CLIP (Crowson et al. 2022, "VQGAN-CLIP: Open Domain Image Generation and Editing with Natural Language
Guidance").

An autoencoder's latents begin as the picture's own, and Adam moves them until CLIP finds the words in what they decode
to:

    min_z 1/N Σ_i 2 arcsin²(‖CLIP(T_i(D(z))) − CLIP(words)‖ / 2) + w/2 mean (z − z_0)²     (sections 3.1 and 3.2)

T_i are N cutouts: random parts of the picture, turned and tilted, with a little noise. No diffusion network is read,
nor are the source's words. Nothing but w holds the picture, and w is 0 by default.

Deviations. The decoder is the model's, of continuous latents: there is no codebook that they could be rounded to, and
no range of its entries. The cutouts are not recoloured and nothing is erased from them. With a mask the latents outside
of it stay; the released command line has no mask.
"""

import hashlib
import time
from collections.abc import Generator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from wordbrush.backbones import Clip
from wordbrush.clip_guidance import Views, guide, looked_at, spherical_distance
from wordbrush.editing import Dial
from wordbrush.editing.vqgan_clip.options import MEASURED, PUBLISHED, Options
from wordbrush.fit import generator
from wordbrush.model import Model
from wordbrush.options import FitOptions, filled, parse
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import at_levels, initial_latents
from wordbrush.source import Source
from wordbrush.training.one_picture import Kept, Learned, Learner, learned
from wordbrush.training.task import learned_in
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="latent_share", source=0.0, full=1.0)

_CHECKPOINT_EVERY = 50


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model or CLIP cannot read, `ModelError`
    for a CLIP that is not there."""
    options: Options = request.options
    alignments = request.alignments(model)
    guide(model, options.guide_clip).texts(request.targets)
    return alignments


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts, one after another; one result per target, in order.

    Raises `PromptError` and `ModelError` like `plan`, `SourceError` if the source is another model's, `NumericsError`
    where a loss is no number, `OutputError` for a folder that cannot be written.
    """
    source, targets = request.started(model), plan(model, request)
    options: Options = filled(request.options, {**PUBLISHED, **MEASURED.get(model.name, {})})
    clip = guide(model, options.guide_clip)
    free = request.free(source).to(model.device)
    noise = initial_latents(model, options.tuning_seed, *source.size(model))
    own = source.encoded(model).to(model.device, model.latent_dtype)
    results: list[Result] = []
    for alignment in targets:
        began, target = time.perf_counter(), alignment.target.prompt
        z, notices = own, list[str]()
        if options.latent_share == 0:
            notices.append("the picture is the source: a latent share of 0 changes nothing")
        else:
            found = yield from _optimised(model, source, clip, target, free, options)
            z = own + options.latent_share * (found.tensors["z"].to(own) - own)
            notices += found.notices
        seconds = round(time.perf_counter() - began, 3)
        share = float(free.float().mean()) if options.latent_share else 0.0
        details = {"clip": clip.name}
        report = Report(alignment.describe(), share, 1.0, 0, seconds, tuple(notices), details)
        (trajectory,) = at_levels(source, z, noise)
        results.append(Result(target, report, source, trajectory, model, free[0, 0]))
    return results


def _optimised(
    model: Model, source: Source, clip: Clip, target: str, free: Bool[Tensor, "1 1 h w"], options: Options
) -> Generator[Progress, None, Learned]:
    """The latents in which CLIP finds the words."""
    told = {
        "steps": options.latent_steps,
        "learning_rate": options.latent_rate,
        "batch_size": options.cutouts,
        "seed": options.tuning_seed,
        "weight_decay": 0.0,
        "max_norm": None,
        "checkpoint_every": _CHECKPOINT_EVERY,
    }
    settings = parse(FitOptions, told)
    decided: dict[str, Any] = {
        "target": target,
        "clip": clip.hash,
        "free": hashlib.sha256(free.cpu().numpy().tobytes()).hexdigest(),
        **{name: getattr(options, name) for name in ("smallest_cutout", "cutout_noise", "init_weight")},
    }

    def attach() -> Learner:
        words = clip.texts([target]).to(model.device)
        own = source.encoded(model).to(model.device)
        own = own.to(learned_in(own))
        z = nn.Parameter(own.clone(), requires_grad=False)

        def loss(number: int) -> tuple[Tensor, int]:
            now = torch.where(free, z, own)
            picture = model.autoencoder.decode(now.to(model.latent_dtype), gradients=True)
            value = from_words(clip, picture, words, settings.batch_size, options, number).mean()
            if options.init_weight:
                value = value + options.init_weight / 2 * F.mse_loss(now, own)
            return value, 0  # no row of the UNet

        def kept(found: Mapping[str, Tensor]) -> Kept:
            return {"z": torch.where(free, found["z"], own)}

        return Learner({"z": z}, loss, kept)

    return (yield from learned(model, source, "optimising", decided, settings, attach, options.tuned_in))


def from_words(
    clip: Clip,
    picture: Float[Tensor, "1 3 height width"],
    words: Float[Tensor, "1 d"],
    cutouts: int,
    options: Options,
    number: int,
) -> Float[Tensor, " cutouts"]:
    """How far each cutout of the picture is from the words, in the step of this number."""
    random = generator(options.tuning_seed, "cutouts", number)
    height, width = picture.shape[-2:]
    views = Views(smallest=options.smallest_cutout, shift=0.1, turn=15.0, tilt=0.3)
    grids = views.grids(cutouts, (height, width), (clip.size, clip.size), random)
    seen = looked_at(picture, grids)
    if options.cutout_noise:
        strength = options.cutout_noise * torch.rand(cutouts, 1, 1, 1, generator=random)
        seen = seen + (strength * torch.randn(seen.shape, generator=random)).to(seen)
    return spherical_distance(clip.seen(seen)[0], words.expand(cutouts, -1))
