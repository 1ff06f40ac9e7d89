"""Tables as Markdown, for people, and as CSV, for everything else."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from wordbrush.evaluation.results.statistics import Interval

MARKED = "×"
"""What stands in place of a score by a judge that the method has read, or optimised."""

Cell = Interval | float | str | None


@dataclass(frozen=True)
class Column:
    """One column: the key of its cells, its title, how its numbers are shown, and which way is better.

    scale: what numbers are multiplied with before they are shown (100 for per cent), in Markdown and CSV alike.
    judge: the network whose score it is, by its name in `Method.reads`; empty for none.
    """

    key: str
    title: str
    digits: int = 2
    scale: float = 1.0
    better: Literal["high", "low", ""] = ""
    judge: str = ""

    @property
    def heading(self) -> str:
        """The title with an arrow to the better side."""
        return self.title + {"high": " ↑", "low": " ↓", "": ""}[self.better]


def read_that_judge(names: Sequence[str]) -> str:
    """The note below a table in which scores of these are marked."""
    return f"{MARKED}: {', '.join(names)} read that judge, whose score says nothing of it."


def markdown(rows: Sequence[Mapping[str, Cell]], columns: Sequence[Column]) -> str:
    """A Markdown table: text to the left, numbers to the right, `mean ± half interval`, a dash for nothing."""
    numeric = [any(isinstance(row.get(c.key), Interval | float | int) for row in rows) for c in columns]
    lines = [
        [column.heading for column in columns],
        ["---:" if number else "---" for number in numeric],
        *([_shown(row.get(column.key), column) for column in columns] for row in rows),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def comma_separated(rows: Sequence[Mapping[str, Cell]], columns: Sequence[Column]) -> str:
    """The same as CSV; an interval takes four columns: its mean, `_low`, `_high` and `_count`."""
    names: list[str] = []
    for column in columns:
        is_interval = any(isinstance(row.get(column.key), Interval) for row in rows)
        names += [column.key, *(f"{column.key}_{part}" for part in ("low", "high", "count") if is_interval)]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        written: dict[str, object] = {}
        for column in columns:
            match row.get(column.key):
                case Interval(mean, low, high, count):
                    written |= {column.key: "", f"{column.key}_count": count}
                    if count:
                        scaled = zip(("", "_low", "_high"), (mean, low, high), strict=True)
                        written |= {
                            f"{column.key}{part}": value * column.scale
                            for part, value in scaled
                            if value == value
                        }
                case float(number) | int(number):
                    written[column.key] = number * column.scale
                case text_or_none:
                    written[column.key] = "" if text_or_none is None else text_or_none
        writer.writerow(written)
    return text.getvalue()


def _shown(cell: Cell, column: Column) -> str:
    match cell:
        case None:
            return "–"
        case Interval(mean, low, high, count):
            scaled = Interval(mean * column.scale, low * column.scale, high * column.scale, count)
            return scaled.text(column.digits)
        case float(number) | int(number):
            return "–" if number != number else f"{number * column.scale:.{column.digits}f}"
        case text:
            return text.replace("|", "\\|")
