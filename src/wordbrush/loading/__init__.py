"""Loading models: the built-in one, diffusers folders, hub ids, single files. Nothing else reads a model's weights."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

POCKET = Path(__file__).parents[1] / "pocket" / "weights"


@dataclass(frozen=True, slots=True)
class Defaults:
    """The steps and the guidance scale that a model is used with where the user gives none.

    inversion_steps: those of inversions, where they are others than for generating.
    """

    steps: int = 50
    guidance_scale: float = 7.5
    inversion_steps: int | None = None


def load_parts(
    name: str | Path, device: str | None, dtype: torch.dtype | None, *, fetch: bool = True
) -> dict[str, Any]:
    """The keyword arguments of `Model` for a model's name; see `Model.load`. Raises `ModelError`."""
    from wordbrush.loading import checks, folder, hub, single_file

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    checks.require_device(device)
    dtype = dtype or (torch.float32 if device == "cpu" else torch.float16)
    path = POCKET if name == "pocket" else Path(name)
    if path.is_file():
        return single_file.load(path, str(name), device, dtype)
    if not path.is_dir():
        path = hub.find(str(name), fetch=fetch)
    return folder.load(path, str(name), device, dtype, {})
