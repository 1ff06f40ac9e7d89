"""The command line: `wordbrush generate`, `edit`, `invert`, `heatmap`, `mask`, `replay`, `batch`, `methods`, `models`,
`concepts`, `convert`, `compare`, `evaluate`, `study` and `train`.

    commands/  one file a command: it parses, calls the library and prints
    options/   flags: a method's, from its `Options`; several methods'; model and machine
    app        all commands as one application, and the message when one fails
    origins    what an edit starts from: a picture file or a saved source
    outputs    the files that a command writes, checked before any work
    rows       a row of a batch as the command line that one would type
    stopping   Ctrl-C, `kill`, a terminal that closes
    worker     the rows of a batch, done as commands in this process
    terminal   results on stdout, everything else on stderr

Exit codes: 0 done, also for `study serve` when it is stopped; 1 `replay` found a difference, a job of
`batch` failed, or an error in wordbrush; 2 wrong input; 129 the terminal was closed; 130 Ctrl-C; 143 `kill`.
"""

import gc
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from wordbrush.cli.stopping import Stopped, listening

# How idle threads wait for work, by the names of what decides it in the OpenMP libraries that torch comes with.
_WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME", "KMP_LIBRARY"}


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Every error is printed as one line, never as a traceback."""
    try:
        return _run(tokens)
    finally:
        if tokens is None:  # the process is ours, and ends: nobody needs a last look for garbage
            gc.freeze()


def _run(tokens: Sequence[str] | None) -> int:
    # torch's idle threads spin for milliseconds before they sleep. Beside another busy process they spin on the very
    # core that the thread they wait for needs, and an edit takes several times as long. Shorter spinning costs nothing
    # on an idle machine; none at all (a passive wait) does. Read once, when torch is imported.
    if not _WAITING & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "10000"
    given = sys.argv[1:] if tokens is None else tokens
    told = "no partial file is left"
    with listening() as stop:
        try:
            from wordbrush.cli import app  # imports take a moment, and Ctrl-C may come during them

            return app.run(given)
        except (Exception, Stopped) as error:
            if stop.signum is None:
                from wordbrush.cli.app import explain

                return explain(error, given)
            if isinstance(error, Stopped) and error.args:
                told = str(error)
    # Any exception here comes from the stop: an interrupted import fails in many ways.
    with suppress(OSError):  # the terminal has gone
        print(f"error: stopped; {told}", file=sys.stderr)
    return stop.code
