"""The result of a comparison: a cell for each edit, and the grid and the table of all cells."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from wordbrush import api
from wordbrush.evaluation.compare import grid
from wordbrush.evaluation.compare.grid import Block, Card
from wordbrush.evaluation.compare.request import Look
from wordbrush.evaluation.contender import Contender
from wordbrush.evaluation.results import tables
from wordbrush.evaluation.results.cost import Cost
from wordbrush.evaluation.results.tables import Column
from wordbrush.methods import typed
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
    Column("distance", "distance to source", 3, better="low", judge="encoder"),
    Column("clip", "CLIP to target", 3, better="high", judge="clip"),
    Column("edited_share", "edited %", 0, 100.0),
    Column("truth_psnr", "dB to truth", 1, better="high"),
    Column("truth_distance", "distance to truth", 3, better="low", judge="encoder"),
    Column("outside_psnr", "dB outside mask", 1, better="high"),
    Column("notices", "notices"),
)


@dataclass(frozen=True, eq=False)
class Start:
    """What edits start from: one inversion of the picture, or "seed", the run that generated it.

    options: as given. source, cost: None if it failed; `failure` is the reason.
    reconstruction: PSNR in dB of the source's own picture against the best possible one: the picture through the
    autoencoder and back; for a seed, the picture.
    """

    inversion: str
    options: Mapping[str, Any]
    source: Source | None = None
    cost: Cost | None = None
    reconstruction: float = math.nan
    failure: str = ""


@dataclass(frozen=True, eq=False)
class Cell:
    """One edit: what it started from, how it was made, and its scores.

    result, cost: None if it failed; `failure` is the reason.
    scores: psnr, ssim and distance to the source, clip to the target, and where they are known truth_psnr,
    truth_distance and outside_psnr (outside of the mask, to the source).
    heatmaps: where words of the target look in the edit.
    """

    start: Start
    method: str
    options: Mapping[str, Any]
    target: str
    result: Result | None = None
    cost: Cost | None = None
    scores: Mapping[str, float] = field(default_factory=dict[str, float])
    heatmaps: Mapping[str, Image.Image] = field(default_factory=dict[str, Image.Image])
    failure: str = ""

    @property
    def contender(self) -> Contender:
        """The method and the inversion, with the options of both."""
        return Contender(self.method, self.start.inversion, self.options, self.start.options)

    @property
    def name(self) -> str:
        """What messages call it: its target, inversion and method."""
        return f"{self.target} ({typed(f'{self.start.inversion}, {self.method}')})"

    @property
    def image(self) -> Image.Image | None:
        """The edited picture."""
        return None if self.result is None else self.result.rendering

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know about the edit, or why there is none."""
        if self.failure or self.result is None:
            return (f"failed: {self.failure}",)
        return self.result.report.notices


