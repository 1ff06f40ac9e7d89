"""Writing files so that a reader sees the old one or the new one, never half of one; and several all or none."""

import os
import secrets
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from wordbrush.errors import OutputError

Opened = Callable[[str | os.PathLike[str]], AbstractContextManager[BinaryIO]]


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
    with all_or_none() as opened, opened(path) as file:
        yield file


@contextmanager
def all_or_none() -> Generator[Opened, None, None]:
    """Write several files like `atomic_write`: the first takes its name when the last is whole on the disk.

    with all_or_none() as opened:
        for name in ("a.bin", "b.bin"):
            with opened(name) as file:
                file.write(b"both or neither")
    """
    waiting: dict[Path, Path] = {}
    with ExitStack() as folders:

        @contextmanager
        def opened(path: str | os.PathLike[str]) -> Generator[BinaryIO, None, None]:
            # A link stays a link: the file it points to is replaced.
            path = Path(path).resolve()
            with _told(path):
                if path.is_dir():
                    raise IsADirectoryError("it is a folder")
                partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
                folders.enter_context(_kept_if_used(path.parent))
                waiting[path] = partial
                with open(partial, "xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())

        try:
            yield opened
            for path, partial in waiting.items():
                with _told(path):
                    os.replace(partial, path)
        finally:
            for partial in waiting.values():
                partial.unlink(missing_ok=True)


@contextmanager
def room_in(folder: str | os.PathLike[str]) -> Generator[None, None, None]:
    """Find out whether files can be written in a folder, which is made for the block and goes if it stays empty.

    Raises `OutputError`.
    """
    folder = Path(folder).resolve()
    with ExitStack() as folders:
        with _told(folder):
            folders.enter_context(_kept_if_used(folder))
            tempfile.TemporaryFile(dir=folder).close()
        yield


@contextmanager
def _kept_if_used(folder: Path) -> Generator[None, None, None]:
    """Make a folder and those above it; what of them is still empty after the block goes again."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in missing:
            with suppress(OSError):  # it is not empty
                each.rmdir()


@contextmanager
def _told(path: Path) -> Generator[None, None, None]:
    """Say of an `OSError` which file could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {path}: {reason}; choose another place or make room") from error
