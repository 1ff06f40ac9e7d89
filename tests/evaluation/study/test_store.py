"""What was acknowledged is there, whatever happened to the process; what was sent twice is there once."""

import multiprocessing
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from wordbrush.errors import InputError, OutputError
from wordbrush.evaluation.study import store as stores
from wordbrush.evaluation.study.assignment import Trial
from wordbrush.evaluation.study.store import Rater, Store

TRIALS = tuple(Trial(f"i{i}", ("b", "a"), is_check=i == 2) for i in range(4))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "answers.sqlite", "choice") as store:
        yield store


def test_a_rater_is_found_again_by_their_key_alone(store: Store, tmp_path: Path):
    assert store.rater("key") is None
    rater = store.admit("key", lambda number, taken: TRIALS)
    assert rater is not None
    assert (rater.number, rater.trials) == (1, TRIALS)
    assert store.admit("key", lambda number, taken: pytest.fail("they have their pages")) == rater
    with Store(tmp_path / "answers.sqlite", "choice") as again:
        assert again.rater("key") == rater
        assert again.rater("other") is None
        assert again.secret == store.secret


def test_nobody_begins_without_pages(store: Store):
    assert store.admit("key", lambda number, taken: ()) is None
    assert store.rater("key") is None


def test_the_last_answer_counts_and_the_earlier_are_kept(store: Store, tmp_path: Path):
    store.admit("key", lambda number, taken: TRIALS)
    store.record(1, 1, {"subject": "a", "prompt": "b"})
    store.record(1, 1, {"subject": "a", "prompt": "b"})  # sent twice
    store.record(1, 2, {"subject": "undecided", "prompt": "a"})
    store.record(1, 1, {"subject": "b", "prompt": "b"})  # gone back
    assert store.answered(1) == {
        1: {"subject": "b", "prompt": "b"},
        2: {"subject": "undecided", "prompt": "a"},
    }
    assert [(each.page, each.question, each.answer) for each in store.answers()] == [
        (1, "prompt", "b"),
        (1, "subject", "b"),
        (2, "subject", "undecided"),
        (2, "prompt", "a"),
    ]
    with closing(sqlite3.connect(tmp_path / "answers.sqlite")) as database:
        history = database.execute("SELECT answer FROM answers WHERE page = 1 AND question = 'subject'")
        assert [answer for (answer,) in history] == ["a", "b"]


def test_an_answer_that_returns_to_an_earlier_one_counts(store: Store):
    store.admit("key", lambda number, taken: TRIALS)
    for answer in ("a", "b", "a"):
        store.record(1, 1, {"subject": answer})
    assert store.answered(1) == {1: {"subject": "a"}}


def test_all_of_a_page_or_nothing(store: Store):
    store.admit("key", lambda number, taken: TRIALS)
    with pytest.raises(sqlite3.IntegrityError):
        store.record(1, 1, {"subject": "a", "prompt": None})  # type: ignore[dict-item]
    assert store.answered(1) == {}
    with pytest.raises(sqlite3.IntegrityError):
        store.record(1, 5, {"subject": "a"})  # there is no such page
    store.record(1, 1, {"subject": "a"})  # and it goes on working


