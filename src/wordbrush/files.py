"""Write files atomically: one, or several of which all appear or none."""

import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import BinaryIO

from wordbrush.errors import InputError, OutputError, short

if sys.platform != "win32":
    import fcntl

Opened = Callable[[str | os.PathLike[str]], AbstractContextManager[BinaryIO]]

_STAGE, _ANY = ".wordbrush-{}.part", "[0-9a-f]" * 8


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Generator[BinaryIO, None, None]:
    """Open `path` for writing bytes; the complete file appears when the block ends without an exception.

    The bytes go to a temporary folder beside the file (a rename is atomic only within a file system), are flushed to
    the disk, and the file is renamed to `path`. After any exception, Ctrl-C included, the temporary folder is removed
    and an existing file at `path` is unchanged; one that a killed process left is removed by the next write beside it.
    Missing folders are created. A symbolic link is kept: the file that it points to is replaced.

    Raises `OutputError` if the file cannot be written (full disk, no permission, `path` is a folder, a pipe or a
    device). The block should only write: any `OSError` in it is reported as a failure to write.

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
    stages: dict[Path, Path] = {}
    numbers = count()
    with ExitStack() as folders:

        @contextmanager
        def opened(path: str | os.PathLike[str]) -> Generator[BinaryIO, None, None]:
            path = replaced(path)
            with _output_errors(path):
                if path.parent not in stages:
                    folders.enter_context(_temporary_if_empty(path.parent))
                    stages[path.parent] = folders.enter_context(_stage(path.parent))
                partial = stages[path.parent] / str(next(numbers))
                with open(partial, "xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                unrenamed[path] = partial

        yield opened
        for path, partial in unrenamed.items():
            with _output_errors(path):
                os.replace(partial, path)


def replaced(path: str | os.PathLike[str]) -> Path:
    """The file that a write to `path` creates or replaces: where its symbolic links lead.

    Raises `OutputError` for what is there and is no file (a folder, a pipe, a device), for links in a circle, and for
    a name that the file system does not have.
    """
    path = Path(path)
    with _output_errors(path):
        try:
            path = path.resolve()
        except (RuntimeError, ValueError) as error:  # links in a circle, a byte 0
            raise OSError(str(error)) from error
        with suppress(FileNotFoundError, NotADirectoryError):
            kind = os.lstat(path).st_mode
            if stat.S_ISDIR(kind):
                raise IsADirectoryError("it is a folder")
            if not stat.S_ISREG(kind):
                raise OSError("it is not a file but a pipe, a device or a link in a circle")
    return path


@contextmanager
def _stage(folder: Path) -> Generator[Path, None, None]:
    """A temporary folder for files that are to be renamed into `folder`; those of killed processes are removed first.

    It is locked while it is in use. Its name is short whatever the files' names are, and its lock is one for all files,
    since a process may open only so many.
    """
    for left in folder.glob(_STAGE.format(_ANY)):
        with suppress(OSError), _lock(left):  # somebody is writing there, or it is not ours to remove
            shutil.rmtree(left)
    with ExitStack() as ending:
        while True:
            stage = folder / _STAGE.format(secrets.token_hex(4))
            ending.callback(shutil.rmtree, stage, ignore_errors=True)
            stage.mkdir()
            with suppress(OSError):  # a file system without locks: what a killed process leaves there stays
                ending.enter_context(_lock(stage, wait=True))
            if stage.is_dir():  # nobody took it for one that was left before it was locked
                break
        yield stage


@contextmanager
def _lock(folder: Path, *, wait: bool = False) -> Generator[None, None, None]:
    """Hold the lock of a folder; the system lets go of it when the process ends, however it ends.

    Raises `OSError` if somebody else holds it and we do not wait, or if there are no locks.
    """
    if sys.platform == "win32":
        raise OSError("folders cannot be locked")
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(opened)


@contextmanager
def sole(folder: Path) -> Generator[None, None, None]:
    """Hold a folder that is there for the block alone, so that no other process does the same work meanwhile.

    One that a killed process left is taken over. Where the system has no locks, nothing keeps others away. Raises
    `BlockingIOError` if another process holds it, `OutputError` if it cannot be made.
    """
    with ExitStack() as ending:
        with _output_errors(folder):
            ending.enter_context(_temporary_if_empty(folder.parent))
        held = False
        while not held:
            with _output_errors(folder):
                folder.mkdir(exist_ok=True)
            try:
                seen = os.stat(folder)
                ending.enter_context(_lock(folder))
                held = os.path.samestat(seen, os.stat(folder))
            except FileNotFoundError:  # its holder has just removed it
                continue
            except BlockingIOError:
                raise
            except OSError:  # there are no locks
                break
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()


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
        if (
            Path(name).is_absolute()
            or ".." in Path(name).parts
            or folder.resolve() not in path.resolve().parents
        ):
            raise ValueError
        path.exists()  # of a name too long, `resolve` says nothing
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
