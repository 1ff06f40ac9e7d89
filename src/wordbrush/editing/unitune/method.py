"""UniTune (Valevski et al. 2023, "UniTune: Text-Driven Image Editing by Fine Tuning a Diffusion Model on a Single
Image"), section 3.

The network learns the picture under rare words that say nothing of it, in few steps. An edit is drawn under these words
and the target's behind them, "[rare words] a dog on a beach", with more guidance than usual: the words before bring the
picture, and guidance is what makes the others be heard beside it. The run begins with noise; or, where details have to
stay, with the picture noised to a later level, as in SDEdit.

The paper's network is Imagen, with guidance of 32 and thresholds on pixels in each step, which latents do not have; it
also tunes a super-resolution model. No code was released. Here the run's first level is the picture noised to it, and
with a mask, what is outside of it is put back in every step.
"""

import time
from collections.abc import Generator
from dataclasses import dataclass

from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.unitune.options import MEASURED, PUBLISHED, Options
from wordbrush.errors import PromptError
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import initial_latents, redrawn
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.training.one_picture import tuned
from wordbrush.training.rare_tokens import drawn
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.0)

_RARE = 3  # words that the picture is learned as, where the user names none


@dataclass(frozen=True, eq=False)
class Plan:
    """The targets, read beside the source; the rare words; and what is drawn: both."""

    alignments: list[Alignment]
    rare: str
    prompts: list[str]


def plan(model: Model, request: EditRequest) -> Plan:
    """The rare words, and the targets behind them. Raises `PromptError` for what the model cannot read."""
    options: Options = request.options
    alignments = request.alignments(model)
    rare = options.rare_words or " ".join(each.text for each in drawn(model, _RARE))
    if not rare:
        raise PromptError(
            f"expected rare words of {model.name} to learn the picture as, got none: name some (rare_words)"
        )
    prompts = [f"{rare} {target}" for target in request.targets]
    for prompt in (rare, *prompts):
        model.read(prompt)
    return Plan(alignments, rare, prompts)


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Learn the source's picture once, and edit it into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's, `NumericsError` where a loss is no
    number, `OutputError` for a folder that cannot be written.
    """
    source, planned, began = request.started(model), plan(model, request), time.perf_counter()
    options: Options = filled(request.options, {**PUBLISHED, **MEASURED.get(model.name, {})})
    scale = source.text_scale(model) if options.guidance_scale is None else options.guidance_scale
    n, free = len(planned.prompts), request.free(source).to(model.device)
    trajectories, rows, share = source.trajectory.expand(n, -1, -1, -1, -1), 0, 0.0
    notices = [UNCHANGED]
    if options.start < 1:
        own, learned = yield from tuned(model, source, planned.rare, options)
        trajectories, rows = yield from redrawn(
            own,
            source,
            {
                "text": Conditioning(model.encode_text(planned.prompts)),
                "null": Conditioning(model.encode_text([""])),
            },
            source.schedule.late(options.start, training_alphas_cumprod(model.schedule_config)),
            TextGuidance(scale),
            noise=initial_latents(model, options.redraw_seed, *source.size(model)),
            free=free,
            targets=n,
        )
        rows, share, notices = rows + learned.rows, float(free.float().mean()), list(learned.notices)
    seconds = round(time.perf_counter() - began, 3)
    return [
        Result(
            alignment.target.prompt,
            Report(alignment.describe(), share, scale, rows, seconds, tuple(notices), {"rare": planned.rare}),
            source,
            trajectory,
            model,
            free[0, 0],
        )
        for alignment, trajectory in zip(planned.alignments, trajectories, strict=True)
    ]
