"""What "the same model" means to a saved source and to a replay."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from wordbrush.schedule import settings


def fingerprint(
    schedule_config: dict[str, Any],
    prediction: str,
    tokenizers: Sequence[Any],
    latents: tuple[float, float],
    zero_empty_prompt: bool,
    placeholders: Mapping[str, int],
    modules: Sequence[torch.nn.Module],
) -> str:
    """SHA-256 of all that a trajectory depends on.

    Covered: every weight (name, dtype, shape, bytes); the schedule's settings and the prediction type; the
    vocabulary and special tokens of each tokenizer; the scale and shift of the latents and what an empty prompt
    means; the learned words. The dtype counts because other roundings make other pixels. Not covered: name, folder,
    device, default steps and guidance, and the parts' configs, which change with the libraries' versions.
    """
    numbers = {
        "schedule": settings(schedule_config),
        "prediction": prediction,
        "tokenizers": [
            [each.get_vocab(), each.bos_token_id, each.eos_token_id, each.pad_token_id] for each in tokenizers
        ],
        "latents": latents,
        "zero_empty_prompt": zero_empty_prompt,
        **({"placeholders": list(placeholders.items())} if placeholders else {}),
    }
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
    for module in modules:
        for key, weight in sorted(module.state_dict().items()):
            digest.update(f"{key} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def of_signs(modules: Mapping[str, torch.nn.Module]) -> str:
    """SHA-256 of the sign of every weight: the same in whatever type the weights are loaded.

    No rounding changes a sign, not even that to zero, and training for a few steps changes many of them. A change that
    turns none is not noticed.
    """
    digest = hashlib.sha256()
    for part, module in modules.items():
        for name, weight in sorted(module.named_parameters()):
            digest.update(f"{part}.{name} {tuple(weight.shape)}".encode())
            negative = torch.signbit(weight.detach()).cpu().flatten().numpy()
            digest.update(np.packbits(negative).data)
    return digest.hexdigest()


def in_chunks(found: str, chunks: int) -> str:
    """The hash of a model of this fingerprint that reads prompts in chunks: its trajectories are others, but for one
    chunk."""
    return found if chunks == 1 else hashlib.sha256(f"{found} in {chunks} chunks".encode()).hexdigest()


def version(modules: Sequence[torch.nn.Module]) -> tuple[tuple[int, int], ...]:
    """Changes, without reading a weight, when one is replaced, moved, converted or written to.

    What is written behind autograd's back, in place through `weight.data`, is not noticed.
    """
    weights = [weight for module in modules for weight in (*module.parameters(), *module.buffers())]
    return tuple((weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights)
