"""The points of the directional curve, and their table.

Where the captions barely differ, T₁ − T₀ is noise and so is its cosine. Equal captions have no direction and take no
part; `most_alike` leaves out those whose cos(E(T₀), E(T₁)) is above it, and every row keeps that number.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordbrush.evaluation.results.statistics import Interval, interval
from wordbrush.evaluation.results.tables import Cell, Column


@dataclass(frozen=True)
class Point:
    """One value of one curve: the mean of both similarities over the cases, with 95 % bootstrap intervals."""

    curve: str
    option: str
    value: str
    directional: Interval
    image: Interval


def points(rows: Sequence[Mapping[str, Any]], most_alike: float = 1.0) -> list[Point]:
    """The points of all curves, in the order of the rows.

    most_alike: leave out cases whose captions have a higher cosine. Both means are over the same cases: those whose
    captions differ, so that the change has a direction.
    """
    kept: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        direction = row["directional_similarity"]
        defined = direction is not None and not math.isnan(direction)
        if defined and row["caption_similarity"] <= most_alike + 1e-6:
            kept.setdefault((row["curve"], row["option"], row["value"]), []).append(row)
    found: list[Point] = []
    for (curve, option, value), own in kept.items():
        groups = [row["group"] for row in own]
        directional, image = (
            interval([row[f"{which}_similarity"] for row in own], groups)
            for which in ("directional", "image")
        )
        found.append(Point(curve, option, value, directional, image))
    return found


def columns(clip: str) -> list[Column]:
    """The columns of `table`; the CLIP is in their titles and keys, since every number depends on it."""
    name = Path(clip).name
    return [
        Column("curve", "curve"),
        Column("option", "option"),
        Column("value", "value"),
        Column(f"directional_similarity_by_{name}", f"directional similarity by {name}", 3, better="high"),
        Column(f"image_similarity_by_{name}", f"image similarity by {name}", 3, better="high"),
        Column("cases", "cases", 0),
    ]


def table(points: Sequence[Point], clip: str) -> list[dict[str, Cell]]:
    """The points as rows for `columns`."""
    keys = [column.key for column in columns(clip)]
    rows: list[dict[str, Cell]] = []
    for point in points:
        count = float(point.directional.count)
        cells = (point.curve, point.option, point.value, point.directional, point.image, count)
        rows.append(dict(zip(keys, cells, strict=True)))
    return rows


def notices(points: Sequence[Point], cases: int) -> list[str]:
    """A notice for the user if not all of so many cases count in every point."""
    counts = {point.directional.count for point in points}
    if counts == {cases}:
        return []
    shown = " to ".join(map(str, sorted({min(counts), max(counts)})))
    return [f"of {cases} cases {shown} count: captions without a direction are left out"]
