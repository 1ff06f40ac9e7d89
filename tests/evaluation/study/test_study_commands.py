"""`wordbrush study`: the commands, end to end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from cyclopts import App, Parameter

from wordbrush.cli.commands import study as commands
from wordbrush.errors import InputError, OptionsError, OutputError
from wordbrush.evaluation.study.assignment import Trial
from wordbrush.evaluation.study.design import Study
from wordbrush.evaluation.study.store import Store

Make = Callable[..., Study]


def run(*tokens: str) -> int:
    """As a part of the whole command line."""
    app = App(name="wordbrush", result_action="return_value", default_parameter=Parameter(negative=()))
    app.command(commands.application())
    return app(["study", *tokens], exit_on_error=False, print_error=False)


def rate(study: Study) -> None:
    with Store(study.answers, "rating") as store:
        rater = store.admit("key", lambda number, taken: [Trial("item-0", ("text2live",))])
        assert rater is not None
        store.record(rater.number, 1, {"background": "2", "text": "3", "realism": "4"})


def test_report_and_export(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    study = make("rating")
    with pytest.raises(InputError, match="found none: collect them with `wordbrush study serve`"):
        run("report", str(study.folder))
    assert not study.answers.exists()
    rate(study)
    assert run("report", str(study.folder), "--plot", str(tmp_path / "bars.png")) == 0
    assert "| text2live " in capsys.readouterr().out
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")
    assert run("report", str(study.folder), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["command"], told["rows"][0]["score"]["mean"]) == ("study report", 2.0)
    assert run("export", str(study.folder), "--out", str(tmp_path / "a.csv")) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a.csv'}  3 answers\n"


@pytest.mark.parametrize("name", ["study.toml", "answers.sqlite"])
def test_nothing_of_the_study_is_written_over(make: Make, name: str):
    study = make("rating")
    rate(study)
    with pytest.raises(OutputError):
        run("export", str(study.folder), "--out", str(study.folder / name))


@pytest.mark.parametrize("name", ["text2live", "source"])
def test_no_plot_over_a_picture_of_the_study(make: Make, name: str):
    study = make("rating")
    rate(study)
    with pytest.raises(OutputError, match="is an input and would be overwritten"):
        run("report", str(study.folder), "--plot", str(study.folder / "items" / "item-0" / f"{name}.png"))


def test_a_stranger_needs_a_token(make: Make):
    with pytest.raises(OptionsError, match=r"expected a token, .* add --token [\w-]{16}"):
        run("serve", str(make("rating").folder), "--host", "0.0.0.0", "--port", "0")
    for token in ("short", "with space and more", "a&b=c?d/e#f"):
        with pytest.raises(OptionsError, match="at least 8 letters"):
            run("serve", str(make("rating").folder), "--token", token, "--port", "0")


def test_a_port_that_is_taken_is_told(make: Make):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(
            OutputError, match=f"cannot listen on 127.0.0.1, port {port}: .*choose another --port"
        ):
            run("serve", str(make("rating").folder), "--port", str(port))
    with pytest.raises(OutputError, match="cannot listen on 192.0.2.1"):
        run(
            "serve",
            str(make("rating").folder),
            "--host",
            "192.0.2.1",
            "--token",
            "open-sesame",
            "--port",
            "0",
        )


def test_a_host_that_is_none_is_told(make: Make):
    study = make("rating")
    for host in ("a..b", "x" * 80):
        with pytest.raises(OutputError, match=f"cannot listen on {host}, port 0: it is no host name; choose"):
            run("serve", str(study.folder), "--host", host, "--token", "open-sesame", "--port", "0")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from wordbrush.cli.commands import study; study.application().help_print();"
        "print([m for m in ('torch', 'fastapi', 'uvicorn', 'jinja2', 'matplotlib', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    for command in ("serve", "report", "export"):
        assert command in done.stdout


# As `wordbrush.cli.main` runs a command.
MAIN = """
import sys
from wordbrush.cli.commands import study
from wordbrush.cli.stopping import Stopped, listening

with listening() as stop:
    try:
        code = study.application()(sys.argv[1:], result_action="return_value")
    except Stopped:
        code = stop.code
sys.exit(code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_serving_until_it_is_stopped(make: Make, signum: int, handler: signal.Handlers):
    study = make("rating")
    tokens = ["serve", str(study.folder), "--port", "0", "--token", "open-sesame"]
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *tokens],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever starts it decides which signals it ignores, as a shell does for what runs in the background.
        preexec_fn=lambda: signal.signal(signum, handler),
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address = re.fullmatch(r"Which edit\?: (http://127\.0\.0\.1:\d+/\?token=open-sesame)  .*\n", line)
        assert address is not None, line
        with httpx.Client(follow_redirects=True) as browser:
            assert "I agree, begin" in browser.get(address[1]).text
            assert httpx.get(address[1].split("?")[0]).status_code == 401
        os.kill(process.pid, signum)
        last, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (0, "")
        assert last == f"stopped; {study.answers} has 0 answers of 0 raters\n"
    finally:
        process.kill()
        process.communicate()
