import errno
import os
import resource
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from wordbrush.errors import InputError, OutputError
from wordbrush.files import all_or_none, atomic_write, inside, room_in, sole


def test_writes_the_bytes_and_leaves_nothing_else(tmp_path: Path):
    with atomic_write(tmp_path / "new" / "folder" / "file.bin") as file:
        file.write(b"all")
    assert (tmp_path / "new" / "folder" / "file.bin").read_bytes() == b"all"
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["file.bin"]


def test_the_name_appears_only_at_the_end(tmp_path: Path):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ValueError, SystemExit])
def test_an_exception_keeps_the_old_file_and_removes_the_half_one(
    tmp_path: Path, exception: type[BaseException]
):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with pytest.raises(exception), atomic_write(path) as file:
        file.write(b"half")
        raise exception
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_clear_error_and_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"file\.bin: No space left on device; choose"):
        with atomic_write(path) as file:
            file.write(b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's full device")
def test_a_real_device_without_room_is_the_same_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    full = open("/dev/full", "wb")
    monkeypatch.setattr("builtins.open", lambda *_: full)
    with pytest.raises(OutputError, match="No space left"), atomic_write(tmp_path / "file.bin") as file:
        file.write(b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_is_a_clear_error(tmp_path: Path):
    with pytest.raises(OutputError, match="it is a folder"), atomic_write(tmp_path):
        pytest.fail("the block must not run")


def test_a_file_where_a_folder_is_needed_is_a_clear_error(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"), atomic_write(tmp_path / "file" / "inside"):
        pytest.fail("the block must not run")


def test_a_link_stays_a_link(tmp_path: Path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with atomic_write(tmp_path / "link") as file:
        file.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path):
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "ours"):
        pass
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE(
        (tmp_path / "plain").stat().st_mode
    )


def test_of_several_files_all_appear_or_none(tmp_path: Path):
    names = ("new/a.bin", "new/b.bin")
    with all_or_none() as opened:
        for name in names:
            with opened(tmp_path / name) as file:
                file.write(name.encode())
            assert not (tmp_path / name).exists()
    assert [(tmp_path / name).read_bytes() for name in names] == [b"new/a.bin", b"new/b.bin"]
    with pytest.raises(KeyboardInterrupt), all_or_none() as opened:
        with opened(tmp_path / "new" / "a.bin") as file:
            file.write(b"other")
        with opened(tmp_path / "newer" / "c.bin"):
            raise KeyboardInterrupt
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["new", *names]
    assert (tmp_path / "new" / "a.bin").read_bytes() == b"new/a.bin"


@pytest.mark.parametrize("name", ["😀" * 62 + ".bin", "漢" * 83 + ".bin", "a" * 255])
def test_every_name_that_the_file_system_has_can_be_written(tmp_path: Path, name: str):
    assert len(name.encode()) > 244
    with atomic_write(tmp_path / name) as file:
        file.write(b"all")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_cannot_be_is_refused_before_the_block_runs(tmp_path: Path):
    for name in ("a" * 256, "a\0b"):
        with pytest.raises(OutputError, match="cannot write"), atomic_write(tmp_path / name):
            pytest.fail("the block must not run")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_a_device_and_a_circle_are_left_alone(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    (tmp_path / "to the pipe").symlink_to("pipe")
    (tmp_path / "circle").symlink_to("circle")
    before = sorted(tmp_path.iterdir())
    for path in before:
        with pytest.raises(OutputError, match="cannot write"), atomic_write(path):
            pytest.fail("the block must not run")
    assert sorted(tmp_path.iterdir()) == before
    assert stat.S_ISFIFO((tmp_path / "pipe").lstat().st_mode) and (tmp_path / "null").is_symlink()


WRITER = """
import sys, time
from wordbrush.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print(flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_leaves_goes_with_the_next_write_and_what_a_live_one_writes_stays(
    tmp_path: Path,
):
    def stages() -> list[str]:
        return sorted(path.name for path in tmp_path.glob(".wordbrush-*"))

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WRITER, str(tmp_path / name)]
        writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None and writer.stdout.readline() == "\n"
        return writer

    with start("killed.bin") as killed, start("live.bin") as live:
        killed.kill()
        killed.wait()
        assert len(stages()) == 2
        (tmp_path / ".wordbrush-00000000.part").symlink_to(tmp_path)  # not ours
        (tmp_path / ".wordbrush-mine.part").mkdir()
        for _ in range(2):
            with atomic_write(tmp_path / "file.bin") as file:
                file.write(b"all")
            assert len(stages()) == 3
        live.kill()
    with atomic_write(tmp_path / "file.bin"):
        pass
    assert stages() == [".wordbrush-00000000.part", ".wordbrush-mine.part"]
    assert (tmp_path / "file.bin").is_file()


def test_writers_of_one_folder_do_not_take_each_others_files(tmp_path: Path):
    def write(i: int) -> None:
        for j in range(30):
            with atomic_write(tmp_path / f"{i}-{j}") as file:
                file.write(b"all")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
    assert len(list(tmp_path.iterdir())) == 240


def test_two_files_may_be_open_and_one_that_failed_is_not_renamed(tmp_path: Path):
    with all_or_none() as opened:
        with opened(tmp_path / "a") as a, opened(tmp_path / "b") as b:
            a.write(b"a")
            b.write(b"b")
        with pytest.raises(ZeroDivisionError), opened(tmp_path / "c"):
            raise ZeroDivisionError
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"a", "b": b"b"}


def test_more_files_are_written_at_once_than_may_be_open(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        with all_or_none() as opened:
            for i in range(200):
                with opened(tmp_path / str(i)) as file:
                    file.write(b"all")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list(tmp_path.iterdir())) == 200


def test_room_is_found_without_leaving_a_trace(tmp_path: Path):
    with room_in(tmp_path / "new" / "folder"):
        assert (tmp_path / "new" / "folder").is_dir()
    assert list(tmp_path.iterdir()) == []
    with room_in(tmp_path / "kept"):
        (tmp_path / "kept" / "file").touch()
    assert (tmp_path / "kept" / "file").exists()


@pytest.mark.skipif(not os.path.exists("/proc"), reason="needs a folder that not even root may write to")
def test_a_folder_without_room_is_a_clear_error():
    with pytest.raises(OutputError, match="cannot write /proc"), room_in("/proc"):
        pytest.fail("the block must not run")


def test_a_name_from_a_file_stays_in_its_folder(tmp_path: Path):
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    (home / "near").symlink_to("deep")
    (home / "far").symlink_to(tmp_path)
    (home / "circle").symlink_to("circle")
    for name in ("a.png", "deep/a.png", "./a", "near/a", "new/folder/a", "..a", "a..b"):
        assert inside(home, name) == home / name
    for name in (
        "",
        ".",
        "..",
        "../home/a",
        "deep/../a",
        str(home / "a"),
        "far/a",
        "far",
        "circle/a",
        "a\0",
        "x" * 300,
    ):
        with pytest.raises(InputError, match="expected its picture to be below .*home, got "):
            inside(home, name, "its picture")
    with pytest.raises(InputError) as caught:
        inside(home, "../" + "x" * 10**6)
    assert len(str(caught.value)) < 300 + len(str(home))


def test_a_folder_is_held_by_one_and_gone_afterwards(tmp_path: Path):
    folder = tmp_path / "new" / ".lock"
    with sole(folder):
        with pytest.raises(BlockingIOError), sole(folder):
            pass
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())
    folder.mkdir(parents=True)  # as a killed process leaves it
    with sole(folder):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["new"] and not folder.exists()


def test_a_folder_whose_holder_removes_it_in_that_moment_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, stat, left = tmp_path / ".lock", os.stat, [0, 1]

    def remove(path: object, *arguments: object, **flags: object) -> os.stat_result:
        if path == folder and left:
            found = stat(folder)
            if left.pop():
                folder.rmdir()
            return found
        return stat(path, *arguments, **flags)  # type: ignore[call-overload]

    monkeypatch.setattr("wordbrush.files.os.stat", remove)
    with sole(folder):
        assert folder.is_dir() and not left
    assert not folder.exists()


def test_without_locks_a_folder_is_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def none(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("wordbrush.files.fcntl.flock", none)
    with sole(tmp_path / ".lock"), sole(tmp_path / ".lock"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_not_held(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"), sole(tmp_path / "file" / ".lock"):
        pass
