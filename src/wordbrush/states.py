"""The states of a source: its latents at each level of the schedule.

A loop reads them by `at(i)`, the latents before step i; `at(n)` is z_0. Each class is one way to determine them,
because exact inversions store more than a trajectory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.guidance import DifferenceGuidance, Guidance, TextGuidance
from wordbrush.schedule import Level, Schedule


@runtime_checkable
class States(Protocol):
    """A source's latents at each step, and the tensors to store."""

    kind: ClassVar[str]

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """The latents before step i; i = n, the number of steps, gives z_0."""
        ...

    def guidance(self, scale: float) -> Guidance:
        """The guidance of edits that follow these states."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The tensors to store, by name."""
        ...


@dataclass(frozen=True, eq=False)
class Trajectory:
    """All latents of a trajectory, z_T first (DDIM inversion, sampling from a seed)."""

    latents: Float[Tensor, "steps_plus_1 c h w"]
    kind: ClassVar[str] = "trajectory"

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """See `States`."""
        return self.latents[i : i + 1]

    def guidance(self, scale: float) -> Guidance:
        """See `States`."""
        return TextGuidance(scale)

    def tensors(self) -> dict[str, Tensor]:
        """See `States`."""
        return {"trajectory": self.latents}


@dataclass(frozen=True, eq=False)
class StraightPath:
    """One picture and one noise: z_t = signal · z_0 + sigma · noise at every level, without any inversion."""

    z_0: Float[Tensor, "1 c h w"]
    noise: Float[Tensor, "1 c h w"]
    levels: tuple[Level, ...]
    kind: ClassVar[str] = "straight"

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """See `States`; at the last level z_0 itself, whatever noise the schedule leaves there."""
        return self.z_0 if i == len(self.levels) - 1 else self.levels[i].mix(self.z_0, self.noise)

    def guidance(self, scale: float) -> Guidance:
        """See `States`."""
        return DifferenceGuidance(scale)

    def tensors(self) -> dict[str, Tensor]:
        """See `States`."""
        return {"z_0": self.z_0, "noise": self.noise}


@dataclass(frozen=True, eq=False)
class NoiseMaps:
    """A trajectory and the noise that each of its steps adds (edit-friendly DDPM, Huberman-Spiegelglas et al. 2024)."""

    latents: Float[Tensor, "steps_plus_1 c h w"]
    noises: Float[Tensor, "steps c h w"]
    kind: ClassVar[str] = "noise_maps"

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """See `States`."""
        return self.latents[i : i + 1]

    def guidance(self, scale: float) -> Guidance:
        """See `States`."""
        return TextGuidance(scale)

    def tensors(self) -> dict[str, Tensor]:
        """See `States`."""
        return {"trajectory": self.latents, "noises": self.noises}


@dataclass(frozen=True, eq=False)
class CoupledPath:
    """Two coupled trajectories, of which an edit follows the first (EDICT, Wallace et al. 2023)."""

    first: Float[Tensor, "steps_plus_1 c h w"]
    second: Float[Tensor, "steps_plus_1 c h w"]
    kind: ClassVar[str] = "coupled"

    def at(self, i: int) -> Float[Tensor, "1 c h w"]:
        """See `States`."""
        return self.first[i : i + 1]

    def guidance(self, scale: float) -> Guidance:
        """See `States`."""
        return TextGuidance(scale)

    def tensors(self) -> dict[str, Tensor]:
        """See `States`."""
        return {"first": self.first, "second": self.second}


def late(states: States, start: float, before: Schedule, after: Schedule) -> States:
    """The states at the levels of `after`, which is `before.late(start, …)`.

    A DDIM step from one level to the next is a line: along it the clean latents and the noise are the same. So the
    state at a level in between is the combination of the two that has its shares of both.
    """
    if isinstance(states, StraightPath):
        return replace(states, levels=after.levels)
    found: list[Tensor] = []
    for i, level in enumerate(after.levels):
        k, _ = before.at(start, i)
        here, to = before.levels[k], before.levels[k + 1]
        if level in (here, to):
            found.append(states.at(k if level == here else k + 1))
            continue
        area = here.signal * to.sigma - to.signal * here.sigma
        a = (level.signal * to.sigma - to.signal * level.sigma) / area
        b = (here.signal * level.sigma - level.signal * here.sigma) / area
        found.append(a * states.at(k) + b * states.at(k + 1))
    return Trajectory(torch.cat(found))


def restored(kind: str, tensors: Mapping[str, Tensor], schedule: Schedule) -> States:
    """The states of this kind from what was stored. Raises `KeyError` for another kind or a missing tensor."""
    match kind:
        case Trajectory.kind:
            return Trajectory(tensors["trajectory"])
        case StraightPath.kind:
            return StraightPath(tensors["z_0"], tensors["noise"], schedule.levels)
        case NoiseMaps.kind:
            return NoiseMaps(tensors["trajectory"], tensors["noises"])
        case CoupledPath.kind:
            return CoupledPath(tensors["first"], tensors["second"])
        case _:
            raise KeyError(kind)
