"""LoRA and its relatives, as kohya's scripts, LyCORIS, diffusers and PEFT keep them."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from wordbrush import reading
from wordbrush.concept.concept import Concept
from wordbrush.concept.exchange.foreign import Foreign, Taken, by_part, content, require_kinds, text
from wordbrush.concept.exchange.places import Places, text_model
from wordbrush.concept.weights import Change, Difference, Hadamard, Kronecker, LowRank
from wordbrush.concept.weights import tensors as tensors_of
from wordbrush.errors import ConceptError, short

# What the end of a key says that a tensor is. Each tool has its own words for the two matrices of LoRA.
_ROLES: Mapping[str, str] = {
    r"(?:\.lora_down|[._]lora\.down|\.lora_linear_layer\.down|\.lora_A(?:\.\w+)?)\.weight": "down",
    r"(?:\.lora_up|[._]lora\.up|\.lora_linear_layer\.up|\.lora_B(?:\.\w+)?)\.weight": "up",
    r"\.lora_mid\.weight": "middle",
    r"\.alpha": "alpha",
    r"\.dora_scale": "magnitude",
    r"[._]lora_magnitude_vector(?:\.\w+){0,2}": "row lengths",
    r"\.(hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?|t2)|diff(?:_b)?|[wb]_norm)": "",
}
_ENDS = [(re.compile(f"(.+?)(?:{end})"), role) for end, role in _ROLES.items()]

_PRODUCTS: Mapping[type[Any], tuple[str, str]] = {
    LowRank: ("lora", r"down|up|middle"),
    Hadamard: ("loha", r"hada_\w+"),
    Kronecker: ("lokr", r"lokr_\w+"),
}
"""The kinds that have a rank: what training them is called, and the roles of their tensors."""

DIFFERENCES = {"diff": "weight", "w_norm": "weight", "diff_b": "bias", "b_norm": "bias"}
"""The roles of differences in LyCORIS' files, and the weight of a layer that each is added to."""

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""What PEFT calls the two files of an adapter."""


def take(file: Foreign, places: Places) -> Taken:
    """What LoRA and its relatives change."""
    layers: dict[str, dict[str, str]] = defaultdict(dict)
    for key in file.tensors:
        for pattern, role in _ENDS:
            if found := pattern.fullmatch(key):
                layers[found[1]][role or found[2]] = key
                break
    alphas, weights, methods, is_assumed = Alphas(file), dict[str, Change](), list[str](), False
    for name, keys in layers.items():
        own = {role: file.tensors[key] for role, key in keys.items()}
        layer = places.layer(name, own.get("down"))
        if layer is None:
            continue
        for method, ending, change, used in _changes(own):
            target = f"{layer}.{ending}"
            if target not in places.weights or target in weights:
                continue
            if isinstance(change, LowRank | Hadamard | Kronecker) and "alpha" not in own:
                said = alphas.of(layer, change.rank)
                is_assumed |= said is None
                change = replace(change, alpha=torch.tensor(float(change.rank) if said is None else said))
            weights[target] = change
            methods.append(method)
            for role in used & keys.keys():
                file.tensors.pop(keys[role], None)
    remark = "alpha is not in the file and is taken to be the rank" if is_assumed else ""
    return Taken(weights=weights, method=methods[0] if methods else "", assumed=remark)


def _changes(own: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Change, set[str]]]:
    """The changes that a layer's tensors make: the method, the weight's own name, the change, and the roles used."""
    common: dict[str, Tensor] = {"alpha": own.get("alpha", torch.tensor(0.0)).detach().float().reshape(())}
    if (lengths := own.get("row lengths")) is not None:  # PEFT's convolutions have "1 out 1 1"
        common["magnitude"] = lengths.flatten()
    elif (lengths := own.get("magnitude")) is not None:
        common["magnitude"] = lengths if lengths.shape[0] == 1 and lengths.numel() > 1 else lengths.flatten()
    scalars = {"alpha", "magnitude", "row lengths"}
    for kind, (method, roles) in _PRODUCTS.items():
        used = {role for role in own if re.fullmatch(roles, role)}
        try:
            change = kind(**{role.partition("_")[2] or role: own[role] for role in used}, **common)
        except TypeError:  # one of its tensors is missing
            continue
        if used:
            yield method, "weight", change, used | scalars
    for role, ending in DIFFERENCES.items():
        if role in own:
            yield "full", ending, Difference(own[role]), {role, "alpha"}


class Alphas:
    """What a file says of alpha elsewhere than beside the weights: diffusers in the metadata, PEFT in a file beside."""

    def __init__(self, file: Foreign) -> None:
        self._said = file.mapping("lora_adapter_metadata")
        self._where = f"{file.path}, lora_adapter_metadata"
        config = file.path.with_name(CONFIG)
        if (
            not self._said
            and any(key.startswith("base_model.model.") for key in file.tensors)
            and config.exists()
        ):
            self._said, self._where = reading.json_mapping(config, ConceptError), str(config)

    def of(self, layer: str, rank: int) -> float | None:
        """A layer's alpha, such that what it is divided by is its rank; None if nothing says it.

        Raises `ConceptError` for what is no number, and for PEFT's patterns that are more than names.
        """
        part, _, path = layer.partition(".")
        prefix = f"{part}."
        own = {key.removeprefix(prefix): each for key, each in self._said.items() if key.startswith(prefix)}
        own = own or (self._said if "lora_alpha" in self._said else {})
        alpha: Any = own.get("lora_alpha")
        patterns = cast(dict[str, Any], own.get("alpha_pattern") or {})
        if not isinstance(patterns, dict) or any(not re.fullmatch(r"\^?[\w.]+", key) for key in patterns):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ConceptError(
                f"{self._where}: expected layers' names and numbers in alpha_pattern, got {short(patterns)}"
            )
        for name, value in patterns.items():
            if f".{path}".endswith(f".{name.removeprefix('^')}"):
                alpha = value
                break
        if alpha is None:
            return None
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise ConceptError(f"{self._where}: expected a number for lora_alpha, got {short(alpha)}")
        return float(alpha) * (math.sqrt(rank) if own.get("use_rslora") else 1)


def kohya(concept: Concept, path: Path, places: Places) -> dict[Path, bytes]:
    """A file as kohya's scripts and LyCORIS write it: alpha beside each pair of matrices."""
    require_kinds(concept, (*_PRODUCTS, Difference), "kohya", "--to wordbrush, or --to a1111 for words")
    tensors: dict[str, Tensor] = {}
    for name, change in concept.weights.items():
        layer, _, ending = name.rpartition(".")
        own = {_KOHYA.get(role, role): each for role, each in tensors_of(change).items()}
        if isinstance(change, Difference):
            if ending == "bias" and f"{layer}.weight" not in concept.weights:
                raise ConceptError(
                    f"expected a change of {layer}.weight as well, got one of its bias alone, which LyCORIS does not "
                    "read: use --to wordbrush"
                )
            kind = "norm" if places.weights[f"{layer}.weight"].ndim == 1 else "diff"
            own = {_DIFFERENCES[kind, ending]: change.difference}
        elif isinstance(change, Hadamard | Kronecker):
            prefix = "hada_" if isinstance(change, Hadamard) else "lokr_"
            own = {
                role if role in ("alpha", "dora_scale") else prefix + role: each for role, each in own.items()
            }
        if (lengths := own.get("dora_scale")) is not None and lengths.ndim == 1:
            own["dora_scale"] = lengths.view(-1, *[1] * (places.weights[name].ndim - 1))
        tensors |= {f"{places.kohya(layer)}.{role}": each for role, each in own.items()}
    return {path: content(tensors)}


