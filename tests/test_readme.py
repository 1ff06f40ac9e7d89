"""The commands and the code in README exist and run."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from guides import ROOT, blocks, commands, run
from wordbrush import editing, inversion, training
from wordbrush.cli.app import application
from wordbrush.images import load

README = (ROOT / "README.md").read_text()
MAKE = re.findall(r"^make [\w-]+", README, flags=re.MULTILINE)
COMMANDS = re.findall(
    r"^\t?(?:\.venv/bin/)?(wordbrush .+)", README + (ROOT / "Makefile").read_text(), flags=re.MULTILINE
)


def test_the_first_screen_has_the_two_commands():
    assert MAKE[:2] == ["make demo", "make test"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("command", MAKE)
def test_make_knows_the_command(command: str):
    plan = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_command_line_knows_the_command(command: str):
    tokens = shlex.split(command)[1:]
    application(tokens).parse_args(tokens, exit_on_error=False, print_error=False)


def test_the_tour_uses_every_command():
    assert {command.split()[1] for command in COMMANDS} == {
        name for name in application([]) if not name.startswith("-")
    }


def test_every_method_is_listed():
    listed = re.findall(r"^\| `([\w-]+)` \|", README, flags=re.MULTILINE)
    assert {name.replace("-", "_") for name in listed} == {
        *editing.METHODS,
        *inversion.METHODS,
        *training.METHODS,
        *training.AT_ONCE,
    }


@pytest.mark.slow
def test_the_lines_of_python_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (code,) = blocks(README, "python")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert load("dog.png").size == (128, 128)
    assert capsys.readouterr().out.strip() == code.rpartition("# ")[2].strip()


@pytest.mark.slow
def test_the_commands_of_the_tour_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    for command in commands(README):
        if command.startswith("wordbrush study serve"):
            continue  # serves until it is stopped; tests/evaluation/study tests it in a browser
        assert run(command) == 0, command


def test_every_file_the_documents_point_to_exists():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"


@pytest.mark.slow
def test_the_guide_to_batches_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    guide = (ROOT / "docs" / "batch.md").read_text()
    (rows,) = blocks(guide, "json")
    assert rows == (ROOT / "examples" / "jobs.jsonl").read_text()
    (table,) = blocks(guide, "csv")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "examples" / "jobs.csv").write_text(table)
    monkeypatch.chdir(tmp_path)
    first, second = commands(guide)
    assert run(first) == 0
    assert "4 done, 0 failed, 0 done before" in capsys.readouterr().out
    assert load("batch/sheets/1.png").size == load(ROOT / "docs" / "gallery" / "batch.webp").size
    assert run(second) == 0
    assert '"done": 0, "failed": 0, "before": 4' in capsys.readouterr().out
    assert run("wordbrush batch examples/jobs.csv --out table") == 0
