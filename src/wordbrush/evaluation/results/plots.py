"""What plots of scores have in common: a page, its colours and marks."""

import io
from pathlib import Path
from typing import Any

from wordbrush.extras import need
from wordbrush.files import Opened, atomic_write

# Okabe & Ito 2008: distinct under every common kind of colour blindness; marks differ as well, for grey prints.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKS = ("o", "s", "D", "^", "v", "P", "X")
INK, FAINT, PAPER = "#22252b", "#6d7078", "#fbfaf7"


def blank(x: str, y: str) -> tuple[Any, Any]:
    """An empty figure and its axes, of these labels. Raises `MissingExtraError` without matplotlib."""
    with need("eval", "a plot"):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    figure: Any = Figure(figsize=(7.2, 5.6), dpi=160, facecolor=PAPER, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=PAPER)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=FAINT, labelsize=9)
    axes.margins(0.08)
    return figure, axes


def save(figure: Any, path: Path, opened: Opened = atomic_write) -> None:
    """Write a figure as a PNG, equal bytes for equal figures."""
    page = io.BytesIO()
    figure.savefig(page, format="png", metadata={"Software": None})
    with opened(path) as file:
        file.write(page.getvalue())
