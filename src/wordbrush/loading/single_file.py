"""Stable Diffusion 1, 2 and XL in one `.safetensors` file, as the original repositories lay them out.

Nothing beside the file is needed: the architecture is read from the shapes of the weights (`sizes`), CLIP's vocabulary
ships with the package (`clip`), and the family's schedule is known. What the network predicts is, in this order:

1. what the file says: a weight `v_pred`, or `modelspec.prediction_type` or `modelspec.architecture` in its header;
2. what its name says: "v-pred", or "eps"; for Stable Diffusion 2 also "768" (v), "512" or "base" (eps);
3. eps. The weights of Stable Diffusion 2 do not say, so a file of it that says nothing is refused.

A weight `ztsnr` says that the schedule ends at zero signal.

A *config folder* decides all of this instead: a diffusers folder of this architecture, whose weights are not needed.
It is named by `WORDBRUSH_SINGLE_FILE_CONFIG`, or is beside the file, under the file's name without its suffix.

Where a file has the moving average of the UNet's weights beside them, the average is loaded: see `Share.averaged`.
"""

import os
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from wordbrush.errors import ModelError
from wordbrush.loading import Defaults, clip, folder, names, sizes
from wordbrush.loading.checks import read_json, require_plain
from wordbrush.loading.machine import autoencoder_dtype
from wordbrush.loading.share import Share

_CONFIG = "WORDBRUSH_SINGLE_FILE_CONFIG"

# A part's prefixes in the file, and how its names begin where there is no prefix.
_SHARES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "UNet": (
        ("model.diffusion_model.", "diffusion_model.", ""),
        ("input_blocks", "middle_block", "output_blocks", "time_embed", "label_emb", "out"),
    ),
    "autoencoder": (
        ("first_stage_model.", "vae.", ""),
        ("encoder", "decoder", "quant_conv", "post_quant_conv"),
    ),
    "CLIP text encoder": (
        (
            "cond_stage_model.transformer.text_model.",
            "cond_stage_model.transformer.",
            "conditioner.embedders.0.transformer.text_model.",
            "conditioner.embedders.0.transformer.",
            "text_model.",
        ),
        (),
    ),
    "OpenCLIP text encoder": (
        ("cond_stage_model.model.", "conditioner.embedders.1.model.", ""),
        ("token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"),
    ),
}

# What else a part's share holds that no prediction depends on.
_HARMLESS: Mapping[str, str] = {
    "UNet": r"$.",
    "autoencoder": r"loss\.|model_ema\.",
    "CLIP text encoder": r"embeddings\.position_ids$|logit_scale$|text_projection(\.weight)?$",
    "OpenCLIP text encoder": r"attn_mask$|logit_scale$|text_projection$|transformer\.resblocks\.23\.",
}

# Files that are no model of these families, by one of their keys.
_OTHERS: Mapping[str, str] = {
    r"^lora_(unet|te)|\.lora_(up|down|[AB])\b|\.(hada|lokr)_w\d": "a LoRA, which changes a model",
    r"^control_model\.|^controlnet_|input_hint_block\.": "a ControlNet, which steers a model",
    r"^(image_proj|ip_adapter)\.": "an IP-Adapter, which steers a model",
    r"motion_modules\.": "a motion module, which makes a model's pictures move",
    r"^(emb_params|clip_[lg])$|^string_to_param": "a learned word",
    r"^down_blocks\.": "one part of a model in diffusers' format, of which the whole folder is needed",
    r"^conditioner\.embedders\.0\.model\.": "SDXL's refiner, which only finishes pictures",
    r"joint_blocks\.": "Stable Diffusion 3",
    r"double_blocks\.": "a model of the Flux family",
    r"^edm_(mean|std|vpred)": "an EDM model, whose noise schedule is another",
    r"^embedder\.|^model\.diffusion_model\.label_emb\.weight$": "a model that reads more than a prompt",
    r"(\.scale_weight|\.weight_scale|\.scale_input|\.absmax|\.quant_map|scaled_fp8)$": "a quantised model",
}


@dataclass(frozen=True, slots=True)
class _Family:
    """A family's name and what the shapes of its weights do not say.

    texts: its text encoders, and the token that each one's prompts are padded with. scale: of the latents. sizes: the
    latents' size, by prediction type. has_wide_heads: see `sizes.unet`. most_layers: see `sizes.open_clip`.
    """

    name: str
    texts: Mapping[str, str]
    scale: float
    sizes: Mapping[str, int]
    has_wide_heads: bool = True
    most_layers: int | None = None


