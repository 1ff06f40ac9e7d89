"""Models in diffusers' folder format."""

import re
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch

from wordbrush.errors import ModelError, short
from wordbrush.loading import Defaults, Vocabulary
from wordbrush.loading.checks import read_json, require_plain, verify_manifest
from wordbrush.loading.machine import autoencoder_dtype

# The classes that a model folder may name, and where they are: no other is loaded, whatever its model_index.json says.
_UNETS = {"UNet2DConditionModel": "diffusers.models.unets.unet_2d_condition"}
_VAES = {"AutoencoderKL": "diffusers.models.autoencoders.autoencoder_kl"}
_CLIP = "transformers.models.clip.modeling_clip"
_TEXT_ENCODERS = {"CLIPTextModel": _CLIP, "CLIPTextModelWithProjection": _CLIP}
# Without accelerate, which wordbrush does not need, diffusers advises it at each load unless it is told False. What a
# config says of attention is overruled: by some names, kernels are fetched.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "diffusers": {"low_cpu_mem_usage": False},
    "transformers": {"attn_implementation": "sdpa"},
}

_PICKLES = {".bin", ".ckpt", ".pt"}
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(?P<variant>\w+))?(?:-\d+-of-\d+)?\.safetensors"
)
_VARIANTS = (None, "fp16", "bf16", "fp32", "ema", "non_ema")  # the first that is there is loaded


def load(
    path: Path, name: str, device: torch.device, dtype: torch.dtype, loaded: Mapping[str, Any]
) -> dict[str, Any]:
    """The keyword arguments of `Model` from a folder; a part that is already `loaded` is not read from it.

    Raises `ModelError` for a folder that is damaged, incomplete or of another family.
    """
    index = read_json(path / "model_index.json")
    verify_manifest(path, name)
    # Entries are ["library", "class"]; whatever else the file holds is not a component.
    entries = {part: cast(list[Any], entry) for part, entry in index.items() if isinstance(entry, list)}
    kinds: dict[str, str] = {
        part: entry[1] for part, entry in entries.items() if len(entry) == 2 and isinstance(entry[1], str)
    }
    missing = [part for part in ("unet", "vae", "scheduler", "text_encoder") if not kinds.get(part)]
    if missing:
        raise ModelError(
            f"{name}: model_index.json names no {', '.join(missing)}; it is not a Stable Diffusion"
        )

    def component(part: str, allowed: Mapping[str, str]) -> Any:
        if kinds[part] not in allowed:
            raise ModelError(
                f"{name}: expected {part} to be one of {', '.join(sorted(allowed))}, got {kinds[part]}"
            )
        if part in loaded:
            return loaded[part].to(device)
        own = autoencoder_dtype(read_json(path / part / "config.json"), dtype) if part == "vae" else dtype
        return _component(path / part, name, allowed[kinds[part]], kinds[part], own).to(device)

    encoders = [part for part in ("text_encoder", "text_encoder_2") if kinds.get(part)]
    return {
        "unet": component("unet", _UNETS),
        "vae": component("vae", _VAES),
        "text_encoders": [component(part, _TEXT_ENCODERS) for part in encoders],
        "tokenizers": [
            _tokenizer(path / part.replace("text_encoder", "tokenizer"), name) for part in encoders
        ],
        "schedule_config": read_json(path / "scheduler" / "scheduler_config.json"),
        "name": name,
        "defaults": Defaults(**index.get("wordbrush", {}).get("defaults", {})),
        "vocabulary": _vocabulary(path),
        "zero_empty_prompt": bool(index.get("force_zeros_for_empty_prompt", False)) and len(encoders) > 1,
    }


def _vocabulary(path: Path) -> Vocabulary | None:
    """The words that a model was trained on, where its folder has `words.json`."""
    if not (path / "words.json").is_file():
        return None
    words = read_json(path / "words.json")
    return Vocabulary(frozenset(words.get("known", ())), dict(words.get("instead", {})))


