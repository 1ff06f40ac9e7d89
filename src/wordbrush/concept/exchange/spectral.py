"""Spectral shifts (SVDiff), as the port svdiff-pytorch keeps them: a file for the UNet, one for the text encoder."""

from pathlib import Path

from torch import Tensor

from wordbrush.concept.concept import Concept
from wordbrush.concept.exchange.foreign import Foreign, Taken, by_part, content, opened, require_kinds
from wordbrush.concept.exchange.places import Places, text_model
from wordbrush.concept.weights import Change, Spectral
from wordbrush.errors import ConceptError

_END, _TEXT = ".delta", "_te"


def take(file: Foreign, places: Places) -> Taken:
    """The shifts of a file, and of the one for the text encoder if it is beside it."""
    weights: dict[str, Change] = {}
    if any(key.endswith(_END) for key in file.tensors):
        beside = file.path.with_stem(file.path.stem + _TEXT)
        if beside.is_file():
            file.tensors.update(opened(beside).tensors)
    for key in list(file.tensors):
        layer = places.layer(key.removesuffix(_END)) if key.endswith(_END) else None
        if layer is not None and f"{layer}.weight" in places.weights and f"{layer}.weight" not in weights:
            weights[f"{layer}.weight"] = Spectral(file.tensors.pop(key))
    return Taken(weights=weights, method="svdiff" if weights else "")


def svdiff(concept: Concept, path: Path, places: Places) -> dict[Path, bytes]:
    """The port's files."""
    require_kinds(concept, (Spectral,), "svdiff", "--to wordbrush")
    files: dict[Path, bytes] = {}
    for part, changes in by_part(concept).items():
        if part not in ("unet", "text_encoder"):
            raise ConceptError(
                f"expected shifts for the UNet and one text encoder, got {part}: use --to wordbrush"
            )
        tensors: dict[str, Tensor] = {}
        for name, change in changes.items():
            assert isinstance(change, Spectral), "just checked"
            layer = name.removesuffix(".weight")
            tensors[(layer if part == "unet" else text_model(layer)) + _END] = change.shift
        files[path if part == "unet" else path.with_stem(path.stem + _TEXT)] = content(tensors)
    return files
