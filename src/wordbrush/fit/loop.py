"""The one optimisation loop, for every training method: a generator, like the sampling loop.

What is drawn at random (batches, timesteps, noise, crops, flips) is a pure function of the seed and of a row's number,
so a run that is killed at any instant and started again from its last checkpoint ends with the same bytes as one that
was not.
"""

import hashlib
import math
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from wordbrush.errors import MissingExtraError, NumericsError
from wordbrush.fit.checkpoints import State
from wordbrush.fit.share import ALONE, Share
from wordbrush.options import FitOptions

Loss = Callable[[int], tuple[Tensor, int]]
"""The mean loss of a forward pass of this number, and the rows that the UNet computed for it."""

_HIGHEST = 2.0**16  # of the scale at first
_LONG = 2000  # steps without an overflow, after which it is doubled


@dataclass(frozen=True)
class Step:
    """One step that is done: its loss, the gradient's norm before it was shortened, its learning rate, and its rows."""

    number: int
    total: int
    loss: float
    norm: float
    rate: float
    rows: int


@dataclass
class _Scale:
    """What a loss is multiplied by, so that its gradients in float16 are not too small: a power of 2, which rounds
    nothing. It is halved when they were too large, and that step is left out; it is doubled after many good ones."""

    value: float = 1.0
    since: int = 0

    def follow(self, is_good: bool) -> None:
        self.since = self.since + 1 if is_good else 0
        if not is_good:
            self.value /= 2
        elif self.since == _LONG:
            self.value, self.since = self.value * 2, 0


