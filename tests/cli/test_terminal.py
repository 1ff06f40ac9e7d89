"""What a terminal shows, and what another command hears instead."""

import io

import pytest
from rich.console import Console

from wordbrush.cli.terminal import Heard, Terminal, listening_to
from wordbrush.progress import Progress


def test_a_stage_that_comes_again_begins_anew() -> None:
    terminal, shown = Terminal(), io.StringIO()
    terminal.errors = Console(file=shown, force_terminal=True, width=80)
    with terminal.watching() as show:
        for step, total in ((1, 2), (2, 2), (1, 5)):
            show(Progress("editing", step, total))
    last = shown.getvalue().rpartition("editing")[2]
    assert "1/5" in last and "-:--:--" in last  # how long it will take is not known again


def test_who_listens_hears_everything_and_nothing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[Progress] = []
    heard = Heard(seen.append)
    with listening_to(heard):
        terminal = Terminal()
        terminal.say("a line")
        terminal.rows({"left": "right"})
        terminal.note(["of it", "of it", ""])
        terminal.error("an\nerror")
        terminal.finish(command="edit", out="dog.png")
        with terminal.busy("loading"), terminal.watching() as show:
            show(Progress("editing", 1, 2))
    assert capsys.readouterr() == ("", "")
    assert heard == Heard(
        seen.append,
        ["a line", "  left  right"],
        ["of it"],
        ["an error"],
        {"command": "edit", "out": "dog.png"},
    )
    assert seen == [Progress("editing", 1, 2)]
    Terminal().say("a line")
    assert capsys.readouterr().out == "a line\n"
