"""Where answers go. An answer that was acknowledged is on the disk, whatever happens to the server after.

SQLite in WAL mode with `synchronous=FULL`: a commit returns when the disk has it. One transaction holds the answers of
a page. Answers are only ever added; the last one to a question counts.
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
_BETWEEN = "|"  # the pictures of a page, as text
PATIENCE = timedelta(hours=12)  # until what a rater has left unanswered is given to others


@dataclass(frozen=True)
class Rater:
    """Somebody who has begun, and the pages given to them."""

    number: int
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Answer:
    """The answer that counts, to one question on one page."""

    rater: int
    page: int
    """From 1, in the rater's order."""
    trial: Trial
    question: str
    answer: str
    answered_at: str


class Store:
    """The answers of one study. Safe to use from several threads, and beside other processes."""

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        """Open the file of a study of this kind, or make it.

        Raises `InputError` if it is no such file or another kind's, `OutputError` if it cannot be written.
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
                self._prepare(kind)
        except sqlite3.OperationalError as error:
            self._database.close()
            raise OutputError(
                f"cannot write {self.path}: {error}; make room, or ask for the right"
            ) from error
        except sqlite3.DatabaseError as error:
            self._database.close()
            raise InputError(
                f"expected a study's answers in {self.path}, and it is damaged: {error}"
            ) from error
        except InputError:
            self._database.close()
            raise

    def _prepare(self, kind: str) -> None:
        (version,) = self._database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";\n"):
                self._database.execute(statement)
            self._database.execute("INSERT INTO study VALUES (?, ?)", (kind, secrets.token_bytes(32)))
            self._database.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise InputError(
                f"{self.path} was written by another wordbrush (layout {version}, this one reads {_VERSION})"
            )
        made_for, self.secret = self._database.execute("SELECT kind, secret FROM study").fetchone()
        if made_for != kind:
            raise InputError(
                f'{self.path} holds answers to a {made_for}, and the study is a {kind}: set kind = "{made_for}", or '
                "move the answers away to begin anew"
            )

    def close(self) -> None:
        """Close the file. What was acknowledged is on the disk without it."""
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rater(self, key: str) -> Rater | None:
        """Who has this key, if they have begun."""
        with self._lock:
            return self._rater(key)

    def admit(
        self,
        key: str,
        assign: Callable[[int, Mapping[Unit, int]], Sequence[Trial]],
        discounted: Collection[int] = (),
    ) -> Rater | None:
        """Let a rater begin: `assign(number, taken)` says with which pages; None if it has none for them.

        taken: how often each unit has been answered, or given to somebody who was here within the last
        twelve hours; what the `discounted` raters have is not. Whoever has begun already keeps their pages.
        """
        with self._transaction():
            if (known := self._rater(key)) is not None:
                return known
            (number,) = self._database.execute("SELECT COALESCE(MAX(number), 0) + 1 FROM raters").fetchone()
            trials = assign(number, self._taken(discounted))
            if not trials:
                return None
            self._database.execute("INSERT INTO raters VALUES (?, ?, ?)", (number, _hashed(key), _now()))
            self._database.executemany(
                "INSERT INTO pages VALUES (?, ?, ?, ?, ?)",
                [
                    (number, page, trial.item, _BETWEEN.join(trial.shown), trial.is_check)
                    for page, trial in enumerate(trials, 1)
                ],
            )
            return Rater(number, tuple(trials))

    def record(self, rater: int, page: int, answers: Mapping[str, str]) -> None:
        """Store the answers to a page's questions, all or none; when this returns, they are on the disk.

        An answer that is the one that counts already is not stored again: sent twice, it stands once.
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
        """A rater's answers that count: page → question → answer."""
        with (
            self._lock,
            closing(
                self._database.execute("SELECT page, question, answer FROM current WHERE rater = ?", (rater,))
            ) as rows,
        ):
            found: dict[int, dict[str, str]] = {}
            for page, question, answer in rows:
                found.setdefault(page, {})[question] = answer
            return found

    def answers(self) -> list[Answer]:
        """All answers that count, by rater and page."""
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
        found: dict[int, list[Trial]] = {}
        with self._lock, closing(self._database.execute(query)) as rows:
            for rater, *trial in rows:
                found.setdefault(rater, []).append(_trial(*trial))
        return {rater: tuple(trials) for rater, trials in found.items()}

    def _rater(self, key: str) -> Rater | None:
        row = self._database.execute("SELECT number FROM raters WHERE key = ?", (_hashed(key),)).fetchone()
        if row is None:
            return None
        trials = self._database.execute(
            "SELECT item, shown, is_check FROM pages WHERE rater = ? ORDER BY page", row
        ).fetchall()
        return Rater(row[0], tuple(_trial(*trial) for trial in trials))

    def _taken(self, discounted: Collection[int]) -> Counter[Unit]:
        here_since = _text(datetime.now(UTC) - PATIENCE)
        query = """
            SELECT rater, item, shown FROM pages JOIN raters ON raters.number = pages.rater
            WHERE NOT is_check AND (
                began_at >= :since
                OR EXISTS (SELECT 1 FROM answers WHERE answers.rater = pages.rater AND answered_at >= :since)
                OR EXISTS (SELECT 1 FROM answers WHERE answers.rater = pages.rater AND answers.page = pages.page)
            )
        """
        rows = self._database.execute(query, {"since": here_since})
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
    return Trial(item, tuple(shown.split(_BETWEEN)), bool(is_check))


def _hashed(key: str) -> bytes:
    """Whoever reads the file cannot go on in a rater's name."""
    return hashlib.sha256(key.encode()).digest()


def _now() -> str:
    return _text(datetime.now(UTC))


def _text(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
