"""SINE (Zhang et al. 2023, "SINE: SINgle Image Editing with Text-to-Image Diffusion Models"), section 3.

A copy of the model learns the picture under the source's prompt. Two models guide then (section 3.2): with u what the
original says without text, c what it says of the target, and p what the copy says of the source's prompt,

    ε = u + w ((1 − v) c + v p − u)

in the first steps, which decide the layout, and ε = u + w (c − u) in the others. Both are the original's but for p, so
that the copy may know nothing but the picture.

With patches the copy learns from parts of the picture and from where they are (section 3.3), so that it does not learn
the layout by heart and can draw larger pictures than the model was made for. Where a part is, is said by Fourier
features of its corners; deviation from the paper: they are added to the text's embeddings, through a matrix that is
learned, and not to a layer of the network. The picture is drawn as the whole.

Other deviations: the source's own prompt stands for "picture of a sks <class>"; the run begins with the picture noised
to its first level; with a mask, what is outside of it is put back in every step.
"""

import time
from collections.abc import Generator

from wordbrush.editing import UNCHANGED, Dial
from wordbrush.editing.sine.options import MEASURED, PUBLISHED, Options
from wordbrush.guidance import SwitchedGuidance, TextGuidance, TwoModelGuidance
from wordbrush.model import Conditioning, Model
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import initial_latents, redrawn
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.training.one_picture import WHOLE, placed, tuned
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="start", source=1.0, full=0.0)


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model cannot read."""
    return request.alignments(model)


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Learn the source's picture once, and edit it into each of the target prompts; one result per target, in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's, `NumericsError` where a loss is no
    number, `OutputError` for a folder that cannot be written.
    """
    source, targets, began = request.started(model), plan(model, request), time.perf_counter()
    options: Options = filled(request.options, {**PUBLISHED, **MEASURED.get(model.name, {})})
    scale = source.text_scale(model) if options.guidance_scale is None else options.guidance_scale
    n, free = len(targets), request.free(source).to(model.device)
    trajectories, rows, share = source.trajectory.expand(n, -1, -1, -1, -1), 0, 0.0
    notices = [UNCHANGED]
    if options.start < 1:
        own, learned = yield from tuned(
            model,
            source,
            source.prompt,
            options,
            train_text_encoder=options.train_text_encoder,
            patches=options.patches,
        )
        known = own.encode_text([source.prompt])
        if (position := learned.tensors.get("position")) is not None:
            known = placed(known, [WHOLE], position)
        trajectories, rows = yield from redrawn(
            model,
            source,
            {
                "text": Conditioning(model.encode_text(list(request.targets))),
                "null": Conditioning(model.encode_text([""])),
                "picture": Conditioning(known),
            },
            source.schedule.late(options.start, training_alphas_cumprod(model.schedule_config)),
            SwitchedGuidance(
                TwoModelGuidance(scale, options.picture_weight), TextGuidance(scale), options.until
            ),
            noise=initial_latents(model, options.redraw_seed, *source.size(model)),
            free=free,
            targets=n,
            others={"picture": own},
        )
        rows, share, notices = rows + learned.rows, float(free.float().mean()), learned.notices
    seconds = round(time.perf_counter() - began, 3)
    return [
        Result(
            alignment.target.prompt,
            Report(alignment.describe(), share, scale, rows, seconds, tuple(notices)),
            source,
            trajectory,
            model,
            free[0, 0],
        )
        for alignment, trajectory in zip(targets, trajectories, strict=True)
    ]
