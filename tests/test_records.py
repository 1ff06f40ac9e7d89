"""Rows on disk: what was acknowledged is there, what was cut off is not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wordbrush.errors import OutputError
from wordbrush.records import Records

KEY = ("method", "case")


def row(case: str, **values: object) -> dict[str, object]:
    return {"method": "direct", "case": case, **values}


def test_rows_come_back_in_their_order(tmp_path: Path) -> None:
    records = Records(tmp_path / "deep" / "results.jsonl", KEY)
    records.add([row("a", psnr=27.2), row("b", psnr=None)])
    records.add([row("c", psnr=float("nan"))])
    again = Records(records.path, KEY)
    assert [one["case"] for one in again] == ["a", "b", "c"]
    assert again["direct", "a"]["psnr"] == 27.2
    assert again["direct", "c"]["psnr"] is None  # does not apply: JSON has no not-a-number
    assert ("direct", "b") in again and ("direct", "z") not in again and len(again) == 3


def test_a_row_that_comes_again_takes_the_old_ones_place(tmp_path: Path) -> None:
    records = Records(tmp_path / "results.jsonl", KEY)
    records.add([row("a", psnr=1), row("b", psnr=2)])
    records.add([row("a", psnr=3)])
    assert [one["psnr"] for one in Records(records.path, KEY)] == [3, 2]
    assert len(records.path.read_text().splitlines()) == 2


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400))
def test_a_file_cut_anywhere_keeps_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "results.jsonl"
    Records(path, KEY).add([row(str(i), words="a [cat → dog]") for i in range(6)])
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    records = Records(path, KEY)
    assert len(records) == whole[:cut].count(b"\n")
    records.add([row("fresh")])
    lines = path.read_text().splitlines()
    assert [json.loads(line)["case"] for line in lines] == [*map(str, range(len(lines) - 1)), "fresh"]


def test_a_whole_line_that_is_no_row_is_named(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for line in ("nonsense", '{"method": "direct"}', "[1]"):
        path.write_text('{"method": "direct", "case": "a"}\n' + line + "\n")
        with pytest.raises(OutputError, match="line 2: expected a row"):
            Records(path, KEY)


def test_a_line_ends_with_a_newline_alone_and_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"method": "direct", "case": "a\u2028b", "psnr": Infinity}\n')
    assert Records(path, KEY)["direct", "a\u2028b"]["psnr"] == float("inf")
    for line in ("[" * 10**5, '{"method": "direct", "case": ' + "9" * 5000 + "}"):
        path.write_text(line + "\n")
        with pytest.raises(OutputError, match="line 1: expected a row") as caught:
            Records(path, KEY)
        assert len(str(caught.value)) < 200 + len(str(path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OutputError, match="expected a file, got a pipe"):
        Records(path, KEY)


WRITER = """
import sys
from wordbrush.records import Records
records = Records(sys.argv[1], ("case",))
for i in range(len(records), 10**6):
    records.add([{"case": str(i), "filler": "x" * 500}])
    print(i, flush=True)
"""


@pytest.mark.slow
def test_no_acknowledged_row_is_lost_to_kills(tmp_path: Path) -> None:
    path, acknowledged = tmp_path / "results.jsonl", -1
    for wait in range(10):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            first = writer.stdout.readline()
            time.sleep(0.01 + 0.013 * wait)
            writer.send_signal(signal.SIGKILL)
            told = [int(line) for line in (first + writer.stdout.read()).split("\n") if line]
        assert told[0] > acknowledged
        acknowledged = told[-1]
        assert [int(one["case"]) for one in Records(path, ("case",))][: acknowledged + 1] == list(
            range(acknowledged + 1)
        )
