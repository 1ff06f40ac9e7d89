"""The sampling loop, down (`denoise`) and up (`noise_up`), as generators.

One loop serves generating and editing. What it computes per step is laid out by `Rows`, from the guidance's branches;
an edit reaches the attention through `attend` and the latents through `after_step`, so the loop does not depend on any
method.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Attend
from wordbrush.errors import NumericsError
from wordbrush.features import Features
from wordbrush.guidance import Guidance, Localised
from wordbrush.model import Conditioning, Model
from wordbrush.recording import Recording
from wordbrush.rows import Rows
from wordbrush.schedule import Level, Prediction, Schedule
from wordbrush.states import States, Walk, ddim

Conditions = Mapping[str, Conditioning | Sequence[Conditioning]]
"""What each branch of the guidance sees: one row for each target or one for all, the same in every step or one
conditioning for each step."""


@dataclass(frozen=True, eq=False)
class Step:
    """The state after step `index` of `total`: the latents, the predicted clean latents, and the number of rows that
    the UNet computed. source_noise: what it predicts for the source, where the step reads that."""

    index: int
    total: int
    latents: Float[Tensor, "n c h w"]
    clean: Float[Tensor, "n c h w"]
    rows: int
    source_noise: Float[Tensor, "1 c h w"] | None = None


@dataclass(frozen=True, eq=False)
class SourceRow:
    """What the loop reads of a source: its known latents at every step, its text, and what is recorded of it."""

    states: States
    conditioning: Conditioning
    recording: Recording | None = None


AfterStep = Callable[[int, Tensor, Tensor], Tensor]
"""From a step, the latents after it and the clean latents that it predicted to the latents to go on with."""


@torch.no_grad()
def denoise(
    model: Model,
    latents: Float[Tensor, "n c h w"],
    conditions: Conditions,
    schedule: Schedule,
    guidance: Guidance,
    *,
    others: Mapping[str, Model] | None = None,
    rows: Callable[[int], Rows] | None = None,
    source: SourceRow | None = None,
    attend: Attend | None = None,
    features: Features | None = None,
    after_step: AfterStep | None = None,
    walk: Walk | None = None,
) -> Generator[Step, None, Float[Tensor, "n c h w"]]:
    """Sample n pictures from z_T down to z_0; yields after each step. Beside a source they take the steps of its states
    (`States.walk`), else those of `walk`, by default deterministic DDIM's.

    conditions: what each branch sees. others: branches that another model predicts.
    rows: the batch of each step; by default the n pictures alone.
    source: what the pictures are edits of; needed where `rows` asks for its row, or for what is recorded of it.
    attend: computes the attention layers. features: changes what residual blocks add. after_step: decides the latents
    to go on with (local blend).

    Raises `NumericsError` as soon as latents are not finite.
    """
    ask = Predictor(model, conditions, schedule, guidance, others or {}, rows, source, attend, features)
    if walk is None:
        walk = ddim() if source is None else source.states.walk()
    for i in range(schedule.steps):
        ask.rows, ask.source_noise = 0, None
        here, to = schedule.levels[i], schedule.levels[i + 1]
        latents, guided = walk(i, here, to, latents, partial(ask.predict, i))
        if after_step is not None:
            latents = after_step(i, latents, guided.clean)
        check_finite(latents, f"step {i + 1} of {schedule.steps}")
        yield Step(i, schedule.steps, latents, guided.clean, ask.rows, ask.source_noise)
    return latents


@dataclass(eq=False)
class Predictor:
    """What the network says in each step of a run, guided.

    The arguments are `denoise`'s; layout is its `rows`. where: a step's name in an error. rows: how many were computed
    so far. source_noise: what was predicted last for the source.
    """

    model: Model
    conditions: Conditions
    schedule: Schedule
    guidance: Guidance
    others: Mapping[str, Model] = field(default_factory=dict[str, Model])
    layout: Callable[[int], Rows] | None = None
    source: SourceRow | None = None
    attend: Attend | None = None
    features: Features | None = None
    where: Callable[[int], str] | None = None
    rows: int = 0
    source_noise: Float[Tensor, "1 c h w"] | None = None

    def __post_init__(self) -> None:
        self._batch = _Batch(self.conditions, self.source)

    def predict(
        self, i: int, latents: Float[Tensor, "n c h w"], own: Float[Tensor, "1 c h w"] | None = None
    ) -> Prediction:
        """The guided prediction for latents in step i. own: those of the source, where the step has its row.

        Raises `NumericsError` for one that is not finite.
        """
        found = self.branches(i, latents, own)
        return combined(self.guidance, latents, self.schedule.levels[i], found, i / self.schedule.steps)

    def branches(
        self,
        i: int,
        latents: Float[Tensor, "n c h w"],
        own: Float[Tensor, "1 c h w"] | None = None,
        beside: Mapping[str, Float[Tensor, "n c h w"]] | None = None,
    ) -> dict[str, Prediction]:
        """What step i predicts in each branch and for the source, by name. beside: other latents than these, of
        branches that see their own.

        Raises `NumericsError` like `predict`.
        """
        source, here, progress = self.source, self.schedule.levels[i], i / self.schedule.steps
        branches = self.guidance.branches(progress)
        named = tuple(branch for branch in branches if branch not in self.others)
        layout = self.layout(i) if self.layout is not None else Rows(len(latents), named)
        conditioning = self._batch.conditioning(layout, i)
        predicted = self.model.predict(
            self._batch.latents(layout, latents, own, beside or {}),
            here,
            conditioning,
            attend=self.attend,
            features=self.features,
            step=i,
        )
        # Checked in every row: fused attention can turn a source row's NaN into zeros for the targets.
        check_finite(
            predicted.noise, self.where(i) if self.where else f"step {i + 1} of {self.schedule.steps}"
        )
        found = {branch: predicted[layout.branch(branch)] for branch in named}
        own_row = predicted[layout.source_row] if layout.source else None
        if layout.recorded:
            assert source is not None and source.recording is not None, "nothing is recorded of the source"
            own_row = source.recording.prediction(i)
        if own_row is not None:
            found["source"] = own_row
            known = None if source is None else source.states.known(latents)
            if known is not None:
                found["known"] = known
        for branch in branches:
            if branch in self.others:
                row = self._batch.branch(branch, i, len(latents))
                found[branch] = self.others[branch].predict(latents, here, row)
        self.rows += layout.count + len(latents) * (len(branches) - len(named))
        self.source_noise = None if own_row is None else own_row.noise
        return found


def combined(
    guidance: Guidance,
    latents: Float[Tensor, "n c h w"],
    here: Level,
    found: Mapping[str, Prediction],
    progress: float,
) -> Prediction:
    """The guided prediction of latents at a level, from those of the branches.

    Guidance combines noise. At a level without signal the latents are their own noise, whatever was predicted, and the
    clean latents do not follow from it: there those are combined (Lin et al. 2024, section 3.4; only networks that
    predict v begin there).
    """
    if here.signal == 0:
        said = {name: prediction.clean for name, prediction in found.items()}
        guided = Prediction(guidance.combine(said, progress), latents)
    else:
        said = {name: prediction.noise for name, prediction in found.items()}
        guided = here.from_noise(latents, guidance.combine(said, progress))
    return (
        replace(guided, edited=guidance.where_edited(said, progress))
        if isinstance(guidance, Localised)
        else guided
    )


Ask = Callable[[Tensor], Tensor]
"""From latents to the noise that the network predicts for them, in one step up."""

Move = Callable[[Tensor], Tensor]
"""From a noise to where the latents before a step up are led along it."""

FindNoise = Callable[[int, Tensor, Ask, Move], Tensor]
"""The noise of one step up: from its timestep, the latents before it, and these two."""

Last = tuple[Level, Tensor] | None
"""The level of the step before, and the clean latents that were predicted there."""


@torch.no_grad()
def noise_up(
    model: Model,
    z_0: Float[Tensor, "1 c h w"],
    conditioning: Conditioning,
    schedule: Schedule,
    find: FindNoise | None = None,
    *,
    is_second_order: bool = False,
) -> Generator[Step, None, Float[Tensor, "steps_plus_1 c h w"]]:
    """DDIM inversion: walk a picture's latents up to noise, without guidance; returns the path, z_T first.

    Each step is the sampler's, with its two levels exchanged, and with the label of the noisier one (Mokady et
    al. 2023, section 3). find: the noise of each step; by default what the network says of the latents before it.
    is_second_order: the steps are those of DPM-Solver++(2M), upwards: what the step before predicted is read as well.
    Steps are in the order of computation: index 0 leaves the clean picture.
    """
    z = z_0
    last: Last = None
    path = [z_0]
    for k, i in enumerate(reversed(range(schedule.steps))):
        here, to = schedule.levels[i + 1], schedule.levels[i]
        # What v says of noise depends on the level: at one without signal nothing, so there the latents' own counts.
        at = to if to.signal > 0 else replace(here, t=to.t)
        rows = 0

        def ask(latents: Tensor, at: Level = at) -> Tensor:
            nonlocal rows
            rows += len(latents)
            return model.predict(latents, at, conditioning).noise

        def move(
            noise: Tensor, z: Tensor = z, here: Level = here, to: Level = to, last: Last = last
        ) -> Tensor:
            predicted = here.from_noise(z, noise)
            along = predicted.extrapolated(z, here, to, *last) if is_second_order and last else predicted
            return along.step(here, to)

        predicted = here.from_noise(z, noise := ask(z) if find is None else find(to.t, z, ask, move))
        z, last = move(noise), (here, predicted.clean)
        check_finite(z, f"inversion step {k + 1} of {schedule.steps}")
        path.append(z)
        yield Step(k, schedule.steps, z, predicted.clean, rows)
    return torch.cat(path[::-1])


def check_finite(latents: Tensor, where: str) -> None:
    """Raise `NumericsError` if latents contain NaN or infinity."""
    if not bool(torch.isfinite(latents).all()):
        raise NumericsError(
            f"the latents are not finite after {where}: use float32, or a smaller guidance scale or word weight"
        )


class _Batch:
    """Puts the rows of a step together, and keeps the conditioning of one layout for as long as it stays the same.

    Handing the model the same object again lets it keep the text's keys and values.
    """

    def __init__(self, conditions: Conditions, source: SourceRow | None) -> None:
        self._conditions, self._source = conditions, source
        self._kept: tuple[Rows, list[Conditioning], Conditioning] | None = None

    def latents(
        self, layout: Rows, targets: Tensor, source: Tensor | None, beside: Mapping[str, Tensor]
    ) -> Tensor:
        parts = [beside.get(branch, targets) for branch in layout.branches[:-1]]
        if layout.source:
            assert source is not None, "the layout asks for a source row and there is no source"
            parts.append(source.to(targets))
        return torch.cat([*parts, targets])

    def branch(self, name: str, step: int, targets: int) -> Conditioning:
        given = self._conditions[name]
        own = given if isinstance(given, Conditioning) else given[step]
        return own if len(own) == targets else own.expand(targets)

    def conditioning(self, layout: Rows, step: int) -> Conditioning:
        given = [self._conditions[name] for name in layout.branches]
        parts = [part if isinstance(part, Conditioning) else part[step] for part in given]
        if self._kept is not None and self._kept[0] == layout:
            if all(a is b for a, b in zip(self._kept[1], parts, strict=True)):
                return self._kept[2]
        rows = [self.branch(name, step, layout.targets) for name in layout.branches]
        if layout.source:
            assert self._source is not None, "the layout asks for a source row and there is no source"
            rows.insert(-1, self._source.conditioning)
        conditioning = Conditioning.concat(rows)
        self._kept = layout, parts, conditioning
        return conditioning
