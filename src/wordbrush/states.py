"""The states of a source: its latents at each level of the schedule, and the steps of edits that follow them.

A loop reads them by `at(i)`, the latents before step i; `at(n)` is z_0. Each class is one way to determine them,
because exact inversions store more than a trajectory; and `walk()` is a run of edits in its own way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wordbrush.errors import OptionsError
from wordbrush.guidance import DifferenceGuidance, Guidance, ProximalGuidance, TextGuidance
from wordbrush.options import ProximalOptions
from wordbrush.schedule import Level, Prediction, Schedule

Predict = Callable[[Tensor, Tensor | None], Prediction]
"""From the latents of n pictures, and those of their source at the same point, to the guided prediction of the n."""

Walk = Callable[[int, Level, Level, Tensor, Predict], tuple[Tensor, Prediction]]
"""The steps of one run: from a step, its two levels and the latents before it to the latents after it, and the
prediction for those before. It may keep something from step to step, so every run has a walk of its own."""


Along = Callable[[int, Level, Level, Tensor, Prediction], Prediction]
"""From a step, its two levels, the latents before it and what is predicted for them to the prediction that the step
goes along. It may keep something from step to step, too."""


def first_order() -> Along:
    """Each step goes along its own prediction."""
    return lambda i, here, to, z, guided: guided


def second_order(steps: int) -> Along:
    """Each step reads what the one before predicted, as in DPM-Solver++(2M) (Lu et al. 2022b, algorithm 2). The first
    and the last are of first order: the first has none before it, and the last one's leap in λ is so large that what is
    extrapolated over it means little."""
    last: tuple[Level, Tensor] | None = None

    def along(i: int, here: Level, to: Level, z: Tensor, guided: Prediction) -> Prediction:
        nonlocal last
        found = guided if last is None or i == steps - 1 else guided.extrapolated(z, here, to, *last)
        last = here, guided.clean
        return found

    return along


def ddim(at: Callable[[int], Tensor] | None = None) -> Walk:
    """Deterministic DDIM steps. at: the latents of the source before each step, where there is a source."""

    def step(i: int, here: Level, to: Level, z: Tensor, predict: Predict) -> tuple[Tensor, Prediction]:
        guided = predict(z, None if at is None else at(i))
        return guided.step(here, to), guided

    return step


def multistep(steps: int, at: Callable[[int], Tensor] | None = None) -> Walk:
    """Deterministic steps of second order, DPM-Solver++(2M). at: as for `ddim`."""
    along = second_order(steps)

    def step(i: int, here: Level, to: Level, z: Tensor, predict: Predict) -> tuple[Tensor, Prediction]:
        guided = predict(z, None if at is None else at(i))
        return along(i, here, to, z, guided).step(here, to), guided

    return step


@runtime_checkable
class States(Protocol):
    """A source's latents at each step, how edits of it go on, and what to store. What most kinds have in common is said
    here."""

    kind: ClassVar[str]
    predictions: ClassVar[int] = 1
    """How often a step asks the network."""

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """The latents before step i; i = n, the number of steps, gives z_0."""
        ...

    def late(
        self, start: float, before: Schedule, alphas_cumprod: Float[Tensor, " timesteps"]
    ) -> "tuple[Schedule, States]":
        """The schedule and the states of what is left of the run after its fraction `start`, 0 ≤ start < 1."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to store, by name."""
        ...

    def numbers(self) -> dict[str, float]:
        """The numbers to store, each from 0 to 1, by name."""
        return {}

    def guidance(self, scale: float) -> Guidance:
        """The guidance of edits that follow these states."""
        return TextGuidance(scale)

    def walk(self) -> Walk:
        """A new run of edits, which begins at `at(0)`."""
        return ddim(self.at)

    def known(self, like: Tensor) -> Prediction | None:
        """The source's true clean latents and noise, in the type of other latents, where they are the same in every
        step."""
        return None


