"""`wordbrush study`: a user study in a browser. Heavy imports are inside the commands."""

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter, validators

from wordbrush.cli import outputs
from wordbrush.cli.options.flags import Whole
from wordbrush.cli.options.setup import Json
from wordbrush.cli.terminal import Terminal
from wordbrush.errors import InputError, OptionsError, OutputError

if TYPE_CHECKING:
    import socket

    from wordbrush.evaluation.study.design import Study
    from wordbrush.evaluation.study.store import Store

Port = Annotated[Whole, Parameter(help="0 picks a free one", validator=validators.Number(gte=0, lte=65535))]


def application() -> App:
    """The commands under `wordbrush study`."""
    app = App(name="study", help="Ask people in a browser: ratings, forced choices, rankings.")
    for command in (serve, report, export):
        app.command(command)
    return app


def serve(folder: Path, /, *, host: str = "127.0.0.1", port: Port = 8000, token: str | None = None) -> int:
    """Serve a study's pages until Ctrl-C.

    Parameters
    ----------
    folder
        the study: study.toml and items/
    host
        the address to listen on; any other than this machine's own needs a token
    port
        the port to listen on
    token
        required in the link; without it, no page is shown
    """
    is_local = host in ("localhost", "127.0.0.1", "::1")
    _check_token(host, token, is_local)
    terminal = Terminal()
    from wordbrush.cli.stopping import Stopped
    from wordbrush.evaluation.study import design
    from wordbrush.progress import drain

    study = design.load(folder)
    with terminal.busy("starting"):
        from wordbrush.evaluation.study.app import create_app
        from wordbrush.evaluation.study.server import make_server
        from wordbrush.evaluation.study.store import Store
    with terminal.watching() as show:
        drain(design.check_pictures(study), show)
    with _listening(host, port) as listener, Store(study.answers, study.settings.kind) as store:
        hosts = ["localhost", "127.0.0.1", "[::1]"] if token is None else None
        server = make_server(create_app(study, store, token=token, hosts=hosts))
        shown = f"[{host}]" if ":" in host else host
        path = f"/?token={token}" if token else "/"
        terminal.say(
            f"{study.settings.title}: http://{shown}:{listener.getsockname()[1]}{path}  (Ctrl-C stops)"
        )
        # uvicorn raises the signal again after its shutdown, and an ignored one then does nothing: both are the end.
        with suppress(Stopped):
            server.run(sockets=[listener])
        answers = store.answers()
        raters = len({answer.rater for answer in answers})
        terminal.say(f"stopped; {study.answers} has {len(answers)} answers of {raters} raters")
    return 0


def report(
    folder: Path,
    /,
    *,
    keep_inattentive: Annotated[
        bool, Parameter(help="also count raters who failed an attention check")
    ] = False,
    plot: str | None = None,
    json: Json = False,
) -> int:
    """Summarise the answers: the papers' tables, intervals, majority votes, agreement.

    Parameters
    ----------
    folder
        the study
    plot
        a PNG of bars to write
    """
    terminal = Terminal(as_json=json)
    path = None if plot is None else outputs.single(plot, ".png", flag="--plot")
    outputs.check([folder / "study.toml"], [path])
    from dataclasses import asdict

    from wordbrush.evaluation.study.report import report as sum_up
    from wordbrush.evaluation.study.report import text
    from wordbrush.files import atomic_write

    study, store = _answered(folder)
    pictures = [
        picture for item in study.items.values() for picture in (*item.originals, *item.pictures.values())
    ]
    with store:
        outputs.check(pictures, [path])
        summary = sum_up(study, store, keep_inattentive=keep_inattentive)
    if path is not None:
        from wordbrush.evaluation.study.plot import bars

        figure = bars(summary)
        with atomic_write(path) as file:
            figure.savefig(file, format="png")
    terminal.say(text(summary))
    terminal.finish(command="study report", **asdict(summary), plot=path)
    return 0


def export(folder: Path, /, *, out: str, json: Json = False) -> int:
    """Write the answers to a file, one row each.

    Parameters
    ----------
    folder
        the study
    out
        a .csv or .parquet file
    """
    terminal = Terminal(as_json=json)
    from wordbrush.evaluation.study.export import export as write

    study, store = _answered(folder)
    with store:
        outputs.check([study.answers, folder / "study.toml"], [Path(out)])
        count = write(study, store, out)
    terminal.say(f"{out}  {count} answers")
    terminal.finish(command="study export", out=out, answers=count)
    return 0


def _answered(folder: Path) -> "tuple[Study, Store]":
    """A study and its answers. Raises `InputError` if there are none."""
    from wordbrush.evaluation.study import design
    from wordbrush.evaluation.study.store import Store

    study = design.load(folder)
    if not study.answers.exists():
        raise InputError(
            f"expected answers in {study.answers}, found none: collect them with `wordbrush study serve`"
        )
    return study, Store(study.answers, study.settings.kind)


def _check_token(host: str, token: str | None, is_local: bool) -> None:
    if token is None and not is_local:
        import secrets

        raise OptionsError(
            f"expected a token, since anyone who can reach {host} could answer: "
            f"add --token {secrets.token_urlsafe(12)}, or another one, or leave --host out"
        )
    if token is not None and not (len(token) >= 8 and all(c.isalnum() or c in "-_" for c in token)):
        raise OptionsError(
            "expected a token of at least 8 letters, digits, '-' or '_', "
            "since it is the only protection against strangers"
        )


def _listening(host: str, port: int) -> "socket.socket":
    """A listening socket. Raises `OutputError` if the port is in use or the address does not exist."""
    import socket

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as error:
        if isinstance(error, UnicodeError):  # from a name that cannot be one, such as a..b
            reason = "it is no host name"
        else:
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise OutputError(
            f"cannot listen on {host}, port {port}: {reason}; "
            "choose another --port (0 takes one that is free) or --host"
        ) from error
