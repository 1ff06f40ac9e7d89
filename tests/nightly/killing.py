"""Real processes that run one command, and end at a moment of our choice.

Most are forked from a server that has imported everything, since importing takes longer than what is to be disturbed.
Nothing else is shared: a process loads its own models. Nothing here is imported by that server.
"""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

IMPORTED = [
    "wordbrush.cli.app",
    "wordbrush.cli.worker",
    "wordbrush.api",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.models.autoencoders.autoencoder_kl",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "skimage.metrics",
    "matplotlib.figure",
    "wordbrush.evaluation.bench.run",
    "wordbrush.evaluation.bench.report",
    "wordbrush.evaluation.compare.run",
    "wordbrush.evaluation.pie.run",
    "wordbrush.evaluation.subjects.run",
    "wordbrush.evaluation.directional.run",
    "wordbrush.evaluation.study.store",
]
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate")
LONGEST = 300  # seconds of a run, on a machine that is busy with other things
MESSAGE = "error: stopped; no partial file is left\n"


@dataclass(frozen=True)
class End:
    """When and how a process is asked to end: after so many seconds, or before so many changes of its folder."""

    asked: signal.Signals
    seconds: float | None = None
    change: int | None = None


@dataclass(frozen=True)
class Run:
    """How a process ended."""

    code: int
    seconds: float
    changes: int
    err: str
    out: str = ""


def run(work: Callable[[], int], folder: Path, end: End | None = None) -> Run:
    """Do `work`, a picklable function, in a process of its own, in `folder`; what it says goes to files beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["HF_HUB_OFFLINE"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(target=_inside, args=(work, str(folder), end))
    began = time.monotonic()
    process.start()
    if end is not None and end.seconds is not None:
        process.join(end.seconds)
        _ask(process, end.asked)
    process.join(LONGEST)
    seconds = time.monotonic() - began
    if process.is_alive():
        process.kill()
        raise TimeoutError(f"{work} did not end after {LONGEST} seconds")
    changes = Path(f"{folder}.changes")
    return Run(
        process.exitcode or 0,
        seconds,
        int(changes.read_text() or 0) if changes.exists() else 0,
        _said(Path(f"{folder}.err")),
        _said(Path(f"{folder}.out")),
    )


def _said(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _ask(process: BaseProcess, asked: signal.Signals) -> None:
    if process.pid is not None and process.is_alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, asked)


def _inside(work: Callable[[], int], folder: str, end: End | None) -> None:
    for stream, name in ((sys.stdout, "out"), (sys.stderr, "err")):
        os.dup2(os.open(f"{folder}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    os.chdir(folder)
    changes = 0

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal changes
        is_change = event in _EVENTS or (
            event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITES)
        )
        if is_change and isinstance(arguments[0], str | os.PathLike):
            path = os.path.abspath(os.fspath(arguments[0]))
            if path.startswith(folder + os.sep):
                changes += 1
                if end is not None and changes == end.change:
                    os.kill(os.getpid(), end.asked)

    sys.addaudithook(count)
    code = work()
    Path(f"{folder}.changes").write_text(str(changes))
    sys.exit(code)


def cold(tokens: tuple[str, ...], folder: Path, end: End) -> Run:
    """The same for a command in an interpreter that has imported nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with subprocess.Popen(
        [sys.executable, "-m", "wordbrush", *tokens],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(end.seconds)
            end = End(end.asked)
        process.send_signal(end.asked)
        _, err = process.communicate(timeout=LONGEST)
    return Run(process.returncode, time.monotonic() - began, 0, err)


@dataclass(frozen=True)
class Command:
    """A command line, to be done in a process."""

    tokens: tuple[str, ...]

    def __call__(self) -> int:
        from wordbrush.cli import main

        return main(self.tokens)


@dataclass(frozen=True)
class Answers:
    """A rater who answers page after page; the number of each page is written down when its answer is acknowledged."""

    pages: int

    def __call__(self) -> int:
        from wordbrush.evaluation.study.assignment import Trial
        from wordbrush.evaluation.study.store import Store

        acknowledged = os.open("acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        with Store("answers.sqlite", "rating") as store:
            trials = [Trial(f"item-{i}", ("ours",)) for i in range(self.pages)]
            rater = store.admit(f"key {os.getpid()}", lambda number, taken: trials)
            assert rater is not None
            for page in range(1, self.pages + 1):
                store.record(rater.number, page, {"text": "3"})
                os.write(acknowledged, f"{rater.number} {page}\n".encode())
        return 0
