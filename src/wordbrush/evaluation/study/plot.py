"""The report as a bar plot."""

from typing import TYPE_CHECKING

from wordbrush.evaluation.study.report import Preferred, Ranked, Rated, Report
from wordbrush.extras import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Paul Tol's bright scheme, which colour-blind people can tell apart.
_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
_GREY = "#bbbbbb"


def bars(report: Report) -> "Figure":
    """One bar for each method and question, with standard deviation (ratings, places) or 95 % interval (choices).

    Raises `MissingExtraError`.
    """
    with need("eval", "the bar plot"):
        from matplotlib.figure import Figure
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(report.title)
    match report.kind:
        case "rating":
            _ratings(report, axes)
        case "choice":
            _choices(report, axes)
        case "ranking":
            _rankings(report, axes)
    return figure


def _ratings(report: Report, axes: "Axes") -> None:
    rows = [row for row in report.rows if isinstance(row, Rated)]
    values = {(row.method, row.question): (row.score.mean, row.score.std or 0.0) for row in rows}
    _grouped(report, axes, values, base=1)
    axes.set(ylim=(1, 5.6), yticks=range(1, 6), ylabel="mean rating ± std")


def _rankings(report: Report, axes: "Axes") -> None:
    rows = [row for row in report.rows if isinstance(row, Ranked)]
    values = {(row.method, row.question): (row.place.mean, row.place.std or 0.0) for row in rows}
    _grouped(report, axes, values, base=0)
    axes.set_ylabel("mean place ± std (1 is best)")


def _grouped(
    report: Report, axes: "Axes", values: dict[tuple[str, str], tuple[float, float]], *, base: int
) -> None:
    """Bars of all methods beside each other, for each question."""
    methods = list(dict.fromkeys(method for method, _ in values))
    width = 0.8 / len(methods)
    for i, method in enumerate(methods):
        bars_ = [(x, values[method, q]) for x, q in enumerate(report.questions) if (method, q) in values]
        axes.bar(
            [x + (i - (len(methods) - 1) / 2) * width for x, _ in bars_],
            [mean - base for _, (mean, _) in bars_],
            width * 0.92,
            bottom=base,
            yerr=[std for _, (_, std) in bars_],
            capsize=3,
            color=_COLOURS[i % len(_COLOURS)],
            label=method,
        )
    axes.set_xticks(range(len(report.questions)), report.questions)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=min(4, len(methods)), frameon=False)


def _choices(report: Report, axes: "Axes") -> None:
    """For each pair, the shares of the first method, of undecided answers and of the second method."""
    rows = [row for row in report.rows if isinstance(row, Preferred)]
    for y, row in enumerate(rows):
        first, second, undecided = (share.count / share.of for share in row.shares)
        for left, width, colour in (
            (0.0, first, _COLOURS[0]),
            (first, undecided, _GREY),
            (first + undecided, second, _COLOURS[1]),
        ):
            axes.barh(y, 100 * width, 0.7, left=100 * left, color=colour)
        low, high = row.shares[0].interval
        reach = [[100 * (first - low)], [100 * (high - first)]]
        axes.errorbar([100 * first], [y], xerr=reach, fmt="none", ecolor="black", capsize=3)
    names = [f"{row.methods[0]} : {row.methods[1]}\n{row.question}" for row in rows]
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set(xlim=(0, 100), xlabel="% of answers: first · undecided · second, with the first's 95 % interval")
