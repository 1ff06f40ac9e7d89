"""The tables of the report, with their targets, and the sheets of pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

DOCS = Path(__file__).parents[3] / "docs"
BEGIN, END = "<!-- figures: written by recipes/pocket/report/report.py -->", "<!-- end of figures -->"

PICTURE, MARGIN, TEXT = 128, 8, 52

Cells = list[tuple[Image.Image, str]]  # pictures and their captions


@dataclass(frozen=True)
class Figure:
    """A line of the table: the measured value, the value for the truth or the bound, the target, and the count."""

    name: str
    value: float
    beside: float | None = None
    bar: float | None = None
    of: int | None = None
    unit: str = "%"

    def text(self, value: float | None) -> str:
        """A value of this figure as printed."""
        if value is None:
            return ""
        return {"%": f"{100 * value:.1f} %", "dB": f"{value:.1f} dB", "IoU": f"{value:.2f}"}[self.unit]


BARS = {
    "object": ("the object, one named", 0.98),
    "object, new pair": ("the object, with a colour or place training never gave it", None),
    "both objects": ("both objects, two named", 0.92),
    "all three objects": ("all three objects, three named", 0.75),
    "all three objects, new pair": ("the same, with a colour or place training never gave one of them", None),
    "colour": ("a colour", 0.95),
    "colour, no sketch": ("a colour, pencil sketches left out", None),
    "place": ("the place", 0.98),
    "light": ("the light, where it is not day", 0.95),
    "style": ("the style, where it is not a photo", 0.95),
}


def listed(report: dict[str, Any]) -> list[Figure]:
    """All figures of the report, in the order of the table."""
    whole = report["autoencoder"]
    found = [Figure("autoencoder, PSNR", whole["psnr"], None, 32, whole["pictures"], "dB")]
    for aspect, (name, bar) in BARS.items():
        if counted := report["paintings"].get(aspect):
            found.append(Figure(name, counted["right"], counted["truth"], bar, counted["of"]))
    for kind, counted in report["maps"].items():
        name = f"word map on what it names, {kind} (a map of everything: {counted['everywhere']:.2f})"
        found.append(Figure(name, counted["iou"], None, 0.5, counted["of"], "IoU"))
    swap = report["edits"]["swap"]
    drawn = round(swap["of"] * swap["drawn"])
    shown = "edits, swaps that show the new thing, where the model alone draws it"
    found.append(Figure(shown, swap["shown of drawn"], None, 0.80, drawn))
    stays = "edits, swaps: what should stay, PSNR"
    return [*found, Figure(stays, swap["kept"], swap["bound"], 22, swap["of"], "dB")]


def model_table(report: dict[str, Any]) -> str:
    """The figures as a table, followed by the guidance scales tried and the distance to true renderings."""
    lines = ["| measured on held-out scenes | reached | truth | bar | of |", "|---|---:|---:|---:|---:|"]
    for figure in listed(report):
        values = (figure.text(v) for v in (figure.value, figure.beside, figure.bar))
        lines.append(f"| {figure.name} | {' | '.join(values)} | {figure.of or ''} |")
    likeness, guidance = report["kid"], report["guidance"]
    kid_text = (
        f"KID ×10³ to true renderings of other scenes: {likeness['painted']:.2f}; the true renderings' own: "
    )
    kid_text += f"{likeness['rendered']:.2f}."
    tried = ", ".join(
        f"{scale:g}: {100 * sum(scores[a]['right'] for a in ('object', 'colour', 'place')) / 3:.0f} %"
        for scale, scores in guidance["tried"].items()
    )
    scales = f"Guidance {guidance['used']:g}, the default. Other scales, by the mean of object, colour and place over "
    scales += f"{guidance['prompts']} prompts at {guidance['steps']} steps: {tried}."
    paragraphs = [textwrap.fill(text, 118) for text in ((kid_text, scales) if tried else (kid_text,))]
    return "\n".join([*lines, "", "\n\n".join(paragraphs)])


def edits_table(report: dict[str, Any]) -> str:
    """The results of all kinds of edits, beside the truth and the same noise without an edit."""
    lines = [
        "| change | of | shows it | truth | unedited | stays | bound | unedited | near the truth | unedited | source |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for kind, counted in report["edits"].items():
        shares = [f"{100 * counted[key]:.0f} %" for key in ("shown", "truth", "baseline")]
        levels = ("kept", "bound", "baseline kept", "near", "baseline near", "source near")
        decibels = [f"{counted[key]:.1f}" if key in counted else "" for key in levels]
        lines.append(f"| {kind} | {counted['of']} | {' | '.join([*shares, *decibels])} |")
    swap = report["edits"]["swap"]
    text = (
        f"Without an edit, from other noise, the model draws {100 * swap['drawn']:.0f} % of the swaps' targets "
        f"right; of these the edit shows the new thing in {100 * swap['shown of drawn']:.0f} % (target: 80 %). What "
        f"should stay in a swap: {swap['kept']:.1f} dB (target: 22 dB; bound {swap['bound']:.1f} dB)."
    )
    return "\n".join([*lines, "", textwrap.fill(text, 118)])


def card(report: dict[str, Any]) -> dict[str, str]:
    """The figures as name → text, for the model card."""
    found: dict[str, str] = {}
    for figure in listed(report):
        beside = "" if figure.beside is None else f" (the truth: {figure.text(figure.beside)})"
        found[figure.name] = figure.text(figure.value) + beside
    return found


def write(table: str, page: Path, begin: str = BEGIN) -> None:
    """Replace the table on a page. Raises `ValueError` if the page lacks the two marker lines."""
    before, begun, rest = page.read_text().partition(begin)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise ValueError(
            f"expected the lines {begin!r} and {END!r} in {page}, to write the table between them"
        )
    page.write_text(f"{before}{begin}\n\n{table}\n\n{END}{after}")


def sheet(cells: Sequence[tuple[Image.Image, str]], columns: int = 8) -> Image.Image:
    """A sheet of pictures of 128 pixels, each above its caption."""
    wide, high = PICTURE + 2 * MARGIN, PICTURE + MARGIN + TEXT
    page = Image.new("RGB", (columns * wide, -(-len(cells) // columns) * high), "white")
    draw = ImageDraw.Draw(page)
    for i, (picture, caption) in enumerate(cells):
        left, top = i % columns * wide + MARGIN, i // columns * high + MARGIN
        page.paste(picture, (left, top))
        draw.rectangle((left - 1, top - 1, left + PICTURE, top + PICTURE), outline=(225, 225, 225))
        text = textwrap.fill(caption, 26)
        draw.text((left, top + PICTURE + 2), text, fill=(60, 60, 60), font_size=10, spacing=1)
    return page


def save(page: Image.Image, path: Path) -> None:
    """Write a sheet as WebP, a quarter of a PNG's size; at this quality small captions stay crisp."""
    page.save(path, "WEBP", quality=88, method=6)
