"""DiffEdit (Couairon et al. 2023, "DiffEdit: Diffusion-based Semantic Image Editing with Mask Guidance").

1. The mask (section 3.2, step 1). The picture is noised to half of the run, z = signal · z_0 + sigma · ε, and the noise
   is predicted twice, with the target's caption and with a reference, the source's caption. Where the two predictions
   differ the captions disagree of the picture:

       d = mean over draws of ε and over channels of |ε̂(z, target) − ε̂(z, reference)|
       m = min(d, 3 · mean(d)), divided by its maximum;    mask = m > 0.5

2. The picture is encoded to a level in the run by DDIM's steps upwards, without any text (step 2).
3. It is drawn from there with the target's caption, and after each step the encoded latents are put back outside of the
   mask (step 3, eq. 5): z ← mask · z + (1 − mask) · z_source.

Guidance scales the difference of step 1 by one factor, which the division takes out again: there is none in it. So of
an inversion nothing is read but its picture, unless `encoding` says that the source's own states are followed.
Deviations: the released ports divide by 3 · mean(d) even where nothing reaches that, and then a change of the whole
picture has an empty mask; and such a change has a lower threshold here, unless one is given.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from wordbrush.changes import read
from wordbrush.denoise import denoise, noise_up
from wordbrush.editing import Dial
from wordbrush.editing.diffedit.options import Options
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.rows import Rows
from wordbrush.sampling import watched
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.source import Source
from wordbrush.states import Trajectory
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.2)

_OF_THINGS, _OF_ALL = 0.5, 0.1
"""The threshold for changes of things, the paper's, and of the whole picture (`docs/methods/diffedit.md`)."""

_UNCHANGED = "the picture is the source: "


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
    n, free = len(targets), request.free(source).to(model.device)
    if options.start == 1:
        trajectories = source.trajectory.expand(n, -1, -1, -1, -1).to(model.device)
        found, rows = _Found(torch.zeros(n, 1, *source.latent_size, dtype=torch.bool)), 0
    else:
        found = _Found(free.expand(n, -1, -1, -1))
        if options.own_mask:
            found = yield from _masks(model, source, targets, options, free)
        rows = found.rows
        if options.encoding == "source":
            source = source.late(options.start, model)
        else:
            source = yield from _encoded(model, source, options.start)
            rows += source.steps
        guidance, mask, states = TextGuidance(scale), found.mask, source.states
        layout = Rows(n, guidance.branches(0.0))
        z = source.z_T.to(model.device).expand(n, -1, -1, -1)
        loop = denoise(
            model,
            z,
            {
                "text": Conditioning(model.encode_text(list(request.targets))),
                "null": source.unconditional(),
            },
            source.schedule,
            guidance,
            rows=lambda _: layout,
            source=source.row(model),
            after_step=lambda i, z, _: torch.where(mask, z, states.at(i + 1).to(z)),
        )
        steps = yield from watched("editing", loop, model)
        trajectories = torch.stack([z, *steps], dim=1)
        rows += layout.count * source.steps * states.predictions
    seconds = round(time.perf_counter() - began, 3)
    results: list[Result] = []
    for i, (alignment, trajectory) in enumerate(zip(targets, trajectories, strict=True)):
        mask = found.mask[i, 0]
        maps = {} if found.difference is None else {"the difference": found.difference[i, 0]}
        notices = _notices(options, bool(mask.any()), request.mask is not None)
        share = float(mask.float().mean())
        details = {"difference_threshold": _threshold(alignment, options)} if maps else {}
        report = Report(alignment.describe(), share, scale, rows, seconds, notices, details)
        results.append(Result(alignment.target.prompt, report, source, trajectory, model, mask, maps=maps))
    return results


@dataclass(frozen=True, eq=False)
class _Found:
    """The mask of each target, inside of the user's; the rescaled difference that it is from; the rows it cost."""

    mask: Bool[Tensor, "targets 1 h w"]
    difference: Float[Tensor, "targets 1 h w"] | None = None
    rows: int = 0


