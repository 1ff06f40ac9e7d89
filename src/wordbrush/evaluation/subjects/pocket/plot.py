"""Subject fidelity against prompt fidelity: a point for each way to teach, the truth and the model as it was."""

from pathlib import Path
from typing import Any

import numpy as np

from wordbrush.evaluation.results.plots import COLOURS, FAINT, INK, MARKS, blank, save
from wordbrush.evaluation.results.statistics import Interval, interval
from wordbrush.evaluation.subjects.pocket.scores import Scores
from wordbrush.evaluation.subjects.pocket.variants import ALL, BASE, TRUTH
from wordbrush.evaluation.subjects.report import score_columns
from wordbrush.files import Opened, atomic_write

_PROMPT, _SUBJECT = "clip_t", "dino"


def plot(scores: Scores, path: Path, opened: Opened = atomic_write) -> None:
    """Write the plot as a PNG: means over the subjects, with 95 % bootstrap intervals as thin bars.

    Ways that read one of the two judges have no point. Raises `MissingExtraError` without matplotlib.
    """
    judges = scores.judges
    columns = {
        column.key: column.title
        for column in score_columns("dreambooth", judges["CLIP"], judges["encoder"], judges["distance"], 2)
    }
    figure, axes = blank(f"prompt: {columns[_PROMPT]} →", f"subject: {columns[_SUBJECT]} →")
    for way in (TRUTH, BASE):
        _point(
            axes,
            scores,
            way.key,
            way.label,
            {"color": INK, "marker": "*" if way is TRUTH else "_", "markersize": 13},
        )
    shown = [way for way in scores.bench.variants if way.shows == ALL]
    for i, way in enumerate(shown):
        style = {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "markersize": 8}
        _point(axes, scores, way.key, way.label, style)
    about = f"{len(scores.made)} subjects · bars: 95 % bootstrap, whole subjects drawn"
    figure.supxlabel(about, x=0.99, ha="right", color=FAINT, fontsize=8)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    save(figure, path, opened)


def _point(axes: Any, scores: Scores, way: str, label: str, style: dict[str, Any]) -> None:
    x, y = (interval(scores.of(way, key), scores.groups(way)) for key in (_PROMPT, _SUBJECT))
    if x.count and y.count:
        bars = {"xerr": _ends(x), "yerr": _ends(y)}
        axes.errorbar(x.mean, y.mean, **bars, fmt="none", ecolor=style["color"], elinewidth=0.8, alpha=0.4)
        axes.plot([x.mean], [y.mean], linestyle="none", label=label, **style)


def _ends(of: Interval) -> Any:
    """How far the interval reaches to either side; nowhere where there is none."""
    return np.nan_to_num(np.array([[of.mean - of.low], [of.high - of.mean]])).clip(min=0)
