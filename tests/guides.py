"""What the documents tell a reader to type, so that tests can do it."""

import re
import shlex
from pathlib import Path

from wordbrush.cli import main

ROOT = Path(__file__).parents[1]


def commands(document: str) -> list[str]:
    """The command lines of a document."""
    return re.findall(r"^wordbrush .+", document, flags=re.MULTILINE)


def blocks(document: str, language: str) -> list[str]:
    """The contents of a document's blocks in a language; "" for those that name none."""
    fenced = re.findall(r"^```(\w*)\n(.+?)^```", document, flags=re.MULTILINE | re.DOTALL)
    return [content for name, content in fenced if name == language]


def run(command: str, *more: str) -> int:
    """Run a command line, with more tokens; returns its exit code."""
    return main([*shlex.split(command)[1:], *more])
