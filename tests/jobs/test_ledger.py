"""Ledgers: several processes write their own files in one folder, everybody reads all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from wordbrush.errors import OutputError
from wordbrush.jobs.ledger import Entry, Output, opened, read


def entry(id_: str, **values: object) -> Entry:
    return Entry.model_validate({"id": id_, "line": 1, "fingerprint": "f", "status": "done", **values})


def test_what_is_added_is_known_again_in_every_shard(tmp_path: Path) -> None:
    made = entry("a", outputs=(Output(path="a.png", text="a cat"),), notices=("small",), row={"verb": "edit"})
    (tmp_path / "a.png").touch()
    with opened(tmp_path / "new", (1, 1)) as ledger:
        assert ledger.known("a", "f") is None
    with opened(tmp_path, (2, 4)) as ledger:
        ledger.add(made)
        assert ledger.known("a", "f") == made
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "ledger-2-of-4.jsonl"}
    with opened(tmp_path) as ledger:
        assert ledger.known("a", "f") == made == read(tmp_path)["a"]
        assert ledger.known("a", "another") is None
        (tmp_path / "a.png").unlink()
        assert ledger.known("a", "f") is None


def test_the_later_of_two_entries_counts_whatever_its_file(tmp_path: Path) -> None:
    for shard, at, status in (((1, 2), 3.0, "done"), ((2, 2), 2.0, "failed"), ((1, 1), 1.0, "failed")):
        with opened(tmp_path, shard) as ledger:
            ledger.add(entry("a", status=status, at=at))
    assert read(tmp_path)["a"].status == "done"
    with opened(tmp_path, (1, 2)) as ledger:
        ledger.add(entry("a", status="failed"))  # in place of the old one
    assert read(tmp_path)["a"].status == "failed"
    assert len((tmp_path / "ledger-1-of-2.jsonl").read_text().splitlines()) == 1


def test_a_shard_has_one_writer_and_any_number_of_readers(tmp_path: Path) -> None:
    with opened(tmp_path, (1, 2)) as ledger:
        ledger.add(entry("a"))
        with pytest.raises(
            OutputError, match=r"ledger-1-of-2.jsonl is in use: another process does these jobs"
        ):
            with opened(tmp_path, (1, 2)):
                pass
        with opened(tmp_path, (2, 2)) as other:
            assert other.known("a", "f") is not None
    with opened(tmp_path, (1, 2)):
        pass


def test_a_line_that_is_being_written_is_left_to_its_writer(tmp_path: Path) -> None:
    with opened(tmp_path, (1, 2)) as ledger:
        ledger.add(entry("a"))
    path = tmp_path / "ledger-1-of-2.jsonl"
    half = path.read_text() + '{"id": "b", "li'
    path.write_text(half)
    assert set(read(tmp_path)) == {"a"} and path.read_text() == half
    with opened(tmp_path, (1, 2)):
        assert path.read_text() == half.partition("\n")[0] + "\n"


def test_what_a_killed_process_held_is_free(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from wordbrush.jobs.ledger import opened\n"
        "with opened(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)]).returncode == -9
    assert [path.name for path in tmp_path.iterdir()] == [".ledger.lock"]
    with opened(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "row",
    [
        {"id": "a"},
        {**entry("a").model_dump(), "status": "perhaps"},
        {**entry("a").model_dump(), "outputs": [7]},
        {**entry("a").model_dump(), "line": "x" * 1000},
    ],
)
def test_a_damaged_ledger_is_named(tmp_path: Path, row: dict[str, object]) -> None:
    (tmp_path / "ledger.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(OutputError, match=r"ledger.jsonl: expected entries of jobs") as caught:
        read(tmp_path)
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_a_ledger_leads_to_no_other_folder(tmp_path: Path) -> None:
    (tmp_path / "photo.png").touch()
    with opened(tmp_path / "out") as ledger:
        ledger.add(entry("a", outputs=(Output(path="../photo.png"),)))
        assert ledger.known("a", "f") is None
