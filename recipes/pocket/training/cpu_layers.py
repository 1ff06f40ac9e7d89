"""Convolutions and group norms that train fast in bfloat16 on processors without matrix tiles.

On a CPU with AVX512-BF16 but without AMX, oneDNN's bfloat16 convolution gradients run at a tenth of the speed of its
forward pass: a UNet step of 32 samples takes 5.4 s, compared with 2.1 s in float32. Written as a forward convolution
and one matrix product, which are fast, the same gradients bring the step to 1.3 s. Group norms written as sums over
channels-last rows save another tenth.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NHWC = torch.channels_last


class Convolve3x3(torch.autograd.Function):
    """A 3×3 convolution, stride 1, padding 1, computed in bfloat16 with channels last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        x = x.to(torch.bfloat16).contiguous(memory_format=NHWC)
        w = weight.to(torch.bfloat16).contiguous(memory_format=NHWC)
        ctx.save_for_backward(x, w)
        ctx.dtype = weight.dtype
        return F.conv2d(x, w, bias.to(torch.bfloat16), padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        x, w = ctx.saved_tensors
        grad = grad.to(torch.bfloat16).contiguous(memory_format=NHWC)
        batch, channels, height, width = x.shape
        grad_x = None
        if ctx.needs_input_grad[0]:
            # The gradient with respect to the input is a convolution with the kernel rotated by 180°.
            turned = w.flip(2, 3).transpose(0, 1).contiguous(memory_format=NHWC)
            grad_x = F.conv2d(grad, turned, padding=1)
        rows = grad.permute(0, 2, 3, 1).reshape(-1, w.shape[0])
        padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
        sample, row, column, _ = padded.stride()
        patches = padded.as_strided(
            (batch, height, width, 3, 3, channels), (sample, row, column, row, column, 1)
        )
        grad_w = (rows.t() @ patches.reshape(-1, 9 * channels)).view(-1, 3, 3, channels)
        return (
            grad_x,
            grad_w.permute(0, 3, 1, 2).to(ctx.dtype),
            rows.sum(0, dtype=torch.float32).to(ctx.dtype),
        )


class Normalise(torch.autograd.Function):
    """Group norm (Wu and He 2018) of channels-last pictures; sums in float32, everything else in the input's type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, epsilon: float) -> Tensor:
        batch, channels, height, width = x.shape
        rows = x.contiguous(memory_format=NHWC).permute(0, 2, 3, 1).reshape(batch, -1, channels)
        count = rows.shape[1] * channels // groups
        mean = rows.sum(1, dtype=torch.float32).view(batch, groups, -1).sum(-1) / count
        square = (rows * rows).sum(1, dtype=torch.float32).view(batch, groups, -1).sum(-1) / count
        inverse = (square - mean * mean).clamp(min=0).add(epsilon).rsqrt()
        scale = inverse[..., None] * weight.view(groups, -1)
        shift = bias.view(groups, -1) - mean[..., None] * scale
        ctx.save_for_backward(rows, weight, mean, inverse)
        y = torch.addcmul(_per_channel(shift, rows), rows, _per_channel(scale, rows))
        return y.view(batch, height, width, channels).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        rows, weight, mean, inverse = ctx.saved_tensors
        batch, _, channels = rows.shape
        groups = mean.shape[1]
        count = rows.shape[1] * channels // groups
        g = grad.to(rows.dtype).permute(0, 2, 3, 1).reshape(rows.shape)
        sums = g.sum(1, dtype=torch.float32).view(batch, groups, -1)
        products = (g * rows).sum(1, dtype=torch.float32).view(batch, groups, -1)
        # Σ g·x̂ per channel, with x̂ = (x − mean) · inverse
        normalised = (products - mean[..., None] * sums) * inverse[..., None]
        w = weight.view(groups, -1)
        offset = (sums * w).sum(-1) / count
        slope = (normalised * w).sum(-1) / count
        # ∂x = inverse · (weight·g − offset − slope·x̂), gathered as a·g + b·x + c with a, b, c per channel.
        a = inverse[..., None] * w
        b = -(inverse * inverse * slope)
        c = -inverse * offset - b * mean
        spread = torch.ones_like(w)
        grad_x = torch.addcmul(
            _per_channel(c[..., None] * spread, rows), rows, _per_channel(b[..., None] * spread, rows)
        ).addcmul_(g, _per_channel(a, rows))
        grad_x = grad_x.view(batch, grad.shape[2], grad.shape[3], channels).permute(0, 3, 1, 2)
        return grad_x, normalised.sum(0).flatten(), sums.sum(0).flatten(), None, None


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    """[B, groups, channels per group] as [B, 1, channels], in the type of `like`."""
    return values.reshape(values.shape[0], 1, -1).to(like.dtype)


def _convolve_3x3(self: nn.Conv2d, x: Tensor) -> Tensor:
    return Convolve3x3.apply(x, self.weight, self.bias)


def _convolve_1x1(self: nn.Conv2d, x: Tensor) -> Tensor:
    y = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
    return y.permute(0, 3, 1, 2)


def _convolve_float32(self: nn.Conv2d, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(x.float(), self.weight, self.bias, self.stride, self.padding)


def _normalise(self: nn.GroupNorm, x: Tensor) -> Tensor:
    return Normalise.apply(x, self.weight, self.bias, self.num_groups, self.eps)


def speed_up(model: nn.Module) -> None:
    """Use the fastest layers for training `model` under CPU bfloat16 autocast.

    3×3 convolutions use `Convolve3x3`, 1×1 ones are matrix products, all others (strided ones) run in float32;
    group norms use `Normalise`. Parameters stay where they are; only each `forward` is replaced.
    """
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = MethodType(_normalise, module)
        elif isinstance(module, nn.Conv2d):
            plain = module.stride == (1, 1) and module.groups == 1 and module.dilation == (1, 1)
            if (
                plain
                and module.kernel_size == (3, 3)
                and module.padding == (1, 1)
                and module.bias is not None
            ):
                layer = _convolve_3x3
            elif plain and module.kernel_size == (1, 1):
                layer = _convolve_1x1
            else:
                layer = _convolve_float32
            module.forward = MethodType(layer, module)
