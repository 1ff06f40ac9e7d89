"""Models of the Hugging Face hub."""

import difflib
from pathlib import Path

from wordbrush.errors import ModelError


def find(name: str, *, fetch: bool = True) -> Path:
    """The folder of a hub id, from the cache or fetched: safetensors weights and configs only, never code or pickles.

    fetch: whether the hub may be asked for a model that is not in the cache. Raises `ModelError` for a name that is no
    hub id, or a model that cannot be had.
    """
    if difflib.get_close_matches(name, ["pocket"]):
        raise ModelError(f"no model {name!r}; did you mean 'pocket'?")
    if name.endswith((".safetensors", ".ckpt")):
        raise ModelError(f"expected a model's file, but there is none at {name}; check the path")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["model_index.json"]
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        patterns += [f"{part}/*.json", f"{part}/*.safetensors"]
    patterns += ["tokenizer*/*", "scheduler/*.json"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, local_files_only=True))
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
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, OSError) as error:
        reason = (
            "could not be reached"
            if isinstance(error, LocalEntryNotFoundError)
            else f"did not give it ({str(error).partition(chr(10))[0]})"
        )
        raise ModelError(
            f"no model {name!r}: not 'pocket', no such folder or file, and the hub {reason}"
        ) from error