def test_what_was_taken_is_what_was_answered_or_given_to_who_is_here(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    store.admit("first", lambda number, taken: TRIALS)
    store.record(1, 1, {"subject": "a"})
    seen: list[dict[object, int]] = []

    def look(number: int, taken: object) -> tuple[Trial, ...]:
        seen.append(dict(taken))  # type: ignore[call-overload]
        return ()

    store.admit("second", look)
    pair = frozenset("ab")
    assert seen[-1] == {("i0", pair): 1, ("i1", pair): 1, ("i3", pair): 1}  # i2 was a check
    assert store.admit("second", look, discounted=[1]) is None
    assert seen[-1] == {}
    monkeypatch.setattr(stores, "REASSIGN_AFTER", -stores.REASSIGN_AFTER)  # as if they had left long ago
    store.admit("second", look)
    assert seen[-1] == {("i0", pair): 1}


def test_durable_by_its_settings(store: Store):
    pragma = {
        name: store._database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous")
    }
    assert pragma == {"journal_mode": "wal", "synchronous": 2}  # 2 is FULL


def test_many_threads(store: Store):
    keys = [f"key {i}" for i in range(8)]

    def rate(key: str) -> None:
        rater = store.admit(key, lambda number, taken: TRIALS)
        assert rater is not None
        for page in range(1, 5):
            store.record(rater.number, page, {"subject": key})

    threads = [threading.Thread(target=rate, args=(key,)) for key in keys]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers = store.answers()
    assert len(answers) == 8 * 4
    assert {each.answer for each in answers} == set(keys)
    assert len({each.rater for each in answers}) == 8


def test_another_kind_of_study(store: Store):
    with pytest.raises(
        InputError, match='expected answers to a rating in .*, got answers to a choice: set kind = "choice"'
    ):
        Store(store.path, "rating")


def test_another_layout(store: Store):
    store._database.execute("PRAGMA user_version = 99")
    with pytest.raises(InputError, match="written by another version of wordbrush"):
        Store(store.path, "choice")


def test_damage_behind_the_beginning(tmp_path: Path):
    path = tmp_path / "answers.sqlite"
    with Store(path, "choice") as store:
        rater = store.admit("key", lambda number, taken: [Trial("item", ("a", "b"))] * 300)
        assert rater is not None
        for page in range(1, 300):
            store.record(rater.number, page, {"text": "a"})
    content = path.read_bytes()
    path.write_bytes(content[:16384] + b"\xff" * (len(content) - 16384))
    with Store(path, "choice") as store:
        for read in (store.answers, store.trials):
            with pytest.raises(InputError, match="expected a study's answers in .*, but it is damaged"):
                read()


def test_what_is_no_store(tmp_path: Path):
    (tmp_path / "answers.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match="damaged"):
        Store(tmp_path / "answers.sqlite", "choice")
    with pytest.raises(OutputError, match="cannot open"):
        Store(tmp_path / "nowhere" / "answers.sqlite", "choice")


FOREIGN = """
import os, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.executescript(sys.argv[2])
os._exit(0) if sys.argv[3] == "killed" else database.close()
"""
WAL = "PRAGMA journal_mode = WAL;"


@pytest.mark.parametrize("end", ["closed", "killed"])
@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE notes (text)",
        WAL + "CREATE TABLE notes (text)",
        WAL + "PRAGMA user_version = 1; CREATE TABLE notes (text); INSERT INTO notes VALUES (1)",
        WAL + "PRAGMA user_version = 7",
        WAL + "PRAGMA user_version = 1; CREATE TABLE study (secret); CREATE TABLE raters (number)",
    ],
)
def test_a_file_of_another_program_is_not_touched(tmp_path: Path, made: str, end: str):
    path = tmp_path / "answers.sqlite"
    subprocess.run([sys.executable, "-c", FOREIGN, str(path), made, end], check=True)
    if end == "killed" and made.startswith(WAL):
        assert Path(f"{path}-wal").stat().st_size > 0
    before = {each.name: each.read_bytes() for each in tmp_path.iterdir() if not each.name.endswith("-shm")}
    with pytest.raises(InputError, match="got a database of another program: move it away"):
        Store(path, "choice")
    after = {each.name: each.read_bytes() for each in tmp_path.iterdir()}
    after.pop("answers.sqlite-shm", None)
    assert after == before


@pytest.mark.parametrize("kind", ["rating", "choice"])
def test_a_study_that_is_refused_is_not_touched(tmp_path: Path, kind: str):
    path = tmp_path / "answers.sqlite"
    Store(path, "choice").close()
    if kind == "choice":
        with closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA user_version = 99")
    before = path.read_bytes()
    with pytest.raises(InputError):
        Store(path, kind)
    assert [each.name for each in tmp_path.iterdir()] == ["answers.sqlite"]
    assert path.read_bytes() == before


def test_answers_that_are_only_in_the_log_are_found(store: Store, tmp_path: Path):
    store.admit("key", lambda number, taken: TRIALS)
    store.record(1, 1, {"subject": "a"})
    copy = tmp_path / "copy.sqlite"
    for end in ("", "-wal"):  # as a power cut leaves it
        shutil.copyfile(f"{store.path}{end}", f"{copy}{end}")
    assert copy.stat().st_size == 4096  # an empty database
    link = tmp_path / "elsewhere" / "answers.sqlite"
    link.parent.mkdir()
    link.symlink_to(copy)
    with Store(link, "choice") as again:
        assert again.answered(1) == {1: {"subject": "a"}}


