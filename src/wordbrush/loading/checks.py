"""Checks of what is loaded: the device, the files of a folder, their JSON."""

import hashlib
from pathlib import Path
from typing import Any

import torch

from wordbrush.errors import ModelError
from wordbrush.reading import json_mapping


def require_device(device: str) -> None:
    """Raise `ModelError`, naming the devices there are, if this is none of them."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        known = ["cpu"]
        if accelerator := torch.accelerator.current_accelerator(check_available=True):
            known += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
        raise ModelError(f"there is no device '{device}' here; there is {', '.join(known)}") from error


def verify_manifest(path: Path, name: str) -> None:
    """Compare a folder's files with the SHA-256 in its manifest, if it has one: one flipped bit is another model.

    Raises `ModelError` for a file that is missing or has changed.
    """
    if not (path / "manifest.json").is_file():
        return
    for file, expected in read_json(path / "manifest.json")["files"].items():
        if not (path / file).is_file():
            raise ModelError(
                f"{name}: {file} is missing from {path}: install the package, or fetch the model, again"
            )
        with open(path / file, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != expected:
                raise ModelError(
                    f"{name}: {file} is damaged (its SHA-256 is not the manifest's): install it again"
                )


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises `ModelError` if the file is missing or holds none."""
    if not path.exists():
        raise ModelError(f"expected a diffusers model folder, but {path} does not exist")
    return json_mapping(path, ModelError, finite=False)  # schedulers' configs have infinities
