"""SDEdit (Meng et al. 2022, "SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations").

The picture is noised to a level in the middle of a run, z = signal · z_0 + sigma · ε, and drawn from there with the
target's words (algorithm 1, in latents). Noise hides what is fine before it hides what is coarse: the level decides how
much of the picture stays, and nothing else does. There is no inversion and the source's words are not read, so nothing
tells what shall change from what shall not. It is the baseline that every edit has to be better than.

Outside of a mask the picture is put back in every step, noised with the same ε. The paper runs the reverse equation
with fresh noise in every step; here the steps are DDIM's, as in Stable Diffusion's image-to-image.
"""

import time
from collections.abc import Generator

import torch

from wordbrush.denoise import denoise
from wordbrush.editing import Dial
from wordbrush.editing.sdedit.options import Options
from wordbrush.errors import PromptError
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import initial_latents, watched
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.words import Alignment, align

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.5)


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model cannot read."""
    if not request.targets or request.prompt is None:
        raise PromptError("expected the source's prompt and at least one target prompt, got none")
    source = model.read(request.prompt)
    return [align(source, model.read(target)) for target in request.targets]


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's.
    """
    source = request.started(model)
    options: Options = request.options
    began = time.perf_counter()
    targets = plan(model, request)
    scale = source.text_scale(model) if options.guidance_scale is None else options.guidance_scale
    guidance = TextGuidance(scale)
    n, free = len(targets), request.free(source).to(model.device)
    picture = source.z_0.to(model.device, model.latent_dtype)
    clean = picture.expand(n, -1, -1, -1)
    trajectories, rows = source.trajectory.expand(n, -1, -1, -1, -1).to(clean), 0
    if options.start < 1:
        schedule = source.schedule.late(options.start, training_alphas_cumprod(model.schedule_config))
        # Null embeddings of each step were found for an inversion's path, which this is not.
        null = source.null if len(source.null) == 1 else model.encode_text([""])
        conditions = {
            "text": Conditioning(model.encode_text(list(request.targets))),
            "null": Conditioning(null),
        }
        for repeat in range(options.repeats):
            noise = initial_latents(model, (options.redraw_seed + repeat) % 2**63, *source.size(model))
            known = [level.mix(picture, noise) for level in schedule.levels[:-1]] + [picture]
            z = schedule.levels[0].mix(clean, noise.expand_as(clean))
            loop = denoise(
                model,
                z,
                conditions,
                schedule,
                guidance,
                after_step=lambda i, z, _, known=known: torch.where(free, z, known[i + 1]),
            )
            states = yield from watched("editing", loop, model)
            trajectories, clean = torch.stack([z, *states], dim=1), states[-1]
        rows = n * len(guidance.branches(0.0)) * source.steps * options.repeats
    notices = () if rows else ("the picture is the source: an edit of strength 0 (start 1) changes nothing",)
    seconds = round(time.perf_counter() - began, 3)
    share = float(free.float().mean()) if rows else 0.0
    return [
        Result(
            alignment.target.prompt,
            Report(alignment.describe(), share, scale, rows, seconds, notices),
            source,
            trajectory,
            model,
            free[0, 0],
        )
        for alignment, trajectory in zip(targets, trajectories, strict=True)
    ]