def generator(seed: int, *which: str | int) -> torch.Generator:
    """A random generator for a seed and a purpose: the same in every run, unlike that of any other."""
    digest = hashlib.sha256(repr((seed, *which)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def rate(step: int, options: FitOptions) -> float:
    """The share of the learning rate in a step, the first of which is 0. No step has none."""
    if step < options.warmup_steps:
        return (step + 1) / (options.warmup_steps + 1)
    done = (step - options.warmup_steps) / (options.steps - options.warmup_steps)
    match options.schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1 - done
        case "cosine":
            return (1 + math.cos(math.pi * done)) / 2


def fit(
    parameters: Mapping[str, nn.Parameter],
    loss: Loss,
    options: FitOptions,
    *,
    rates: Mapping[str, float] | None = None,
    begin: Callable[[int], object] = lambda step: None,
    autocast: AbstractContextManager[Any] | None = None,
    scaled: bool = False,
    state: State | None = None,
    save: Callable[[State], object] | None = None,
    share: Share = ALONE,
) -> Generator[Step, None, dict[str, Tensor]]:
    """Minimise a loss over parameters, which are in float32 and changed in place; yields after each step.

    Returns what was learned by name: the parameters, or with `ema` their running mean. rates: learning rates of their
    own. begin: is called before each step. autocast: a context for forward passes; scaled: whether their gradients are
    scaled against float16's underflow. state: where to go on from. save: keeps a checkpoint, once the caller is done
    with its step: what the caller writes of a step is there when its checkpoint is. share: this process's; its loss is
    of its own rows.

    Raises `NumericsError` if the loss is not finite.
    """
    assert all(each.dtype in (torch.float32, torch.float64) for each in parameters.values())
    learning = list(parameters.values())
    optimizer = _optimizer(_groups(parameters, rates or {}, options), options)
    own_rates: list[float] = [group["lr"] for group in optimizer.param_groups]
    scale = _Scale(_HIGHEST if scaled else 1.0)
    averages = {name: each.detach().clone() for name, each in parameters.items()} if options.ema else {}
    step = 0
    if state is not None:
        step = state.step
        _restore(state, parameters, averages, optimizer, scale)
    while step < options.steps:
        begin(step)
        factor = rate(step, options)
        for group, own in zip(optimizer.param_groups, own_rates, strict=True):
            group["lr"] = own * factor
        value, rows = _gradients(learning, loss, options, step, autocast or nullcontext(), scale.value)
        gradients = [each.grad for each in learning if each.grad is not None]
        share.average([*gradients, value])
        total, norm = float(value), _shortened(gradients, options.max_norm, scale.value)
        is_good = math.isfinite(norm)
        # An infinite gradient of a large scale says nothing yet: with a smaller one it may be finite.
        if not math.isfinite(total) or not (is_good or scale.value > 1):
            raise NumericsError(
                f"expected a loss and a gradient that are finite, got {total:g} and {norm:g} in training step "
                f"{step + 1}: choose a lower --learning-rate, or --precision float32; the last checkpoint is kept"
            )
        if is_good:
            optimizer.step()
        if scaled:
            scale.follow(is_good)
        optimizer.zero_grad(set_to_none=True)
        if averages:
            # As for most: a young average follows faster.
            decay = min(options.ema, (1 + step) / (10 + step))
            cast(Any, torch)._foreach_lerp_(
                list(averages.values()), [each.detach() for each in learning], 1 - decay
            )
        step += 1
        yield Step(step, options.steps, total, norm, factor * options.learning_rate, rows)
        if save is not None and (step % options.checkpoint_every == 0 or step == options.steps):
            save(_state(step, parameters, averages, optimizer, scale))
    return averages or {name: each.detach().clone() for name, each in parameters.items()}


def _gradients(
    learning: list[nn.Parameter],
    loss: Loss,
    options: FitOptions,
    step: int,
    autocast: AbstractContextManager[Any],
    scale: float,
) -> tuple[Tensor, int]:
    """Add up the gradients of a step's forward passes, times `scale`; returns the mean loss and the rows."""
    values: list[Tensor] = []
    rows = 0
    for part in range(options.accumulate):
        with torch.enable_grad(), autocast:
            value, computed = loss(step * options.accumulate + part)
        (value * (scale / options.accumulate)).backward(inputs=learning)
        values.append(value.detach())
        rows += computed
    return torch.stack(values).mean(), rows


def _shortened(gradients: list[Tensor], limit: float | None, scale: float) -> float:
    """Undo a scale and shorten gradients to a norm of at most `limit`; returns the norm before that."""
    norm = float(nn.utils.get_total_norm(gradients)) / scale
    factor = 1.0 if limit is None else min(1.0, limit / (norm + 1e-6))
    if math.isfinite(norm) and factor != scale:
        cast(Any, torch)._foreach_mul_(gradients, factor / scale)
    return norm


def _groups(
    parameters: Mapping[str, nn.Parameter], rates: Mapping[str, float], options: FitOptions
) -> list[dict[str, Any]]:
    """The parameters by learning rate: few groups are updated in few calls."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, each in parameters.items():
        groups.setdefault(rates.get(name, options.learning_rate), []).append(each)
    return [{"params": own, "lr": rate} for rate, own in groups.items()]


def _optimizer(groups: list[dict[str, Any]], options: FitOptions) -> torch.optim.Optimizer:
    if options.optimizer == "adamw-8bit":
        try:
            import bitsandbytes  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise MissingExtraError(
                "expected the package 'bitsandbytes', which --optimizer adamw-8bit needs: install it with "
                "pip install bitsandbytes, or choose adamw"
            ) from error
        return cast(Any, bitsandbytes).optim.AdamW8bit(groups, weight_decay=options.weight_decay)
    return torch.optim.AdamW(
        groups, weight_decay=options.weight_decay, betas=(0.9, 0.999), eps=1e-8, fused=True
    )


def _state(
    step: int,
    parameters: Mapping[str, Tensor],
    averages: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scale: _Scale,
) -> State:
    moments: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for name, each in parameters.items():
        for kind, value in optimizer.state.get(each, {}).items():
            where = moments if isinstance(value, Tensor) else numbers
            where[f"{name}.{kind}"] = value
    tensors = {"parameters": parameters, "averages": averages, "moments": moments}
    return State(step, tensors, {"moments": numbers, "scale": [scale.value, scale.since]})


def _restore(
    state: State,
    parameters: Mapping[str, Tensor],
    averages: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scale: _Scale,
) -> None:
    with torch.no_grad():
        for kind, held in (("parameters", parameters), ("averages", averages)):
            for name, own in held.items():
                own.copy_(state.tensors[kind][name])
    for key, value in (*state.tensors["moments"].items(), *state.numbers["moments"].items()):
        name, _, kind = key.rpartition(".")
        each = parameters[name]
        own = value.to(each.device, copy=True) if isinstance(value, Tensor) else value
        optimizer.state[each][kind] = own
    scale.value, scale.since = state.numbers["scale"]
