import errno
import os
import stat
from pathlib import Path

import pytest

from wordbrush.errors import InputError, OutputError
from wordbrush.files import all_or_none, atomic_write, inside, room_in


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
    for name in ("", ".", "..", "../home/a", "deep/../a", str(home / "a"), "far/a", "far", "circle/a", "a\0"):
        with pytest.raises(InputError, match="expected its picture to be below .*home, got "):
            inside(home, name, "its picture")
    with pytest.raises(InputError) as caught:
        inside(home, "../" + "x" * 10**6)
    assert len(str(caught.value)) < 300 + len(str(home))
