"""The same noise with other words: what comes of the source's z_T when the target's words are drawn from it.

The baseline of the papers' tables and first figures ("fixed seed"; Hertz et al. 2022, section 1): with one seed, a
change of a single word gives another picture. Everything of the source's run is kept but its words: z_T, the schedule,
the null embeddings, and whatever else its states keep from step to step (the noise of each step of edit-friendly DDPM,
EDICT's second latents). With the source's own words and guidance it leads back to the source as far as the inversion
does. The source's words are not read, no attention is edited, and its row is not computed.

`start` is ours, so that there is something between the source and the whole edit: the target's words take over at the
source's own state in the middle of its run. Outside of a mask the source is put back after every step.
"""

import time
from collections.abc import Generator

import torch

from wordbrush.denoise import denoise
from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.fixed_seed.options import Options
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import watched
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.0)


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
    free = request.free(source).to(model.device)
    trajectories, rows = source.trajectory.expand(n, -1, -1, -1, -1).to(model.device), 0
    if options.start < 1:
        source = source.late(options.start, model)
        states = source.states
        z = states.at(0).to(model.device).expand(n, -1, -1, -1)
        conditions = {
            "text": Conditioning(model.encode_text(list(request.targets))),
            "null": source.unconditional(),
        }
        loop = denoise(
            model,
            z,
            conditions,
            source.schedule,
            guidance,
            source=source.row(model),  # its states take the steps; no step asks for its row
            after_step=lambda i, z, _: torch.where(free, z, states.at(i + 1).to(z)),
        )
        found = yield from watched("editing", loop, model)
        trajectories = torch.stack([z, *found], dim=1)
        rows = n * len(guidance.branches(0.0)) * source.steps * states.predictions
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
