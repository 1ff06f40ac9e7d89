"""Loading models: the built-in one, diffusers folders, hub ids, single files. Nothing else reads a model's weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wordbrush.imports import no_collection

POCKET = Path(__file__).parents[1] / "pocket" / "weights"


@dataclass(frozen=True, slots=True)
class Defaults:
    """The steps and the guidance scale that a model is used with where the user gives none.

    inversion_steps: those of inversions, where they are others than for generating.
    """

    steps: int = 50
    guidance_scale: float = 7.5
    inversion_steps: int | None = None


@no_collection()
def load_parts(name: str | Path, device: str | None, dtype: torch.dtype | None) -> dict[str, Any]:
    """The keyword arguments of `Model` for a model's name; see `Model.load`. Raises `ModelError`."""
    from wordbrush.loading import checks, folder, hub, single_file

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    checks.require_device(device)
    dtype = dtype or (torch.float32 if device == "cpu" else torch.float16)
    path = POCKET if name == "pocket" else Path(name)
    loaded: dict[str, Any] = {}
    if path.is_file():
        configs = single_file.config_folder(path)
        loaded = single_file.components(path, configs, dtype)
        path = configs
    elif not path.is_dir():
        path = hub.fetch(str(name))
    return folder.load(path, "pocket" if name == "pocket" else str(name), device, dtype, loaded)