@dataclass(frozen=True, eq=False)
class Trajectory(States):
    """All latents of a trajectory, z_T first (DDIM inversion, sampling from a seed)."""

    latents: Float[Tensor, "steps_plus_1 c h w"]
    kind: ClassVar[str] = "trajectory"

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """See `States`."""
        return self.latents[i : i + 1]

    def late(
        self, start: float, before: Schedule, alphas_cumprod: Float[Tensor, " timesteps"]
    ) -> "tuple[Schedule, Trajectory]":
        """See `States`: as many steps.

        A DDIM step from one level to the next is a line: along it the clean latents and the noise are the same. So the
        state at a level in between is the combination of the two that has its shares of both.
        """
        after = before.late(start, alphas_cumprod)
        found: list[Tensor] = []
        for i, level in enumerate(after.levels):
            k, _ = before.at(start, i)
            here, to = before.levels[k], before.levels[k + 1]
            if level in (here, to):
                found.append(self.at(k if level == here else k + 1))
                continue
            area = here.signal * to.sigma - to.signal * here.sigma
            a = (level.signal * to.sigma - to.signal * level.sigma) / area
            b = (here.signal * level.sigma - level.signal * here.sigma) / area
            found.append(a * self.at(k) + b * self.at(k + 1))
        return after, Trajectory(torch.cat(found))

    def tensors(self) -> dict[str, Tensor]:
        """See `States`."""
        return {"trajectory": self.latents}

    @classmethod
    def free(cls, steps: int) -> Walk:
        """A run of so many steps without a source."""
        return ddim()


@dataclass(frozen=True, eq=False)
class MultistepPath(Trajectory):
    """A trajectory whose steps are those of DPM-Solver++(2M)."""

    kind: ClassVar[str] = "multistep"

    def late(
        self, start: float, before: Schedule, alphas_cumprod: Float[Tensor, " timesteps"]
    ) -> "tuple[Schedule, MultistepPath]":
        """See `States`: the last of its own steps, because the path between them is no line."""
        after = before.rest(start)
        return after, MultistepPath(self.latents[before.steps - after.steps :])

    def walk(self) -> Walk:
        """See `States`."""
        return multistep(len(self.latents) - 1, self.at)

    @classmethod
    def free(cls, steps: int) -> Walk:
        """See `Trajectory`."""
        return multistep(steps)


SOLVERS: Mapping[str, type[Trajectory]] = {"ddim": Trajectory, "dpm++": MultistepPath}
"""The trajectories by the name of what takes their steps."""


_QUANTILE, _START = 0.7, 0.6  # as released: recon_t = 400 of 1,000 timesteps


@dataclass(frozen=True)
class Proximal:
    """Proximal guidance, and inversion guidance with it (Han et al. 2023).

    quantile, is_soft, is_released: see `ProximalGuidance`. pull: how far each of the last steps is pulled back to the
    source where nothing is edited, from 0 to all the way. last: the share of the run that these steps are.
    """

    quantile: float
    is_soft: bool = False
    is_released: bool = False
    pull: float = 0.0
    last: float = 0.0

    def numbers(self) -> dict[str, float]:
        """Those that are not 0, by name."""
        named = {name: float(value) for name, value in asdict(self).items()}
        return {name: value for name, value in named.items() if value}

    @classmethod
    def asked(cls, options: ProximalOptions) -> "Proximal | None":
        """How an inversion's options guide edits; None: by text alone.

        Raises `OptionsError` for options that only proximal guidance, or only inversion guidance, reads.
        """
        pulling = ("inversion_guidance", "inversion_guidance_start")
        if options.proximal == "off":
            names, by = ("proximal_quantile", "proximal_rule", *pulling), "proximal guidance"
            _require_none(options, names, f"{by}, which is off: leave it out, or say proximal hard or soft")
            return None
        if not options.inversion_guidance:
            by = "inversion guidance, which is off: leave it out, or say inversion_guidance 1"
            _require_none(options, pulling[1:], by)
        start = _START if options.inversion_guidance_start is None else options.inversion_guidance_start
        return cls(
            quantile=_QUANTILE if options.proximal_quantile is None else options.proximal_quantile,
            is_soft=options.proximal == "soft",
            is_released=options.proximal_rule == "released",
            pull=options.inversion_guidance or 0.0,
            last=1 - start if options.inversion_guidance else 0.0,
        )

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> "Proximal":
        """From what `numbers` gave."""
        return cls(
            numbers.get("quantile", 0.0),
            "is_soft" in numbers,
            "is_released" in numbers,
            numbers.get("pull", 0.0),
            numbers.get("last", 0.0),
        )

    def begin(self, steps: int) -> int:
        """The first of so many steps that is pulled."""
        return steps - round(self.last * steps) if self.pull else steps


