"""README's promises: what its first screen tells a stranger to type exists."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = re.findall(r"^make [\w-]+", (ROOT / "README.md").read_text(), flags=re.MULTILINE)


def test_the_first_screen_has_the_two_commands():
    assert COMMANDS[:2] == ["make demo", "make test"]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("command", COMMANDS)
def test_make_knows_the_command(command: str):
    plan = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert plan.returncode == 0, plan.stderr
    assert plan.stdout.strip()


def test_every_file_the_documents_point_to_exists():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
