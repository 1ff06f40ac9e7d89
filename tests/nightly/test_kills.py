"""Commands that are killed at any moment leave whole files or none, and go on to the same results when run again."""

import json
import random
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nightly.killing import MESSAGE, Answers, Command, End, Run, cold, run
from nightly.world import CAT, DOG
from wordbrush.cli import main
from wordbrush.errors import ImageError
from wordbrush.evaluation.study.store import Store
from wordbrush.images import load, read_provenance

pytestmark = pytest.mark.nightly
KILLS = 20  # of each command
PAGES = 150
TWO = ("--steps", "2")
ALONE = (*TWO, "--method", "prompt-to-prompt", "--inversion", "direct", "--out", "out")
COMMANDS: dict[str, tuple[str, ...]] = {
    "generate": ("generate", CAT, *TWO, "--preview", "1", "--out", "out/cat.png"),
    "edit": (
        *("edit", "KIT/photo.png", "--source", CAT, "--target", DOG, "--target", f"{CAT} at night"),
        *(*TWO, "--sheet", "--preview", "1", "--out", "out/"),
    ),
    "invert": ("invert", "KIT/photo.png", "--prompt", CAT, *TWO, "--sheet", "--out", "out/photo.source"),
    "heatmap": (
        *("heatmap", "KIT/photo.png", "--prompt", CAT, "--word", "cat", *TWO, "--sheet"),
        *("--out", "out/heat.png"),
    ),
    "batch": ("batch", "KIT/jobs.jsonl", "--sheet", "--out", "out"),
    "compare": ("compare", "KIT/photo.png", "--source", CAT, "--target", DOG, "--target", CAT, *ALONE),
    "bench": ("evaluate", "bench", "--count", "2", *ALONE),
    "pie": ("evaluate", "pie", "KIT/pie", *ALONE),
    "pie from pocket": ("evaluate", "pie", "pie", "--from-pocket", "2", *ALONE),
    "directional": ("evaluate", "directional", "--pocket", "1", "--sweep", "guidance_scale=1,2", *ALONE),
}
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CODES = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
PART, PREVIEW = ".wordbrush-", "preview.png"


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbed, and its files."""

    run: Run
    files: dict[str, object]


@pytest.fixture(scope="session")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands read."""
    folder = tmp_path_factory.mktemp("kit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["generate", CAT, "--steps", "1", "--out", "photo.png"]) == 0
        assert main(["evaluate", "pie", "pie", "--from-pocket", "2", *ALONE]) == 0
        rows = [
            {"verb": "edit", "picture": "photo.png", "source": CAT, "target": [DOG, f"{CAT} at night"]},
            {"verb": "invert", "picture": "photo.png", "prompt": CAT},
            {"verb": "generate", "prompt": CAT, "out": "deep/cat.png"},
        ]
        Path("jobs.jsonl").write_text("".join(json.dumps({**row, "steps": 2}) + "\n" for row in rows))
        shutil.rmtree("out")
    return folder


@pytest.fixture(scope="session")
def undisturbed(kit: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    @cache
    def undisturbed(name: str) -> Undisturbed:
        folder = tmp_path_factory.mktemp("undisturbed") / "here"
        first = run(Command(_tokens(name, kit)), folder)
        assert first.code == 0, first.err
        return Undisturbed(first, _files(folder))

    return undisturbed


def _tokens(name: str, kit: Path) -> tuple[str, ...]:
    return tuple(token.replace("KIT", str(kit)) for token in COMMANDS[name])


def _files(folder: Path) -> dict[str, object]:
    """What is in each file, but for what a clock has written into it."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: None if PART in name else _content(path) for name, path in paths.items()}


def _content(path: Path) -> object:
    match path.suffix:
        case ".jsonl":
            return [_timeless(json.loads(line)) for line in path.read_text().split("\n")[:-1]]
        case ".md" | ".csv":
            return re.sub(
                r"[\d.,–]+ *|-{2,}", "#", path.read_text()
            )  # seconds, and columns as wide as they are
        case ".png" if path.name == "grid.png":  # its labels say how long each edit took
            return load(path).size
        case ".png":
            return load(path).tobytes(), _timeless(_record(path))
        case _:
            return path.read_bytes()


def _record(path: Path) -> Any:
    try:
        return read_provenance(path)
    except ImageError:
        return None


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _timeless(each) for name, each in value.items() if "seconds" not in name and name != "at"
        }
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _end(name: str, number: int, whole: Run) -> tuple[End, bool]:
    """When a command is killed, and whether it starts cold; always the same for one number."""
    chance = random.Random(f"{name} {number}")
    asked = chance.choice(SIGNALS)
    if chance.random() < 0.1:
        return End(asked, seconds=chance.uniform(0.2, 3 + whole.seconds)), True
    if chance.random() < 0.5:
        return End(asked, seconds=chance.uniform(0, whole.seconds)), False
    return End(asked, change=chance.randint(1, whole.changes)), False


@pytest.mark.parametrize("number", range(KILLS))
@pytest.mark.parametrize("name", COMMANDS)
def test_killed(name: str, number: int, kit: Path, undisturbed: Callable[[str], Undisturbed], tmp_path: Path):
    right = undisturbed(name)
    end, is_cold = _end(name, number, right.run)
    folder, tokens = tmp_path / "here", _tokens(name, kit)
    ended = cold(tokens, folder, end) if is_cold else run(Command(tokens), folder, end)
    left = _files(folder)
    partial = {path for path in left if PART in path or path.endswith(PREVIEW)}
    _check_end(ended, end, set(left), partial)
    for path in left.keys() - partial:
        _require_whole(left[path], right.files, path)
    again = run(Command(tokens), folder)
    assert again.code == 0, again.err
    found = _files(folder)
    assert found.keys() == right.files.keys()
    assert [path for path in found if found[path] != right.files[path]] == []


def _check_end(ended: Run, end: End, left: set[str], partial: set[str]) -> None:
    if ended.code == 0:  # it was done before, or had nothing left to do
        assert not partial
    elif end.asked == signal.SIGKILL:
        assert ended.code == CODES[end.asked]
    elif ended.err == "" and not left:  # before the program began
        assert ended.code in (-end.asked, 1)
    else:
        *notes, last = ended.err.splitlines(keepends=True)  # a batch says at once what is to say of a row
        assert (ended.code, last) == (CODES[end.asked], MESSAGE)
        assert all(note.startswith("note: ") for note in notes)
        assert not partial


def _require_whole(content: object, right: dict[str, object], path: str) -> None:
    """A file is the undisturbed run's, or rows of it."""
    assert path in right
    if isinstance(content, list):
        assert content == right[path][: len(content)]  # type: ignore[index]
    else:
        assert content == right[path], path


@pytest.mark.parametrize("number", range(KILLS))
def test_answers(number: int, tmp_path: Path):
    """An answer that was acknowledged is in the file, whatever becomes of the process."""
    chance = random.Random(number)
    folder = tmp_path / "here"
    end = End(chance.choice((signal.SIGKILL, signal.SIGTERM)), seconds=chance.uniform(0.2, 3))
    run(Answers(PAGES), folder, end)
    acknowledged = _acknowledged(folder)
    if (folder / "answers.sqlite").exists():
        with Store(folder / "answers.sqlite", "rating") as store:
            kept = {(answer.rater, answer.page) for answer in store.answers()}
        assert acknowledged <= kept and len(kept) <= len(acknowledged) + 1
    assert run(Answers(PAGES), folder).code == 0
    with Store(folder / "answers.sqlite", "rating") as store:
        kept = {(answer.rater, answer.page) for answer in store.answers()}
    assert _acknowledged(folder) <= kept
    assert len(_acknowledged(folder) - acknowledged) == PAGES


def _acknowledged(folder: Path) -> set[tuple[int, int]]:
    path = folder / "acknowledged"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {(int(rater), int(page)) for rater, page in map(str.split, lines)}
