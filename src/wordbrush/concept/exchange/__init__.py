"""The files that other tools use for learned concepts: which they are is told from their keys.

`read` gives a `Concept` for any of them, or says what in the file has no place.
"""

import os
from collections.abc import Callable
from pathlib import Path

from wordbrush.concept.concept import Base, Concept
from wordbrush.concept.exchange import lora, words
from wordbrush.concept.exchange.foreign import Foreign, Taken, is_ours, opened
from wordbrush.concept.exchange.places import Places
from wordbrush.errors import ConceptError, short
from wordbrush.inputs import FileRecord
from wordbrush.model import Model

__all__ = ["read"]

_FAMILIES: tuple[Callable[[Foreign, Places], Taken], ...] = (lora.take, words.take)
"""Each takes what it knows of a file; what is left is an error."""


def read(path: str | os.PathLike[str], model: Model) -> Concept:
    """A learned concept from a file of ours or of another tool, for this model's base.

    Of files of other tools nobody knows the base, nor what a word was before training. A folder is the file in it that
    diffusers or PEFT name. Raises `ConceptError` for a pickle, for a file that is none of a learned concept or has
    something for which the model has no place, and as `Concept.load` does.
    """
    path = Path(path)
    if is_ours(path):
        return Concept.load(path)
    file = opened(path)
    places = Places(model)
    taken = [family(file, places) for family in _FAMILIES]
    _require_empty(file, places)
    placeholders = words.placeholders(
        path, {token: own for each in taken for token, own in each.vectors.items()}, places
    )
    methods = [each.method for each in taken if each.method]
    if not methods:
        raise ConceptError(f"expected a learned concept, but {path} is empty")
    return Concept(
        method=methods[0],
        prompt=" ".join(placeholders),
        base=Base(),
        placeholders=placeholders,
        weights={name: change for each in taken for name, change in sorted(each.weights.items())},
        options={name: remark for each in taken for name, remark in each.remarks.items()},
        file=FileRecord.of(path),
    )


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
