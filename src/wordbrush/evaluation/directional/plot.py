"""InstructPix2Pix's curve as a plot: a line for each curve, a labelled mark for each value, intervals as thin bars."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wordbrush.errors import InputError
from wordbrush.evaluation.directional.curve import Point, columns, table
from wordbrush.evaluation.directional.run import TRUTH
from wordbrush.evaluation.results.plots import COLOURS, FAINT, INK, MARKS, PAPER, blank, save
from wordbrush.evaluation.results.tables import comma_separated, markdown
from wordbrush.extras import need
from wordbrush.files import Opened, all_or_none, atomic_write


def write(points: Sequence[Point], folder: Path, clip: str) -> str:
    """Write `points.csv` and `curve.png`, both or neither; returns the table in Markdown. Raises as `plot` does."""
    rows, shown = table(points, clip), columns(clip)
    with all_or_none() as opened:
        with opened(folder / "points.csv") as file:
            file.write(comma_separated(rows, shown).encode())
        plot(points, folder / "curve.png", clip, opened)
    return markdown(rows, shown)


def plot(points: Sequence[Point], path: Path, clip: str, opened: Opened = atomic_write) -> None:
    """Write the curves as a PNG, the truth as a star.

    clip: the name of the network that the scores on both axes depend on. Raises `InputError` for no points,
    `MissingExtraError` without matplotlib.
    """
    drawn = [point for point in points if point.directional.count]
    if not drawn:
        raise InputError(
            "expected at least one point to plot, got none; were all captions equal, or too alike?"
        )
    with need("eval", "a plot"):
        from matplotlib.patheffects import withStroke
    figure, axes = blank(
        "directional similarity: the edit goes with the words →", "image similarity: the picture stays →"
    )
    names = [name for name in dict.fromkeys(point.curve for point in drawn) if name != TRUTH]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    for i, name in enumerate(names):
        own = [point for point in drawn if point.curve == name]
        style = {"color": colours[name], "marker": MARKS[i % len(MARKS)], "markersize": 7}
        _curve(axes, own, f"{name}, over {own[0].option}", style)
    for point in drawn:
        if point.curve == TRUTH:
            _curve(axes, [point], TRUTH, {"color": INK, "marker": "*", "markersize": 14, "linestyle": "none"})
    counts = sorted({point.directional.count for point in drawn})
    edits = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    about = f"{edits} {'edit' if edits == '1' else 'edits'} a point · CLIP: {Path(clip).name} · bars: 95 % bootstrap"
    figure.supxlabel(about, x=0.99, ha="right", color=FAINT, fontsize=8)
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    _label(figure, axes, drawn, colours, withStroke)
    save(figure, path, opened)


def _curve(axes: Any, points: Sequence[Point], label: str, style: dict[str, Any]) -> None:
    x, y = _means(points).T
    for which, line in (("directional", "xerr"), ("image", "yerr")):
        ends = [getattr(point, which) for point in points]
        bars = np.array([(end.mean - end.low, end.high - end.mean) for end in ends]).T.clip(min=0)
        axes.errorbar(
            x, y, **{line: bars}, fmt="none", ecolor=style["color"], elinewidth=0.8, alpha=0.35, zorder=2
        )
    drawn = {
        "linestyle": "-",
        "linewidth": 1.6,
        "markeredgecolor": PAPER,
        "markeredgewidth": 0.8,
        "zorder": 3,
    }
    axes.plot(x, y, label=label, **(drawn | style))


def _label(
    figure: Any, axes: Any, points: Sequence[Point], colours: Mapping[str, str], halo: Callable[..., Any]
) -> None:
    """Write each point's value beside it, where marks, lines and other values are furthest away."""
    figure.draw_without_rendering()  # fixes the scales
    places: Any = axes.transData.transform(_means(points)) * 72 / figure.dpi
    taken: list[Any] = [*places]
    for i in range(len(points) - 1):
        if points[i].curve == points[i + 1].curve:
            taken += [places[i] + share * (places[i + 1] - places[i]) for share in np.arange(0, 1, 0.05)]
    angles = np.deg2rad(np.arange(0, 360, 15))
    around = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (13, 11)
    for point, place in zip(points, places, strict=True):
        if not point.value:
            continue
        free = np.linalg.norm(place + around[:, None] - np.array(taken), axis=-1).min(1)
        # A little more room does not justify leaving the right side, where readers look first.
        offset = around[int(np.argmax(free + 0.15 * around[:, 0]))]
        taken.append(place + offset)
        axes.annotate(
            point.value,
            (point.directional.mean, point.image.mean),
            xytext=tuple(offset),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=colours[point.curve],
            path_effects=[halo(linewidth=2, foreground=PAPER)],
            zorder=4,
        )


def _means(points: Sequence[Point]) -> np.ndarray:
    return np.array([(point.directional.mean, point.image.mean) for point in points])
