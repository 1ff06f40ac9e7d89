"""Stable Diffusion checkpoints in one `.safetensors` file, as the original repositories wrote them.

Such a file has weights and no architecture, vocabulary or schedule: those come from a diffusers folder of the
same architecture, named by `WORDBRUSH_SINGLE_FILE_CONFIG` or lying beside the file under the file's own name.
The UNet's and the autoencoder's weights are renamed by diffusers; the text encoder's already have
transformers' names behind a prefix.
"""

import os
from pathlib import Path
from typing import Any

import torch

from wordbrush.errors import ModelError
from wordbrush.model import Model

_CONFIG = "WORDBRUSH_SINGLE_FILE_CONFIG"
_TEXT_PREFIX = "cond_stage_model.transformer."


def load_single_file(path: Path, *, device: str, dtype: torch.dtype) -> Model:
    """Load a Stable Diffusion 1 checkpoint file.

    Raises `ModelError` if the file is no safetensors file (a pickle is refused, whatever its name), holds
    another architecture, or has no folder to take its architecture from.
    """
    import diffusers
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(os.environ.get(_CONFIG, path.with_suffix("")))
    if not (folder / "model_index.json").is_file():
        raise ModelError(
            f"{path} has weights but no architecture: put a diffusers folder of its architecture at {folder}, or "
            f"name one in {_CONFIG}"
        )
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ModelError(
            f"{path} is not a safetensors file ({error}); pickled checkpoints are not read"
        ) from error
    text = {key.removeprefix(_TEXT_PREFIX): w for key, w in weights.items() if key.startswith(_TEXT_PREFIX)}
    if not text or "model.diffusion_model.input_blocks.0.0.weight" not in weights:
        raise ModelError(
            f"{path} is not a Stable Diffusion 1 checkpoint: its text encoder or UNet is missing"
        )

    model = Model.load(folder, device=device, dtype=dtype)
    model.name = str(path)
    settings: dict[str, Any] = {"dtype": dtype, "local_files_only": True}
    unet = diffusers.UNet2DConditionModel.from_single_file(
        dict(weights), config=str(folder), subfolder="unet", **settings
    )
    vae = diffusers.AutoencoderKL.from_single_file(
        dict(weights), config=str(folder), subfolder="vae", **settings
    )
    model.unet.load_state_dict(unet.state_dict())
    model.vae.load_state_dict(vae.state_dict())
    missing, _ = model.text_encoders[0].load_state_dict(text, strict=False)
    if missing:
        raise ModelError(f"{path}: its text encoder does not fit the one of {folder} (no {missing[0]})")
    return model
