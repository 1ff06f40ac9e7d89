"""Models in diffusers' folder format."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError

from wordbrush.errors import ModelError
from wordbrush.imports import libraries
from wordbrush.loading import Defaults
from wordbrush.loading.checks import read_json, verify_manifest

# The classes that a model folder may name: no other is loaded, whatever its model_index.json says.
_UNETS = {"UNet2DConditionModel"}
_VAES = {"AutoencoderKL"}
_TEXT_ENCODERS = {"CLIPTextModel", "CLIPTextModelWithProjection"}
_PICKLES = {".bin", ".ckpt", ".pt"}


def load(path: Path, name: str, device: str, dtype: torch.dtype, loaded: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `Model` from a folder; a part that is already `loaded` is not read from it.

    Raises `ModelError` for a folder that is damaged, incomplete or of another family.
    """
    diffusers, transformers = libraries()
    index = read_json(path / "model_index.json")
    verify_manifest(path, name)
    # Entries are ["library", "class"]; whatever else the file holds is not a component.
    kinds: dict[str, str] = {
        part: cast(list[str], entry)[1]
        for part, entry in index.items()
        if isinstance(entry, list) and len(cast(list[str], entry)) == 2
    }
    missing = [part for part in ("unet", "vae", "scheduler", "text_encoder") if not kinds.get(part)]
    if missing:
        raise ModelError(
            f"{name}: model_index.json names no {', '.join(missing)}; it is not a Stable Diffusion"
        )

    def component(part: str, library: Any, allowed: set[str]) -> Any:
        if kinds[part] not in allowed:
            raise ModelError(
                f"{name}: expected {part} to be one of {', '.join(sorted(allowed))}, got {kinds[part]}"
            )
        found = loaded.get(part) or _component(
            path / part, name, getattr(library, kinds[part]), library, dtype
        )
        return found.to(device)

    encoders = [part for part in ("text_encoder", "text_encoder_2") if kinds.get(part)]
    return {
        "unet": component("unet", diffusers, _UNETS),
        "vae": component("vae", diffusers, _VAES),
        "text_encoders": [component(part, transformers, _TEXT_ENCODERS) for part in encoders],
        "tokenizers": [
            _tokenizer(path / part.replace("text_encoder", "tokenizer"), name) for part in encoders
        ],
        "schedule_config": read_json(path / "scheduler" / "scheduler_config.json"),
        "name": name,
        "defaults": Defaults(**index.get("wordbrush", {}).get("defaults", {})),
        "zero_empty_prompt": bool(index.get("force_zeros_for_empty_prompt", False)) and len(encoders) > 1,
    }


def _component(path: Path, name: str, kind: Any, library: Any, dtype: torch.dtype) -> Any:
    """One part's network from its folder."""
    files = [file.name for file in path.glob("*.safetensors")]
    if not files:
        pickles = [file.name for file in path.glob("*") if file.suffix in _PICKLES]
        found = (
            f"there is {pickles[0]}, a pickle, and those are never loaded" if pickles else "there are none"
        )
        raise ModelError(
            f"{name}: expected the weights of {path.name} as safetensors in {path}, {found}: "
            "convert them, or fetch the model again"
        )
    try:
        with _quiet(library):
            network, report = kind.from_pretrained(
                path,
                variant="fp16" if all(".fp16" in file for file in files) else None,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{name}: cannot load {path.name}: {error}") from error
    if lost := sorted(report["missing_keys"]):  # their loaders would leave those weights random
        raise ModelError(f"{name}: {path.name} lacks {len(lost)} of its weights, such as {lost[0]}")
    return network


def _tokenizer(path: Path, name: str) -> Any:
    kind: Any = libraries()[1].CLIPTokenizer
    try:
        return kind.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(f"{name}: cannot load {path.name}: {error}") from error


@contextmanager
def _quiet(library: Any) -> Generator[None, None, None]:
    """Without diffusers' or transformers' own progress bars: progress belongs to the caller."""
    logging = library.utils.logging
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
