"""Weights that are kept whole: Custom Diffusion, as diffusers and its authors keep it, and any network's own names."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from wordbrush.concept.concept import Concept
from wordbrush.concept.exchange.foreign import Foreign, Taken, content, opened, require_kinds
from wordbrush.concept.exchange.places import Places
from wordbrush.concept.exchange.words import in_brackets
from wordbrush.concept.weights import Change, Full, LowRank
from wordbrush.errors import ConceptError

_CUSTOM = re.compile(r"(.+)\.processor\.(to_[kqv]|to_out)_custom_diffusion(?:\.0)?\.(weight|bias)")


def take(file: Foreign, places: Places) -> Taken:
    """Whole weights, and the differences that Custom Diffusion's authors compress to u · v. diffusers' file of Custom
    Diffusion has its words in files beside it, "<new1>.safetensors"."""
    weights: dict[str, Change] = {}
    vectors: dict[str, Mapping[int, Tensor]] = {}
    is_custom = False
    for key in list(file.tensors):
        if custom := _CUSTOM.fullmatch(key):
            is_custom = True
            name, ending = f"{custom[1]}.{custom[2]}", custom[3]
        else:
            name, _, ending = key.removeprefix("state_dict.").rpartition(".")
        if ending == "position_ids":  # 0, 1, 2 …: no weight
            file.tensors.pop(key)
        elif ending == "v" and _pair(key) in file.tensors:
            name, _, ending = name.rpartition(".")
            if (target := _target(places, name, ending)) is not None:
                down, up = file.tensors.pop(key), file.tensors.pop(_pair(key))
                weights[target] = LowRank(down, up, torch.tensor(float(down.shape[0])))
        elif (
            ending != "u" and (target := _target(places, name, ending)) is not None and target not in weights
        ):
            weights[target] = Full(file.tensors.pop(key))
    if is_custom:
        for beside in sorted(file.path.parent.glob("<*>.safetensors")):
            own = opened(beside).tensors
            if [in_brackets(token) for token in own] == [beside.stem]:
                vectors |= {token: {0: vector} for token, vector in own.items()}
    is_custom |= any(key.startswith("modifier_token.") for key in file.tensors)
    method = "custom_diffusion" if is_custom else "full"
    return Taken(vectors=vectors, weights=weights, method=method if weights else "")


def custom_diffusion(concept: Concept, path: Path, places: Places) -> dict[Path, bytes]:
    """The file that diffusers' script for Custom Diffusion writes. Raises `ConceptError` for weights that it does not
    train."""
    require_kinds(concept, (Full,), "custom-diffusion", "--to wordbrush")
    tensors: dict[str, Tensor] = {}
    for name, change in concept.weights.items():
        found = re.fullmatch(r"unet\.(.+\.attn2)\.(to_[kqv]|to_out)(\.0)?\.(weight|bias)", name)
        if not found:
            raise ConceptError(
                f"expected weights of the UNet's cross-attention, which Custom Diffusion trains, got {name}: "
                "use --to wordbrush"
            )
        assert isinstance(change, Full), "just checked"
        layer, kind, number, ending = found.groups()
        tensors[f"{layer}.processor.{kind}_custom_diffusion{number or ''}.{ending}"] = change.weight
    return {path: content(tensors)}


def _target(places: Places, name: str, ending: str) -> str | None:
    layer = places.layer(name)
    target = f"{layer}.{ending}"
    return target if target in places.weights else None


def _pair(key: str) -> str:
    return f"{key.removesuffix('.v')}.u"
