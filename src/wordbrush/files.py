"""Write files atomically: one, or several of which all appear or none."""

import os
import secrets
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from wordbrush.errors import InputError, OutputError, short

Opened = Callable[[str | os.PathLike[str]], AbstractContextManager[BinaryIO]]


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[BinaryIO, None, None]:
    """Open `path` for writing bytes; the complete file appears when the block ends without an exception.

    The bytes go to a temporary file in the same folder (a rename is atomic only within a file system), are flushed to
    the disk, and the file is renamed to `path`. After any exception, Ctrl-C included, the temporary file is removed
    and an existing file at `path` is unchanged. Missing folders are created.

    Raises `OutputError` if the file cannot be written (full disk, no permission, `path` is a folder). The block should
    only write: any `OSError` in it is reported as a failure to write.

        with atomic_write("notes.bin") as file:
            file.write(b"all or nothing")
    """
    with all_or_none() as opened, opened(path) as file:
        yield file


@contextmanager
def all_or_none() -> Generator[Opened, None, None]:
    """Write several files like `atomic_write`: they are renamed when all of them are complete on the disk.

    with all_or_none() as opened:
        for name in ("a.bin", "b.bin"):
            with opened(name) as file:
                file.write(b"both or neither")
    """
    unrenamed: dict[Path, Path] = {}
    with ExitStack() as folders:

        @contextmanager
        def opened(path: str | os.PathLike[str]) -> Generator[BinaryIO, None, None]:
            # A symbolic link is kept: the file that it points to is replaced.
            path = Path(path).resolve()
            with _output_errors(path):
                if path.is_dir():
                    raise IsADirectoryError("it is a folder")
                partial = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
                folders.enter_context(_temporary_if_empty(path.parent))
                unrenamed[path] = partial
                with open(partial, "xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())

        try:
            yield opened
            for path, partial in unrenamed.items():
                with _output_errors(path):
                    os.replace(partial, path)
        finally:
            for partial in unrenamed.values():
                partial.unlink(missing_ok=True)


@contextmanager
def room_in(folder: str | os.PathLike[str]) -> Generator[None, None, None]:
    """Check that files can be written in a folder; it is created for the block and removed if it stays empty.

    Raises `OutputError`.
    """
    folder = Path(folder).resolve()
    with ExitStack() as folders:
        with _output_errors(folder):
            folders.enter_context(_temporary_if_empty(folder))
            tempfile.TemporaryFile(dir=folder).close()
        yield


def inside(folder: str | os.PathLike[str], name: str, what: str = "a path") -> Path:
    """The path of `name` below a folder, for names that come from a file: what a file says never leads elsewhere.

    what: what the name is, for the message. A symbolic link that leads out of the folder is outside of it. Raises
    `InputError` for an absolute path, for `..`, and for the folder itself.
    """
    folder = Path(folder)
    path = folder / name
    try:
        if Path(name).is_absolute() or ".." in Path(name).parts or folder.resolve() not in path.resolve().parents:
            raise ValueError
    except (ValueError, OSError, RuntimeError) as error:  # a byte 0, a name too long, links in a circle
        raise InputError(
            f"expected {what} to be below {folder}, got {short(name)}; name it from there, without '..' and links"
        ) from error
    return path


@contextmanager
def _temporary_if_empty(folder: Path) -> Generator[None, None, None]:
    """Create a folder and its missing parents; after the block, remove those that are empty."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for each in missing:
            with suppress(OSError):  # it is not empty
                each.rmdir()


@contextmanager
def _output_errors(path: Path) -> Generator[None, None, None]:
    """Turn an `OSError` into an `OutputError` that says which file could not be written, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {path}: {reason}; choose another path or free disk space") from error
