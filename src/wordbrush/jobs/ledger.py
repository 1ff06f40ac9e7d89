"""What became of each job of a folder: `ledger.jsonl` in it, or `ledger-2-of-4.jsonl` for the second of four shards.

Each file has one writer at a time, and everybody may read all of them at any time. Of two entries with one id, the
later one counts.
"""

import re
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wordbrush.errors import InputError, OutputError, short
from wordbrush.files import inside, sole
from wordbrush.records import Records

_NAME = re.compile(r"ledger(-\d+-of-\d+)?\.jsonl")


class Output(BaseModel):
    """A file that a job made: its path, relative to the ledger's folder, and what it shows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    text: str = ""


class Entry(BaseModel):
    """What became of a job.

    fingerprint: of all that the job asked for, its input files included. row: what the job said. seconds: what it took.
    error: why it failed. at: when it ended, in seconds since 1970.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    line: int
    fingerprint: str
    status: Literal["done", "failed"]
    row: dict[str, Any] = {}
    outputs: tuple[Output, ...] = ()
    seconds: float = 0.0
    error: str = ""
    notices: tuple[str, ...] = ()
    at: float = Field(default_factory=time.time)


class Ledger:
    """The entries of a folder, and one of its files to add to; see `opened`."""

    def __init__(self, folder: Path, records: Records, entries: Mapping[str, Entry]) -> None:
        self.folder, self._records, self._entries = folder, records, dict(entries)

    def add(self, entry: Entry) -> None:
        """Add an entry; it is on the disk when this returns. Raises `OutputError`."""
        self._records.add([entry.model_dump(mode="json")])
        self._entries[entry.id] = entry

    def known(self, id_: str, fingerprint: str) -> Entry | None:
        """What became of a job as it is now: None if it was another one then, or if what it made has gone."""
        entry = self._entries.get(id_)
        if entry is None or entry.fingerprint != fingerprint:
            return None
        return entry if len(files(self.folder, entry)) == len(entry.outputs) else None


@contextmanager
def opened(folder: Path, shard: tuple[int, int] = (1, 1)) -> Generator[Ledger, None, None]:
    """A folder's ledger, to write one shard's file of it.

    Raises `OutputError` if another process writes this shard, or if a ledger cannot be read.
    """
    number, count = shard
    name = "ledger" if count == 1 else f"ledger-{number}-of-{count}"
    with ExitStack() as holding:
        try:
            holding.enter_context(sole(folder / f".{name}.lock"))
        except BlockingIOError as error:
            raise OutputError(
                f"{folder / name}.jsonl is in use: another process does these jobs; "
                "wait for it, or take another --shard or another --out"
            ) from error
        records = Records(folder / f"{name}.jsonl", key=("id",))
        yield Ledger(folder, records, read(folder))


def read(folder: Path) -> dict[str, Entry]:
    """The entries of a folder by id, from all of its shards; they may be being written. Raises `OutputError`."""
    entries: dict[str, Entry] = {}
    for path in sorted(path for path in folder.glob("ledger*.jsonl") if _NAME.fullmatch(path.name)):
        for row in Records(path, key=("id",), mend=False):
            try:
                entry = Entry.model_validate(row)
            except ValidationError as error:
                raise OutputError(
                    f"{path}: expected entries of jobs, got {short(row)}; remove the line, or choose another folder"
                ) from error
            if entry.id not in entries or entries[entry.id].at <= entry.at:
                entries[entry.id] = entry
    return entries


def files(folder: Path, entry: Entry) -> dict[Path, str]:
    """The files that a job made and that are still there, with what they show."""
    found: dict[Path, str] = {}
    for output in entry.outputs:
        try:
            path = inside(folder, output.path)
        except InputError:  # from a ledger that is not ours
            continue
        if path.is_file():
            found[path] = output.text
    return found
