"""Checks of what is loaded: the files of a folder, their JSON."""

import hashlib
from pathlib import Path
from typing import Any, cast

from wordbrush.errors import ModelError, short
from wordbrush.files import inside
from wordbrush.reading import json_mapping


def verify_manifest(path: Path, name: str) -> None:
    """Compare a folder's files with the SHA-256 in its manifest, if it has one: one flipped bit is another model.

    Raises `ModelError` for a file that is missing or has changed.
    """
    if not (path / "manifest.json").is_file():
        return
    files: Any = read_json(path / "manifest.json").get("files")
    if not isinstance(files, dict):
        raise ModelError(
            f"{name}: expected manifest.json to list files, got {short(files)}: fetch the model again"
        )
    for file, expected in cast(dict[str, Any], files).items():
        listed = inside(path, file, "a file of the manifest")
        if not listed.is_file():
            raise ModelError(
                f"{name}: {file} is missing from {path}: install the package, or fetch the model, again"
            )
        with open(listed, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != expected:
                raise ModelError(
                    f"{name}: {file} is damaged (its SHA-256 is not the manifest's): install it again"
                )


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file. Raises `ModelError` if the file is missing or holds none."""
    if not path.exists():
        raise ModelError(f"expected a diffusers model folder, but {path} does not exist")
    return json_mapping(path, ModelError, finite=False)  # schedulers' configs have infinities


# What a config may not ask for, as its library would fetch code or kernels, or read weights in another way.
_REFUSED = (
    "auto_map",
    "custom_pipelines",
    "trust_remote_code",
    "quantization_config",
    "compression_config",
    "kernel_config",
    "use_kernels",
    "experts_implementation",
    "_experts_implementation",
    "_experts_implementation_internal",
)
_ATTENTIONS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def require_plain(config: dict[str, Any], where: str) -> dict[str, Any]:
    """A part's config. Raises `ModelError` if it, or one inside it, asks for code, kernels or quantised weights."""
    for key, value in config.items():
        is_own_attention = key in _ATTENTIONS and value in ("eager", "sdpa")
        if key in (*_REFUSED, *_ATTENTIONS) and value and not is_own_attention:
            raise ModelError(
                f"{where}: expected a config of plain weights, got {key} = {str(value):.60}, which is not supported: "
                "use the model without it"
            )
        if isinstance(value, dict):
            require_plain(cast(dict[str, Any], value), where)
    return config
