"""The database of answers. An acknowledged answer is on the disk, whatever happens to the server afterwards.

SQLite in WAL mode with `synchronous=FULL`: a commit returns when the data is on the disk. The answers of a page are one
transaction. Answers are only added; the last one to a question is the current one.
"""

import hashlib
import os
import secrets
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from wordbrush.errors import InputError, OutputError
from wordbrush.evaluation.study.assignment import Trial
from wordbrush.evaluation.study.design import Unit

_VERSION = 1
_SCHEMA = """
CREATE TABLE study (kind TEXT NOT NULL, secret BLOB NOT NULL);
CREATE TABLE raters (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, began_at TEXT NOT NULL
);
CREATE TABLE pages (
    rater INTEGER NOT NULL REFERENCES raters, page INTEGER NOT NULL, item TEXT NOT NULL,
    shown TEXT NOT NULL, is_check INTEGER NOT NULL, PRIMARY KEY (rater, page)
) WITHOUT ROWID;
CREATE TABLE answers (
    number INTEGER PRIMARY KEY, rater INTEGER NOT NULL, page INTEGER NOT NULL, question TEXT NOT NULL,
    answer TEXT NOT NULL, answered_at TEXT NOT NULL, FOREIGN KEY (rater, page) REFERENCES pages
);
CREATE INDEX answers_to ON answers (rater, page, question, number);
CREATE VIEW current AS SELECT * FROM answers
    WHERE number IN (SELECT MAX(number) FROM answers GROUP BY rater, page, question);
"""
_SEPARATOR = "|"  # between the pictures of a page
REASSIGN_AFTER = timedelta(hours=12)  # an absent rater's unanswered pages are then assigned to others


@dataclass(frozen=True)
class Rater:
    """A rater who has begun, and their pages."""

    number: int
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Answer:
    """The current answer to one question on one page."""

    rater: int
    page: int
    """From 1, in the rater's order."""
    trial: Trial
    question: str
    answer: str
    answered_at: str


