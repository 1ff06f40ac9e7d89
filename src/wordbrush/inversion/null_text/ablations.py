"""What the paper compares null-text inversion with (Mokady et al. 2023, section 4.1 and figure 4).

Two change what the published loop is given: the pivots, or the caption. In the others one embedding serves all steps:

    min over C or ∅ of  Σ_t ‖z*_{t−1} − z_{t−1}(z*_t, ∅, C)‖²                                                      (1)

with the steps begun at the pivots, since none depends on the one before. Textual inversion has no pivots, and is taught
by the model's training loss.
"""

from collections.abc import Generator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wordbrush.denoise import combined
from wordbrush.guidance import TextGuidance
from wordbrush.inversion.null_text.options import Options
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.progress import Progress
from wordbrush.sampling import initial_latents, reconstruct
from wordbrush.source import Source
from wordbrush.states import StraightPath, Trajectory
from wordbrush.training.examples import Batch
from wordbrush.training.objective import losses


def random_pivots(model: Model, up: Source, seed: int) -> Source:
    """The source with other pivots: its picture under one noise, √ᾱ_t z_0 + √(1 − ᾱ_t) ε."""
    z_0 = up.z_0
    noise = initial_latents(model, seed, *up.size(model)).to(z_0)
    path = StraightPath(z_0, noise, up.schedule.levels)
    return replace(up, states=Trajectory(torch.cat([path.at(i) for i in range(up.steps + 1)])))


def one_null(model: Model, up: Source, options: Options, scale: float) -> Generator[Progress, None, Source]:
    """Global null-text inversion: one ∅ for all steps, by (1). options: decided."""
    text = model.encode_text([up.prompt])
    null = yield from _by_pivots(model, up, options, scale, learns=up.null, known=text, is_null=True)
    found = replace(up, null=null)
    states = yield from reconstruct(model, found, Conditioning(text), scale)
    return replace(found, states=states)


def pivotal_caption(
    model: Model, up: Source, options: Options, scale: float
) -> Generator[Progress, None, Source]:
    """Textual inversion with a pivot: the prompt's embedding C is learned in place of ∅, by (1).

    The source's states are where it leads. An edit has the words' own embeddings: nothing learned stands for a word.
    """
    text = model.encode_text([up.prompt])
    learned = yield from _by_pivots(model, up, options, scale, learns=text, known=up.null, is_null=False)
    return replace(up, states=(yield from reconstruct(model, up, Conditioning(learned), scale)))


def taught_caption(
    model: Model, up: Source, options: Options, scale: float
) -> Generator[Progress, None, Source]:
    """Textual inversion (Gal et al. 2023) of the prompt's embedding C: min E ‖ε − ε_θ(z_t, t, C)‖², with noise and
    timestep drawn anew in every iteration. The source begins at z*_T of the way up."""
    text, z_0 = model.encode_text([up.prompt]), up.z_0
    draw = torch.Generator().manual_seed(options.ablation_seed or 0)
    learner = _Learner(text, options, up.steps)
    timesteps = int(model.schedule_config["num_train_timesteps"])
    for number in range(learner.total):
        noise = torch.randn(z_0.shape, generator=draw).to(z_0)
        t = torch.randint(timesteps, (1,), generator=draw)
        batch = Batch([0], [None], [0.0], z_0, noise, t)
        with torch.enable_grad():
            loss = losses(model, batch, Conditioning(learner.embeds())).mean()
        learner.learn(number, loss)
        yield Progress("optimising the caption", number + 1, learner.total, rows=1, gradient_rows=1)
    return replace(up, states=(yield from reconstruct(model, up, Conditioning(learner.learned()), scale)))


def _by_pivots(
    model: Model,
    up: Source,
    options: Options,
    scale: float,
    *,
    learns: TextEmbeds,
    known: TextEmbeds,
    is_null: bool,
) -> Generator[Progress, None, TextEmbeds]:
    """One embedding for all steps, by (1): each round has an iteration for each step. known: the other embedding."""
    schedule, guidance, learner = up.schedule, TextGuidance(scale), _Learner(learns, options, up.steps)
    given, stage = Conditioning(known), "optimising null text" if is_null else "optimising the caption"
    with torch.no_grad():
        others = [model.predict(up.states.at(i), schedule.levels[i], given) for i in range(up.steps)]
    enough, total = options.early_stop or 0.0, learner.total
    for begin in range(0, total, up.steps):
        errors = 0.0
        for i in range(up.steps):
            here, to, z = schedule.levels[i], schedule.levels[i + 1], up.states.at(i)
            with torch.enable_grad():
                own = model.predict(z, here, Conditioning(learner.embeds()))
                found = {"null": own, "text": others[i]} if is_null else {"null": others[i], "text": own}
                loss = F.mse_loss(combined(guidance, z, here, found, 0.0).step(here, to), up.states.at(i + 1))
            learner.learn(begin + i, loss)
            errors += float(loss.detach())
            asked = 1 + (begin == 0)  # the other embedding's row, once
            yield Progress(stage, begin + i + 1, total, rows=asked, gradient_rows=1)
        if errors / up.steps < enough:
            break
    return learner.learned()


class _Learner:
    """An embedding that learns by one Adam, at a rate that falls to its half; as many iterations as null-text inversion
    with these options has at most."""

    def __init__(self, begin: TextEmbeds, options: Options, steps: int) -> None:
        assert options.inner_steps is not None and options.learning_rate is not None, "these are decided"
        self._begin, self._rate, self.total = begin, options.learning_rate, options.inner_steps * steps
        wide = torch.promote_types(begin.hidden.dtype, torch.float32)
        self._hidden = begin.hidden.detach().to(wide, copy=True).requires_grad_()
        self._adam = torch.optim.Adam([self._hidden], lr=self._rate)

    def embeds(self) -> TextEmbeds:
        """What is learned, to be differentiated."""
        return self._with(self._hidden)

    def learned(self) -> TextEmbeds:
        """What was learned."""
        return self._with(self._hidden.detach())

    def _with(self, hidden: Tensor) -> TextEmbeds:
        return TextEmbeds(hidden.to(self._begin.hidden.dtype), self._begin.pooled, self._begin.spots)

    def learn(self, number: int, loss: Tensor) -> None:
        """One iteration."""
        (self._hidden.grad,) = torch.autograd.grad(loss, [self._hidden])
        for group in self._adam.param_groups:
            group["lr"] = self._rate * (1 - number / (2 * self.total))
        self._adam.step()
