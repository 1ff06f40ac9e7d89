"""Imagic (Kawar et al. 2023, "Imagic: Text-Based Real Image Editing with Diffusion Models"), section 3.

Three steps, of which the first two learn and are done once for a picture and a target:

(A) the target's text embedding e_tgt becomes e_opt, under which the picture has the least loss
    L(x, e, θ) = E ‖ε − f_θ(x_t, t, e)‖² (eq. 2), in few steps, so that it stays near e_tgt;
(B) the network's weights θ learn the picture under e_opt, by the same loss;
(C) the edit is drawn under ē = η e_tgt + (1 − η) e_opt (eq. 3), by the network of (B).

The source's prompt is not read, and nothing is inverted. Deviations: v where the network predicts v; SDXL's pooled
embedding is learned and interpolated as well; the run begins with the picture noised to the schedule's first level,
which in Stable Diffusion is not pure noise; and with a mask, what is outside of it is put back in every step. The paper
also tunes its super-resolution models, which latent models do not have.
"""

import time
from collections.abc import Generator, Mapping

from torch import Tensor, nn

from wordbrush.editing import Dial
from wordbrush.editing.imagic.options import MEASURED, PUBLISHED, WHOLE, Options
from wordbrush.guidance import TextGuidance
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.request import EditRequest, Need
from wordbrush.result import Report, Result
from wordbrush.sampling import initial_latents, redrawn
from wordbrush.source import Source
from wordbrush.training.objective import losses
from wordbrush.training.one_picture import Kept, Learned, Learner, Views, fit_options, learned, tuned
from wordbrush.training.task import learned_in
from wordbrush.words import Alignment

NEEDS: frozenset[Need] = frozenset({"source"})

STRENGTH = Dial(option="interpolation", source=0.0, full=WHOLE)


def plan(model: Model, request: EditRequest) -> list[Alignment]:
    """The targets, read beside the source. Raises `PromptError` for what the model cannot read."""
    return request.alignments(model)


def edit(model: Model, request: EditRequest) -> Generator[Progress, None, list[Result]]:
    """Edit a source into each of the target prompts, for each of which the picture is learned; one result per target,
    in order.

    Raises `PromptError` like `plan`, `SourceError` if the source is another model's, `NumericsError` where a loss is no
    number, `OutputError` for a folder that cannot be written.
    """
    source, targets = request.started(model), plan(model, request)
    options: Options = filled(request.options, {**PUBLISHED, **MEASURED.get(model.name, {})})
    scale = source.text_scale(model) if options.guidance_scale is None else options.guidance_scale
    free = request.free(source).to(model.device)
    noise = initial_latents(model, options.redraw_seed, *source.size(model))
    results: list[Result] = []
    for alignment in targets:
        began, target = time.perf_counter(), alignment.target.prompt
        trajectory, rows, share, notices = source.trajectory, 0, 0.0, list[str]()
        if options.interpolation == 0:
            notices.append("the picture is the source: an interpolation of 0 asks for nothing of the target")
        else:
            asked = model.encode_text([target])
            optimised, embedding = yield from _optimised(model, source, asked, target, options)
            own, weights = yield from tuned(model, source, optimised, options, after=embedding.key or target)
            conditions = {
                "text": Conditioning(between(optimised, asked, options.interpolation)),
                "null": Conditioning(model.encode_text([""])),
            }
            guidance, schedule = TextGuidance(scale), source.schedule
            drawing = redrawn(own, source, conditions, schedule, guidance, noise=noise, free=free, targets=1)
            (trajectory,), drawn = yield from drawing
            rows = drawn + embedding.rows + weights.rows
            share, notices = float(free.float().mean()), [*embedding.notices, *weights.notices]
        seconds = round(time.perf_counter() - began, 3)
        report = Report(alignment.describe(), share, scale, rows, seconds, tuple(notices))
        results.append(Result(target, report, source, trajectory, model, free[0, 0]))
    return results


def between(optimised: TextEmbeds, target: TextEmbeds, interpolation: float) -> TextEmbeds:
    """ē = η e_tgt + (1 − η) e_opt (eq. 3)."""

    def mixed(own: Tensor, asked: Tensor) -> Tensor:
        return interpolation * asked + (1 - interpolation) * own

    pooled = target.pooled
    if pooled is not None and optimised.pooled is not None:
        pooled = mixed(optimised.pooled, pooled)
    return TextEmbeds(mixed(optimised.hidden, target.hidden), pooled, target.spots)


def _optimised(
    model: Model, source: Source, target: TextEmbeds, prompt: str, options: Options
) -> Generator[Progress, None, tuple[TextEmbeds, Learned]]:
    """e_opt: step (A)."""
    if options.embedding_steps == 0:
        return target, Learned({}, "")
    settings = fit_options(options, options.embedding_steps, options.embedding_rate)

    def embeds(tensors: Mapping[str, Tensor]) -> TextEmbeds:
        hidden, pooled = tensors["hidden"].to(target.hidden), tensors.get("pooled")
        return TextEmbeds(hidden, None if pooled is None else pooled.to(target.hidden), target.spots)

    def attach() -> Learner:
        parameters = {
            name: nn.Parameter(each.detach().to(learned_in(each), copy=True), requires_grad=False)
            for name, each in (("hidden", target.hidden), ("pooled", target.pooled))
            if each is not None
        }
        views = Views(model, source, settings.seed)

        def loss(number: int) -> tuple[Tensor, int]:
            batch, _ = views.batch(number, settings.batch_size)
            text = Conditioning(embeds(parameters).expand(settings.batch_size))
            return losses(model, batch, text).mean(), settings.batch_size

        def kept(found: Mapping[str, Tensor]) -> Kept:
            return dict(found)

        return Learner(parameters, loss, kept)

    stage, decided = "learning the text", {"text": prompt}
    found = yield from learned(model, source, stage, decided, settings, attach, options.tuned_in)
    return embeds(found.tensors), found
