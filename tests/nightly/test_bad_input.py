"""The law of bad input: one line says what is wrong, nothing is written, nothing hangs; every flag of every command."""

import functools
import re
import tempfile
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace

import pytest

from nightly.killing import Command, run
from nightly.limits import limited
from nightly.matrix import Try, reason, tries
from nightly.world import build, seen, tidy
from wordbrush.cli import main
from wordbrush.cli.options.setup import Setup
from wordbrush.evaluation.judges.judges import Judges

pytestmark = pytest.mark.nightly
TRIES = list(tries())
LONGEST = 60  # seconds of a try
NO = "replay", "batch"  # what answers with 1
STOPS_AMONG = "compare", "evaluate"  # what writes the results that it has before an error


@pytest.fixture(scope="session")
def loaded() -> Generator[None]:
    """Models and judges are loaded once; a server ends at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Setup, "fresh", functools.cache(Setup.fresh))
        patch.setattr(Judges, "load", functools.cache(Judges.load))
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setattr(
            "wordbrush.evaluation.study.server.make_server", lambda _: SimpleNamespace(run=lambda **_: None)
        )
        yield


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, loaded: None) -> Path:
    world = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(world)
        build(world)
    return world


@pytest.fixture
def world(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(built)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return built


def broken(
    each: Try, code: int, out: str, err: str, world: Path, before: dict[str, tuple[object, ...]]
) -> list[str]:
    """Which laws a try broke."""
    after = seen(world)
    lines = err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    changed = {name for name in before if after.get(name) != before[name]}
    laws = {
        "exit code 0 or 2, or 1 of a replay or of jobs": code in (0, 2) or (code == 1 and each.command in NO),
        "no traceback": "Traceback" not in err,
        "no error of wordbrush's own": "an error in wordbrush" not in err,
        "one line says what is wrong": len(errors) == (code == 2 or (code == 1 and each.command == "batch")),
        "nothing but notes beside it": all(line.startswith(("error: ", "note: ")) for line in lines),
        "no line of more than 2,000 characters": all(len(line) <= 2010 for line in lines),
        "nothing that a terminal obeys": not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", out + err),
        "no input is changed": not changed,
        "no temporary file": not any("wordbrush-" in name for name in after),
        "nothing is written after an error": code != 2
        or after.keys() <= before.keys()
        or each.command.startswith(STOPS_AMONG),
        "no silent acceptance": code != 0 or reason(each) is not None,
    }
    return [law for law, holds in laws.items() if not holds]


@pytest.mark.parametrize("each", TRIES, ids=str)
def test_in_process(each: Try, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    before = seen(world)
    try:
        with limited(LONGEST):
            code = main(each.tokens)
        out, err = capsys.readouterr()
        laws = broken(each, code, out, err, world, before)
        assert not laws, f"exit {code}\n{err[-3000:]}\n{out[-1000:]}"
        assert not any(tmp_path.iterdir()), "a temporary file is left"
    finally:
        tidy(world, before)


@pytest.mark.parametrize("each", [each for each in TRIES if each.command != "study serve"][::40], ids=str)
def test_in_a_process(each: Try, world: Path):
    """The same where nothing is kept or checked on the way, and Python's own warnings would be seen."""
    before = seen(world)
    try:
        done = run(Command(each.tokens), world)
        laws = broken(each, done.code, done.out, done.err, world, before)
        assert not laws, f"exit {done.code}\n{done.err[-3000:]}\n{done.out[-1000:]}"
    finally:
        tidy(world, before)
