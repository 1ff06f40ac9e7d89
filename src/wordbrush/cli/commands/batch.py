"""`wordbrush batch`: many commands from one file, one a row."""

import os
import re
from collections import Counter
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options import concepts, several
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.cli.terminal import Terminal
from wordbrush.errors import InputError, OptionsError, short
from wordbrush.jobs import ledger, reading
from wordbrush.jobs.run import Finished, run
from wordbrush.progress import Progress, drain

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

    A row names its verb (generate, edit, invert, mask, heatmap or replay) and the verb's arguments: {"verb": "edit",
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
    if root is not None and not os.path.isdir(root):
        raise InputError(
            f"expected --root to be the folder that paths in rows start from, got {short(str(root))}"
        )
    rows = reading.read(jobs)
    outputs.check([jobs, *setup.files], [folder / "ledger.jsonl"])
    concepts.read(setup.concept)
    with terminal.busy("starting"):
        from wordbrush.cli.worker import Worker, sheets
    worker = Worker(rows, jobs.parent if root is None else root, folder, setup)
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
    pages = sheets(rows, ledger.read(folder), folder) if sheet else []
    failures = [entry for entry in entries if entry.status == "failed"]
    before = len(entries) - counts["done"] - counts["failed"]
    terminal.say(f"{folder}: {counts['done']} done, {len(failures)} failed, {before} done before")
    for page in pages:
        terminal.say(str(page))
    terminal.finish(
        command="batch",
        out=folder,
        done=counts["done"],
        failed=len(failures),
        before=before,
        failures=[{"line": entry.line, "id": entry.id, "error": entry.error} for entry in failures],
        sheets=pages,
    )
    return 1 if failures else 0


def _shard(text: str | None) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", "1/1" if text is None else text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise OptionsError(f"expected --shard as which/of how many, from 1/4 to 4/4, say, got {short(text)}")
    return int(found[1]), int(found[2])


def _tell(entry: ledger.Entry, terminal: Terminal, *, is_new: bool) -> None:
    """One line for a job that has ended."""
    if entry.status == "failed":
        before = "" if is_new else " (as before; --retry-failed tries again)"
        terminal.error(f"line {entry.line}, {entry.id}: {entry.error}{before}")
        return
    for output in entry.outputs:
        terminal.say(f"{output.path}  {output.text}")
    terminal.note(entry.notices)
