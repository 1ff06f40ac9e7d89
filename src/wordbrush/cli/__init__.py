"""The command line: `wordbrush generate`, `edit`, `invert`, `heatmap`, `replay`, `methods`, `models`, and to measure
`compare`, `evaluate` and `study`.

    app        the commands put together, and what is said when one fails
    commands   what each of the first does, from its flags to its files
    compare    one edit, several methods
    evaluate   its commands: evaluate_bench, evaluate_pie, evaluate_subjects, evaluate_directional
    study      the user study's commands
    several    several methods on one command line
    listings   `methods` and `models`, which compute nothing
    flags      a method's flags, from its `Options`
    origins    what an edit starts from: a picture file or a saved source
    outputs    where results go
    setup      model and machine
    stopping   Ctrl-C and `kill`
    terminal   what is shown

Exit codes: 0 done, as `study serve` is when it is stopped; 1 `replay` found a difference, or wordbrush is at fault;
2 the input is; 130 Ctrl-C; 143 `kill`.
"""

import sys
from collections.abc import Sequence

from wordbrush.cli.stopping import Stopped, listening


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Whatever goes wrong is told in one line, never as a traceback."""
    with listening() as stop:
        try:
            from wordbrush.cli import app  # imports take a moment, and Ctrl-C may come within it

            return app.run(sys.argv[1:] if tokens is None else tokens)
        except (Exception, Stopped) as error:
            if stop.signum is None:
                from wordbrush.cli.app import explain

                return explain(error)
    # Whatever was raised came of the stop: an import that is interrupted fails in many ways.
    print("error: stopped; no half file is left", file=sys.stderr)
    return stop.code