@torch.no_grad()
def _masks(
    model: Model, source: Source, targets: list[Alignment], options: Options, free: Bool[Tensor, "1 1 h w"]
) -> Generator[Progress, None, _Found]:
    """Step 1: where the captions disagree of the picture, for each target."""
    schedule = source.schedule.late(1 - options.mask_noise, training_alphas_cumprod(model.schedule_config))
    here, z_0 = schedule.levels[0], source.z_0.to(model.device, model.latent_dtype)
    reference = source.prompt if options.mask_reference == "source" else ""
    prompts = [alignment.target.prompt for alignment in targets]
    text = Conditioning(model.encode_text([reference, *prompts]))
    generator = torch.Generator().manual_seed(options.mask_seed)
    total = torch.zeros(len(targets), 1, *source.latent_size, device=model.device)
    for draw in range(options.mask_draws):
        noise = torch.randn(z_0.shape, generator=generator).to(z_0)
        # One noise for all captions: only they differ.
        z = here.mix(z_0, noise).expand(len(text), -1, -1, -1)
        said = model.predict(z, here, text).noise
        total += (said[1:] - said[:1]).abs().mean(1, keepdim=True)
        yield Progress("finding the mask", draw + 1, options.mask_draws, rows=len(text))
    difference = rescaled(total / options.mask_draws, options.mask_clamp)
    least = torch.tensor([_threshold(each, options) for each in targets]).view(-1, 1, 1, 1).to(difference)
    mask = grown(difference > least, options.mask_grow) & free
    return _Found(mask, difference, len(text) * options.mask_draws)


def _threshold(alignment: Alignment, options: Options) -> float:
    """The share of the largest difference from which on something counts as changed. Of a change of the whole picture
    the differences are everywhere, and alike."""
    if options.difference_threshold is not None:
        return options.difference_threshold
    return _OF_THINGS if read(alignment).is_local else _OF_ALL


def rescaled(difference: Float[Tensor, "n 1 h w"], clamp: float) -> Float[Tensor, "n 1 h w"]:
    """Each map in [0, 1], after what is above `clamp` times its mean was cut off; zeros stay zeros."""
    dims = (1, 2, 3)
    cut = torch.minimum(difference, clamp * difference.mean(dims, keepdim=True))
    return cut / cut.amax(dims, keepdim=True).clamp(min=torch.finfo(cut.dtype).tiny)


def grown(mask: Bool[Tensor, "n 1 h w"], by: int) -> Bool[Tensor, "n 1 h w"]:
    """The masks with so many latent pixels more on every side."""
    return F.max_pool2d(mask.float(), 2 * by + 1, stride=1, padding=by) > 0


def _encoded(model: Model, source: Source, start: float) -> Generator[Progress, None, Source]:
    """Step 2 as in the paper: the picture encoded without text, to the level where an edit begins."""
    schedule = source.schedule.late(start, training_alphas_cumprod(model.schedule_config))
    # Null embeddings of each step were found for the inversion's path, which this is not.
    null = source.null_off_path(model)
    nothing = Conditioning(model.encode_text([""]))
    z_0 = source.z_0.to(model.device, model.latent_dtype)
    path = yield from watched("encoding", noise_up(model, z_0, nothing, schedule), model)
    states = Trajectory(torch.cat([*reversed(path), z_0]))
    return replace(source, schedule=schedule, states=states, null=null, recording=None)


def _notices(options: Options, is_changed: bool, is_limited: bool) -> tuple[str, ...]:
    """Why nothing was changed, where nothing was."""
    if options.start == 1:
        return (f"{_UNCHANGED}an edit of strength 0 (start 1) changes nothing",)
    if is_changed:
        return ()
    if is_limited:
        return (
            f"{_UNCHANGED}the words change nothing inside of the mask: give a larger one, or edit all of it with "
            "own_mask false",
        )
    return (f"{_UNCHANGED}both captions say the same of it: the mask is empty",)
