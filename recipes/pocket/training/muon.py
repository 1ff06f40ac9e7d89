"""Muon: momentum with every matrix orthogonalised, so that all directions of a layer learn at the same rate.

K. Jordan et al., 2024, https://kellerjordan.github.io/posts/muon, with the polynomial coefficients of N. Amsel
et al., "The Polar Express", 2025, arXiv:2505.16932. Kernels of convolutions count as matrices
[out, in · height · width].
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from precision import numbers

POLYNOMIALS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximately U·Vᵀ of the singular value decomposition, by matrix products only, in bfloat16 where it is fast."""
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T).to(numbers(matrix.device.type))
    wide = wide / (1.01 * wide.norm() + 1e-7)
    for a, b, c in POLYNOMIALS:
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return (wide if matrix.shape[0] <= matrix.shape[1] else wide.T).float()


def suits(parameter: Tensor) -> bool:
    """Whether a parameter is a kernel or matrix that mixes at least eight channels into at least eight."""
    return parameter.ndim >= 2 and min(parameter.shape[:2]) >= 8


class Muon(torch.optim.Optimizer):
    """Steps of spectral norm `lr · sqrt(max(1, rows / columns))`."""

    def __init__(
        self,
        parameters: Iterable[Tensor],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                ahead = p.grad.lerp(state["momentum"], group["momentum"])
                update = orthogonal(ahead.reshape(p.shape[0], -1)).view_as(p)
                tall = max(1.0, p.shape[0] ** 2 / p.numel()) ** 0.5
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * tall)
