"""Writing files so that a reader sees the old one or the new one, never half of one."""

import os
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wordbrush.errors import OutputError


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[BinaryIO, None, None]:
    """Open `path` for writing bytes; the file appears, whole, when the block ends without an exception.

    The bytes go to a temporary file in the same folder (a rename is atomic only within a file system), are
    flushed to the disk, and take the name `path` in one step. After any exception, Ctrl-C included, the
    temporary file is removed and whatever stood at `path` is untouched. Missing folders are made.

    Raises `OutputError` when the file cannot be written (full disk, no permission, `path` is a folder); the
    block should do nothing but write, since any `OSError` in it is taken for that.

        with atomic_write("notes.bin") as file:
            file.write(b"all or nothing")
    """
    # A link stays a link: the file it points to is replaced.
    path = Path(path).resolve()
    partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(partial, "xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {path}: {reason}; choose another place or make room") from error
