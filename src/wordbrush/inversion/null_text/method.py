"""Null-text inversion (Mokady et al. 2023, "Null-text Inversion for Editing Real Images using Guided Diffusion Models",
algorithm 1).

The picture is walked up by unguided DDIM inversion (the pivots z*_t). Walking down again with guidance, the null
embedding of each step is optimised so that the step lands on the next pivot (eq. 4); prompt and weights stay as they
are. The embeddings make a faithful source at the full guidance scale, for any number of edits.

Two optimisers. `adam` is the released one: the conditional eps is computed once per step, each step starts from the
embedding of the one before, with a fresh Adam whose rate falls as 1 − i/2n and whose early stop grows with i. The
released rate, 1 − i/100, is the same at its 50 steps and would turn negative beyond 100. `gauss-newton` (ours) reaches
the same for a fraction of its rows: see `gauss_newton`.

What the paper compares with is here, too: see `ablations`.
"""

from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wordbrush.denoise import check_finite, combined
from wordbrush.errors import OptionsError
from wordbrush.guidance import TextGuidance
from wordbrush.inversion.null_text import ablations
from wordbrush.inversion.null_text.gauss_newton import Aim, Found, GaussNewton
from wordbrush.inversion.null_text.options import ABLATIONS, OPTIMIZERS, Options
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.options import filled
from wordbrush.progress import Progress
from wordbrush.sampling import walk_up
from wordbrush.schedule import Level, Prediction
from wordbrush.source import Source
from wordbrush.states import Proximal, ProximalPath, Trajectory

T = TypeVar("T")

Predict = Callable[[Tensor], Prediction]

Landing = tuple[Tensor, TextEmbeds, int, int]
"""Where a step leads, the null embedding that it is made with, and the rows that this took: all, and differentiated
ones."""


def invert(
    model: Model, image: Float[Tensor, "1 3 height width"], prompt: str, options: Options
) -> Generator[Progress, None, Source]:
    """Invert a picture in [−1, 1] that `prompt` describes.

    Raises `OptionsError` for options that exclude each other.
    """
    chosen, kept = decided(options), Proximal.asked(options)
    caption = chosen.ablation_caption or prompt
    up = yield from walk_up(model, image, caption, "null_text", options)
    source = replace((yield from found(model, up, chosen)), prompt=prompt)
    if kept is None:
        return source
    path = source.states
    assert isinstance(path, Trajectory), "every ablation ends in one"
    return replace(source, states=ProximalPath(path, path.latents, kept))


def found(model: Model, up: Source, options: Options) -> Generator[Progress, None, Source]:
    """From the source whose trajectory is the pivots what null-text inversion, or one of its ablations, makes of it.
    options: decided."""
    scale = source_scale(up, options)
    match options.ablation:
        case "autoencoder":
            return up
        case "global-null":
            return (yield from ablations.one_null(model, up, options, scale))
        case "textual-inversion":
            return (yield from ablations.taught_caption(model, up, options, scale))
        case "pivotal-caption":
            return (yield from ablations.pivotal_caption(model, up, options, scale))
        case "random-pivot":
            return (
                yield from optimised(
                    model, ablations.random_pivots(model, up, options.ablation_seed or 0), options
                )
            )
        case "none" | "random-caption":
            return (yield from optimised(model, up, options))


def source_scale(up: Source, options: Options) -> float:
    """The guidance scale that the embeddings are found at."""
    return up.guidance_scale if options.source_guidance_scale is None else options.source_guidance_scale


def decided(options: Options) -> Options:
    """The options with a value for each that the user left out.

    Raises `OptionsError` for one that the optimiser or the ablation does not read.
    """
    optimizer, ablation = options.null_optimizer, options.ablation
    if optimizer == "gauss-newton" and ablation != "none":
        raise OptionsError(
            f"the ablation {ablation} is of the published loop: leave gauss-newton out, or the ablation"
        )
    if ablation == "random-caption" and not options.ablation_caption:
        raise OptionsError(
            "random-caption needs a caption to put in the prompt's place: say ablation_caption"
        )
    for name in sorted({name for names in ABLATIONS.values() for name in names} - ABLATIONS[ablation]):
        if getattr(options, name) not in (None, ""):
            reading = sorted(each for each, names in ABLATIONS.items() if name in names and each != "none")
            raise OptionsError(
                f"{name} is not read "
                + ("without an ablation" if ablation == "none" else f"by the ablation {ablation}")
                + f", but by {', '.join(reading)}: leave it out"
            )
    if optimizer == "gauss-newton" and options.negative_prompt:
        raise OptionsError(
            "gauss-newton starts from the prompt's embedding and reads no negative_prompt: leave it out, or say "
            "null_optimizer adam"
        )
    if optimizer == "gauss-newton" and options.learning_rate is not None:
        raise OptionsError(
            "learning_rate is Adam's, and gauss-newton finds its own steps: leave it out, or say null_optimizer adam"
        )
    return filled(options, OPTIMIZERS[optimizer])


