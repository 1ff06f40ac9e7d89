"""Input files as a record names them, and how they are found again."""

import hashlib
import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from wordbrush.errors import ImageError


class FileRecord(BaseModel):
    """An input file: its path, and the SHA-256 of its bytes. path: None for a picture that was in memory alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None
    sha256: str

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "FileRecord":
        """The record of a file: its path as given, and its hash."""
        return cls(path=os.fspath(path), sha256=sha256(path))

    def found(self, beside: Path) -> Path:
        """The file, at its path or beside the picture. Raises `ImageError` if it is missing or has changed."""
        if self.path is None:
            raise ImageError(
                "this picture was made from something that was in memory, not in a file: it cannot be made again"
            )
        existing = [path for path in places(self.path, beside) if path.is_file()]
        for path in existing:
            if sha256(path) == self.sha256:
                return path
        if existing:
            raise ImageError(f"{existing[0]} has changed since: its SHA-256 was {self.sha256[:12]}…")
        raise ImageError(
            f"expected {self.path}, which this picture was made from: it is missing, and there is none beside {beside}"
        )


class AppliedConcept(FileRecord):
    """A concept that is applied to a model: its file, and how strongly."""

    strength: float = Field(1.0, allow_inf_nan=False)

    def __str__(self) -> str:
        name = self.path or "a concept in memory"
        return name if self.strength == 1 else f"{name}={self.strength:g}"


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