def _component(path: Path, name: str, module: str, kind: str, dtype: torch.dtype) -> Any:
    """One part's network from its folder."""
    library = module.partition(".")[0]
    variant = _variant(path, name)
    _require_plain_files(path, name)
    try:
        with quiet(library):
            network, report = getattr(import_module(module), kind).from_pretrained(
                path,
                variant=variant,
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **_SETTINGS[library],
            )
    except Exception as error:  # of whatever kind: it is about the files
        raise ModelError(f"{name}: cannot load {path.name}: {_line(error)}") from error
    if lost := sorted(report["missing_keys"]):  # their loaders would leave those weights random
        raise ModelError(f"{name}: {path.name} lacks {len(lost)} of its weights, such as {lost[0]}")
    surplus = sorted(report["unexpected_keys"])
    if surplus and library == "diffusers":  # a text encoder's file may be a whole CLIP's
        raise ModelError(
            f"{name}: {path.name} has {len(surplus)} weights that its config has no place for, such as {surplus[0]}: "
            "it is of another architecture than its config says"
        )
    return network


def weights(files: Iterable[str]) -> list[tuple[str, str | None]]:
    """Of a part's files those whose weights are loaded, with their variant: None for those without its name."""
    found = [(match[0], match["variant"]) for file in files if (match := _WEIGHTS.fullmatch(file))]
    variants = {variant for _, variant in found}
    for variant in (*_VARIANTS, *sorted(filter(None, variants))):
        if variant in variants:
            return [each for each in found if each[1] == variant]
    return []


def _variant(path: Path, name: str) -> str | None:
    """Which of a part's weights to load, by diffusers' naming: None for those without a variant's name.

    Raises `ModelError` if there are none.
    """
    if loaded := weights(file.name for file in path.glob("*.safetensors")):
        return loaded[0][1]
    pickles = [file.name for file in path.glob("*") if file.suffix in _PICKLES]
    there = f"there is {pickles[0]}, a pickle, and those are never loaded" if pickles else "there are none"
    raise ModelError(
        f"{name}: expected the weights of {path.name} as safetensors in {path}, {there}: "
        "convert them, or fetch the model again"
    )


def _require_plain_files(path: Path, name: str) -> None:
    """Raise `ModelError` unless a part's config asks for nothing but weights, and they are safetensors in its folder,
    and for no more of anything than they have bytes.

    Their loaders open whatever file an index lists, wherever it is, and unpickle those of other names.
    """
    config = require_plain(read_json(path / "config.json"), f"{name}: {path.name}")
    size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
    for key, value in config.items():
        if isinstance(value, int) and value > size:  # the network would be built before it is compared
            raise ModelError(
                f"{name}: expected a config that fits the weights of {path.name}, {size} bytes, got {key} = "
                f"{short(value)}: fetch the model again"
            )
    if (path / "adapter_config.json").is_file():  # with peft installed, another model would be loaded for it
        raise ModelError(
            f"{name}: expected the weights of {path.name}, got an adapter: use the model it was made for"
        )
    for index in path.glob("*.index*.json"):
        listed: Any = read_json(index).get("weight_map")
        files: set[Any] = set(listed.values()) if isinstance(listed, dict) else {str(listed)}  # pyright: ignore
        for file in files:
            if not re.fullmatch(r"[\w.\-]+\.safetensors", str(file)):
                raise ModelError(
                    f"{name}: expected {path.name}/{index.name} to list .safetensors files of its own folder, "
                    f"got {file!r}: fetch the model again"
                )


def _tokenizer(path: Path, name: str) -> Any:
    from transformers.models.clip.tokenization_clip import CLIPTokenizer

    kind: Any = CLIPTokenizer
    files = ("tokenizer.json",), ("vocab.json", "merges.txt")
    if not any(all((path / file).is_file() for file in choice) for choice in files):
        raise ModelError(  # without them it would load, and know no words
            f"{name}: cannot load {path.name}: expected tokenizer.json, or vocab.json and merges.txt, there are none: "
            "fetch the model again"
        )
    try:
        return kind.from_pretrained(path, local_files_only=True)
    except Exception as error:
        raise ModelError(f"{name}: cannot load {path.name}: {_line(error)}") from error


def _line(error: Exception) -> str:
    """An error of a library's, which may list every weight, in one line."""
    return f"{' '.join(str(error).split()):.300}"


@contextmanager
def quiet(library: str) -> Generator[None, None, None]:
    """Without diffusers' or transformers' own progress bars: progress belongs to the caller."""
    logging = import_module(f"{library}.utils.logging")
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
