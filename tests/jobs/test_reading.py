"""Files of jobs: JSONL and CSV say the same; what is no job says so, and stops no other."""

import json
import os
from pathlib import Path

import pytest

from wordbrush.errors import InputError
from wordbrush.jobs.reading import Job, read

EDIT = {"verb": "edit", "picture": "cat.png", "source": "a cat, on a beach", "target": ["a dog", "a lion"]}


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def test_a_line_is_a_job_named_by_its_id_or_by_its_line_and_what_it_asks_for(tmp_path: Path) -> None:
    rows = [
        {**EDIT, "self-replace-steps": 0.4, "seed": None},
        {"id": "Big cat!", "verb": "generate", "prompt": "a cat"},
        {"id": 7, "verb": "replay", "picture": "cat.png"},
        {"id": "big-cat", "verb": "generate", "prompt": "a cat"},
    ]
    path = written(tmp_path / "jobs.jsonl", "\n\n".join(map(json.dumps, rows)) + "\n")
    jobs = read(path)
    assert jobs[0] == Job("0001-a-dog", "0001-a-dog", 1, {**EDIT, "self_replace_steps": 0.4})
    assert [(job.id, job.name, job.line) for job in jobs[1:]] == [
        ("Big cat!", "big-cat", 3),
        ("7", "7", 5),
        ("big-cat", "big-cat-2", 7),
    ]
    assert jobs[2].values == {"verb": "replay", "picture": "cat.png"}


CSV = 'id,verb,picture,source,target,seed\nx,edit,cat.png,"a cat, on a beach",a dog | a lion,\n'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_says_the_same(tmp_path: Path, encoding: str, ending: str, delimiter: str) -> None:
    text = CSV.replace(",", delimiter).replace(f"cat{delimiter} on", "cat, on").replace("\n", ending)
    (job,) = read(written(tmp_path / "jobs.csv", text, encoding))
    (same,) = read(written(tmp_path / "jobs.jsonl", json.dumps({"id": "x", **EDIT}), encoding))
    assert (job.id, job.values, job.problem) == (same.id, same.values, "")


def test_a_line_of_csv_is_where_its_row_begins(tmp_path: Path) -> None:
    text = 'verb,prompt\ngenerate,"a cat\non ""a"" beach"\n\n,\ngenerate,a dog,7\ngenerate,a lion\n'
    jobs = read(written(tmp_path / "jobs.csv", text))
    assert [(job.line, job.id) for job in jobs] == [
        (2, "0002-a-cat-on-a-beach"),
        (6, "0006"),
        (7, "0007-a-lion"),
    ]
    assert jobs[0].values["prompt"] == 'a cat\non "a" beach'
    assert jobs[1].problem == "expected at most 2 cells, as in the first row, got 3"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "expected JSON, got 'nonsense'"),
        ("[1]", "expected names and values in JSON, got [1]"),
        ('{"verb": "edit", "verb": "edit"}', "the key 'verb' comes more than once"),
        ('{"steps": 1, "steps": 1e400}', "comes more than once"),
        ('{"a-b": 1, "a_b": 2}', "expected each name once"),
        ('{"a": "\\u0000"}', "a character 0"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ('{"a": NaN}', "finite"),
        ("[" * 10**4, "levels deep"),
        ('{"id": ""}', "expected 'id' to be a text of 1 to 200 characters, got ''"),
        ('{"id": ["a"]}', "expected 'id' to be a text"),
        ('{"id": true}', "expected 'id' to be a text"),
        (json.dumps({"id": "x" * 201}), "expected 'id' to be a text"),
    ],
)
def test_a_line_that_is_no_job_says_why_and_stops_no_other(tmp_path: Path, line: str, problem: str) -> None:
    first, broken, last = read(written(tmp_path / "jobs.jsonl", f"{{}}\n{line}\n{{}}\n"))
    assert problem in broken.problem and len(broken.problem) < 300
    assert (broken.line, broken.id) == (2, "0002")
    assert first.problem == last.problem == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", "", "expected at least one job, got none"),
        ("a.csv", "verb,prompt\n", "expected at least one job, got none"),
        ("a.csv", "verb,,prompt\nx,y,z\n", "expected a name for each column"),
        ("a.csv", "a-b,a_b\n1,2\n", "expected a name for each column"),
        ("a.csv", 'verb,prompt\ngenerate,"a cat\n', "line 2: expected CSV"),
        ("a.csv", f"verb\n{'x' * 200_000}\n", "line 2: expected CSV, got a row that is none .field larger"),
        ("a.jsonl", '{"id": "a"}\n{"id": "b"}\n{"id": "a"}\n', "got 'a' in line 1 and in line 3"),
        ("a.jsonl", '{"id": "0002-x"}\n{"prompt": "x"}\n', "got '0002-x' in line 1 and in line 2"),
        ("a.jsonl", "a\0b", "a byte 0 in it"),
    ],
)
def test_what_is_no_file_of_jobs_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(written(tmp_path / name, text))
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def test_only_files_in_utf_8_of_a_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="expected UTF-8"):
        read(written(tmp_path / "a.csv", CSV, "utf-16"))
    os.mkfifo(tmp_path / "b.jsonl")
    with pytest.raises(InputError, match="expected a file, got a pipe"):
        read(tmp_path / "b.jsonl")
    monkeypatch.setattr("wordbrush.jobs.reading.MOST", 10)
    with pytest.raises(InputError, match="got more"):
        read(written(tmp_path / "a.csv", CSV))
