"""What comparing gives: cells, one an edit, and the grid and the table that are made of them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from wordbrush.evaluation.compare import grid as labelled_grid
from wordbrush.evaluation.compare.grid import Block, Card
from wordbrush.evaluation.results import tables
from wordbrush.evaluation.results.tables import Column
from wordbrush.result import Result
from wordbrush.source import Source

_COLUMNS = 6  # cards beside one another
_TABLE = (
    Column("target", "target"),
    Column("inversion", "inversion"),
    Column("method", "method"),
    Column("inversion_seconds", "s to invert", 1, better="low"),
    Column("edit_seconds", "s to edit", 1, better="low"),
    Column("inversion_rows", "rows to invert", 0, better="low"),
    Column("gradient_rows", "of these with gradient", 0, better="low"),
    Column("edit_rows", "rows to edit", 0, better="low"),
    Column("reconstruction", "dB of the reconstruction", 1, better="high"),
    Column("psnr", "dB to source", 1, better="high"),
    Column("ssim", "SSIM to source", 3, better="high"),
    Column("distance", "distance to source", 3, better="low"),
    Column("clip", "CLIP to target", 3, better="high"),
    Column("edited_share", "edited %", 0, 100.0),
    Column("truth_psnr", "dB to truth", 1, better="high"),
    Column("truth_distance", "distance to truth", 3, better="low"),
    Column("outside_psnr", "dB outside mask", 1, better="high"),
    Column("notices", "notices"),
)


@dataclass(frozen=True)
class Spent:
    """What a computation took. seconds: its own, none of the caller's. rows: of the UNet's batch."""

    seconds: float
    rows: int
    with_gradient: int


@dataclass(frozen=True, eq=False)
class Start:
    """What edits start from: one inversion of the picture, or "seed", the run that generated it.

    options: as told. source, spent: none if it failed; `failure` says why.
    reconstruction: PSNR in dB of the source's own picture against the best it could be: the picture through the
    autoencoder and back; for a seed, the picture.
    """

    inversion: str
    options: Mapping[str, Any]
    source: Source | None = None
    spent: Spent | None = None
    reconstruction: float = math.nan
    failure: str = ""


@dataclass(frozen=True, eq=False)
class Cell:
    """One edit: where it started, how it was made, and how it came out.

    result, spent: none if it failed; `failure` says why.
    scores: psnr, ssim and distance to the source, clip to the target, and where they are known truth_psnr,
    truth_distance and outside_psnr (outside of the mask, to the source).
    heatmaps: where words of the target look in the edit.
    """

    start: Start
    method: str
    options: Mapping[str, Any]
    target: str
    result: Result | None = None
    spent: Spent | None = None
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    heatmaps: Mapping[str, Image.Image] = field(default_factory=dict[str, Image.Image])
    failure: str = ""

    @property
    def image(self) -> Image.Image | None:
        """The edited picture."""
        return None if self.result is None else self.result.image

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know of the edit, or why there is none."""
        if self.failure or self.result is None:
            return (f"failed: {self.failure}",)
        return self.result.report.notices


@dataclass(frozen=True)
class Look:
    """A word to be looked for: what it is called in the source's prompt and in a target's, where it is there."""

    source: str | None
    target: str | None


