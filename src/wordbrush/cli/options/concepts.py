"""The flag that names learned concepts: FILE or FILE=STRENGTH. Nothing here waits for torch until a file is read."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wordbrush.errors import ConceptError, OptionsError, short
from wordbrush.options import ConceptOptions, parse

if TYPE_CHECKING:
    from wordbrush.model import Model

OWN = ".concept"
"""What our own files' names end in."""


@dataclass(frozen=True)
class Named:
    """A concept as one types it: its file, and how strongly it is applied."""

    path: Path
    strength: float = 1.0

    @classmethod
    def of(cls, text: str, root: Path | None = None) -> "Named":
        """FILE or FILE=STRENGTH: the strength is what follows the last "=", unless there is such a file or it is no
        number. root: what the path starts from. Raises `OptionsError` for a strength that is none.
        """
        path, equals, strength = text.rpartition("=")
        at = Path() if root is None else root
        if not text.strip():
            raise OptionsError("expected --concept FILE or FILE=STRENGTH, got nothing")
        if not equals or _is_there(at / text):
            return cls(Path(text))
        try:
            value = float(strength)
        except ValueError:
            if path and _is_there(at / path):
                raise OptionsError(
                    f"expected a number after {path}=, how strongly the concept is applied, got {short(strength)}"
                ) from None
            return cls(Path(text))
        try:
            return cls(Path(path), parse(ConceptOptions, {"strength": value}).strength)
        except OptionsError as error:
            said = str(error).removeprefix("option 'strength': ")
            raise OptionsError(f"--concept {short(text)}: the strength: {said}") from error

    @property
    def files(self) -> list[Path]:
        """What is read: the file, or those of a folder."""
        try:
            return (
                sorted(path for path in self.path.iterdir() if path.is_file())
                if os.path.isdir(self.path)
                else [self.path]
            )
        except OSError:
            return [self.path]

    def __str__(self) -> str:
        return str(self.path) if self.strength == 1 else f"{self.path}={self.strength!r}"


def read(texts: Iterable[str]) -> list[Named]:
    """The concepts of a command line, checked as far as that needs no model and reads no weights.

    Raises `OptionsError` for a strength, `ConceptError` for a file that is missing, for the same one twice, and for two
    with one word.
    """
    from wordbrush.concept.concept import words_of

    found = [Named.of(text) for text in texts]
    places: set[str] = set()
    owners: dict[str, Path] = {}
    for path in (each.path for each in found):
        if not _is_there(path):
            raise ConceptError(f"expected a concept's file, but there is none at {path}; check the path")
        if (place := os.path.realpath(path)) in places:
            raise ConceptError(f"expected each concept once, got {path} twice: give it one strength")
        places.add(place)
        for word in words_of(path):
            if (other := owners.setdefault(word.casefold(), path)) is not path:
                raise ConceptError(
                    f"expected concepts with words of their own, got two with {short(word)}, {other} and {path}: "
                    "rename one (wordbrush convert --token)"
                )
    return found


def taught(base: "Callable[[], Model]", texts: Sequence[str]) -> "Model":
    """A model with these concepts, which `read` has checked. Our own files are read before the model is loaded.

    Raises `ConceptError`.
    """
    if not texts:
        return base()
    from wordbrush.api import apply
    from wordbrush.concept import Concept

    named = [Named.of(text) for text in texts]
    values = [Concept.load(each.path) if each.path.suffix == OWN else each.path for each in named]
    return apply(base(), *values, strength=[each.strength for each in named])


def doubts(model: "Model") -> list[str]:
    """What to tell of a model's concepts: that they were trained on another."""
    from wordbrush.concept import doubts as doubted

    return [doubt for use in model.uses for doubt in doubted(model, use.concept)]


def _is_there(path: Path) -> bool:
    """Whether there is a file or a folder; what is neither, a pipe, say, may never end."""
    return os.path.isfile(path) or os.path.isdir(path)


def teaching(token: str, folders: Iterable[Path]) -> Path | None:
    """The file in these folders of the concept that teaches a word."""
    from wordbrush.concept.concept import words_of

    for folder in dict.fromkeys(folders):
        for path in sorted(folder.glob(f"*{OWN}")):
            if path.is_file() and token.casefold() in (word.casefold() for word in words_of(path)):
                return path
    return None
