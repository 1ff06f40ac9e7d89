"""Input files as a record names them, and how they are found again."""

import hashlib
import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from wordbrush.errors import ConceptError, ImageError, InputError


class FileRecord(BaseModel):
    """An input file: its path, and the SHA-256 of its bytes. path: None for a picture that was in memory alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    error: ClassVar[type[InputError]] = ImageError
    kind: ClassVar[str] = "a picture or a source"

    path: str | None
    sha256: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "FileRecord":
        """The record of a file: its path as given, and its hash."""
        return cls(path=os.fspath(path), sha256=sha256(path))

    def found(self, beside: Path) -> Path:
        """The file, at its path or beside the picture. Raises `error` if it is missing or has changed."""
        own = f"{self.kind} that this picture was made with"
        if self.path is None:
            raise self.error(
                f"expected the file of {own}, but that was in memory, not in a file: it cannot be made again"
            )
        existing = [path for path in places(self.path, beside) if path.is_file()]
        for path in existing:
            if sha256(path) == self.sha256:
                return path
        if existing:
            raise self.error(
                f"{existing[0]} has changed since: expected {own}, of SHA-256 {self.sha256[:12]}…; put that one "
                "beside it"
            )
        raise self.error(
            f"expected {self.path} (SHA-256 {self.sha256[:12]}…), {own}: it is missing, and there is none beside "
            f"{beside}; put it there"
        )


class AppliedConcept(FileRecord):
    """A concept that is applied to a model: its file, and how strongly."""

    error = ConceptError
    kind = "a concept"

    strength: float = Field(1.0, allow_inf_nan=False)

    def __str__(self) -> str:
        name = self.path or "a concept in memory"
        return name if self.strength == 1 else f"{name}={repr(self.strength).removesuffix('.0')}"


def listed(concepts: Iterable[AppliedConcept]) -> str:
    """Concepts as one types them, or "none"."""
    return ", ".join(map(str, concepts)) or "none"


def flags(concepts: Iterable[AppliedConcept]) -> str:
    """What to type for these concepts."""
    return " ".join(f"--concept {shlex.quote(str(concept))}" for concept in concepts)


def places(path: str, picture: Path) -> list[Path]:
    """Where a recorded file may be now: at its path, from the picture's folder or one above it, or beside the picture.

    It was relative to where the command was run, which is most often one of these.
    """
    folder = picture.resolve().parent
    return [Path(path), *(above / path for above in (folder, *folder.parents)), folder / Path(path).name]


def sha256(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
