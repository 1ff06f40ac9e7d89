"""LoRA and its relatives, as kohya's scripts, LyCORIS, diffusers and PEFT keep them."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from wordbrush import reading
from wordbrush.concept.exchange.foreign import Foreign, Taken
from wordbrush.concept.exchange.places import Places
from wordbrush.concept.weights import Change, Difference, Hadamard, Kronecker, LowRank
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

CONFIG = "adapter_config.json"


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
    remarks = {"alpha": "not in the file: taken to be the rank"} if is_assumed else {}
    return Taken(weights=weights, method=methods[0] if methods else "", remarks=remarks)


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
