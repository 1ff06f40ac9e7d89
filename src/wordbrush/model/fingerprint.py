"""What "the same model" means to a saved source and to a replay."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import torch

from wordbrush.schedule import settings


def fingerprint(
    schedule_config: dict[str, Any],
    prediction: str,
    tokenizers: Sequence[Any],
    latents: tuple[float, float],
    zero_empty_prompt: bool,
    modules: Sequence[torch.nn.Module],
) -> str:
    """SHA-256 of all that a trajectory depends on.

    Covered: every weight (name, dtype, shape, bytes); the schedule's settings and the prediction type; the
    vocabulary and special tokens of each tokenizer; the scale and shift of the latents and what an empty prompt
    means. The dtype counts because other roundings make other pixels. Not covered: name, folder, device,
    default steps and guidance, and the parts' configs, which change with the libraries' versions.
    """
    numbers = {
        "schedule": settings(schedule_config),
        "prediction": prediction,
        "tokenizers": [
            [each.get_vocab(), each.bos_token_id, each.eos_token_id, each.pad_token_id] for each in tokenizers
        ],
        "latents": latents,
        "zero_empty_prompt": zero_empty_prompt,
    }
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
    for module in modules:
        for key, weight in sorted(module.state_dict().items()):
            digest.update(f"{key} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().flatten().view(torch.uint8).numpy().data)
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
