"""`wordbrush batch`: many commands from one file, one a row."""

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options import several
from wordbrush.cli.options.setup import POCKET, Setup, loading
from wordbrush.cli.terminal import Heard, Terminal, listening_to
from wordbrush.errors import ImageError, InputError, OptionsError, short
from wordbrush.progress import Progress

if TYPE_CHECKING:
    import wordbrush
    from wordbrush.cli.rows import Line
    from wordbrush.jobs.ledger import Entry
    from wordbrush.jobs.reading import Job
    from wordbrush.jobs.run import Outcome

_PAGE = 24  # pictures on a sheet
_THUMBNAIL = 256  # pixels
Sheet = Annotated[bool, Parameter(help="also write sheets of all results: DIR/sheets/1.png …")]


def batch(
    jobs: Path,
    /,
    *,
    out: str,
    root: Path | None = None,
    shard: str | None = None,
    retry_failed: bool = False,
    sheet: Sheet = False,
    setup: Setup = POCKET,
) -> int:
    """Do many jobs: each row is what one would type (if one fails, the others are done, and exit 1).

    A row names its verb (generate, edit, invert, heatmap or replay) and the verb's arguments: {"verb": "edit",
    "picture": "cat.png", "target": "a dog", "steps": 20}. If it is stopped or killed, the same command goes on where it
    was; what has changed is done again.

    Parameters
    ----------
    jobs
        a file of jobs: lines of JSON (.jsonl), or .csv with names in its first row; paths in it start at its folder
    out
        the folder (DIR/) for what the jobs make, and for ledger.jsonl
    root
        the folder that paths in rows start from, and stay below (default: the file's own)
    shard
        2/4 does every fourth job, from the second on: for four processes or machines, with one folder
    retry_failed
        also do again what has failed before; without it, only where the row or one of its files has changed
    """
    terminal = setup.terminal
    folder, part = several.folder_of(out), _shard(shard)
    with terminal.busy("reading"):
        from wordbrush.jobs import ledger, reading
        from wordbrush.jobs.run import Finished, run
        from wordbrush.progress import drain
    if root is not None and not os.path.isdir(root):
        raise InputError(
            f"expected --root to be the folder that paths in rows start from, got {short(str(root))}"
        )
    rows = reading.read(jobs)
    outputs.check([jobs], [folder / "ledger.jsonl"])
    worker = _Worker(rows, jobs.parent if root is None else root, folder, setup)
    mine = sorted(rows[part[0] - 1 :: part[1]], key=worker.model)  # each model is loaded once
    counts = Counter[str]()
    with ledger.opened(folder, part) as book, terminal.watching() as show:
        worker.show = show

        def tell(progress: Progress) -> None:
            show(progress)
            if isinstance(progress, Finished) and progress.entry is not None:
                counts[progress.entry.status] += 1
                _tell(progress.entry, terminal, is_new=progress.is_new)

        entries = drain(run(mine, book, worker, retry=retry_failed), tell)
    sheets = _sheets(rows, ledger.read(folder), folder) if sheet else []
    failures = [entry for entry in entries if entry.status == "failed"]
    before = len(entries) - counts["done"] - counts["failed"]
    terminal.say(f"{folder}: {counts['done']} done, {len(failures)} failed, {before} done before")
    for page in sheets:
        terminal.say(str(page))
    terminal.finish(
        command="batch",
        out=folder,
        done=counts["done"],
        failed=len(failures),
        before=before,
        failures=[{"line": entry.line, "id": entry.id, "error": entry.error} for entry in failures],
        sheets=sheets,
    )
    return 1 if failures else 0


def _shard(text: str | None) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", "1/1" if text is None else text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise OptionsError(f"expected --shard as which/of how many, from 1/4 to 4/4, say, got {short(text)}")
    return int(found[1]), int(found[2])


def _tell(entry: "Entry", terminal: Terminal, *, is_new: bool) -> None:
    """One line for a job that has ended."""
    if entry.status == "failed":
        before = "" if is_new else " (as before; --retry-failed tries again)"
        terminal.error(f"line {entry.line}, {entry.id}: {entry.error}{before}")
        return
    for output in entry.outputs:
        terminal.say(f"{output.path}  {output.text}")
    terminal.note(entry.notices)


class _Checked(Exception):
    """A command has checked all that it checks before it loads a model."""


