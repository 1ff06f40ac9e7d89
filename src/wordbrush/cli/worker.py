"""Jobs done as commands in this process, and sheets of what they have made."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from wordbrush import images
from wordbrush.cli import app, rows
from wordbrush.cli.options.concepts import taught
from wordbrush.cli.options.setup import POCKET, Loading, Setup, loading
from wordbrush.cli.terminal import Heard, listening_to
from wordbrush.errors import ImageError, InputError
from wordbrush.inputs import sha256
from wordbrush.jobs.ledger import Entry, Output, files
from wordbrush.jobs.reading import Job
from wordbrush.jobs.run import Outcome
from wordbrush.model import Model
from wordbrush.progress import Progress
from wordbrush.records import fingerprint
from wordbrush.sheets import sheet

_PAGE = 24  # pictures on a sheet
_THUMBNAIL = 256  # pixels
_MODEL = ("model", "device", "dtype", "concept")


class _Checked(Exception):
    """A command has checked all that it checks before it loads a model."""


class Worker:
    """Does jobs as commands in this process, which share one model at a time."""

    def __init__(self, jobs: Sequence[Job], root: Path, folder: Path, setup: Setup) -> None:
        """jobs: all of the file, also those that other shards do. root: what their paths start from. folder: for what
        they make. setup: the model and the machine of rows that name none."""
        self.show: Callable[[Progress], object] = lambda progress: None
        self._folder, self._setup = folder, setup
        self._defaults: dict[str, object] = {
            "model": setup.model if setup.model != POCKET.model else None,
            "device": setup.device,
            "dtype": setup.dtype,
            **({"concept": list(setup.concept)} if setup.concept else {}),
        }
        self._lines: dict[str, rows.Line] = {}
        self._problems: dict[str, str] = {}
        self._hashes: dict[Path, str | None] = {}
        self._kept: tuple[Setup, Model] | None = None
        self._taught: tuple[Setup, Model] | None = None
        for job in jobs:
            try:
                self._lines[job.id] = rows.line(job, root, folder, self._defaults)
            except InputError as error:
                self._problems[job.id] = str(error)
        sound = [(job, self._lines[job.id]) for job in jobs if job.id in self._lines]
        self._problems |= rows.clashes(sound, folder)

    def model(self, job: Job) -> list[str]:
        """What decides the model that a job needs."""
        return self._named(job.values)

    def _named(self, values: Mapping[str, object]) -> list[str]:
        return [str(values.get(name, self._defaults.get(name))) for name in _MODEL]

    def fingerprint(self, job: Job) -> str:
        """Of what a row says, of its model and dtype, and of its files; a machine makes no other job of it."""
        asked = {**self._defaults, "device": None, **job.values}
        if job.id in self._problems:
            return fingerprint(asked, self._problems[job.id])
        line = self._lines[job.id]
        written = Path(line.out).relative_to(self._folder)
        return fingerprint(asked, written, [self._hash(path) for path in line.inputs])

    def check(self, job: Job) -> Outcome:
        """Run the command until it has checked what it can and asks for its model."""
        if job.id in self._problems:
            return Outcome(error=self._problems[job.id])
        return self._command(job, _stop)

    def do(self, job: Job) -> Outcome:
        """Run the command. Raises `ModelError` if the model for rows that name none cannot be loaded."""
        if job.values["verb"] != "replay" and self.model(job) == self._named({}):
            self._load(self._setup, True)  # where the batch's own model cannot be loaded, no job is to blame
        return self._command(job, self._load)

    def _command(self, job: Job, load: Loading) -> Outcome:
        tokens, told, code = self._lines[job.id].tokens, Heard(self.show), 0
        with listening_to(told), loading(load):
            try:
                code = app.application(tokens)(tokens, exit_on_error=False, print_error=False)
            except _Checked:
                return Outcome()
            except Exception as error:
                code = app.explain(error, tokens)
        error = "; ".join(told.errors) or ("; ".join(told.said) if code else "")
        return Outcome(self._outputs(told.result), tuple(told.notices), error)

    def _outputs(self, result: Mapping[str, Any]) -> tuple[Output, ...]:
        """The files in a command's result, with what they show."""
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

    def _load(self, setup: Setup, fetch: bool) -> Model:
        """The model with its concepts, kept for the next job."""
        named = Setup(setup.model, setup.device, setup.dtype, setup.concept)
        if self._taught is None or self._taught[0] != named:
            self._taught = None
            self._taught = named, taught(lambda: self._base(setup, fetch), setup.concept)
        return self._taught[1]

    def _base(self, setup: Setup, fetch: bool) -> Model:
        """The model without concepts, kept as well. What is not on this machine is fetched only if the user has named
        it, not because a row does."""
        named = Setup(setup.model, setup.device, setup.dtype)
        if self._kept is None or self._kept[0] != named:
            self._kept = None  # two may not fit into the memory
            self._kept = named, setup.fresh(fetch=fetch and setup.model == self._setup.model)
        return self._kept[1]

    def _hash(self, path: Path) -> str | None:
        """Of a file's content; None for what is none."""
        if path not in self._hashes:
            try:
                self._hashes[path] = sha256(path) if path.is_file() else None
            except OSError:  # the job itself will say why
                self._hashes[path] = None
        return self._hashes[path]


def _stop(setup: Setup, fetch: bool) -> Model:
    raise _Checked


def sheets(jobs: Sequence[Job], entries: Mapping[str, Entry], folder: Path) -> list[Path]:
    """Sheets of what all jobs have made, in the order of their file, by every shard so far."""
    made = [
        (path, f"{job.line}: {text}")
        for job in jobs
        if job.id in entries and entries[job.id].status == "done"
        for path, text in files(folder, entries[job.id]).items()
        if path.suffix != ".source"
    ]
    pages: list[Path] = []
    for start in range(0, len(made), _PAGE):
        pictures, captions = list[Image.Image](), list[str]()
        for path, caption in made[start : start + _PAGE]:
            try:
                picture = images.load(path)
            except ImageError:  # somebody has changed it
                continue
            picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
            pictures.append(picture)
            captions.append(caption)
        if pictures:
            pages.append(folder / rows.SHEETS / f"{len(pages) + 1}.png")
            images.save_png(sheet(pictures, captions), pages[-1])
    return pages
