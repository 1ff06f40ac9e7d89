"""The loop: every job once, checks first, failures in the ledger and in nobody's way."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from wordbrush.jobs.ledger import Entry, Output, opened
from wordbrush.jobs.reading import Job
from wordbrush.jobs.run import Finished, Outcome, run
from wordbrush.progress import Progress, drain

JOBS = [Job(name, name, line) for line, name in enumerate("abcd", 1)]


@dataclass
class Worker:
    """Writes a file for each job, but for those that are broken or bad."""

    folder: Path
    broken: str = ""
    bad: str = ""
    changed: str = ""
    log: list[str] = field(default_factory=list[str])

    def fingerprint(self, job: Job) -> str:
        return f"{job.id} {job.id in self.changed}"

    def check(self, job: Job) -> Outcome:
        self.log.append(f"check {job.id}")
        return Outcome(error="it is broken" if job.id in self.broken else "")

    def do(self, job: Job) -> Outcome:
        self.log.append(f"do {job.id}")
        if job.id in self.bad:
            return Outcome(error="it is bad")
        (self.folder / job.id).touch()
        return Outcome((Output(path=job.id, text="a cat"),), ("a note",))


Did = Callable[..., tuple[list[str], list[Entry], list[Progress]]]


@pytest.fixture
def did(tmp_path: Path) -> Did:
    def did(jobs: list[Job] = JOBS, *, retry: bool = False, **how: str):
        worker, told = Worker(tmp_path, **how), list[Progress]()
        with opened(tmp_path) as ledger:
            entries = drain(run(jobs, ledger, worker, retry=retry), told.append)
        return worker.log, entries, told

    return did


def test_all_are_checked_before_the_first_is_done_and_failures_stop_none(did: Did) -> None:
    log, entries, told = did(broken="b", bad="a")
    assert log == ["check a", "check b", "check c", "check d", "do a", "do c", "do d"]
    assert [(one.id, one.status, one.error) for one in entries] == [
        ("a", "failed", "it is bad"),
        ("b", "failed", "it is broken"),
        ("c", "done", ""),
        ("d", "done", ""),
    ]
    assert entries[2].outputs == (Output(path="c", text="a cat"),) and entries[2].notices == ("a note",)
    ended = [one for one in told if isinstance(one, Finished)]
    assert [(one.entry.id, one.step, one.total) for one in ended if one.entry] == [
        ("b", 1, 4),
        ("a", 2, 4),
        ("c", 3, 4),
        ("d", 4, 4),
    ]


def test_only_what_is_new_changed_gone_or_asked_for_is_done_again(did: Did, tmp_path: Path) -> None:
    did(JOBS[:3], bad="a")
    log, entries, told = did()
    assert log == ["check d", "do d"] and [one.status for one in entries] == [
        "failed",
        "done",
        "done",
        "done",
    ]
    (again,) = [one for one in told if isinstance(one, Finished) and not one.is_new]
    assert again.entry == entries[0]
    assert did()[0] == []
    assert did(changed="b")[0] == ["check b", "do b"]
    (tmp_path / "c").unlink()
    assert did(changed="b")[0] == ["check c", "do c"]
    assert did(changed="ab")[0] == ["check a", "do a"]  # what has failed, and is another job now
    did(changed="b", bad="a")
    assert did(retry=True, changed="b")[0] == ["check a", "do a"]
    assert did(retry=True, changed="b")[0] == []


def test_a_stop_keeps_what_is_done(did: Did, tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        steps = run(JOBS, ledger, Worker(tmp_path))
        while not isinstance(next(steps), Finished):
            pass
        steps.close()
    assert did()[0] == ["check b", "check c", "check d", "do b", "do c", "do d"]
