"""The command line: `wordbrush generate`, `edit`, `invert`, `heatmap`, `replay`, `methods`, `models`, `compare`,
`evaluate` and `study`.

    commands/  one file a command: it parses, calls the library and prints
    options/   flags: a method's, from its `Options`; several methods'; model and machine
    app        all commands as one application, and the message when one fails
    origins    what an edit starts from: a picture file or a saved source
    outputs    the files that a command writes, checked before any work
    stopping   Ctrl-C, `kill`, a terminal that closes
    terminal   results on stdout, everything else on stderr

Exit codes: 0 done, also for `study serve` when it is stopped; 1 `replay` found a difference, or an error in wordbrush;
2 wrong input; 129 the terminal was closed; 130 Ctrl-C; 143 `kill`.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress

from wordbrush.cli.stopping import Stopped, listening


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Every error is printed as one line, never as a traceback."""
    with listening() as stop:
        try:
            from wordbrush.cli import app  # imports take a moment, and Ctrl-C may come during them

            return app.run(sys.argv[1:] if tokens is None else tokens)
        except (Exception, Stopped) as error:
            if stop.signum is None:
                from wordbrush.cli.app import explain

                return explain(error)
    # Any exception here comes from the stop: an interrupted import fails in many ways.
    with suppress(OSError):  # the terminal has gone
        print("error: stopped; no partial file is left", file=sys.stderr)
    return stop.code