def _require_none(options: ProximalOptions, names: Sequence[str], by: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise OptionsError(f"{name} is read by {by}")


@dataclass(frozen=True, eq=False)
class ProximalPath(States):
    """A trajectory whose edits are guided by proximal guidance.

    pivots: where edits are pulled to in the steps of inversion guidance.
    """

    path: Trajectory
    pivots: Float[Tensor, "steps_plus_1 c h w"]
    proximal: Proximal
    kind: ClassVar[str] = "proximal"

    @property
    def steps(self) -> int:
        """Number of sampling steps."""
        return len(self.pivots) - 1

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """See `States`."""
        return self.path.at(i)

    def late(
        self, start: float, before: Schedule, alphas_cumprod: Float[Tensor, " timesteps"]
    ) -> "tuple[Schedule, ProximalPath]":
        """See `States`: what the trajectory does; but where its own steps were pulled they are no lines, and the last
        of them are left."""
        if not self.proximal.pull:
            after, path = self.path.late(start, before, alphas_cumprod)
            return after, replace(self, path=path, pivots=path.latents)
        after = before.rest(start)
        k, pulled = before.steps - after.steps, before.steps - self.proximal.begin(before.steps)
        path = replace(self.path, latents=self.path.latents[k:])
        proximal = replace(self.proximal, last=min(1.0, pulled / after.steps))
        return after, ProximalPath(path, self.pivots[k:], proximal)

    def guidance(self, scale: float) -> Guidance:
        """See `States`."""
        own = self.proximal
        return ProximalGuidance(
            scale, quantile=own.quantile, is_soft=own.is_soft, is_released=own.is_released
        )

    def walk(self) -> Walk:
        """See `States`."""
        return pulled(self.path.walk(), self.pivots, self.proximal)

    def tensors(self) -> dict[str, Tensor]:
        """See `States`."""
        return {**self.path.tensors(), "pivots": self.pivots}

    def numbers(self) -> dict[str, float]:
        """See `States`."""
        second_order = {"second_order": 1.0} if isinstance(self.path, MultistepPath) else {}
        return {**self.proximal.numbers(), **second_order}


def pulled(
    walk: Walk,
    pivots: Float[Tensor, "steps_plus_1 c h w"],
    proximal: Proximal,
    *,
    everywhere: bool = False,
) -> Walk:
    """Another walk's steps, the last of which are pulled towards the pivots where nothing is edited, and not beside it:
    z ← z − pull (z − z*) (1 − M) (Han et al. 2023, inversion guidance; M is dilated by one latent pixel, as released).

    everywhere: M is 0, as it is for the source itself.
    """
    begin = proximal.begin(len(pivots) - 1)

    def step(i: int, here: Level, to: Level, z: Tensor, predict: Predict) -> tuple[Tensor, Prediction]:
        z, guided = walk(i, here, to, z, predict)
        if i < begin or (guided.edited is None and not everywhere):
            return z, guided
        kept = torch.ones_like(z)
        if guided.edited is not None and not everywhere:
            kept = kept - F.max_pool2d(guided.edited.to(z), 3, stride=1, padding=1)
        return z - proximal.pull * kept * (z - pivots[i + 1 : i + 2].to(z)), guided

    return step


@dataclass(frozen=True, eq=False)
class StraightPath(States):
    """One picture and one noise: z_t = signal · z_0 + sigma · noise at every level, without any inversion."""

    z_0: Float[Tensor, "1 c h w"]
    noise: Float[Tensor, "1 c h w"]
    levels: tuple[Level, ...]
    kind: ClassVar[str] = "straight"

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """See `States`; at the last level z_0 itself, whatever noise the schedule leaves there."""
        return self.z_0 if i == len(self.levels) - 1 else self.levels[i].mix(self.z_0, self.noise)

    def late(
        self, start: float, before: Schedule, alphas_cumprod: Float[Tensor, " timesteps"]
    ) -> "tuple[Schedule, StraightPath]":
        """See `States`: as many steps."""
        after = before.late(start, alphas_cumprod)
        return after, replace(self, levels=after.levels)

    def guidance(self, scale: float) -> Guidance:
        """See `States`."""
        return DifferenceGuidance(scale)

    def known(self, like: Tensor) -> Prediction:
        """See `States`."""
        return Prediction(self.z_0.to(like), self.noise.to(like))

    def tensors(self) -> dict[str, Tensor]:
        """See `States`."""
        return {"z_0": self.z_0, "noise": self.noise}


@dataclass(frozen=True, eq=False)
class NoiseMaps(States):
    """A trajectory and the noise that each of its steps adds (edit-friendly DDPM, Huberman-Spiegelglas et al. 2024).

    noises: σ_t z_t of each step, so that a step without σ may add something, too. eta: the steps' η.
    """

    latents: Float[Tensor, "steps_plus_1 c h w"]
    noises: Float[Tensor, "steps c h w"]
    eta: float = 1.0
    kind: ClassVar[str] = "noise_maps"

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """See `States`."""
        return self.latents[i : i + 1]

    def late(
        self, start: float, before: Schedule, alphas_cumprod: Float[Tensor, " timesteps"]
    ) -> "tuple[Schedule, NoiseMaps]":
        """See `States`: the last of its own steps, because no noise is known between them."""
        after = before.rest(start)
        k = before.steps - after.steps
        return after, replace(self, latents=self.latents[k:], noises=self.noises[k:])

    @classmethod
    def along(cls, steps: int) -> Along:
        """What the means of a run's steps are computed along."""
        return first_order()

    def walk(self) -> Walk:
        """See `States`: stochastic steps with the source's noise."""
        along = self.along(len(self.noises))

        def step(i: int, here: Level, to: Level, z: Tensor, predict: Predict) -> tuple[Tensor, Prediction]:
            guided = predict(z, self.at(i))
            mean = along(i, here, to, z, guided).mean(here, to, self.eta)
            return mean + self.noises[i : i + 1].to(z), guided

        return step

    def tensors(self) -> dict[str, Tensor]:
        """See `States`."""
        return {"trajectory": self.latents, "noises": self.noises}

    def numbers(self) -> dict[str, float]:
        """See `States`."""
        return {"eta": self.eta}


@dataclass(frozen=True, eq=False)
class SolverMaps(NoiseMaps):
    """Noise maps of second-order steps: with η = 1 those of SDE-DPM-Solver++(2M) (Lu et al. 2022b, section 5; Brack et
    al. 2024, LEDITS++). A step reads the one before, so they are of a whole run; they serve one edit and are not kept.
    """

    kind: ClassVar[str] = "solver_maps"

    @classmethod
    def along(cls, steps: int) -> Along:
        """See `NoiseMaps`."""
        return second_order(steps)


@dataclass(frozen=True, eq=False)
class CoupledPath(States):
    """Two coupled trajectories, of which an edit follows the first (EDICT, Wallace et al. 2023).

    In a step each is moved along what the network predicts for the other, and then the two are mixed:

        x' = carry(x, ε(y));  y' = carry(y, ε(x'));  x'' = p x' + (1 − p) y';  y'' = p y' + (1 − p) x''

    x and y are the first and the second trajectory in the last step, and exchanged in every other (`order`). Each line
    can be undone, whatever the network says. mixing: p.
    """

    first: Float[Tensor, "steps_plus_1 c h w"]
    second: Float[Tensor, "steps_plus_1 c h w"]
    mixing: float = 0.93
    kind: ClassVar[str] = "coupled"
    predictions: ClassVar[int] = 2

    @property
    def steps(self) -> int:
        """Number of sampling steps."""
        return len(self.first) - 1

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """See `States`."""
        return self.first[i : i + 1]

    def late(
        self, start: float, before: Schedule, alphas_cumprod: Float[Tensor, " timesteps"]
    ) -> "tuple[Schedule, CoupledPath]":
        """See `States`: the last of its own steps, because nothing is known between them."""
        after = before.rest(start)
        k = before.steps - after.steps
        return after, replace(self, first=self.first[k:], second=self.second[k:])

    def walk(self) -> Walk:
        """See `States`: a run keeps its second latents."""
        second: Tensor | None = None

        def step(i: int, here: Level, to: Level, z: Tensor, predict: Predict) -> tuple[Tensor, Prediction]:
            nonlocal second
            own = self.first[i : i + 1].to(z), self.second[i : i + 1].to(z)
            # Where the first latents are the source's (at the beginning, and outside of a mask), so are the second.
            second = own[1].expand_as(z) if second is None else torch.where(z == own[0], own[1], second)
            x, y = order(self.steps - i, z, second)
            told = predict(y, order(self.steps - i, *own)[1])
            x = told.carry(x, here, to)
            y = predict(x, self._half_way(i).to(z)).carry(y, here, to)
            x, y = mixed(x, y, self.mixing)
            first, second = order(self.steps - i, x, y)
            return first, told

        return step

    def _half_way(self, i: int) -> Float[Tensor, "1 c h w"]:
        """x' of the source's own step i, from where that leads."""
        x, y = order(self.steps - i, self.first[i + 1 : i + 2], self.second[i + 1 : i + 2])
        return unmixed(x, y, self.mixing)[0]

    def tensors(self) -> dict[str, Tensor]:
        """See `States`."""
        return {"first": self.first, "second": self.second}

    def numbers(self) -> dict[str, float]:
        """See `States`."""
        return {"mixing": self.mixing}


def order(left: int, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """x and y among the two coupled latents, or those among x and y, in the step that has `left` steps to the picture,
    itself included."""
    return (first, second) if left % 2 else (second, first)


def mixed(x: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """Coupled latents drawn together, so that they do not part."""
    x = p * x + (1 - p) * y
    return x, p * y + (1 - p) * x


def unmixed(x: Tensor, y: Tensor, p: float) -> tuple[Tensor, Tensor]:
    """What `mixed` was given."""
    y = (y - (1 - p) * x) / p
    return (x - (1 - p) * y) / p, y


def restored(
    kind: str, tensors: Mapping[str, Tensor], schedule: Schedule, numbers: Mapping[str, float]
) -> States:
    """The states of this kind from what was stored. Raises `KeyError` for another kind, or where something is
    missing."""
    match kind:
        case Trajectory.kind:
            return Trajectory(tensors["trajectory"])
        case MultistepPath.kind:
            return MultistepPath(tensors["trajectory"])
        case ProximalPath.kind:
            path = MultistepPath if "second_order" in numbers else Trajectory
            return ProximalPath(path(tensors["trajectory"]), tensors["pivots"], Proximal.of(numbers))
        case StraightPath.kind:
            return StraightPath(tensors["z_0"], tensors["noise"], schedule.levels)
        case NoiseMaps.kind:
            return NoiseMaps(tensors["trajectory"], tensors["noises"], numbers["eta"])
        case CoupledPath.kind:
            return CoupledPath(tensors["first"], tensors["second"], numbers["mixing"])
        case _:
            raise KeyError(kind)
