"""Stable Diffusion 1 checkpoints in one `.safetensors` file, as the original repository laid them out.

Such a file has weights only. Architecture, vocabulary and schedule come from a *config folder*: a
diffusers folder of the same architecture, whose weights are not needed. It is named by
`WORDBRUSH_SINGLE_FILE_CONFIG`, or is beside the file, under the file's name without its suffix.

diffusers renames the UNet's and the autoencoder's weights; the text encoder's already have transformers' names
behind a prefix.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from wordbrush.errors import ModelError
from wordbrush.imports import libraries

_CONFIG = "WORDBRUSH_SINGLE_FILE_CONFIG"
_UNET, _VAE, _TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer."


def config_folder(path: Path) -> Path:
    """The folder that a checkpoint takes its architecture from. Raises `ModelError` if there is none."""
    folder = Path(os.environ.get(_CONFIG) or path.with_suffix(""))
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"{path} has weights but no architecture: put a diffusers folder of its architecture (the configs and "
            f"the tokenizer are enough) at {folder}, or name one in {_CONFIG}"
        )
    return folder


def components(path: Path, folder: Path, dtype: torch.dtype) -> dict[str, Any]:
    """The checkpoint's UNet, autoencoder and text encoder, by their names in a diffusers folder.

    Raises `ModelError` if the file is no safetensors file (a pickle is refused, whatever its name), is of
    another layout than Stable Diffusion 1's, or does not fit the configs of `folder`.
    """
    diffusers, _ = libraries()
    weights = _read(path)
    try:
        return {
            "unet": _renamed(diffusers.UNet2DConditionModel, "unet", weights, folder, dtype),
            "vae": _renamed(diffusers.AutoencoderKL, "vae", weights, folder, dtype),
            "text_encoder": _text_encoder(weights, folder, dtype),
        }
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"{path} does not fit the configs in {folder}: {error}") from error


def _read(path: Path) -> dict[str, Tensor]:
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        weights: dict[str, Tensor] = cast(Any, safetensors.torch).load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}); pickled checkpoints are not read"
        ) from error
    missing = [
        part
        for part, prefix in (("UNet", _UNET), ("autoencoder", _VAE), ("CLIP text encoder", _TEXT))
        if not any(key.startswith(prefix) for key in weights)
    ]
    if missing:
        raise ModelError(
            f"{path} is not laid out like Stable Diffusion 1: it has no {' and no '.join(missing)}; "
            "use the model's diffusers folder"
        )
    return weights


def _renamed(kind: Any, part: str, weights: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> Any:
    """A diffusers component from its share of the weights."""
    prefix = _UNET if part == "unet" else _VAE
    own = {key: weight for key, weight in weights.items() if key.startswith(prefix)}
    count = len(own)
    module = kind.from_single_file(
        own,
        config=str(folder),
        subfolder=part,
        dtype=dtype,
        local_files_only=True,
        low_cpu_mem_usage=False,  # True needs accelerate, and leaves missing weights without storage
    )
    # diffusers leaves a weight that is missing at its random start. Both layouts split the weights alike: count.
    if count < (needed := len(module.state_dict())):
        raise ValueError(f"{part} needs {needed} weights and the file has {count}")
    return module


def _text_encoder(weights: Mapping[str, Tensor], folder: Path, dtype: torch.dtype) -> Any:
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel

    encoder, report = cast(Any, CLIPTextModel).from_pretrained(
        None,
        config=cast(Any, CLIPTextConfig).from_pretrained(folder / "text_encoder", local_files_only=True),
        state_dict={key.removeprefix(_TEXT): w for key, w in weights.items() if key.startswith(_TEXT)},
        dtype=dtype,
        output_loading_info=True,
    )
    if report["missing_keys"]:
        raise ValueError(f"text_encoder needs {sorted(report['missing_keys'])[0]} and the file has none")
    return encoder
