"""The report card on paper: the table beside its aims, and the sheets of pictures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- figures: written by recipes/pocket/report.py -->", "<!-- end of figures -->"

PICTURE, MARGIN, TEXT = 128, 8, 52


@dataclass(frozen=True)
class Figure:
    """One line of the table: what was measured, what its judge or bound makes of the truth, and what was aimed at.

    `cpu` and `gpu` are the aims for a model trained on two cores in an hour or so, and on an accelerator.
    """

    name: str
    value: float
    beside: float | None = None
    cpu: float | None = None
    gpu: float | None = None
    of: int | None = None
    unit: str = "%"

    def text(self, value: float | None) -> str:
        """A value of this figure as it is printed."""
        if value is None:
            return ""
        return {"%": f"{100 * value:.0f} %", "dB": f"{value:.1f} dB", "IoU": f"{value:.2f}"}[self.unit]


def listed(report: dict[str, Any]) -> list[Figure]:
    """Every figure of the report, in the table's order."""
    whole = report["autoencoder"]
    found = [Figure("autoencoder, PSNR", whole["psnr"], None, 28, 30, whole["pictures"], "dB")]
    aims = {
        ("one", "object"): ("the object, one named", 0.65, 0.95),
        ("one", "object, new pair"): (
            "the object, with a colour or place training never gave it",
            None,
            None,
        ),
        ("two", "both objects"): ("both objects, two named", 0.35, 0.85),
        ("one", "colour"): ("its colour", 0.60, 0.90),
        ("one", "place"): ("the place", 0.90, 0.95),
        ("one", "light"): ("the light, where it is not day", None, None),
        ("one", "style"): ("the style, where it is not a photo", None, None),
    }
    for (part, aspect), (name, cpu, gpu) in aims.items():
        if counted := report[part].get(aspect):
            found.append(Figure(name, counted["right"], counted["judge"], cpu, gpu, counted["of"]))
    for kind, counted in report["maps"].items():
        name = f"word map on what it names, {kind} (a map of everything: {counted['everywhere']:.2f})"
        found.append(Figure(name, counted["iou"], of=counted["of"], unit="IoU"))
    for kind, counted in report["edits"].items():
        count = counted["of"]
        found.append(Figure(f"edits, {kind}: shows the target", counted["right"], counted["judge"], of=count))
        if kind == "swap":
            name = "edits, swap: shows the target, where the model alone draws it"
            drawn = round(count * counted["drawn_right"])
            found.append(Figure(name, counted["right_of_drawn"], None, 0.80, 0.80, drawn))
        name = f"edits, {kind}: nearer to the true answer than the source"
        found.append(Figure(name, counted["nearer"], of=count))
        aim = 22 if kind == "swap" else None
        name = f"edits, {kind}: what should stay, PSNR"
        found.append(Figure(name, counted["kept"], counted["bound"], aim, aim, count, "dB"))
    return found


def markdown(report: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = [
        "| measured on held-out scenes | reached | truth | aim, CPU | aim, GPU | of |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for figure in listed(report):
        values = (figure.text(v) for v in (figure.value, figure.beside, figure.cpu, figure.gpu))
        lines.append(f"| {figure.name} | {' | '.join(values)} | {figure.of or ''} |")
    return "\n".join(lines)


def card(report: dict[str, Any]) -> dict[str, str]:
    """The figures as name → text, for the model card."""
    found: dict[str, str] = {}
    for figure in listed(report):
        beside = "" if figure.beside is None else f" (the truth: {figure.text(figure.beside)})"
        found[figure.name] = figure.text(figure.value) + beside
    return found


def write_table(report: dict[str, Any], page: Path) -> None:
    """Put the table in its place on the page. Raises `ValueError` if the page has no such place."""
    text = page.read_text()
    if text.find(BEGIN) < 0 or text.find(END) < text.find(BEGIN):
        raise ValueError(
            f"expected the lines {BEGIN!r} and {END!r} in {page}, to write the table between them"
        )
    guidance = report["guidance"]
    tried = ", ".join(
        f"{scale:g}: {100 * sum(scores[a]['right'] for a in ('object', 'colour', 'place')) / 3:.0f} %"
        for scale, scores in guidance["tried"].items()
    )
    chosen = f"Guidance {guidance['best']:g}, chosen by the mean of object, colour and place over "
    chosen += f"{guidance['prompts']} prompts at {guidance['steps']} steps ({tried})."
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    page.write_text(f"{before}{BEGIN}\n\n{markdown(report)}\n\n{textwrap.fill(chosen, 118)}\n\n{END}{after}")


def sheet(cells: Sequence[tuple[Image.Image, str]], columns: int = 8) -> Image.Image:
    """Pictures of 128 pixels, each over its caption."""
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
