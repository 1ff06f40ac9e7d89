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

from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.sdedit.options import Options
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import initial_latents, redrawn
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.5)


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
    guidance = TextGuidance(scale)
    n, free = len(targets), request.free(source).to(model.device)
    clean = source.z_0.to(model.device, model.latent_dtype).expand(n, -1, -1, -1)
    trajectories, rows = source.trajectory.expand(n, -1, -1, -1, -1).to(clean), 0
    if options.start < 1:
        schedule = source.schedule.late(options.start, training_alphas_cumprod(model.schedule_config))
        null = source.null_off_path(model)
        conditions = {
            "text": Conditioning(model.encode_text(list(request.targets))),
            "null": Conditioning(null),
        }
        for repeat in range(options.repeats):
            noise = initial_latents(model, (options.redraw_seed + repeat) % 2**63, *source.size(model))
            trajectories, computed = yield from redrawn(
                model,
                source,
                conditions,
                schedule,
                guidance,
                noise=noise,
                free=free,
                targets=n,
                begin=clean,
            )
            clean, rows = trajectories[:, -1], rows + computed
    notices = () if rows else (UNCHANGED,)
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
