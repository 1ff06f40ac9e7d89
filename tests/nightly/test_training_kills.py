"""Trainings that are killed at any moment, several times, end with the bytes of one that was not."""

import random
import shutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from nightly.killing import End, Run, run
from training.helping import VARIANTS, pictures
from training.processes import Training

pytestmark = pytest.mark.nightly
TRIES = 10  # of each method
KILLS = 3  # of each try


def files(folder: Path) -> dict[str, bytes]:
    """What a training leaves, but for the log, which has times in it."""
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in paths.items() if not name.endswith("log.jsonl")}


@pytest.fixture(scope="session")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Training, Run, dict[str, bytes]]]:
    seen = pictures(tmp_path_factory.mktemp("pictures"))

    @cache
    def undisturbed(variant: str) -> tuple[Training, Run, dict[str, bytes]]:
        folder = tmp_path_factory.mktemp("undisturbed") / "here"
        work = Training(variant, str(seen))
        whole = run(work, folder)
        assert whole.code == 0, whole.err
        return work, whole, files(folder)

    return undisturbed


@pytest.mark.parametrize("number", range(TRIES))
@pytest.mark.parametrize("variant", VARIANTS)
def test_killed(
    variant: str,
    number: int,
    undisturbed: Callable[[str], tuple[Training, Run, dict[str, bytes]]],
    tmp_path: Path,
):
    work, whole, right = undisturbed(variant)
    chance = random.Random(f"{variant} {number}")
    folder = tmp_path / "here"
    for _ in range(KILLS):
        if chance.random() < 0.5:
            end = End(signal.SIGKILL, seconds=chance.uniform(0, whole.seconds))
        else:
            end = End(signal.SIGKILL, change=chance.randint(1, whole.changes))
        assert run(work, folder, end).code in (0, -signal.SIGKILL)
    again = run(work, folder)
    assert again.code == 0, again.err
    found = {name: content for name, content in files(folder).items() if ".wordbrush-" not in name}
    assert found.keys() == right.keys()
    assert [name for name in found if found[name] != right[name]] == []
    steps = [line.partition(",")[0] for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    assert steps == [f'{{"step": {step}' for step in range(1, 7)]
    shutil.rmtree(folder)
