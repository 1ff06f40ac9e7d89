"""Every training that `docs/training.md` tells a reader to type is done, in two steps on a tiny random model."""

import random
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from guides import ROOT, blocks, commands, run
from wordbrush import training
from wordbrush.concept import Concept
from wordbrush.methods import key
from wordbrush.model import Model

GUIDE = (ROOT / "docs" / "training.md").read_text()
TRAIN = [command for command in commands(GUIDE) if "rare-tokens" not in command]


@pytest.fixture(scope="module")
def model(
    tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Model], saved: Callable[..., Path]
) -> Path:
    return saved(tiny("sd1"), tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("my-cat", "my-vase"):
        Path(name).mkdir()
        for number in range(3):
            noise = random.Random(number).randbytes(8 * 8 * 3)
            Image.frombytes("RGB", (8, 8), noise).resize((32, 32)).save(f"{name}/{number}.png")
    return tmp_path


def few(command: str) -> list[str]:
    return ["--steps", "2", *(["--class-pictures", "1"] if "--class-prompt" in command else [])]


@pytest.mark.slow
@pytest.mark.parametrize("command", TRAIN)
def test_the_trainings(command: str, here: Path, model: Path) -> None:
    assert run(command, *few(command), "--model", str(model)) == 0
    tokens = shlex.split(command)
    concept = Concept.load(tokens[-1])
    assert concept.method == key(tokens[2]) and concept.options["steps"] == 2


def test_there_is_one_for_each_method() -> None:
    told = dict.fromkeys(key(shlex.split(command)[2]) for command in TRAIN)
    assert list(told) == list(training.METHODS)


def test_rare_words(here: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = (command for command in commands(GUIDE) if "rare-tokens" in command)
    assert run(command, "--model", str(model)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 20


@pytest.mark.slow
def test_what_is_launched_is_a_command_too(here: Path, model: Path) -> None:
    (line,) = (line for block in blocks(GUIDE, "sh") for line in block.splitlines() if "launch" in line)
    command = line.partition("-m ")[2]
    assert run(command, *few(command), "--model", str(model)) == 0


def test_every_option_is_explained() -> None:
    table = {name for method in training.METHODS.values() for name in method.options().model_fields}
    assert [name for name in sorted(table) if f"--{name.replace('_', '-')}" not in GUIDE] == []
