"""The number type that training computes in: whichever of bfloat16 and float32 is faster on this machine.

With AVX512-BF16, training in bfloat16 is twice as fast as in float32, and with matrix tiles several times; without
either it is emulated, and tens of times slower. So it is measured, for two seconds at most, once for all workers.
`POCKET_NUMBERS=float32` (or bfloat16) decides instead.
"""

from __future__ import annotations

import os
import time

import torch
from torch.nn import functional as F

from cpu_layers import Convolve3x3

_CHOICE = "POCKET_NUMBERS"


def numbers(device: str) -> torch.dtype:
    """torch.bfloat16 or torch.float32. On an accelerator it is bfloat16."""
    if device != "cpu":
        return torch.bfloat16
    if _CHOICE not in os.environ:  # workers inherit what is written here
        is_faster = steps_a_second(torch.bfloat16) > steps_a_second(torch.float32)
        os.environ[_CHOICE] = "bfloat16" if is_faster else "float32"
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[os.environ[_CHOICE]]


def autocast(device: str) -> torch.autocast:
    """The context in which a loss is computed."""
    chosen = numbers(device)
    return torch.autocast(device, dtype=torch.bfloat16, enabled=chosen == torch.bfloat16)


def steps_a_second(dtype: torch.dtype) -> float:
    """Forward and backward passes of one of the UNet's convolutions on the CPU, as training runs it, in a second."""
    x = torch.ones(4, 192, 8, 8, dtype=dtype).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.ones(192, 192, 3, 3, requires_grad=True), torch.ones(192, requires_grad=True)
    done, begun = -1, 0.0  # the first step prepares
    while done < 1 or time.perf_counter() - begun < 0.8:
        if done == 0:
            begun = time.perf_counter()
        y = (
            Convolve3x3.apply(x, weight, bias)
            if dtype == torch.bfloat16
            else F.conv2d(x, weight, bias, padding=1)
        )
        y.sum().backward()
        done += 1
    return done / (time.perf_counter() - begun)