@dataclass(frozen=True, eq=False)
class Reference:
    """A picture that is in the table for comparison: the unedited source, or the true answer."""

    target: str
    name: str
    image: Image.Image
    scores: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Comparison:
    """One picture, edited in several ways.

    picture: the source, at the model's size. original: the picture as given. bound: PSNR in dB of the picture after
    the autoencoder alone. generated: the run that made the picture, if none was given.
    cells: target by target, and within a target method by method. looks: the words to show, by target.
    heatmaps: where words of the source's prompt look in the source, along the trajectory of its best reconstruction.
    judges: the names of "clip" and "distance". notices: what was done to the picture when it was read.

        comparison = drain(compare(model, Request("cat.png", "a cat on a beach", "a dog on a beach")))
        comparison.grid().save("grid.png")
        print(comparison.table())
    """

    picture: Image.Image
    original: api.ImageOrPath | None
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
    notices: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Cell, ...]:
        """The cells without a picture."""
        return tuple(cell for cell in self.cells if cell.result is None)

    @property
    def edit_notices(self) -> list[str]:
        """The notices of all edits, each with the name of its cell."""
        made = [cell for cell in self.cells if cell.result is not None]
        return [f"{cell.name}: {notice}" for cell in made for notice in cell.notices]

    # The table ----------------------------------------------------------------------------------------------

    def rows(self) -> list[dict[str, tables.Cell]]:
        """One row for each edit, after the references of its target; figures that do not apply are left out."""
        rows: list[dict[str, tables.Cell]] = []
        for target in self.targets:
            for reference in self.references:
                if reference.target == target:
                    rows.append({"target": target, "method": reference.name, **reference.scores})
            rows += [_row(cell) | self._marks(cell) for cell in self.cells if cell.target == target]
        return rows

    def columns(self) -> list[Column]:
        """The columns of the table that have a value in any row."""
        used = {key for row in self.rows() for key, value in row.items() if value not in (None, "")}
        single = {"target"} if len(self.targets) == 1 else set[str]()
        return [self._judged(column) for column in _TABLE if column.key in used - single]

    def _marks(self, cell: Cell) -> dict[str, str]:
        """What stands in place of the scores by judges that the cell's method has read."""
        if cell.result is None:
            return {}
        read = cell.contender.reads
        return {
            column.key: tables.MARKED for column in _TABLE if column.judge in read and self._judge(column)
        }

    def _judge(self, column: Column) -> str | None:
        return self.judges.get({"truth_distance": "distance"}.get(column.key, column.key))

    def _judged(self, column: Column) -> Column:
        """The column with its judge's name: scores by two judges cannot be compared."""
        judge = self._judge(column)
        return column if judge is None else replace(column, title=f"{column.title} ({judge})")

    def table(self) -> str:
        """All figures, in Markdown."""
        marked = dict.fromkeys(typed(cell.method) for cell in self.cells if self._marks(cell))
        note = f"\n{tables.read_that_judge([*marked])}\n" if marked else ""
        return tables.markdown(self.rows(), self.columns()) + note

    def comma_separated(self) -> str:
        """All figures, as CSV."""
        return tables.comma_separated(self.rows(), self.columns())

    # The grid -----------------------------------------------------------------------------------------------

    def grid(self) -> Image.Image:
        """All pictures, labelled: for each target the source and every edit, and below them the words' heat maps."""
        blocks = [
            Block(f"from “{self.prompt}” to “{target}”", tuple(self._lines(target)))
            for target in self.targets
        ]
        return grid.draw(blocks, self.picture.size)

    def _lines(self, target: str) -> list[tuple[Card, ...]]:
        """A target's lines of cards: source, truth and edits; each further line starts with the source again."""
        references = [reference for reference in self.references if reference.target == target]
        cells = [cell for cell in self.cells if cell.target == target]
        # A line for each method after several inversions, so that neighbours differ in the inversion only.
        counts = Counter(cell.method for cell in cells)
        groups = [
            [cell for cell in cells if cell.method == method] for method in counts if counts[method] > 1
        ]
        groups.append([cell for cell in cells if counts[cell.method] == 1])
        columns = _COLUMNS - len(references)
        lines: list[tuple[Card, ...]] = []
        for group in groups:
            for first in range(0, len(group), columns):
                line = group[first : first + columns]
                cards = [self._card(cell, is_alone=counts[cell.method] == 1) for cell in line]
                lines.append((*map(self._reference_card, references), *cards))
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

    def _card(self, cell: Cell, *, is_alone: bool) -> Card:
        """is_alone: whether its neighbours differ in the method, which is then the title."""
        start, title, subtitle = cell.start, typed(cell.start.inversion), typed(cell.method)
        if is_alone:
            title, subtitle = subtitle, f"after {title}"
        if cell.result is None or cell.cost is None or start.cost is None:
            return Card(None, title, subtitle, message=f"failed: {cell.failure}", is_failure=True)
        figures = [_likeness(cell.scores), *_clip(cell.scores), *_truth(cell.scores)]
        if "outside_psnr" in cell.scores:
            figures.append(("outside the mask", _decibels(cell.scores["outside_psnr"])))
        figures.append(("reconstruction", _decibels(start.reconstruction)))
        cost = start.cost + cell.cost
        figures.append(("cost", f"{cost.seconds:.1f} s · {cost.rows} rows"))
        return Card(cell.image, title, subtitle, tuple(figures))

    def _heat_cards(self, look: Look, references: Sequence[Reference], cells: Sequence[Cell]) -> list[Card]:
        cards = [
            _heat_card(self.heatmaps, look.source, look)
            if reference.image is self.picture
            else Card(None, "", message="no model made it")
            for reference in references
        ]
        return cards + [_heat_card(cell.heatmaps, look.target, look) for cell in cells]


def _row(cell: Cell) -> dict[str, tables.Cell]:
    row: dict[str, tables.Cell] = {
        "target": cell.target,
        "inversion": typed(cell.start.inversion),
        "method": typed(cell.method),
        **cell.scores,
        "notices": "; ".join(cell.notices),
    }
    if cell.start.cost is not None:
        row["inversion_seconds"] = cell.start.cost.seconds
        row["inversion_rows"] = float(cell.start.cost.rows)
        row["gradient_rows"] = float(cell.start.cost.with_gradient)
        row["reconstruction"] = cell.start.reconstruction
    if cell.cost is not None and cell.result is not None:
        row["edit_seconds"], row["edit_rows"] = cell.cost.seconds, float(cell.cost.rows)
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