class Store:
    """The answers of one study. Safe to use from several threads and processes."""

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        """Open the answers file of a study of this kind, or create it.

        Raises `InputError` if it is not an answers file or is for another kind, `OutputError` if it cannot be written.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(
                self.path, timeout=30, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise OutputError(f"cannot open {self.path}: {error}; check the folder") from error
        try:
            self._database.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
            )
            with self._transaction():
                self._create_or_check(kind)
        except sqlite3.OperationalError as error:
            self._database.close()
            raise OutputError(
                f"cannot write {self.path}: {error}; free disk space or check the permissions"
            ) from error
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise InputError(
                f"expected a study's answers in {self.path}, but it is damaged: {error}"
            ) from error
        except InputError:
            self._database.close()
            raise

    def _create_or_check(self, kind: str) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";\n"):
                self._database.execute(statement)
            self._database.execute("INSERT INTO study VALUES (?, ?)", (kind, secrets.token_bytes(32)))
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise InputError(
                f"expected an answers file of version {_VERSION}, got version {version}: {self.path} was written "
                "by another version of wordbrush"
            )
        stored_kind, self.secret = self._database.execute("SELECT kind, secret FROM study").fetchone()
        if stored_kind != kind:
            raise InputError(
                f"expected answers to a {kind} in {self.path}, got answers to a {stored_kind}: "
                f'set kind = "{stored_kind}", or move the file away to start again'
            )

    def close(self) -> None:
        """Close the file. Acknowledged answers are on the disk without this."""
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rater(self, key: str) -> Rater | None:
        """The rater with this key, or None if they have not begun."""
        with self._lock:
            return self._rater(key)

    def admit(
        self,
        key: str,
        assign: Callable[[int, Mapping[Unit, int]], Sequence[Trial]],
        discounted: Collection[int] = (),
    ) -> Rater | None:
        """Add a rater with the pages from `assign(number, taken)`; None if it returns none.

        taken: how often each unit has been answered, or assigned to a rater who was active in the last twelve hours,
        without the `discounted` raters. A rater who has already begun keeps their pages.
        """
        with self._transaction():
            if (rater := self._rater(key)) is not None:
                return rater
            (number,) = self._database.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM raters").fetchone()
            trials = assign(number, self._taken(discounted))
            if not trials:
                return None
            self._database.execute("INSERT INTO raters VALUES (?, ?, ?)", (number, _hashed(key), _now()))
            self._database.executemany(
                "INSERT INTO pages VALUES (?, ?, ?, ?, ?)",
                [
                    (number, page, trial.item, _SEPARATOR.join(trial.shown), trial.is_check)
                    for page, trial in enumerate(trials, 1)
                ],
            )
            return Rater(number, tuple(trials))

    def record(self, rater: int, page: int, answers: Mapping[str, str]) -> None:
        """Store the answers to a page's questions, all or none; they are on the disk when this returns.

        An answer equal to the current one is not stored again.
        """
        with self._transaction():
            for question, answer in answers.items():
                last = self._database.execute(
                    "SELECT answer FROM current WHERE rater = ? AND page = ? AND question = ?",
                    (rater, page, question),
                ).fetchone()
                if last != (answer,):
                    self._database.execute(
                        "INSERT INTO answers (rater, page, question, answer, answered_at) VALUES (?, ?, ?, ?, ?)",
                        (rater, page, question, answer, _now()),
                    )

    def answered(self, rater: int) -> dict[int, dict[str, str]]:
        """A rater's current answers: page → question → answer."""
        with (
            self._lock,
            closing(
                self._database.execute("SELECT page, question, answer FROM current WHERE rater = ?", (rater,))
            ) as rows,
        ):
            pages: dict[int, dict[str, str]] = {}
            for page, question, answer in rows:
                pages.setdefault(page, {})[question] = answer
            return pages

    def answers(self) -> list[Answer]:
        """All current answers, by rater and page."""
        query = """
            SELECT rater, page, item, shown, is_check, question, answer, answered_at
            FROM current JOIN pages USING (rater, page) ORDER BY rater, page, number
        """
        with self._lock, closing(self._database.execute(query)) as rows:
            return [
                Answer(rater, page, _trial(item, shown, is_check), question, answer, at)
                for rater, page, item, shown, is_check, question, answer, at in rows
            ]

    def trials(self) -> dict[int, tuple[Trial, ...]]:
        """The pages of every rater who has begun."""
        query = "SELECT rater, item, shown, is_check FROM pages ORDER BY rater, page"
        by_rater: dict[int, list[Trial]] = {}
        with self._lock, closing(self._database.execute(query)) as rows:
            for rater, *trial in rows:
                by_rater.setdefault(rater, []).append(_trial(*trial))
        return {rater: tuple(trials) for rater, trials in by_rater.items()}

    def _rater(self, key: str) -> Rater | None:
        row = self._database.execute("SELECT number FROM raters WHERE key = ?", (_hashed(key),)).fetchone()
        if row is None:
            return None
        trials = self._database.execute(
            "SELECT item, shown, is_check FROM pages WHERE rater = ? ORDER BY page", row
        ).fetchall()
        return Rater(row[0], tuple(_trial(*trial) for trial in trials))

    def _taken(self, discounted: Collection[int]) -> Counter[Unit]:
        active_since = _iso(datetime.now(UTC) - REASSIGN_AFTER)
        query = """
            SELECT rater, item, shown FROM pages JOIN raters ON raters.number = pages.rater
            WHERE NOT is_check AND (
                began_at >= :since
                OR EXISTS (SELECT 1 FROM answers WHERE answers.rater = pages.rater AND answered_at >= :since)
                OR EXISTS (SELECT 1 FROM answers WHERE answers.rater = pages.rater AND answers.page = pages.page)
            )
        """
        rows = self._database.execute(query, {"since": active_since})
        return Counter(_trial(item, shown, 0).unit for rater, item, shown in rows if rater not in discounted)

    @contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise


def _trial(item: str, shown: str, is_check: int) -> Trial:
    return Trial(item, tuple(shown.split(_SEPARATOR)), bool(is_check))


def _hashed(key: str) -> bytes:
    """The key's hash: the file alone does not allow anyone to continue as a rater."""
    return hashlib.sha256(key.encode()).digest()


def _now() -> str:
    return _iso(datetime.now(UTC))


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
