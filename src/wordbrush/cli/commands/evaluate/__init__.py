"""`wordbrush evaluate`: edits measured against the truth, and by the papers' own protocols."""

from collections.abc import Sequence

from cyclopts import App

from wordbrush.cli.commands.evaluate import bench as evaluate_bench
from wordbrush.cli.commands.evaluate import directional as evaluate_directional
from wordbrush.cli.commands.evaluate import pie as evaluate_pie
from wordbrush.cli.commands.evaluate import subjects as evaluate_subjects


def application(tokens: Sequence[str]) -> App:
    """The commands under `wordbrush evaluate`, with the flags of those methods that `tokens` name."""
    app = App(name="evaluate", help="Measure edits against the truth, and by the papers' own protocols.")
    app.command(evaluate_bench.command(tokens))
    app.command(evaluate_pie.command(tokens))
    app.command(evaluate_subjects.subjects)
    app.command(evaluate_directional.command(tokens))
    return app
