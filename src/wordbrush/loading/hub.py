"""Models of the Hugging Face hub."""

import difflib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from wordbrush.errors import ModelError
from wordbrush.loading import folder

_WEIGHED = ("unet", "vae", "text_encoder", "text_encoder_2")
"""The parts with weights."""
_PLAIN = ["model_index.json", *(f"{part}/*.json" for part in _WEIGHED), "tokenizer*/*", "scheduler/*.json"]
_PATTERNS = [*_PLAIN, *(f"{part}/*.safetensors" for part in _WEIGHED)]


def find(name: str, *, fetch: bool = True) -> Path:
    """The folder of a hub id, from the cache or fetched: configs and the safetensors weights that are loaded, never
    code or pickles, nor the weights' other variants.

    fetch: whether the hub may be asked for a model that is not in the cache, or not whole. Raises `ModelError` for a
    name that is no hub id, or a model that cannot be had.
    """
    if difflib.get_close_matches(name, ["pocket"]):
        raise ModelError(f"no model {name!r}; did you mean 'pocket'?")
    if name.endswith((".safetensors", ".ckpt")):
        raise ModelError(f"expected a model's file, but there is none at {name}; check the path")
    import huggingface_hub
    from huggingface_hub.errors import (
        DryRunError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
    )

    cached = None
    try:
        # Asked for one file, as the cache may lack variants that nobody needs; other programs fetch fewer, too.
        cached = Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=["model_index.json"], local_files_only=True
            )
        )
        if not fetch or _is_whole(cached):
            return cached
    except LocalEntryNotFoundError as error:
        if not fetch:
            raise ModelError(
                f"no model {name!r} on this machine, and nothing is fetched here: not 'pocket', no such folder or "
                "file, and not in the hub's cache; fetch it first, or name its folder or file"
            ) from error
    except HFValidationError as error:
        raise ModelError(
            f"no model {name!r}: not 'pocket', no folder or file there, and no hub id"
        ) from error
    try:
        listed = huggingface_hub.snapshot_download(name, allow_patterns=_PATTERNS, dry_run=True)
        wanted = [*_PLAIN, *_loaded(file.filename for file in listed)]
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, OSError) as error:
        if cached is not None:  # whoever loads it says what is missing
            return cached
        cause = error.__cause__ if isinstance(error, DryRunError) else error
        answered = isinstance(cause, HfHubHTTPError) or (
            cause is error and not isinstance(error, LocalEntryNotFoundError)
        )
        reason = (
            f"did not give it ({str(cause).partition(chr(10))[0]})" if answered else "could not be reached"
        )
        raise ModelError(
            f"no model {name!r}: not 'pocket', no such folder or file, and the hub {reason}"
        ) from error


def _loaded(files: Iterable[str]) -> list[str]:
    """Of a model's files, as paths in it, the weights that are loaded."""
    paths = [PurePosixPath(file) for file in files]
    return [
        f"{part}/{name}"
        for part in _WEIGHED
        for name, _ in folder.weights(path.name for path in paths if str(path.parent) == part)
    ]


def _is_whole(path: Path) -> bool:
    """Whether every part is there: a fetch that was stopped leaves a folder that lacks some."""
    parts = [part for part in _WEIGHED if part != "text_encoder_2" or (path / part).is_dir()]
    needed = [*(f"{part}/*.safetensors" for part in parts), "tokenizer/*", "scheduler/*.json"]
    return all(any(path.glob(pattern)) for pattern in needed)
