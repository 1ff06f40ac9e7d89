"""The files that other tools use for learned concepts: which they are is told from their keys.

`read` gives a `Concept` for any of them, or says what in the file has no place. `write` makes one, or says what the
format cannot hold: nothing is left out in silence.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordbrush.concept.concept import ASSUMED, Base, Concept, Placeholder
from wordbrush.concept.exchange import lora, spectral, whole, words
from wordbrush.concept.exchange.foreign import Foreign, Taken, is_ours, is_pickle, opened
from wordbrush.concept.exchange.pickles import unpickled
from wordbrush.concept.exchange.places import Places
from wordbrush.concept.exchange.words import initialised, renamed
from wordbrush.concept.weights import Change
from wordbrush.errors import ConceptError, short
from wordbrush.files import all_or_none
from wordbrush.inputs import FileRecord
from wordbrush.model import Model

__all__ = [
    "ASSUMED",
    "FORMATS",
    "Format",
    "files",
    "initialised",
    "is_pickle",
    "read",
    "renamed",
    "save",
    "unpickled",
    "write",
]

_FAMILIES: tuple[Callable[[Foreign, Places], Taken], ...] = (lora.take, whole.take, spectral.take, words.take)
"""Each takes what it knows of a file; what is left is an error."""

_Files = Mapping[Path, bytes]


@dataclass(frozen=True)
class Format:
    """A format that can be written.

    suffix: of its file, "" for a folder. weights: the files of changed weights at a path. words: those of learned
    words, which most formats keep in files of their own.
    """

    summary: str
    suffix: str
    weights: Callable[[Concept, Path, Places], _Files] | None = None
    words: Callable[[Mapping[str, Placeholder], Path, Places], _Files] | None = None


FORMATS: Mapping[str, Format] = {
    "wordbrush": Format("everything, in one file", ".concept"),
    "kohya": Format("LoRA and LyCORIS for A1111, ComfyUI", ".safetensors", lora.kohya, words.automatic),
    "diffusers": Format("LoRA, learned words", ".safetensors", lora.diffusers, words.learned_embeds),
    "peft": Format("LoRA as a folder", "", lora.peft, words.learned_embeds),
    "a1111": Format("learned words", ".safetensors", None, words.automatic),
    "custom-diffusion": Format(
        "whole cross-attention", ".safetensors", whole.custom_diffusion, words.bracketed
    ),
    "svdiff": Format("spectral shifts", ".safetensors", spectral.svdiff, words.learned_embeds),
}
"""The formats that can be written, by their names on the command line."""

_WORDS_ALONE = ("diffusers", "a1111")
_IN_FOLDERS = (
    lora.WEIGHTS,
    "pytorch_lora_weights.safetensors",
    "pytorch_custom_diffusion_weights.safetensors",
    "learned_embeds.safetensors",
    "spectral_shifts.safetensors",
)


def read(path: str | os.PathLike[str], model: Model) -> Concept:
    """A learned concept from a file of ours or of another tool, for this model's base.

    Of files of other tools nobody knows the base, nor what a word was before training. A folder is the file in it that
    diffusers or PEFT name. Raises `ConceptError` for a pickle, for a file that is none of a learned concept or has
    something for which the model has no place, and as `Concept.load` does.
    """
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
        if len(found) != 1:
            raise ConceptError(
                f"expected a folder with one of {', '.join(_IN_FOLDERS)}, got {path} with {len(found)}: name the file"
            )
        path = found[0]
    if not path.is_file():  # what is there and is none, a device, say, may never end
        raise ConceptError(f"there is no file {path} of a learned concept; check the path")
    if is_ours(path):
        return Concept.load(path)
    file, places = opened(path), Places(model)
    taken = [family(file, places) for family in _FAMILIES]
    _require_empty(file, places)
    vectors = {token: own for each in taken for token, own in each.vectors.items()}
    weights = {name: change for each in taken for name, change in sorted(each.weights.items())}
    for name, change in weights.items():
        _require_fit(f"{path}: {name}", change, places.weights[name])
    methods = [each.method for each in taken if each.method]
    assumed = "; ".join(each.assumed for each in taken if each.assumed)
    if not methods:
        raise ConceptError(f"expected a learned concept, but {path} is empty")
    return Concept(
        method=methods[0],
        prompt=" ".join(vectors),
        base=Base(),
        placeholders=words.placeholders(path, vectors, places),
        weights=weights,
        options={ASSUMED: assumed} if assumed else {},
        file=FileRecord.of(path),
    )


def write(
    concept: Concept, path: str | os.PathLike[str], model: Model, *, to: str = "wordbrush"
) -> list[Path]:
    """Write a concept in one of `FORMATS`; returns the files, of which all appear or none. Their names follow from
    `path`, see `files`. Raises `ConceptError` for what the format cannot hold, `OutputError`."""
    contents = files(concept, path, model, to=to)
    save(contents)
    return list(contents)


def save(contents: Mapping[Path, bytes]) -> None:
    """Write what `files` gave: all of them or none. Raises `OutputError`."""
    with all_or_none() as opened:
        for file, content in contents.items():
            with opened(file) as stream:
                stream.write(content)


def files(
    concept: Concept, path: str | os.PathLike[str], model: Model, *, to: str = "wordbrush"
) -> dict[Path, bytes]:
    """What `write` writes: the content of each file.

    A concept with words and weights makes files of both: `path` for the weights, and beside it one for each word,
    called after it. `path` is a folder for PEFT. Raises `ConceptError`.
    """
    path = Path(path)
    if to not in FORMATS:
        raise ConceptError(f"expected one of the formats {', '.join(FORMATS)}, got {short(to)}")
    form = FORMATS[to]
    if form.words is None:
        return {path: concept.content()}
    if concept.portraits:
        raise ConceptError(
            f"expected a concept of words and weights for --to {to}, got {concept!r}, whose word has a likeness too, "
            "which no other tool reads: use --to wordbrush"
        )
    places = Places(model)
    if concept.placeholders and not concept.weights and to in _WORDS_ALONE:
        return dict(form.words(concept.placeholders, path, places))
    if form.weights is None:
        raise ConceptError(
            f"expected a concept of words alone for --to {to}, got {len(concept.weights)} changed weights: "
            "use --to kohya, which writes the words beside them"
        )
    made = dict(form.weights(concept, path, places))
    above = path if not form.suffix else path.parent
    for token, own in concept.placeholders.items():
        for file, content in form.words({token: own}, words.beside(above, token), places).items():
            if file in made:
                raise ConceptError(
                    f"expected another name than {path}: {short(token)} is written to a file beside it"
                )
            made[file] = content
    return made


def _require_empty(file: Foreign, places: Places) -> None:
    """Raise `ConceptError` if a file has anything that nobody took."""
    if left := sorted(file.tensors):
        listed = ", ".join(short(name) for name in left[:8]) + (
            f" and {len(left) - 8} more" if left[8:] else ""
        )
        raise ConceptError(
            f"expected a learned concept that fits {places.name} whole, but for {len(left)} tensors of {file.path} it "
            f"has no place: {listed}; it belongs to a model of another kind (--model), or it is no file of a concept"
        )


def _require_fit(name: str, change: Change, weight: Tensor) -> None:
    """Raise `ConceptError` for a change of another shape. Nothing is computed: the device "meta" has shapes alone."""
    own: dict[str, Any] = {each.name: getattr(change, each.name) for each in fields(change)}  # pyright: ignore[reportArgumentType]
    shapes = {key: each.to("meta") for key, each in own.items() if each is not None and each.ndim}
    if any(not each.is_floating_point() for each in own.values() if each is not None):
        raise ConceptError(
            f"{name}: expected numbers with fractions, got whole numbers: the file is no concept"
        )
    try:
        replace(change, **shapes).delta(torch.empty_like(weight, device="meta"))  # pyright: ignore[reportArgumentType]
    except (ConceptError, RuntimeError, IndexError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConceptError(
            f"{name} does not fit this model ({reason:.150}); is it of another kind?"
        ) from error