# Held by others --------------------------------------------------------------------------------------------


@contextmanager
def held(path: Path) -> Generator[None, None, None]:
    """Another program holds the file, as one that makes a backup does."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield
        other.execute("ROLLBACK")


def test_a_reader_waits_for_nobody(store: Store):
    store.admit("key", lambda number, taken: TRIALS)
    store.record(1, 1, {"subject": "a"})
    with held(store.path), store._lock:
        began = time.monotonic()
        assert store.rater("key") == Rater(1, TRIALS)
        assert store.rater("other") is None
        assert store.answered(1) == {1: {"subject": "a"}}
        assert len(store.answers()) == 1
        assert store.trials() == {1: TRIALS}
        with Store(store.path, "choice") as again:
            assert again.answered(1) == {1: {"subject": "a"}}
        assert time.monotonic() - began < 0.5


def test_a_writer_does_not_wait_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stores, "PATIENCE", 0.2)
    with Store(tmp_path / "answers.sqlite", "choice") as store:
        store.admit("key", lambda number, taken: TRIALS)
        for holder in (held(store.path), store._lock):
            with holder:
                began = time.monotonic()
                with pytest.raises(sqlite3.OperationalError):
                    store.record(1, 1, {"subject": "a"})
                assert 0.1 < time.monotonic() - began < 2
            assert store.answered(1) == {}
        store.record(1, 1, {"subject": "a"})
        assert store.answered(1) == {1: {"subject": "a"}}


def test_a_file_that_is_held_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(stores, "PATIENCE", 0.1)
    path = tmp_path / "answers.sqlite"
    with held(path), pytest.raises(OutputError, match="another program holds it; wait until that is done"):
        Store(path, "choice")
    with Store(path, "choice") as store:
        assert store.answers() == []


# Killed -----------------------------------------------------------------------------------------------------

WRITER = """
from wordbrush.evaluation.study.assignment import Trial
from wordbrush.evaluation.study.store import Store

store = Store(path, "choice")
rater = store.admit(key, lambda number, taken: [Trial("i0", ("a", "b"))] * 1000)
for page in range(1, 1001):
    store.record(rater.number, page, {"subject": key, "prompt": str(page)})
    acknowledge.send(page)
"""


def killed(path: Path, key: str, after: float) -> int:
    """Let a process write answers, kill it; returns the last page it acknowledged."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["wordbrush.evaluation.study.store"])  # or each would import for itself
    acknowledged, acknowledge = processes.Pipe(duplex=False)
    names = {"path": str(path), "key": key, "acknowledge": acknowledge}
    process = processes.Process(target=exec, args=(WRITER, names))
    process.start()
    acknowledge.close()
    with acknowledged:
        last = acknowledged.recv()
        time.sleep(after)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        process.close()
        with suppress(EOFError):  # nothing follows what was acknowledged last
            while True:
                last = acknowledged.recv()
    return last


def survive(path: Path, kills: int) -> None:
    chance = random.Random(0)
    acknowledged = {f"key {i}": killed(path, f"key {i}", chance.uniform(0, 0.05)) for i in range(kills)}
    lost = 0
    with Store(path, "choice") as store:
        for key, last in acknowledged.items():
            rater = store.rater(key)
            assert rater is not None
            there = store.answered(rater.number)
            expected = {page: {"subject": key, "prompt": str(page)} for page in range(1, last + 1)}
            lost += sum(there.get(page) != answers for page, answers in expected.items())
            # A commit whose acknowledgement was killed may be there; half a page never is.
            assert all(len(answers) == 2 for answers in there.values())
            assert len(there) <= last + 2
    assert lost == 0
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert sum(acknowledged.values()) > kills  # they were killed while they wrote


def test_no_acknowledged_answer_is_lost_by_killing(tmp_path: Path):
    survive(tmp_path / "answers.sqlite", 5)


@pytest.mark.slow
def test_no_acknowledged_answer_is_lost_by_two_hundred_kills(tmp_path: Path):
    survive(tmp_path / "answers.sqlite", 200)
