"""The loop over jobs: each is done once, and one that fails says why and stops nothing."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from wordbrush.jobs.ledger import Entry, Ledger, Output
from wordbrush.jobs.reading import Job
from wordbrush.progress import Progress


@dataclass(frozen=True)
class Outcome:
    """What a job made and what it said, or why it made nothing."""

    outputs: tuple[Output, ...] = ()
    notices: tuple[str, ...] = ()
    error: str = ""


@runtime_checkable
class Worker(Protocol):
    """Who does the jobs. What goes wrong with a job is an outcome; what is raised ends the loop."""

    def fingerprint(self, job: Job) -> str:
        """Of all that decides what the job makes: another one means another job."""
        ...

    def check(self, job: Job) -> Outcome:
        """What can be said of a job without doing it: that it cannot be done, most of all."""
        ...

    def do(self, job: Job) -> Outcome:
        """Do a job."""
        ...


@dataclass(frozen=True)
class Finished(Progress):
    """A job has ended, now or in an earlier run."""

    entry: Entry | None = None
    is_new: bool = True


def run(
    jobs: Sequence[Job], ledger: Ledger, worker: Worker, *, retry: bool = False
) -> Generator[Progress, None, list[Entry]]:
    """Do the jobs that the ledger does not have; all are checked before the first is done.

    Yields a `Finished` for each job that ends, and for each that failed in an earlier run, which is done again only if
    `retry`. Stopping between two yields loses nothing. Returns an entry for each job. Raises `OutputError` if the
    ledger cannot be written.
    """
    prints: dict[str, str] = {}
    entries: dict[str, Entry] = {}
    waiting: list[Job] = []
    for i, job in enumerate(jobs, 1):
        prints[job.id] = worker.fingerprint(job)
        yield Progress("comparing", i, len(jobs))
        known = ledger.known(job.id, prints[job.id])
        if known is None or (retry and known.status == "failed"):
            waiting.append(job)
        else:
            entries[job.id] = known
            if known.status == "failed":
                yield Finished("jobs", len(entries), len(jobs), entry=known, is_new=False)

    def ended(job: Job, outcome: Outcome, seconds: float = 0.0) -> Finished:
        entry = Entry(
            id=job.id,
            line=job.line,
            fingerprint=prints[job.id],
            status="failed" if outcome.error else "done",
            row=dict(job.values),
            outputs=outcome.outputs,
            seconds=round(seconds, 3),
            error=outcome.error,
            notices=outcome.notices,
        )
        ledger.add(entry)
        entries[job.id] = entry
        return Finished("jobs", len(entries), len(jobs), entry=entry)

    sound: list[Job] = []
    for i, job in enumerate(waiting, 1):
        found = worker.check(job)
        if found.error:
            yield ended(job, found)
        else:
            sound.append(job)
        yield Progress("checking", i, len(waiting))
    for job in sound:
        yield Progress("jobs", len(entries), len(jobs))
        began = time.perf_counter()
        outcome = worker.do(job)
        yield ended(job, outcome, time.perf_counter() - began)
    return [entries[job.id] for job in jobs]
