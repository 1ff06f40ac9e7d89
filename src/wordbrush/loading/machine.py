"""Where a model computes, and in what type each of its parts does."""

from collections.abc import Mapping
from typing import Any

import torch

from wordbrush.errors import ModelError, short

DTYPES: Mapping[str, torch.dtype] = {
    name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "float64")
}


def device_of(device: str | torch.device | None) -> torch.device:
    """A device by its name; by default the accelerator (CUDA, MPS, …) if there is one.

    Raises `ModelError`, naming the devices there are, if this is none of them.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    if device is None:
        return accelerator or torch.device("cpu")
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise RuntimeError("nothing is computed on it")
        if found.type == "cpu" and found.index:
            raise RuntimeError("torch would take it for the first")
        torch.empty(0, device=found)
        return found
    except (RuntimeError, AssertionError, TypeError) as error:
        known = ["cpu"]
        if accelerator is not None:
            known += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
        raise ModelError(f"there is no device {str(device)!r} here; there is {', '.join(known)}") from error


def dtype_of(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """A type by its name, or torch's; by default float32 on the CPU and float16 elsewhere. Raises `ModelError`."""
    if dtype is None:
        return torch.float32 if device.type == "cpu" else torch.float16
    found = DTYPES.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ModelError(f"expected dtype to be one of {', '.join(DTYPES)}, got {short(str(dtype))}")
    return found


def autoencoder_dtype(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """What an autoencoder computes in where the model computes in `dtype`.

    `force_upcast` says that its activations do not fit into float16, whose largest number is 65,504 (pocket's reach
    196,000). diffusers reads a config that does not say so as if it did.
    """
    upcast = dtype == torch.float16 and config.get("force_upcast", True)
    return torch.float32 if upcast else dtype