@dataclass(frozen=True, eq=False)
class Reference:
    """What needs no editing and stands in the same table: the source as it is, or the true answer."""

    target: str
    name: str
    image: Image.Image
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Comparison:
    """One picture, edited in several ways.

    picture: the source, at the model's size. bound: PSNR in dB of what the autoencoder alone makes of it.
    generated: the run that made the picture, if it was no given one.
    cells: target by target, and within a target method by method. looks: words to be looked for, per target.
    heatmaps: where words of the source's prompt look in the source, on the way of its best reconstruction.
    judges: the names of "clip" and "distance".

        comparison = drain(compare(model, "cat.png", "a cat on a beach", ["a dog on a beach"]))
        comparison.grid().save("grid.png")
        print(comparison.table())
    """

    picture: Image.Image
    prompt: str
    targets: tuple[str, ...]
    bound: float
    generated: Source | None
    starts: tuple[Start, ...]
    cells: tuple[Cell, ...]
    references: tuple[Reference, ...]
    looks: Mapping[str, Sequence[Look]]
    heatmaps: Mapping[str, Image.Image]
    judges: Mapping[str, str]

    @property
    def failures(self) -> tuple[Cell, ...]:
        """The cells without a picture."""
        return tuple(cell for cell in self.cells if cell.result is None)

    # The table ----------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, tables.Cell]]:
        """One row an edit, below what it is to be compared with; a figure that there is none of is left out."""
        rows: list[dict[str, tables.Cell]] = []
        for target in self.targets:
            for reference in self.references:
                if reference.target == target:
                    rows.append({"target": target, "method": reference.name, **reference.scores})
            rows += [_row(cell) for cell in self.cells if cell.target == target]
        return rows

    def columns(self) -> list[Column]:
        """Those columns of the table that have anything to say here."""
        said = {key for row in self.rows() for key, value in row.items() if value not in (None, "")}
        single = {"target"} if len(self.targets) == 1 else set[str]()
        return [self._judged(column) for column in _TABLE if column.key in said - single]

    def _judged(self, column: Column) -> Column:
        """The column with its judge's name: scores of two judges are not comparable."""
        judge = self.judges.get({"truth_distance": "distance"}.get(column.key, column.key))
        return column if judge is None else replace(column, title=f"{column.title} ({judge})")

    def table(self) -> str:
        """All figures, in Markdown."""
        return tables.markdown(self.rows(), self.columns())

    def comma_separated(self) -> str:
        """All figures, as CSV."""
        return tables.comma_separated(self.rows(), self.columns())

    # The grid -----------------------------------------------------------------------------------------------

    def grid(self) -> Image.Image:
        """All pictures, labelled: for each target the source and every edit, and below them where words look."""
        blocks = [
            Block(f"from “{self.prompt}” to “{target}”", tuple(self._lines(target)))
            for target in self.targets
        ]
        return labelled_grid.draw(blocks, self.picture.size)

    def _lines(self, target: str) -> list[tuple[Card, ...]]:
        """A target's lines: source, truth and edits; in each further line the source again, to compare with."""
        references = [reference for reference in self.references if reference.target == target]
        cells = [cell for cell in self.cells if cell.target == target]
        if len(self.starts) > 1:  # a line a method, so that what differs in one thing alone stands together
            methods = list(dict.fromkeys(cell.method for cell in cells))
            groups = [[cell for cell in cells if cell.method == method] for method in methods]
        else:
            groups = [cells]
        room = _COLUMNS - len(references)
        lines: list[tuple[Card, ...]] = []
        for group in groups:
            for first in range(0, len(group), room):
                line = group[first : first + room]
                lines.append((*map(self._reference_card, references), *map(self._card, line)))
                for look in self.looks[target]:
                    lines.append(tuple(self._heat_cards(look, references, line)))
        return lines

    def _reference_card(self, reference: Reference) -> Card:
        if reference.image is self.picture:
            subtitle = "not edited"
            figures = [("autoencoder alone", _decibels(self.bound)), *_clip(reference.scores)]
            figures += _truth(reference.scores)
        else:
            subtitle = "the edit as it should be"
            figures = [_likeness(reference.scores), *_clip(reference.scores)]
        return Card(reference.image, reference.name, subtitle, tuple(figures))

    def _card(self, cell: Cell) -> Card:
        start, title, subtitle = cell.start, _typed(cell.start.inversion), _typed(cell.method)
        if cell.result is None or cell.spent is None or start.spent is None:
            return Card(None, title, subtitle, message=f"failed: {cell.failure}", is_failure=True)
        figures = [_likeness(cell.scores), *_clip(cell.scores), *_truth(cell.scores)]
        if "outside_psnr" in cell.scores:
            figures.append(("outside the mask", _decibels(cell.scores["outside_psnr"])))
        figures.append(("reconstruction", _decibels(start.reconstruction)))
        seconds, rows = start.spent.seconds + cell.spent.seconds, start.spent.rows + cell.spent.rows
        figures.append(("cost", f"{seconds:.1f} s · {rows} rows"))
        return Card(cell.image, title, subtitle, tuple(figures))

    def _heat_cards(self, look: Look, references: Sequence[Reference], cells: Sequence[Cell]) -> list[Card]:
        cards = [
            _heat_card(self.heatmaps, look.source, look)
            if reference.image is self.picture
            else Card(None, "", message="no model made it")
            for reference in references
        ]
        return cards + [_heat_card(cell.heatmaps, look.target, look) for cell in cells]


def _typed(name: str) -> str:
    """A method's name as one types it."""
    return name.replace("_", "-")


def _row(cell: Cell) -> dict[str, tables.Cell]:
    row: dict[str, tables.Cell] = {
        "target": cell.target,
        "inversion": _typed(cell.start.inversion),
        "method": _typed(cell.method),
        **cell.scores,
        "notices": "; ".join(cell.notices),
    }
    if cell.start.spent is not None:
        row["inversion_seconds"] = cell.start.spent.seconds
        row["inversion_rows"] = float(cell.start.spent.rows)
        row["gradient_rows"] = float(cell.start.spent.with_gradient)
        row["reconstruction"] = cell.start.reconstruction
    if cell.spent is not None and cell.result is not None:
        row["edit_seconds"], row["edit_rows"] = cell.spent.seconds, float(cell.spent.rows)
        row["edited_share"] = cell.result.report.edited_share
    return row


def _heat_card(heatmaps: Mapping[str, Image.Image], word: str | None, look: Look) -> Card:
    if word is None:
        return Card(None, "", message=f"there is no “{look.source or look.target}” here")
    return Card(heatmaps.get(word), f"where “{word}” looks", message="there is no picture to look in")


def _likeness(scores: Mapping[str, float]) -> tuple[str, str]:
    return "like the source", f"{_decibels(scores['psnr'])} · SSIM {scores['ssim']:.2f}"


def _clip(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    return [("like the target", f"CLIP {scores['clip']:.3f}")] if "clip" in scores else []


def _truth(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    return [("like the truth", _decibels(scores["truth_psnr"]))] if "truth_psnr" in scores else []


def _decibels(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.1f} dB"
