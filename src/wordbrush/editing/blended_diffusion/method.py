"""Blended Diffusion (Avrahami, Lischinski & Fried 2022, "Blended Diffusion for Text-driven Editing of Natural Images",
algorithm 2).

The network draws without text, and a CLIP says what: in each step the clean picture that is predicted is masked, shown
to CLIP in N random views, and the gradient of their mean distance to the target's words moves the step's mean,

    D_CLIP = 1/N Σ_i (1 − cos(CLIP(T_i(x̂_0 ⊙ m)), CLIP(d)))                              (eq. 3, section 4.3)
    z_fg ~ N(μ − Σ ∇_z (λ D_CLIP + λ_r range), Σ),    z_bg ~ N(signal · z_0, sigma² I),
    z ← z_fg ⊙ m + z_bg ⊙ (1 − m)                                                        (section 4.2)

The views are what keeps the gradient from being an adversarial example (section 4.3). Several samples are drawn; kept
is that one which CLIP finds nearest to the words (section 4.4). Without blending, and with a weight on the background's
difference, it is the paper's local CLIP-guided diffusion (algorithm 1).

The mask is the user's; without one it is where the words of the change are (`masks.Changed`).

Deviations. The paper's network draws pixels and has never seen a caption. Here it draws latents, with the empty prompt;
the clean latents are decoded for CLIP, and the gradient goes through the decoder. The steps have the smaller of DDPM's
two variances, where that network had learned one. The background's difference is of pixels alone, without LPIPS. The
released code shows CLIP a mix of clean and noisy picture, and measures the angle in place of the cosine.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.backbones import Clip
from wordbrush.clip_guidance import Views, cosine_distance, guide, looked_at, whole
from wordbrush.denoise import check_finite, denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.blended_diffusion.options import MEASURED, PUBLISHED, Options
from wordbrush.fit import generator
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need, touched
from wordbrush.result import Report, Result
from wordbrush.sampling import at_levels, initial_latents, watched
from wordbrush.schedule import Level, Prediction, Schedule, spread
from wordbrush.source import Source
from wordbrush.states import Predict
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.25)

VIEWS = Views(smallest=0.8, shift=0.1, turn=10.0, tilt=0.2)
"""How the views differ: the paper's projective transformations."""
_HALF = 2.0**12
"""What a loss is multiplied by in half precision, so that its gradient is not too small."""


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model cannot read, `ModelError` for a CLIP
    that is not there."""
    options: Options = request.options
    alignments = request.alignments(model)
    guide(model, options.guide_clip).texts(request.targets)
    return alignments


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` and `ModelError` like `plan`, `SourceError` if the source is another model's, `NumericsError`
    for a gradient that is no number.
    """
    source = request.started(model)
    began = time.perf_counter()
    targets = plan(model, request)
    options: Options = filled(request.options, {**PUBLISHED, **MEASURED.get(model.name, {})})
    clip, n = guide(model, options.guide_clip), len(targets)
    picture, rows = source.z_0.to(model.device, model.latent_dtype), 0
    made = picture.expand(n, -1, -1, -1)
    regions = torch.zeros(n, 1, *source.size(model))
    if options.start < 1:
        regions = yield from request.regions(model, source, targets, options.room)
    free = touched(regions, source).to(model.device)
    if free.any():
        words = clip.texts(request.targets).to(model.device)
        run = _Run(model, source, options, clip, words, regions.to(model.device), free)
        made, rows = yield from run.best()
    noise = initial_latents(model, options.redraw_seed, *source.size(model))
    seconds = round(time.perf_counter() - began, 3)
    return [
        Result(
            alignment.target.prompt,
            Report(
                alignment.describe(),
                float(where.float().mean()),
                1.0,
                rows,
                seconds,
                tuple(_notices(alignment, where, request)),
                {"clip": clip.name, "mask": "words" if request.mask is None else "given"},
            ),
            source,
            trajectory,
            model,
            where,
        )
        for alignment, trajectory, where in zip(
            targets, at_levels(source, made, noise), free[:, 0], strict=True
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
    yield from request.mask_notices(alignment, where)


@dataclass(eq=False)
class _Run:
    """The targets of one batch. words: the targets, by CLIP. regions: where each may change, in pixels; free: in
    latents."""

    model: Model
    source: Source
    options: Options
    clip: Clip
    words: Float[Tensor, "n d"]
    regions: Float[Tensor, "n 1 height width"]
    free: Bool[Tensor, "n 1 h w"]
    _fresh: torch.Generator = field(init=False)
    _views: torch.Generator = field(init=False)

    def best(self) -> Generator[Progress, None, tuple[Float[Tensor, "n c h w"], int]]:
        """The latents of each target's best sample, and the rows that the UNet computed."""
        model, n = self.model, len(self.words)
        assert self.options.samples is not None and self.options.guided_steps is not None
        schedule = model.schedule(self.options.guided_steps).rest(self.options.start)
        picture = self.source.z_0.to(model.device, model.latent_dtype)
        nothing = Conditioning(model.encode_text([""]))
        kept, least, rows = picture.expand(n, -1, -1, -1), torch.full((n,), float("inf")), 0
        for sample in range(self.options.samples):
            # Drawn on the CPU, and one draw for all targets: what comes does not depend on the batch.
            self._fresh = generator(self.options.redraw_seed, "noise", sample)
            self._views = generator(self.options.redraw_seed, "views", sample)
            z = schedule.levels[0].mix(picture, self._noise()).expand(n, -1, -1, -1)

            def blended(i: int, z: Tensor, _: Tensor) -> Tensor:
                return self._blended(schedule, picture, i, z)

            loop = denoise(
                model,
                z,
                {"text": nothing},
                schedule,
                TextGuidance(1.0),
                after_step=blended,
                walk=self._step,
            )
            watching = watched("editing", loop, model, done=sample, of=self.options.samples)
            while True:
                try:
                    progress = next(watching)
                except StopIteration as end:
                    z = end.value[-1]
                    break
                rows += progress.rows
                yield replace(progress, gradient_rows=progress.rows)
            with torch.no_grad():
                distance = self._from_words(model.decode(z), 0).cpu()
            is_nearer = distance < least
            kept = torch.where(is_nearer.to(z.device)[:, None, None, None], z, kept)
            least = torch.minimum(distance, least)
        return kept, rows

    def _step(
        self, i: int, here: Level, to: Level, z: Float[Tensor, "n c h w"], predict: Predict
    ) -> tuple[Float[Tensor, "n c h w"], Prediction]:
        """z_fg: a step of DDPM whose mean is moved."""
        gain = _HALF if self.model.dtype == torch.float16 else 1.0
        with torch.enable_grad():
            own = z.detach().clone().requires_grad_()
            predicted = predict(own, None)
            loss = self._loss(self.model.autoencoder.decode(predicted.clean, gradients=True))
            (gradient,) = torch.autograd.grad(gain * loss, own)
        check_finite(gradient, f"CLIP's gradient of step {i + 1}")
        predicted = Prediction(predicted.clean.detach(), predicted.noise.detach())
        deviation = spread(here, to, 1.0)
        moved = predicted.mean(here, to, 1.0) - deviation**2 / gain * gradient
        return moved + deviation * self._noise(), predicted

    def _loss(self, pictures: Float[Tensor, "n 3 height width"]) -> Tensor:
        """λ D_CLIP + λ_r range + λ_bg D_bg, of all targets together, each of which sees its own gradient."""
        options = self.options
        assert options.clip_weight is not None
        loss = options.clip_weight * self._from_words(pictures, options.augmentations).sum()
        beyond = (pictures - pictures.clamp(-1, 1)).square().mean((1, 2, 3))
        loss = loss + options.range_weight * beyond.sum()
        if options.background_weight:
            own = self.source.decoded(self.model).to(pictures)
            outside = ((pictures - own) * (1 - self.regions)).square().mean((1, 2, 3))
            loss = loss + options.background_weight * outside.sum()
        return loss

    def _from_words(self, pictures: Float[Tensor, "n 3 height width"], views: int) -> Float[Tensor, " n"]:
        """D_CLIP of each picture inside of its mask, over so many views; 0: as it is."""
        inside = pictures * self.regions
        size, (height, width) = self.clip.size, inside.shape[-2:]
        if views == 0:
            return cosine_distance(self.clip.seen(whole(inside, size))[0], self.words)
        grids = VIEWS.grids(views, (height, width), (size, size), self._views)
        looks, _ = self.clip.seen(looked_at(inside, grids))
        return cosine_distance(looks, self.words.repeat_interleave(views, 0)).view(-1, views).mean(1)

    def _blended(
        self, schedule: Schedule, picture: Float[Tensor, "1 c h w"], i: int, z: Float[Tensor, "n c h w"]
    ) -> Float[Tensor, "n c h w"]:
        """z_fg ⊙ m + z_bg ⊙ (1 − m)."""
        if not self.options.blend:
            return z
        is_clean = i + 1 == schedule.steps  # whatever noise the schedule leaves there
        behind = picture if is_clean else schedule.levels[i + 1].mix(picture, self._noise())
        return torch.where(self.free, z, behind)

    def _noise(self) -> Float[Tensor, "1 c h w"]:
        like = self.source.z_0
        return torch.randn(like.shape, generator=self._fresh).to(self.model.device, self.model.latent_dtype)
