"""Inpainting: the inside of a mask is drawn anew with the target's words, from noise alone.

Networks that were made for it (Stable Diffusion's inpainting checkpoints, Rombach et al. 2022, section 4.5) read in
every step, beside the c latents, the mask m and the latents of the picture with grey in the mask:

    eps(z_t, t, text) = UNet([z_t, m, E(x ⊙ (1 − m))]),    2c + 1 channels in this order, m = 1 where it is repainted

Both rows of the guidance read the same channels. Nothing is put back while they draw: the network has learned to
continue the picture, and what its autoencoder loses outside is brought back by pasting (`wordbrush.pasting`).

Other networks, of c channels, are made to inpaint by blending, as diffusers does: after every step everything outside
of the mask is the picture's, noised with the run's own noise to the level that the step leads to, and after the last
one the picture itself. In the first steps these see of what is around the mask little but noise.

The mask is the user's; without one it is where the words of the change are (`masks.Changed`). An inpainting network
gives no maps of words, because it cannot draw a source: it needs a mask from a file, and an inversion that asks the
network nothing (`straight`). As in diffusers a mask is binary for the network, at half, and it reads the nearest pixel
of each latent; what comes back may differ in every latent that a free pixel is part of.
"""

import time
from collections.abc import Generator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.denoise import denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.inpainting.options import Options
from wordbrush.errors import ImageError, ModelError
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need, touched
from wordbrush.result import Report, Result
from wordbrush.sampling import initial_latents, watched
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.source import Source
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.0)


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model cannot read, `ModelError` for a
    model that reads other channels than a mask and a picture's."""
    if model.extra_channels not in (0, model.latent_channels + 1):
        c = model.latent_channels
        raise ModelError(
            f"expected a model whose UNet reads {c} channels, or {2 * c + 1} with a mask and a masked picture, got one "
            f"that reads {c + model.extra_channels}: it is for another method"
        )
    return request.alignments(model)


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises like `plan`, `ImageError` where an inpainting network gets no mask, `SourceError` if the source is another
    model's.
    """
    source = request.started(model)
    options: Options = request.options
    began = time.perf_counter()
    targets = plan(model, request)
    scale = source.text_scale(model) if options.guidance_scale is None else options.guidance_scale
    guidance, n = TextGuidance(scale), len(targets)
    trajectories, rows = source.trajectory.expand(n, -1, -1, -1, -1).to(model.device), 0
    if model.extra_channels and request.mask is None:
        raise ImageError(
            "expected a mask, as an inpainting model reads one, got none: give a picture that is white where it is to "
            "be drawn (mask)"
        )
    regions = torch.zeros(n, 1, *source.size(model))
    if options.start < 1:
        regions = yield from request.regions(model, source, targets, options.room)
    free = touched(regions, source).to(model.device)
    if free.any():
        schedule = source.schedule.late(options.start, training_alphas_cumprod(model.schedule_config))
        picture = source.z_0.to(model.device, model.latent_dtype)
        noise = initial_latents(model, options.redraw_seed, *source.size(model))
        # Noise alone from the beginning: what little of the picture the first level keeps says what was there.
        begin = noise if options.start == 0 else schedule.levels[0].mix(picture, noise)
        z = begin.expand(n, -1, -1, -1)
        known = [level.mix(picture, noise) for level in schedule.levels[:-1]] + [picture]
        channels = _channels(model, source, regions) if model.extra_channels else None
        null = source.null_off_path(model)
        conditions = {
            "text": Conditioning(model.encode_text(list(request.targets)), channels),
            "null": Conditioning(null.expand(n), channels),
        }
        loop = denoise(
            model,
            z,
            conditions,
            schedule,
            guidance,
            after_step=None if model.extra_channels else lambda i, z, _: torch.where(free, z, known[i + 1]),
        )
        states = yield from watched("editing", loop, model)
        trajectories = torch.stack([z, *states], dim=1)
        rows = n * len(guidance.branches(0.0)) * schedule.steps
    seconds = round(time.perf_counter() - began, 3)
    return [
        Result(
            alignment.target.prompt,
            Report(
                alignment.describe(),
                float(where.float().mean()),
                scale,
                rows,
                seconds,
                tuple(_notices(alignment, where, request)),
                {
                    "mask": "words" if request.mask is None else "given",
                    "by": "channels" if model.extra_channels else "blending",
                },
            ),
            source,
            trajectory,
            model,
            where,
        )
        for alignment, trajectory, where in zip(targets, trajectories, free[:, 0], strict=True)
    ]


def _channels(
    model: Model, source: Source, regions: Float[Tensor, "n 1 height width"]
) -> Float[Tensor, "n extra h w"]:
    """[m, E(x ⊙ (1 − m))]: what an inpainting network reads beside the latents."""
    height, width = source.size(model)
    x = source.decoded(model)[None] if source.picture is None else source.picture.seen(height, width)
    # The mask is the user's, one for all targets.
    m = (regions[:1] >= 0.5).to(x)
    masked = model.encode_image((x * (1 - m)).to(model.device))
    small = F.interpolate(m, size=source.latent_size, mode="nearest").to(masked)
    return torch.cat([small, masked], dim=1).expand(len(regions), -1, -1, -1)


def _notices(
    alignment: Alignment, where: Bool[Tensor, "h w"], request: EditRequest
) -> Generator[str, None, None]:
    """What a user should know of an edit in this mask."""
    options: Options = request.options
    if options.start == 1:
        yield UNCHANGED
    elif not where.any():
        yield "the captions say the same and there is no mask: nothing changes"
    yield from request.mask_notices(alignment, where)
