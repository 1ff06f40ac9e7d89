"""What the command line shows: results on stdout; notices, the progress bar and errors on stderr."""

import json
import sys
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

from wordbrush.errors import OutputError
from wordbrush.files import room_in
from wordbrush.progress import Progress


class Terminal:
    """Where a command speaks. With `as_json`, stdout stays empty but for the one line of `finish`."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """A line of the result."""
        if not self.as_json:
            _print(text)

    def rows(self, rows: Mapping[str, str]) -> None:
        """Lines of the result in two columns."""
        width = max(map(len, rows), default=0)
        for left, right in rows.items():
            self.say(f"  {left:<{width}}  {right}")

    def note(self, notices: Iterable[str]) -> None:
        """What the user should know of a result that is there; each once."""
        for notice in dict.fromkeys(notices):
            self.errors.print(Text(f"note: {notice}"), style="yellow")

    def error(self, text: str) -> None:
        """Why there is no result: one line, whatever the message held."""
        self.errors.print(Text(f"error: {' '.join(text.split())}"), style="bold red")

    def finish(self, **result: Any) -> None:
        """The result for machines; paths become text."""
        if self.as_json:
            _print(json.dumps(result, ensure_ascii=False, default=str))

    @contextmanager
    def busy(self, what: str) -> Generator[None, None, None]:
        """Say what takes a moment, for as long as it takes."""
        if self._is_watched:
            with self.errors.status(what):
                yield
        else:
            yield

    @contextmanager
    def watching(
        self, preview: Path | None = None, *, every: int = 1
    ) -> Generator[Callable[[Progress], None], None, None]:
        """Show progress as bars with the time left; refresh a preview picture every so many steps, if told.

        The preview is for the time of the computation: however that ends, it is removed.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        bars = Bars(*columns, console=self.errors, disable=not self._is_watched, transient=True)
        tasks: dict[str, Any] = {}

        def show(progress: Progress) -> None:
            if progress.stage not in tasks:
                for done in (task.id for task in bars.tasks if task.finished):
                    bars.update(done, visible=False)  # many stages would fill the screen
                tasks[progress.stage] = bars.add_task(progress.stage, total=progress.total)
            bars.update(tasks[progress.stage], completed=progress.step, visible=True)
            if preview and progress.preview and progress.step % every == 0:
                from wordbrush.images import save_png

                save_png(progress.preview(), preview)

        with room_in(preview.parent) if preview else nullcontext():
            try:
                with bars:
                    yield show
            finally:
                if preview:
                    preview.unlink(missing_ok=True)

    @property
    def _is_watched(self) -> bool:
        return self.errors.is_terminal and not self.as_json


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # of which nothing need be said
        raise
    except OSError as error:
        raise OutputError(f"cannot write to stdout: {error.strerror}; what was asked for is done") from error


def speak_any_language() -> None:
    """Let no character stop a message: where the terminal's encoding has no "→", it shows "?"."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")
