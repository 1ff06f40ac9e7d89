"""What the command line prints: results on stdout; notices, progress bars and errors on stderr."""

import json
import re
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from wordbrush.cli.outputs import PREVIEW
from wordbrush.errors import OutputError
from wordbrush.files import room_in
from wordbrush.progress import Progress

_LONGEST = 2000  # characters of an error


@dataclass
class Heard:
    """What a command says while another one listens; `show` gets its progress."""

    show: Callable[[Progress], object]
    said: list[str] = field(default_factory=list[str])
    notices: list[str] = field(default_factory=list[str])
    errors: list[str] = field(default_factory=list[str])
    result: dict[str, Any] = field(default_factory=dict[str, Any])


_LISTENING: ContextVar[Heard | None] = ContextVar("listening", default=None)


@contextmanager
def listening_to(heard: Heard) -> Generator[None, None, None]:
    """Nothing that commands say in the block is printed: it is heard."""
    token = _LISTENING.set(heard)
    try:
        yield
    finally:
        _LISTENING.reset(token)


class Terminal:
    """A command's output. With `as_json`, stdout has only the one line of `finish`."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self._heard = _LISTENING.get()
        self._said: set[str] = set()
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of the result."""
        if self._heard:
            self._heard.said.append(text)
        elif not self.as_json:
            _print(_plain(text))

    def rows(self, rows: Mapping[str, str]) -> None:
        """Lines of the result in two columns."""
        width = max(map(len, rows), default=0)
        for left, right in rows.items():
            self.say(f"  {left:<{width}}  {right}")

    def note(self, notices: Iterable[str]) -> None:
        """Notices about a result, each once in a command; empty ones are none."""
        for notice in filter(None, notices):
            if notice in self._said:
                continue
            self._said.add(notice)
            if self._heard:
                self._heard.notices.append(notice)
                continue
            self.errors.print(Text(f"note: {_plain(' '.join(notice.split()))}"), style="yellow")

    def error(self, text: str) -> None:
        """Why there is no result, as one line.

        Of a path or a word that nobody can read to its end, and of a line of that length, the beginning is shown.
        """
        line = re.sub(r"\S{300,}", lambda found: f"{found[0][:80]}…", " ".join(text.split()))
        line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]} …"
        if self._heard:
            self._heard.errors.append(line)
        else:
            self.errors.print(Text(f"error: {_plain(line)}"), style="bold red")

    def finish(self, **result: Any) -> None:
        """The result as JSON; paths become text."""
        if self._heard:
            self._heard.result = result
        elif self.as_json:
            line = json.dumps(result, ensure_ascii=False, default=str)
            _print(_CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line))

    @contextmanager
    def busy(self, what: str) -> Generator[None, None, None]:
        """Show a status line while the block runs."""
        if self._is_watched:
            with self.errors.status(what):
                yield
        else:
            yield

    @contextmanager
    def watching(
        self, preview: Path | None = None, *, every: int = 1
    ) -> Generator[Callable[[Progress], None], None, None]:
        """Show progress bars with the time left; write a preview picture every `every` steps, if there is a path.

        The preview is removed at the end, also after an error.
        """
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[says]}", markup=False),
        )
        bars = Bars(*columns, console=self.errors, disable=not self._is_watched, transient=True)
        tasks: dict[str, Any] = {}
        steps: dict[str, int] = {}

        def show(progress: Progress) -> None:
            if self._heard:
                self._heard.show(progress)
            if progress.stage not in tasks:
                for done in (task.id for task in bars.tasks if task.finished):
                    bars.update(done, visible=False)  # many stages would fill the screen
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total, says="")
            elif progress.step < steps[progress.stage]:  # the same once more, of another picture
                bars.reset(tasks[progress.stage], total=progress.total)
            steps[progress.stage] = progress.step
            bars.update(tasks[progress.stage], completed=progress.step, visible=True, says=progress.says)
            if preview and progress.preview and progress.step % every == 0:
                from wordbrush.images import save_png

                save_png(progress.preview(), preview, PREVIEW)

        with room_in(preview.parent) if preview else nullcontext():
            try:
                with bars:
                    yield show
            finally:
                if preview:
                    preview.unlink(missing_ok=True)

    @property
    def _is_watched(self) -> bool:
        return self.errors.is_terminal and not self.as_json and not self._heard


# What a terminal obeys: a prompt from a stranger's picture could move its cursor, or rename its window.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def _plain(text: str) -> str:
    """A text without characters that a terminal obeys, but for tabs and line breaks."""
    return _CONTROLS.sub("�", text)


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # `explain` handles it silently
        raise
    except OSError as error:
        raise OutputError(f"cannot write to stdout: {error.strerror}; the command itself is done") from error


def speak_any_language() -> None:
    """Print "?" for characters that the terminal's encoding does not have, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
