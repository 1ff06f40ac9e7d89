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
PATIENCE = 3.0  # seconds that a writer waits for another one, and for a program that holds the file
_GLANCE = 1.0  # seconds that a reader waits, while the file is opened, recovered or closed
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
    """The answers of one study. Safe to use from several threads and processes.

    Who reads waits for nobody; who writes waits for other writers, and not for long.
    """

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        """Open the answers file of a study of this kind, or create it.

        Raises `InputError` if it is not an answers file or is for another kind, `OutputError` if it cannot be written.
        """
        self.path = Path(path)
        self._lock = threading.Lock()
        try:
            self._refuse_others(kind)
            self._database = sqlite3.connect(
                self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise self._refusal(error) from error
        try:
            self._database.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON;"
            )
            self.secret = self._secret(self._database, kind) or self._create(kind)
        except BaseException as error:
            self._database.close()
            if isinstance(error, sqlite3.Error):
                raise self._refusal(error) from error
            raise

    def _refuse_others(self, kind: str) -> None:
        """Raise `InputError` for a file of another program, and change nothing: not the file, nor what is beside it.

        Opened as immutable, a file in WAL mode gets no -wal and -shm. What there is without its -wal may be nothing
        yet, or damaged; then it is read with it.
        """
        log = Path(f"{self.path.resolve()}-wal")
        if not self.path.exists():
            return
        for how in ("&immutable=1", ""):
            try:
                with self._reading(how) as database:
                    is_known = self._secret(database, kind) is not None
            except sqlite3.DatabaseError:
                if not how or not log.exists():
                    raise
                continue
            if is_known or not log.exists():
                return

    def _secret(self, database: sqlite3.Connection, kind: str) -> bytes | None:
        """The study's secret; None if the file is empty. Raises `InputError` unless it is for a study of this kind."""
        (version,) = database.execute("PRAGMA user_version").fetchone()
        columns = database.execute("SELECT name FROM pragma_table_info('study')").fetchall()
        if columns != [("kind",), ("secret",)]:
            if version == 0 and database.execute("SELECT 1 FROM sqlite_master").fetchone() is None:
                return None
            raise InputError(
                f"expected a study's answers in {self.path}, got a database of another program: move it away"
            )
        if version != _VERSION:
            raise InputError(
                f"expected an answers file of version {_VERSION}, got version {version}: {self.path} was written "
                "by another version of wordbrush"
            )
        stored_kind, secret = database.execute("SELECT kind, secret FROM study").fetchone()
        if stored_kind != kind:
            raise InputError(
                f"expected answers to a {kind} in {self.path}, got answers to a {stored_kind}: "
                f'set kind = "{stored_kind}", or move the file away to start again'
            )
        return secret

    def _create(self, kind: str) -> bytes:
        """Make the tables, unless another process just has; the study's secret."""
        with self._transaction():
            if (secret := self._secret(self._database, kind)) is None:
                secret = secrets.token_bytes(32)
                for statement in _SCHEMA.split(";\n"):
                    self._database.execute(statement)
                self._database.execute("INSERT INTO study VALUES (?, ?)", (kind, secret))
                self._database.execute(f"PRAGMA user_version = {_VERSION}")
            return secret

    def _refusal(self, error: sqlite3.Error) -> InputError | OutputError:
        """The error that says why the file cannot be opened."""
        if not isinstance(error, sqlite3.OperationalError):
            return InputError(f"expected a study's answers in {self.path}, but it is damaged: {error}")
        if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
            return OutputError(f"cannot open {self.path}: another program holds it; wait until that is done")
        return OutputError(
            f"cannot open {self.path}: {error}; check the folder, its permissions and the free disk space"
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
        with self._reading() as database:
            return _rater(database, key)

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
            if (rater := _rater(self._database, key)) is not None:
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

        An answer equal to the current one is not stored again. Raises `sqlite3.Error` if nothing was stored: the disk
        is full, or another program held the file for `PATIENCE` seconds.
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
        query = "SELECT page, question, answer FROM current WHERE rater = ?"
        pages: dict[int, dict[str, str]] = {}
        with self._reading() as database:
            for page, question, answer in database.execute(query, (rater,)):
                pages.setdefault(page, {})[question] = answer
        return pages

    def answers(self) -> list[Answer]:
        """All current answers, by rater and page. Raises `InputError` for a file that is damaged."""
        query = """
            SELECT rater, page, item, shown, is_check, question, answer, answered_at
            FROM current JOIN pages USING (rater, page) ORDER BY rater, page, number
        """
        with self._whole(), self._reading() as database:
            return [
                Answer(rater, page, _trial(item, shown, is_check), question, answer, at)
                for rater, page, item, shown, is_check, question, answer, at in database.execute(query)
            ]

    def trials(self) -> dict[int, tuple[Trial, ...]]:
        """The pages of every rater who has begun. Raises `InputError` for a file that is damaged."""
        query = "SELECT rater, item, shown, is_check FROM pages ORDER BY rater, page"
        by_rater: dict[int, list[Trial]] = {}
        with self._whole(), self._reading() as database:
            for rater, *trial in database.execute(query):
                by_rater.setdefault(rater, []).append(_trial(*trial))
        return {rater: tuple(trials) for rater, trials in by_rater.items()}

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
    def _reading(self, how: str = "") -> Generator[sqlite3.Connection, None, None]:
        """A connection for one reader, who waits for no writer and no other reader. It cannot write.

        how: more parameters of SQLite's URI.
        """
        uri = f"{self.path.absolute().as_uri()}?mode=ro{how}"
        with closing(sqlite3.connect(uri, uri=True, timeout=_GLANCE, isolation_level=None)) as database:
            yield database

    @contextmanager
    def _whole(self) -> Generator[None, None, None]:
        """Of a damaged file, raise what `__init__` raises: damage may be anywhere, and is found where it is read."""
        try:
            yield
        except sqlite3.OperationalError:
            raise
        except (sqlite3.DatabaseError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"expected a study's answers in {self.path}, but it is damaged: {error}"
            ) from error

    @contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        if not self._lock.acquire(timeout=PATIENCE):
            raise sqlite3.OperationalError("another thread is still writing")
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        finally:
            self._lock.release()


def _rater(database: sqlite3.Connection, key: str) -> Rater | None:
    row = database.execute("SELECT number FROM raters WHERE key = ?", (_hashed(key),)).fetchone()
    if row is None:
        return None
    trials = database.execute("SELECT item, shown, is_check FROM pages WHERE rater = ? ORDER BY page", row)
    return Rater(row[0], tuple(_trial(*trial) for trial in trials))


def _trial(item: str, shown: str, is_check: int) -> Trial:
    return Trial(item, tuple(shown.split(_SEPARATOR)), bool(is_check))


def _hashed(key: str) -> bytes:
    """The key's hash: the file alone does not allow anyone to continue as a rater."""
    return hashlib.sha256(key.encode()).digest()


def _now() -> str:
    return _iso(datetime.now(UTC))


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