_END, _BANG = "<|endoftext|>", "!"
_FAMILIES = (
    _Family(
        "Stable Diffusion 1",
        {"CLIP text encoder": _END},
        scale=0.18215,
        sizes={"epsilon": 64, "v_prediction": 64},
        has_wide_heads=False,
    ),
    _Family(
        "Stable Diffusion 2",
        {"OpenCLIP text encoder": _BANG},
        scale=0.18215,
        sizes={"epsilon": 64, "v_prediction": 96},
        most_layers=23,  # it reads the last but one of ViT-H's 24, so that the last one is not loaded
    ),
    _Family(
        "Stable Diffusion XL",
        {"CLIP text encoder": _END, "OpenCLIP text encoder": _BANG},
        scale=0.13025,
        sizes={"epsilon": 128, "v_prediction": 128},
    ),
)
_ENCODERS = ("text_encoder", "text_encoder_2")
_SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "timestep_spacing": "leading",
}


_PREDICTIONS = {"epsilon": "epsilon", "eps": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}


def load(path: Path, name: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The keyword arguments of `Model` from a checkpoint.

    Raises `ModelError` if the file is no safetensors file (a pickle is refused, whatever its name), is something else
    than a whole model of these families, lacks a weight, or has one that its architecture has no place for.
    """
    from safetensors import SafetensorError, safe_open

    try:
        opened = cast(Any, safe_open)(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"expected a whole safetensors file, but {path} is none ({error!s:.200}): fetch it again, or convert it; "
            "pickled checkpoints are never loaded"
        ) from error
    with opened as file:
        return _load(path, file, name, device, dtype)


def _load(path: Path, file: Any, name: str, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    keys, header = set[str](file.keys()), cast(Mapping[str, str], file.metadata() or {})
    shares = {part: Share.of(str(path), file, *where) for part, where in _SHARES.items()}
    shares["UNet"] = shares["UNet"].averaged()
    family = _family(path, keys, shares)
    configs = _config_folder(path)
    prediction = "" if configs else _prediction(path, keys, header, family)
    parts = _parts(shares, family, configs, prediction, dtype)
    if configs:
        return folder.load(configs, name, device, dtype, parts)
    schedule = {**_SCHEDULE, "prediction_type": prediction}
    if "ztsnr" in keys:
        schedule |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    encoders = [parts[part] for part in _ENCODERS if part in parts]
    return {
        "unet": parts["unet"].to(device),
        "vae": parts["vae"].to(device),
        "text_encoders": [encoder.to(device) for encoder in encoders],
        "tokenizers": [clip.tokenizer(pad) for pad in family.texts.values()],
        "schedule_config": schedule,
        "name": name,
        "defaults": Defaults(),
        "zero_empty_prompt": len(encoders) > 1,
    }


def _family(path: Path, keys: Iterable[str], shares: Mapping[str, Share]) -> _Family:
    """The family of which the file has every part."""
    expected = f"expected Stable Diffusion 1, 2 or XL with all its parts, but {path}"
    for pattern, what in _OTHERS.items():
        if any(re.search(pattern, key) for key in keys):
            raise ModelError(f"{expected} is {what}: give a model's own file, folder or hub id")
    texts = [part for part in shares if shares[part] and "text" in part]
    found = [part for part in ("UNet", "autoencoder") if shares[part]] + texts
    missing = [part for part in ("UNet", "autoencoder") if not shares[part]]
    missing += [] if texts else ["text encoder"]
    if missing:
        has = f"has the {' and the '.join(found)} and " if found else ""
        raise ModelError(
            f"{expected} {has}lacks the {' and the '.join(missing)}: use the model's diffusers folder"
        )
    return next(family for family in _FAMILIES if list(family.texts) == texts)


def _prediction(path: Path, keys: Iterable[str], header: Mapping[str, str], family: _Family) -> str:
    """What the network predicts, as the file or its name says."""
    if "v_pred" in keys:
        return "v_prediction"
    said = header.get("modelspec.prediction_type", "").lower()
    if said:
        if said not in _PREDICTIONS:
            raise ModelError(
                f"expected modelspec.prediction_type in the header of {path} to be epsilon or v, got {said!r}"
            )
        return _PREDICTIONS[said]
    is_sd2 = family.name == "Stable Diffusion 2"
    for text in (header.get("modelspec.architecture", ""), path.stem):
        if re.search(r"v[-_ ]?pred" + (r"|(?<!\d)768(?!\d)" if is_sd2 else ""), text, re.IGNORECASE):
            return "v_prediction"
        if re.search(
            r"\beps|_eps" + (r"|(?<!\d)512(?!\d)|(?<![a-z])base(?![a-z])" if is_sd2 else ""),
            text,
            re.IGNORECASE,
        ):
            return "epsilon"
    if is_sd2:
        raise ModelError(
            f"expected {path} to say whether this Stable Diffusion 2 predicts eps or v, but neither its header nor its "
            f"name does: put 512 (eps) or 768 (v) into the name, or name a folder of configs in {_CONFIG}"
        )
    return "epsilon"


def _config_folder(path: Path) -> Path | None:
    """The folder that decides a checkpoint's architecture, if there is one.

    Raises `ModelError` if the environment names a folder without configs.
    """
    named = os.environ.get(_CONFIG)
    configs = Path(named or path.with_suffix(""))
    if (configs / "model_index.json").is_file():
        return configs
    if named:
        raise ModelError(
            f"expected {_CONFIG} to name a diffusers folder (its configs and tokenizer are enough), "
            f"but there is no {configs / 'model_index.json'}: correct it, or unset it"
        )
    return None


def _parts(
    shares: Mapping[str, Share], family: _Family, configs: Path | None, prediction: str, dtype: torch.dtype
) -> dict[str, Any]:
    """The networks by their names in a diffusers folder, of the sizes that `configs` or their weights say."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    unet, vae = shares["UNet"], shares["autoencoder"]
    if configs:
        sized = {
            part: require_plain(read_json(configs / part / "config.json"), str(configs / part))
            for part in ("unet", "vae", *_ENCODERS[: len(family.texts)])
        }
    else:
        sized = _sized(shares, family, prediction)
    vae_dtype = autoencoder_dtype(sized["vae"], dtype)
    parts = {
        "unet": _network(UNet2DConditionModel, sized["unet"], "UNet", unet, names.unet, dtype),
        "vae": _network(AutoencoderKL, sized["vae"], "autoencoder", vae, names.vae, vae_dtype),
    }
    for part, kind in zip(_ENCODERS, family.texts, strict=False):
        parts[part] = _text_encoder(part, sized[part], kind, shares[kind], dtype)
    return parts


def _sized(shares: Mapping[str, Share], family: _Family, prediction: str) -> dict[str, dict[str, Any]]:
    """The configs of the parts, from the shapes of their weights."""
    with _building(shares["UNet"], "part"):
        sized = {
            "unet": sizes.unet(
                shares["UNet"],
                has_wide_heads=family.has_wide_heads,
                sample_size=family.sizes[prediction],
            ),
            "vae": sizes.vae(shares["autoencoder"], scale=family.scale),
        }
        for part, kind in zip(_ENCODERS, family.texts, strict=False):
            if kind == "CLIP text encoder":
                sized[part] = sizes.clip(shares[kind])
            else:
                sized[part] = sizes.open_clip(shares[kind], most_layers=family.most_layers)
        return sized


def _network(
    kind: Any,
    config: Mapping[str, Any],
    part: str,
    share: Share,
    renaming: Callable[[Mapping[str, Any]], names.Rename],
    dtype: torch.dtype,
) -> Any:
    """A diffusers network with its share of the weights."""
    with _building(share, part), torch.device("meta"):
        network = kind.from_config(dict(config))
    weights = _weights(network, part, share, renaming(network.config), dtype)
    network.load_state_dict(weights, assign=True)
    return network


def _text_encoder(part: str, config: Mapping[str, Any], kind: str, share: Share, dtype: torch.dtype) -> Any:
    """A CLIP text model of transformers with its share of the weights; the second one has a projection."""
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    model: Any = CLIPTextModel if part == "text_encoder" else CLIPTextModelWithProjection
    with _building(share, kind), torch.device("meta"):
        settings = CLIPTextConfig.from_dict(dict(config))
        empty = model(settings)
    rename = names.open_clip if kind == "OpenCLIP text encoder" else names.clip
    weights = _weights(empty, kind, share, rename, dtype)
    with folder.quiet("transformers"):  # it also fills the buffers that no file has
        return model.from_pretrained(
            None, config=settings, state_dict=weights, dtype=dtype, attn_implementation="sdpa"
        )


def _weights(
    empty: torch.nn.Module, part: str, share: Share, rename: names.Rename, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """The weights of a network on the meta device, by its own names."""
    shapes = {name: tuple(weight.shape) for name, weight in empty.state_dict().items()}
    share.require([rename(name) for name in shapes], part, _HARMLESS[part])
    return {name: share.read(rename(name), name, shape, dtype) for name, shape in shapes.items()}


@contextmanager
def _building(share: Share, part: str) -> Generator[None, None, None]:
    """Whatever goes wrong while a part is made from the file's shapes or a config is about them."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{share.path}: expected the sizes of a {part}, but there is none such: {error}"
        ) from error
