"""Weights in shared memory: several single-threaded processes train one model as fast as their cores allow.

Two processes of one thread each are faster than one process of two threads, because no small operation waits for the
slower thread. Each worker adds its gradients to its own row. Then each worker averages the gradients, updates and
smooths its share of the weights, in place, where all others see them. Nothing is copied or sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from threading import Barrier
from typing import Any

import torch
from torch import Tensor, nn

from muon import Muon, suits

ROWS = ("weights", "average", "first", "second")  # the second moment is used by Adam only


class SharedWeights:
    """The trained parameters of some modules and the optimiser state, as rows of one float32 tensor.

    Parameters are sorted by the worker that updates them, so that a worker's share is one slice of every row.
    """

    def __init__(self, modules: Sequence[nn.Module], workers: int, device: str) -> None:
        named = [
            (f"{i}.{name}", p) for i, module in enumerate(modules) for name, p in module.named_parameters()
        ]
        named.sort(key=lambda item: -item[1].numel())
        shares: list[list[tuple[str, Tensor]]] = [[] for _ in range(workers)]
        for item in named:
            min(shares, key=lambda share: sum(p.numel() for _, p in share)).append(item)
        self.shapes = {name: p.shape for share in shares for name, p in share}
        self.members = [[name for name, _ in share] for share in shares]
        sizes = [sum(p.numel() for _, p in share) for share in shares]
        self.slices = [slice(sum(sizes[:i]), sum(sizes[: i + 1])) for i in range(workers)]
        self.state = torch.zeros(len(ROWS), sum(sizes), device=device)
        self.gradients = torch.zeros(workers, sum(sizes), device=device)
        self.norms = torch.zeros(workers, device=device)
        self.steps = torch.zeros(())
        self.samples = torch.zeros((), dtype=torch.int64)
        weights = self.named("weights")
        for name, p in named:
            weights[name].copy_(p.detach())
        self.row("average").copy_(self.row("weights"))
        if device == "cpu":
            for tensor in (self.state, self.gradients, self.norms, self.steps, self.samples):
                tensor.share_memory_()

    def row(self, name: str) -> Tensor:
        return self.state[ROWS.index(name)]

    def named(self, row: str | Tensor) -> dict[str, Tensor]:
        """A row as one view per parameter, in its shape; convolution kernels in channels-last order."""
        flat = self.row(row) if isinstance(row, str) else row
        parts = flat.split([shape.numel() for shape in self.shapes.values()])
        views = {}
        for (name, shape), part in zip(self.shapes.items(), parts, strict=True):
            if len(shape) == 4:
                out, into, height, width = shape
                views[name] = part.view(out, height, width, into).permute(0, 3, 1, 2)
            else:
                views[name] = part.view(shape)
        return views

    def bind(self, modules: Sequence[nn.Module], row: str, worker: int | None = None) -> None:
        """Make the modules' parameters views of a row, and their gradients (given a worker) views of its row."""
        values = self.named(row)
        gradients = self.named(self.gradients[worker]) if worker is not None else {}
        for i, module in enumerate(modules):
            for name, p in module.named_parameters():
                p.data = values[f"{i}.{name}"]
                p.grad = gradients.get(f"{i}.{name}")

    def saved(self) -> dict[str, Any]:
        """The content of a checkpoint: every row by parameter name, independent of the number of workers."""
        rows = {row: {name: t.clone() for name, t in self.named(row).items()} for row in ROWS}
        return {"rows": rows, "steps": self.steps.item(), "samples": self.samples.item()}

    def load(self, saved: dict[str, Any]) -> None:
        for row in ROWS:
            for name, tensor in self.named(row).items():
                tensor.copy_(saved["rows"][row][name])
        self.steps.fill_(saved["steps"])
        self.samples.fill_(saved["samples"])


class Updater:
    """One worker's part of every update: Muon for matrices and kernels and Adam for the rest, or Adam for everything.

    `keep`: the decay of the averaged weights per step.
    """

    def __init__(
        self,
        shared: SharedWeights,
        worker: int,
        barrier: Barrier | None,
        optimiser: str,
        lr: float,
        keep: float = 0.999,
    ) -> None:
        self.shared, self.worker, self.barrier, self.keep = shared, worker, barrier, keep
        self.mine = shared.slices[worker]
        self.done = int(shared.steps.item())
        weights, sums = shared.named("weights"), shared.named(shared.gradients[0])
        first, second = shared.named("first"), shared.named("second")
        self.optimisers: list[torch.optim.Optimizer] = []
        groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
        state: dict[nn.Parameter, dict[str, Tensor]] = {}
        for name in shared.members[worker]:
            p = nn.Parameter(weights[name])
            p.grad = sums[name]
            # Embeddings are looked up row by row; they are not matrices that mix channels.
            by_muon = optimiser == "muon" and suits(p) and "embedding" not in name
            groups[by_muon].append(p)
            if by_muon:
                state[p] = {"momentum": first[name]}
            else:
                steps = shared.steps.to(p.device, copy=True)
                state[p] = {"step": steps, "exp_avg": first[name], "exp_avg_sq": second[name]}
        if groups[True]:
            self.optimisers.append(Muon(groups[True], lr=20 * lr))
        adam = torch.optim.AdamW(groups[False], lr=lr, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        self.optimisers.append(adam)
        for each in self.optimisers:
            for group in each.param_groups:
                group["full"] = group["lr"]
                each.state.update({p: state[p] for p in group["params"]})

    def _wait(self) -> None:
        if self.barrier is not None:
            self.barrier.wait()

    @torch.no_grad()
    def step(self, control: Tensor, samples: int) -> tuple[Tensor, bool]:
        """Average the gradients of all workers, of `samples` samples in total, and update the weights.

        `control` is [learning rate factor, whether this step is the last]. It is read while all workers are in this
        method, so that all read the same values. Returns the gradient norm, and whether this was the last step.
        """
        shared, mine = self.shared, self.mine
        self._wait()  # the gradients of every worker are complete
        factor, last = control.tolist()
        mean = shared.gradients[0, mine]
        for other in shared.gradients[1:, mine]:
            mean.add_(other)
        mean.div_(len(shared.gradients))
        shared.norms[self.worker] = mean.square().sum()
        self._wait()  # the norm of every share is computed
        norm = shared.norms.sum().sqrt()
        mean.mul_((1 / (norm + 1e-6)).clamp(max=1.0))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["full"] * factor
            optimiser.step()
        if self.worker == 0:
            shared.steps.add_(1)
            shared.samples.add_(samples)
        self.done += 1
        keep = min(self.keep, self.done / (self.done + 10))
        shared.row("average")[mine].lerp_(shared.row("weights")[mine], 1 - keep)
        shared.gradients[:, mine].zero_()
        self._wait()  # every share of the weights is updated
        return norm, bool(last)
