"""The one optimisation loop, for every training method: a generator, like the sampling loop.

What is drawn at random (batches, timesteps, noise, crops, flips) is a pure function of the seed and the number of the
forward pass, so a run that is killed at any instant and started again from its last checkpoint ends with the same bytes
as one that was not.
"""

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from wordbrush.errors import NumericsError
from wordbrush.extras import need
from wordbrush.fit.checkpoints import Checkpoints, State, flattened, nested
from wordbrush.fit.share import ALONE, Share
from wordbrush.options import FitOptions

Loss = Callable[[int], tuple[Tensor, int]]
"""The mean loss of a forward pass of this number, and the rows that the UNet computed for it."""


@dataclass(frozen=True)
class Step:
    """One step that is done: its loss, the gradient's norm before it was shortened, its learning rate, and its rows."""

    number: int
    total: int
    loss: float
    norm: float
    rate: float
    rows: int


def generator(seed: int, *numbers: int) -> torch.Generator:
    """A random generator for these numbers: the same in every run, unlike that of any other numbers."""
    state = np.random.SeedSequence([seed, *numbers]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]) >> 1)


def rate(step: int, options: FitOptions) -> float:
    """The share of the learning rate in a step, the first of which is 0."""
    if step < options.warmup_steps:
        return (step + 1) / (options.warmup_steps + 1)
    done = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
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
    checkpoints: Checkpoints | None = None,
    share: Share = ALONE,
) -> Generator[Step, None, dict[str, Tensor]]:
    """Minimise a loss over parameters, which are in float32 and changed in place; yields after each step.

    Returns what was learned by name: the parameters, or with `ema` their running mean. rates: learning rates of their
    own. begin: is called before each step. autocast: a context for forward passes; scaled: whether their gradients are
    scaled against float16's underflow. share: this process's; its loss is of its own rows.

    Raises `NumericsError` if the loss is not finite.
    """
    assert all(each.dtype in (torch.float32, torch.float64) for each in parameters.values())
    groups: list[dict[str, Any]] = [
        {"params": [each], "lr": (rates or {}).get(name, options.learning_rate)}
        for name, each in parameters.items()
    ]
    own_rates: list[float] = [group["lr"] for group in groups]
    optimizer = _optimizer(groups, options)
    scaler = torch.amp.GradScaler(enabled=scaled)
    averages = {name: each.detach().clone() for name, each in parameters.items()} if options.ema else {}
    step = 0
    if checkpoints is not None and (state := checkpoints.last()) is not None:
        step = state.step
        _restore(state, parameters, averages, optimizer, scaler)
    while step < options.steps:
        begin(step)
        factor = rate(step, options)
        for group, own in zip(optimizer.param_groups, own_rates, strict=True):
            group["lr"] = own * factor
        total, rows = _gradients(parameters, loss, options, step, autocast or nullcontext(), scaler)
        gradients = [each.grad for each in parameters.values() if each.grad is not None]
        share.averaged(gradients)
        scaler.unscale_(optimizer)
        limit = math.inf if options.max_norm is None else options.max_norm
        norm = float(nn.utils.clip_grad_norm_(list(parameters.values()), limit))
        if not math.isfinite(total) or not (math.isfinite(norm) or scaled):
            raise NumericsError(
                f"the loss of training step {step + 1} is {total:g} and its gradient's norm {norm:g}: choose a lower "
                "--learning-rate, or --precision float32; the last checkpoint is kept"
            )
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        for name, average in averages.items():
            # As for most: a young average follows faster.
            decay = min(options.ema, (1 + step) / (10 + step))
            average.lerp_(parameters[name].detach(), 1 - decay)
        step += 1
        due = step % options.checkpoint_every == 0 or step == options.steps
        if checkpoints is not None and share.is_first and due:
            checkpoints.save(_state(step, parameters, averages, optimizer, scaler))
        yield Step(step, options.steps, total, norm, factor * options.learning_rate, rows)
    return dict(averages) if averages else {name: each.detach().clone() for name, each in parameters.items()}


def _gradients(
    parameters: Mapping[str, nn.Parameter],
    loss: Loss,
    options: FitOptions,
    step: int,
    autocast: AbstractContextManager[Any],
    scaler: torch.amp.GradScaler,
) -> tuple[float, int]:
    """Add up the gradients of a step's forward passes; returns the mean loss and the rows."""
    total, rows = 0.0, 0
    for part in range(options.accumulate):
        with torch.enable_grad(), autocast:
            value, computed = loss(step * options.accumulate + part)
            value = value / options.accumulate
        scaler.scale(value).backward(inputs=list(parameters.values()))
        total += float(value.detach())
        rows += computed
    return total, rows


def _optimizer(groups: list[dict[str, Any]], options: FitOptions) -> torch.optim.Optimizer:
    if options.optimizer == "adamw-8bit":
        with need("train", "--optimizer adamw-8bit"):
            import bitsandbytes  # pyright: ignore[reportMissingImports]
        return cast(Any, bitsandbytes).optim.AdamW8bit(groups, weight_decay=options.weight_decay)
    return torch.optim.AdamW(groups, weight_decay=options.weight_decay, betas=(0.9, 0.999), eps=1e-8)


def _state(
    step: int,
    parameters: Mapping[str, nn.Parameter],
    averages: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> State:
    moments, numbers = flattened(optimizer.state_dict())
    tensors = {f"parameters.{name}": each for name, each in parameters.items()}
    tensors |= {f"averages.{name}": each for name, each in averages.items()}
    tensors |= {f"moments.{name}": each for name, each in moments.items()}
    return State(step, tensors, {"moments": numbers, "scaler": scaler.state_dict()})


def _restore(
    state: State,
    parameters: Mapping[str, nn.Parameter],
    averages: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    def below(kind: str) -> dict[str, Tensor]:
        prefix = f"{kind}."
        return {n.removeprefix(prefix): own for n, own in state.tensors.items() if n.startswith(prefix)}

    with torch.no_grad():
        for kind, held in (("parameters", parameters), ("averages", averages)):
            for name, own in below(kind).items():
                held[name].copy_(own)
    moments = nested(below("moments"), state.numbers["moments"])
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
    if state.numbers["scaler"]:
        scaler.load_state_dict(dict(state.numbers["scaler"]))
