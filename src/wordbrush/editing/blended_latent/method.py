"""Blended Latent Diffusion (Avrahami, Fried & Lischinski 2023, "Blended Latent Diffusion", algorithm 1).

The picture is noised to a level in the middle of a run and drawn from there with the target's words. After every step
everything outside of a mask is replaced by the picture's own latents, noised afresh to the level the step leads to:

    z_fg = denoise(z_t, target);    z_bg = signal · z_0 + sigma · ε_t;    z = z_fg ⊙ m + z_bg ⊙ (1 − m)

So the inside is drawn to fit to what is around it. The source's words are not read. A mask that is thin at the size of
the latents can be wider at first and shrink (section 4.3), because noise hides a thin thing before it is begun. What
the autoencoder loses outside is brought back by pasting (`wordbrush.pasting`, for every method), or by a decoder that
learns this picture (section 4.2, `reconstruction`).

The mask is the user's; without one it is where the words of the change are (`masks.Changed`).

Deviations. The steps are DDIM's and as many as the source has, spread over what is left of the run; the released code
takes the last ones of its own. That code, for Stable Diffusion, begins from noise alone (`begin_from`), puts back the
picture at the level before the step, so that its last paste still has noise (`paste_level`), and makes masks smaller by
the nearest pixel, which loses thin ones; here a latent is free that any free pixel is part of.
"""

import time
from collections.abc import Generator

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.denoise import denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.blended_latent.options import Options
from wordbrush.editing.blended_latent.reconstruction import reconstructed
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need, touched
from wordbrush.result import Report, Result
from wordbrush.sampling import watched
from wordbrush.schedule import Schedule, training_alphas_cumprod
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.5)

_THIN = 3
"""A mask that holds no square of so many latents is thin."""


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model cannot read."""
    return request.alignments(model)


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source = request.started(model)
    options: Options = request.options
    began = time.perf_counter()
    targets = plan(model, request)
    scale = source.text_scale(model) if options.guidance_scale is None else options.guidance_scale
    guidance, n = TextGuidance(scale), len(targets)
    trajectories, rows = source.trajectory.expand(n, -1, -1, -1, -1).to(model.device), 0
    regions = torch.zeros(n, 1, *source.size(model))
    if options.start < 1:
        regions = yield from request.regions(model, source, targets, options.room)
    free = touched(regions, source).to(model.device)
    if free.any():
        schedule = source.schedule.late(options.start, training_alphas_cumprod(model.schedule_config))
        picture = source.z_0.to(model.device, model.latent_dtype)
        blend = _Blend(picture, free, schedule, options)
        null = source.null_off_path(model)
        conditions = {
            "text": Conditioning(model.encode_text(list(request.targets))),
            "null": Conditioning(null),
        }
        loop = denoise(model, blend.begin, conditions, schedule, guidance, after_step=blend.after_step)
        states = yield from watched("editing", loop, model)
        trajectories = torch.stack([blend.begin, *states], dim=1)
        rows = n * len(guidance.branches(0.0)) * schedule.steps
    decoded: list[Tensor | None] = [None] * n
    if options.decoder_steps:
        height, width = source.size(model)
        own = source.decoded(model)[None] if source.picture is None else source.picture.seen(height, width)
        for k in range(n):
            if free[k].any() and bool((regions[k] <= 0.5).any()):
                decoded[k] = yield from reconstructed(
                    model, trajectories[k, -1:], own, regions[k : k + 1], options
                )
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
                {"mask": "words" if request.mask is None else "given"},
            ),
            source,
            trajectory,
            model,
            where,
            decoded=own_rendering,
        )
        for alignment, trajectory, where, own_rendering in zip(
            targets, trajectories, free[:, 0], decoded, strict=True
        )
    ]


def _notices(
    alignment: Alignment, where: Bool[Tensor, "h w"], request: EditRequest
) -> Generator[str, None, None]:
    """What a user should know of an edit in this mask."""
    options: Options = request.options
    if options.start == 1:
        yield UNCHANGED
    elif not where.any():
        yield "the captions say the same and there is no mask: nothing changes"
    elif options.shrink == 0 and not (-F.max_pool2d(-where[None].float(), _THIN, 1)).any():
        yield (
            f"the mask is thin, nowhere {_THIN} latents wide: if nothing appears in it, let it be wider at first "
            "(shrink 3), or begin earlier (start 0)"
        )
    yield from request.mask_notices(alignment, where)
    given = options.model_fields_set
    if options.decoder_steps == 0 and (idle := sorted(given & {"decoder_rate", "preservation_ratio"})):
        yield f"{' and '.join(idle)} without effect: the decoder learns only with decoder_steps"
    if options.decoder_steps and bool(where.all()):
        yield "decoder_steps has no effect: nothing is outside of the mask"


class _Blend:
    """The picture outside of the mask, noised to the level of each step.

    begin: what the run begins from.
    """

    def __init__(
        self,
        picture: Float[Tensor, "1 c h w"],
        free: Bool[Tensor, "n 1 h w"],
        schedule: Schedule,
        options: Options,
    ) -> None:
        self._picture, self._levels, self._options = picture, schedule.levels, options
        self._free, self._steps = free, schedule.steps
        # Drawn on the CPU, so that a seed means the same noise on every device; one draw for all targets.
        self._random = torch.Generator().manual_seed(options.redraw_seed)
        noise = self._fresh()
        first = noise if options.begin_from == "noise" else schedule.levels[0].mix(picture, noise)
        self.begin = first.expand(len(free), -1, -1, -1)

    def after_step(
        self, i: int, z: Float[Tensor, "n c h w"], _: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """z_fg ⊙ m + z_bg ⊙ (1 − m)."""
        noise, is_next = self._fresh(), self._options.paste_level == "next"
        level = self._levels[i + 1 if is_next else i]
        is_clean = is_next and i + 1 == self._steps  # whatever noise the schedule leaves there
        return torch.where(self._mask(i), z, self._picture if is_clean else level.mix(self._picture, noise))

    def _fresh(self) -> Float[Tensor, "1 c h w"]:
        return torch.randn(self._picture.shape, generator=self._random).to(self._picture)

    def _mask(self, i: int) -> Bool[Tensor, "n 1 h w"]:
        """The mask in step i: wider by `shrink` latents at first, by one less in each of the equal parts of the run
        that follow, and itself in the last."""
        wider = self._options.shrink - i * (self._options.shrink + 1) // self._steps
        if wider == 0:
            return self._free
        return F.max_pool2d(self._free.float(), 2 * wider + 1, stride=1, padding=wider) > 0