_KOHYA = {
    "down": "lora_down.weight",
    "up": "lora_up.weight",
    "middle": "lora_mid.weight",
    "magnitude": "dora_scale",
}
_DIFFERENCES = {
    ("diff", "weight"): "diff",
    ("diff", "bias"): "diff_b",
    ("norm", "weight"): "w_norm",
    ("norm", "bias"): "b_norm",
}


def diffusers(concept: Concept, path: Path, places: Places) -> dict[Path, bytes]:
    """A file as diffusers' pipelines write it: alpha in the metadata."""
    tensors: dict[str, Tensor] = {}
    config: dict[str, Any] = {}
    for part, changes in _low_rank(concept, "diffusers").items():
        config |= {f"{part}.{key}": value for key, value in _config(changes).items()}
        for layer, change in changes.items():
            own, kind = (layer, "lora") if part == "unet" else (text_model(layer), "lora_linear_layer")
            tensors |= {
                f"{part}.{own}.{kind}.{way}.weight": each
                for way, each in (("down", change.down), ("up", change.up))
            }
            if change.magnitude is not None:
                tensors[f"{part}.{own}.lora_magnitude_vector"] = change.magnitude
    return {path: content(tensors, {"lora_adapter_metadata": text(config)})}


def peft(concept: Concept, path: Path, places: Places) -> dict[Path, bytes]:
    """PEFT's folder of an adapter, with alpha in its config; a folder in it for each network if there are several."""
    parts = _low_rank(concept, "peft")
    files: dict[Path, bytes] = {}
    for part, changes in parts.items():
        folder = path if len(parts) == 1 else path / part
        tensors: dict[str, Tensor] = {}
        for layer, change in changes.items():
            own = f"base_model.model.{layer}"
            tensors |= {f"{own}.lora_A.weight": change.down, f"{own}.lora_B.weight": change.up}
            if change.magnitude is not None:
                is_linear = change.down.ndim == 2
                shape = (-1,) if is_linear else (1, -1, *[1] * (change.down.ndim - 2))
                tensors[f"{own}.lora_magnitude_vector"] = change.magnitude.view(shape)
        config = {"peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, **_config(changes)}
        files |= {folder / WEIGHTS: content(tensors), folder / CONFIG: f"{text(config)}\n".encode()}
    return files


def _low_rank(concept: Concept, to: str) -> dict[str, dict[str, LowRank]]:
    """The layers of each network. Raises `ConceptError` for what PEFT's LoRA, which diffusers uses, cannot hold."""
    require_kinds(concept, (LowRank,), to, "--to kohya for LoHa and LoKr, or --to wordbrush")
    parts: dict[str, dict[str, LowRank]] = {}
    for part, changes in by_part(concept).items():
        for name, change in changes.items():
            assert isinstance(change, LowRank), "just checked"
            if change.middle is not None or (change.magnitude is not None and change.magnitude.ndim > 1):
                what = (
                    "a kernel between its matrices" if change.middle is not None else "lengths of its columns"
                )
                raise ConceptError(
                    f"expected plain LoRA, or DoRA with lengths of rows, for --to {to}, got {part}.{name} with {what}: "
                    "use --to kohya"
                )
            parts.setdefault(part, {})[name.removesuffix(".weight")] = change
    return parts


def _config(changes: Mapping[str, LowRank]) -> dict[str, Any]:
    """The arguments of PEFT's LoraConfig: the commonest rank and alpha, and the layers that have others."""
    ranks = {layer: change.rank for layer, change in changes.items()}
    alphas = {layer: float(change.alpha) for layer, change in changes.items()}
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {layer: own for layer, own in ranks.items() if own != rank},
        "alpha_pattern": {layer: own for layer, own in alphas.items() if own != alpha},
        "target_modules": sorted(changes),
        "use_dora": any(change.magnitude is not None for change in changes.values()),
        "bias": "none",
    }
