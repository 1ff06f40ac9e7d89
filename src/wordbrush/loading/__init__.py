"""Loading models: the built-in one, diffusers folders, hub ids, single files. Nothing else reads a model's weights."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from wordbrush.imports import libraries, no_collection

POCKET = Path(__file__).parents[1] / "pocket" / "weights"


@dataclass(frozen=True, slots=True)
class Defaults:
    """The steps and the guidance scale that a model is used with where the user gives none.

    inversion_steps: those of inversions, where they are others than for generating.
    """

    steps: int = 50
    guidance_scale: float = 7.5
    inversion_steps: int | None = None


@dataclass(frozen=True)
class Vocabulary:
    """The words that a model was trained on, lower case; `instead` has others with the known word to use for each."""

    known: frozenset[str]
    instead: Mapping[str, str]

    def hint(self, word: str) -> str:
        """`" (but 'horse')"`, the nearest word that is known, or nothing if none is near."""
        close = difflib.get_close_matches(word, [*self.known, *self.instead], n=1, cutoff=0.75)
        near = self.instead.get(close[0], close[0]) if close else ""
        return f" (but '{near}')" if near else ""


@no_collection()
def load_parts(
    name: str | Path,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    *,
    fetch: bool = True,
) -> dict[str, Any]:
    """The keyword arguments of `Model` for a model's name; see `Model.load`. Raises `ModelError`."""
    from wordbrush.loading import folder, hub, machine, single_file

    libraries()
    on = machine.device_of(device)
    dtype = machine.dtype_of(dtype, on)
    path = POCKET if name == "pocket" else Path(name)
    if path.is_file():
        return single_file.load(path, str(name), on, dtype)
    if not path.is_dir():
        path = hub.find(str(name), fetch=fetch)
    return folder.load(path, str(name), on, dtype, {})