class _Worker:
    """Does jobs as commands in this process, which share one model at a time."""

    def __init__(self, jobs: "Sequence[Job]", root: Path, folder: Path, setup: Setup) -> None:
        from wordbrush.cli import rows

        self.show: Callable[[Progress], object] = lambda progress: None
        self._root, self._folder, self._setup = root, folder, setup
        self._defaults = {
            "model": setup.model if setup.model != POCKET.model else None,
            "device": setup.device,
            "dtype": setup.dtype,
        }
        self._lines: dict[str, Line] = {}
        self._problems: dict[str, str] = {}
        self._hashes: dict[Path, str | None] = {}
        self._kept: tuple[Setup, wordbrush.Model] | None = None
        for job in jobs:
            try:
                self._lines[job.id] = rows.line(job, root, folder, self._defaults)
            except InputError as error:
                self._problems[job.id] = str(error)
        sound = [(job, self._lines[job.id]) for job in jobs if job.id in self._lines]
        self._problems |= rows.clashes(sound, folder)

    def model(self, job: "Job") -> list[str]:
        """What decides the model that a job needs."""
        return [str(job.values.get(name, own)) for name, own in self._defaults.items()]

    def fingerprint(self, job: "Job") -> str:
        from wordbrush.records import fingerprint

        asked = {**self._defaults, "device": None, **job.values}
        if job.id in self._problems:
            return fingerprint(asked, self._problems[job.id])
        line = self._lines[job.id]
        written = Path(line.out).relative_to(self._folder)
        return fingerprint(asked, written, [self._hash(path) for path in line.inputs])

    def check(self, job: "Job") -> "Outcome":
        from wordbrush.jobs.run import Outcome

        if job.id in self._problems:
            return Outcome(error=self._problems[job.id])
        return self._command(job, _stop)

    def do(self, job: "Job") -> "Outcome":
        if job.values["verb"] != "replay" and self.model(job) == list(map(str, self._defaults.values())):
            self._load(self._setup, True)  # where the batch's own model cannot be loaded, no job is to blame
        return self._command(job, self._load)

    def _command(self, job: "Job", load: "Callable[[Setup, bool], wordbrush.Model]") -> "Outcome":
        from wordbrush.cli import app
        from wordbrush.jobs.run import Outcome

        tokens, told, code = self._lines[job.id].tokens, Heard(self.show), 0
        with listening_to(told), loading(load):
            try:
                code = app.application(tokens)(tokens, exit_on_error=False, print_error=False)
            except _Checked:
                return Outcome()
            except Exception as error:
                code = app.explain(error)
        error = "; ".join(told.errors) or ("; ".join(told.said) if code else "")
        return Outcome(self._outputs(told.result), tuple(told.notices), error)

    def _outputs(self, result: Mapping[str, Any]) -> Any:
        """The files in a command's result, with what they show."""
        from wordbrush.jobs.ledger import Output

        made: list[Mapping[str, Any]] = result.get("outputs", [result] if result else [])
        return tuple(
            Output(
                path=Path(each["out"]).relative_to(self._folder).as_posix(),
                text=next(
                    (str(each[name]) for name in ("target", "word", "prompt", "picture") if name in each), ""
                ),
            )
            for each in made
        )

    def _load(self, setup: Setup, fetch: bool) -> "wordbrush.Model":
        """The model, kept for the next job. What is not on this machine is fetched only if the user has named it, not
        because a row does."""
        named = Setup(setup.model, setup.device, setup.dtype)
        if self._kept is None or self._kept[0] != named:
            self._kept = None  # two may not fit into the memory
            self._kept = named, setup.fresh(fetch=fetch and setup.model == self._setup.model)
        return self._kept[1]

    def _hash(self, path: Path) -> str | None:
        """Of a file's content; None for what is none."""
        from wordbrush.inputs import sha256

        if path not in self._hashes:
            try:
                self._hashes[path] = sha256(path) if path.is_file() else None
            except OSError:  # the job itself will say why
                self._hashes[path] = None
        return self._hashes[path]


def _stop(setup: Setup, fetch: bool) -> "wordbrush.Model":
    raise _Checked


def _sheets(jobs: "Sequence[Job]", entries: "Mapping[str, Entry]", folder: Path) -> list[Path]:
    """Sheets of what all jobs have made, in the order of their file, by every shard so far."""
    from wordbrush import images, sheets
    from wordbrush.cli.rows import SHEETS
    from wordbrush.jobs.ledger import files

    made = [
        (path, f"{job.line}: {text}")
        for job in jobs
        if job.id in entries and entries[job.id].status == "done"
        for path, text in files(folder, entries[job.id]).items()
        if path.suffix != ".source"
    ]
    pages: list[Path] = []
    for start in range(0, len(made), _PAGE):
        pictures, captions = list[Any](), list[str]()
        for path, caption in made[start : start + _PAGE]:
            try:
                picture = images.load(path)
            except ImageError:  # somebody has changed it
                continue
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            pictures.append(picture)
            captions.append(caption)
        if pictures:
            pages.append(folder / SHEETS / f"{len(pages) + 1}.png")
            images.save_png(sheets.sheet(pictures, captions), pages[-1])
    return pages