def optimised(model: Model, up: Source, options: Options) -> Generator[Progress, None, Source]:
    """From the source whose trajectory is the pivots one with a null embedding for each step, and where they lead.
    options: decided."""
    steps = _by_gauss_newton if options.null_optimizer == "gauss-newton" else _by_adam
    embeds: list[TextEmbeds] = []
    trajectory = [up.z_T]
    for i, (z, null, rows, gradient_rows) in enumerate(steps(model, up, options)):
        check_finite(z, f"null-text step {i + 1} of {up.steps}")
        embeds.append(null)
        trajectory.append(z)
        yield Progress("optimising null text", i + 1, up.steps, rows=rows, gradient_rows=gradient_rows)
    return replace(up, states=Trajectory(torch.cat(trajectory)), null=TextEmbeds.concat(embeds))


def _by_adam(model: Model, up: Source, options: Options) -> Generator[Landing]:
    schedule, guidance = up.schedule, TextGuidance(source_scale(up, options))
    text = Conditioning(model.encode_text([up.prompt]))
    null, z, steps = up.null, up.z_T, schedule.steps
    rate = _said(options.learning_rate)
    enough, growth = _said(options.early_stop), _said(options.early_stop_growth)
    for i in range(steps):
        here, to = schedule.levels[i], schedule.levels[i + 1]
        with torch.no_grad():
            conditional = model.predict(z, here, text)
        land = partial(_land, model, guidance, z, here, to, conditional)
        null, tries = _adam(
            null,
            land,
            up.states.at(i + 1),
            rate * (1 - i / (2 * steps)),
            enough + i * growth,
            _said(options.inner_steps),
        )
        with torch.no_grad():
            z = land(null)
        yield z, null, 2 + tries, tries


def _by_gauss_newton(model: Model, up: Source, options: Options) -> Generator[Landing]:
    """The same problem in other steps. Each begins from the prompt's own embedding, whose prediction is the prompt's
    row: where that leads near enough to the pivot, the step has no other row."""
    schedule, guidance, optimizer = up.schedule, TextGuidance(source_scale(up, options)), GaussNewton()
    text = model.encode_text([up.prompt])
    # Small steps need more digits than bfloat16 has.
    wide = torch.promote_types(text.hidden.dtype, torch.float32)
    enough, growth = _said(options.early_stop), _said(options.early_stop_growth)
    z = up.z_T
    for i in range(schedule.steps):
        here, to = schedule.levels[i], schedule.levels[i + 1]
        predict = partial(_differentiable, model, z, here, text)
        begin = text.hidden.to(wide, copy=True).requires_grad_()
        first = predict(begin)
        conditional = Prediction(first.clean.detach(), first.noise.detach())
        aim = Aim.at(up.states.at(i + 1), z, here, to, conditional, guidance)

        def say(hidden: Tensor, predict: Predict = predict, aim: Aim = aim) -> Tensor:
            return aim.said(predict(hidden))

        began = Found(begin, aim.said(first), aim.error(aim.said(first)))
        found = optimizer.optimised(began, aim, say, enough + i * growth, _said(options.inner_steps))
        null = TextEmbeds(found.hidden.detach().to(text.hidden.dtype), text.pooled, text.spots)
        said = found.said.detach()
        without = Prediction(said, z) if aim.is_clean else here.from_noise(z, said)
        z = combined(guidance, z, here, {"null": without, "text": conditional}, 0.0).step(here, to)
        yield z, null, 1 + optimizer.rows, optimizer.backward


def _said(value: T | None) -> T:
    assert value is not None, "this option is decided by the optimiser"
    return value


def _differentiable(model: Model, z: Tensor, here: Level, null: TextEmbeds, hidden: Tensor) -> Prediction:
    """What the network predicts with this embedding, as a function of it."""
    with torch.enable_grad():
        embeds = TextEmbeds(hidden.to(null.hidden.dtype), null.pooled, null.spots)
        return model.predict(z, here, Conditioning(embeds))


def _land(
    model: Model,
    guidance: TextGuidance,
    z: Tensor,
    here: Level,
    to: Level,
    conditional: Prediction,
    null: TextEmbeds,
) -> Float[Tensor, "1 c h w"]:
    """Where one guided step from `z` leads with this null embedding."""
    found = {"null": model.predict(z, here, Conditioning(null)), "text": conditional}
    return combined(guidance, z, here, found, 0.0).step(here, to)  # the guidance is the same in every step


def _adam(
    null: TextEmbeds,
    land: Callable[[TextEmbeds], Tensor],
    pivot: Tensor,
    rate: float,
    enough: float,
    inner_steps: int,
) -> tuple[TextEmbeds, int]:
    """The null embedding whose step lands nearest to the pivot (eq. 4), starting from `null`, and in how many tries."""
    wide = torch.promote_types(null.hidden.dtype, torch.float32)  # Adam needs more digits than bfloat16 has
    hidden = null.hidden.detach().to(wide, copy=True).requires_grad_()
    adam = torch.optim.Adam([hidden], lr=rate)
    tries = 0
    while tries < inner_steps:
        tries += 1
        with torch.enable_grad():
            loss = F.mse_loss(land(TextEmbeds(hidden.to(null.hidden.dtype), null.pooled, null.spots)), pivot)
        (hidden.grad,) = torch.autograd.grad(loss, [hidden])
        adam.step()
        if float(loss.detach()) < enough:
            break
    return TextEmbeds(hidden.detach().to(null.hidden.dtype), null.pooled, null.spots), tries
