"""A Gauss–Newton step for the null embedding, in few rows of the network.

Where a guided step leads is linear in the prediction without text, so the one that leads to the pivot is known before
anything is optimised (`Aim.wanted`). What is left is to find an embedding for which the network says it: the least
squares of r(∅) = eps(∅) − eps_wanted, whose Jacobian J is never built.

J hardly changes from one sampling step to the next. So the last displacements of the embedding are kept together with
what each did to the prediction: J on the space that they span. In that space a Gauss–Newton step costs one row. Only
where it cannot reach far enough, a new direction is taken: the gradient Jᵀr, by one backward pass.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.guidance import TextGuidance
from wordbrush.schedule import Level, Prediction

_KEPT = 8  # displacements
_RIDGE = 1e-3  # of the mean square of what they did: keeps those that did almost the same from cancelling
_GAIN = 0.9  # the share of the error that a gradient must leave at most, for another one
_WORTH = 0.5  # the share of the error that a step must be expected to leave at most, to be tried


@dataclass(frozen=True, eq=False)
class Aim:
    """Where one guided step shall lead, said of its prediction without text.

    A step leads to a + b · g, where g is the guided noise, (1 − w) eps_∅ + w eps_text. reach: b (1 − w), how far eps_∅
    moves the landing. wanted: the eps_∅ that lands on the pivot. At a level without signal the clean latents are what
    guidance combines, so both are said of those.
    """

    wanted: Float[Tensor, "1 c h w"]
    reach: float
    is_clean: bool

    @classmethod
    def at(
        cls,
        pivot: Float[Tensor, "1 c h w"],
        z: Float[Tensor, "1 c h w"],
        here: Level,
        to: Level,
        conditional: Prediction,
        guidance: TextGuidance,
    ) -> "Aim":
        """The aim of the step from `z`; where guidance or step leave eps_∅ no say, the reach is 0."""
        is_clean = here.signal == 0
        if is_clean:
            start, b, text = to.sigma * z, to.signal, conditional.clean
        else:
            a = to.signal / here.signal
            start, b, text = a * z, to.sigma - a * here.sigma, conditional.noise
        reach = b * (1 - guidance.scale)
        if abs(reach) < 1e-6:
            return cls(text, 0.0, is_clean)
        guided = (pivot - start) / b
        return cls((guided - guidance.scale * text) / (1 - guidance.scale), reach, is_clean)

    def said(self, prediction: Prediction) -> Float[Tensor, "1 c h w"]:
        """What is compared with `wanted`."""
        return prediction.clean if self.is_clean else prediction.noise

    def error(self, said: Tensor) -> float:
        """The mean squared distance of the landing to the pivot."""
        return self.reach**2 * float((said.detach() - self.wanted).square().mean())


@dataclass(eq=False)
class Found:
    """An embedding, what the network says with it, and how far from the pivot that leads."""

    hidden: Float[Tensor, "1 tokens d"]
    said: Float[Tensor, "1 c h w"]
    error: float


Say = Callable[[Tensor], Tensor]
"""From an embedding, whose gradient will be asked for, to what the network says."""


@dataclass(eq=False)
class GaussNewton:
    """Steps towards an aim, and what they showed of J so far.

    moved, changed: displacements of the embedding, and of what the network says with it. rate: the gradient's, as the
    last one showed it. last: the last embedding that was found. rows: what the network computed in the current sampling
    step; backward: how often it was differentiated.
    """

    moved: list[Tensor] = field(default_factory=list[Tensor])
    changed: list[Tensor] = field(default_factory=list[Tensor])
    rate: float = 1e-3
    last: Tensor | None = None
    rows: int = 0
    backward: int = 0

    def optimised(self, begin: Found, aim: Aim, say: Say, enough: float, tries: int) -> Found:
        """The best embedding found from `begin` on, in at most so many rows; `begin` itself if that is near enough."""
        self.rows = self.backward = 0
        best, gradient = begin, None
        has_failed = False
        while aim.reach and best.error > enough and self.rows < tries:
            if self.rows == 0 and self.last is not None:
                step = self.last - best.hidden.detach()
            else:
                step = None if has_failed else self._within(best, aim)
            is_gradient = step is None
            if step is None:
                if gradient is None:
                    gradient = self.gradient(best, aim)
                step = -self.rate * gradient
            hidden = (best.hidden.detach() + step).requires_grad_()
            said = say(hidden)
            self.rows += 1
            trial = Found(hidden, said, aim.error(said))
            change = (said - best.said).detach()
            is_first = not self.moved  # its rate is a guess
            self._learn(step, change, aim, is_gradient)
            has_failed = trial.error >= best.error and not is_gradient
            gained = trial.error < _GAIN * best.error
            if trial.error < best.error:
                best, gradient = trial, None
            if is_gradient and not gained and not is_first:
                break  # what is left is out of reach, or not worth its rows: the next step sees it too
        if best is not begin:
            self.last = best.hidden.detach()
        return best

    def _within(self, best: Found, aim: Aim) -> Tensor | None:
        """The Gauss–Newton step in the space of the kept displacements; None where too little is expected of it."""
        if not self.moved or aim.is_clean:
            return None
        # On the CPU: not every device has doubles, and this is small.
        residual = (best.said.detach() - aim.wanted).flatten().cpu().double()
        did = torch.stack([change.flatten().cpu().double() for change in self.changed])
        squares = did @ did.T
        squares += _RIDGE * squares.diagonal().mean() * torch.eye(len(did), dtype=did.dtype)
        shares = cast(Tensor, cast(Any, torch.linalg).solve(squares, -(did @ residual)))
        left = (residual + shares @ did).square().sum() / residual.square().sum()
        if float(left) > _WORTH:
            return None
        moved = torch.stack(self.moved)
        return torch.einsum("k,k...->...", shares.to(moved), moved)

    def gradient(self, best: Found, aim: Aim) -> Tensor:
        """Jᵀr."""
        residual = (best.said - aim.wanted).detach()
        (gradient,) = torch.autograd.grad(best.said, [best.hidden], residual)
        self.backward += 1
        return gradient

    def _learn(self, step: Tensor, change: Tensor, aim: Aim, is_gradient: bool) -> None:
        """Keep what a displacement did; what it did to clean latents says nothing of noise."""
        did = float(change.square().sum())
        if did == 0 or aim.is_clean:
            return
        self.moved, self.changed = [*self.moved, step][-_KEPT:], [*self.changed, change][-_KEPT:]
        if is_gradient:  # the best rate of a linear network, |g|² / |J g|²
            self.rate = float(step.square().sum()) / did
