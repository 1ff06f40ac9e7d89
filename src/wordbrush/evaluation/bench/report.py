"""The bench's results: tables in Markdown and CSV, and contact sheets of the pictures."""

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from wordbrush.evaluation.bench.cases import ADDED, KINDS, UNCHANGED
from wordbrush.evaluation.bench.run import BOUNDS, SOURCE, TRUTH, Bench
from wordbrush.evaluation.bench.scores import columns
from wordbrush.evaluation.bench.sheets import Shown, contact_sheet
from wordbrush.evaluation.metrics.pixels import PSNR_LIMIT
from wordbrush.evaluation.results.statistics import Interval, interval
from wordbrush.evaluation.results.tables import (
    MARKED,
    Cell,
    Column,
    comma_separated,
    markdown,
    read_that_judge,
)
from wordbrush.files import all_or_none, atomic_write
from wordbrush.inputs import listed
from wordbrush.progress import Progress

Rows = Sequence[Mapping[str, Any]]
ON_A_SHEET = 16  # cases

_METHOD = Column("method", "method")
_COSTS = (
    Column("unet_rows", "UNet rows an edit", 0, better="low"),
    Column("inversion_rows", "of them inverting", 0),
    Column("gradient_rows", "of them differentiated", 0),
    Column("processor_seconds", "processor seconds", 1, better="low"),
    Column("seconds", "seconds", 1, better="low"),
)
_SECTIONS: dict[str, tuple[str, ...]] = {
    "Does it show the change, and how near is it to the truth?": (
        "success",
        "truth_psnr",
        "truth_ssim",
        "truth_distance",
        "truth_mse",
    ),
    "What should stay: outside of the true mask, against the picture": (
        "outside_psnr",
        "outside_ssim",
        "outside_distance",
        "outside_mse",
        "kept_psnr",
    ),
    "What should change: inside of the true mask, against the truth": (
        "inside_psnr",
        "inside_ssim",
        "inside_distance",
        "inside_mse",
    ),
    "By CLIP and by the encoder": (
        "clip",
        "clip_region",
        "directional",
        "structure",
    ),
}
_IDENTITY = ("success", "identity_psnr", "identity_distance")


def report(bench: Bench, rows: Rows, command: str) -> Generator[Progress, None, str]:
    """Write `table.md`, `table.csv` and `sheets/` to the bench's folder; returns the Markdown.

    rows: as returned by `Bench.run`. command: the command that was run, for the end of the table.
    """
    text = tables(bench, rows, command)
    shown = [_METHOD, *columns(bench.judges.distance.name).values(), *_COSTS]
    with all_or_none() as opened:
        for name, content in (("md", text), ("csv", comma_separated(_all_means(rows, shown), shown))):
            with opened(bench.out / f"table.{name}") as file:
                file.write(content.encode())
    labels = [label for label in _labels(rows) if label not in BOUNDS]
    for done, label in enumerate(labels, 1):
        _sheets(bench, label, [row for row in rows if row["method"] == label])
        yield Progress("drawing sheets", done, len(labels))
    return text


def tables(bench: Bench, rows: Rows, command: str) -> str:
    """All tables in Markdown: by method, by kind of case, and which scores can be gamed."""
    scores = columns(bench.judges.distance.name)
    parts = [
        f"# The ground-truth bench: {len(bench.cases)} cases",
        "Mean ± half of the 95 % bootstrap interval, scenes drawn whole. A dash: does not apply. "
        f"Equal pictures count as {PSNR_LIMIT:.1f} dB. Cases in which nothing changes are in a table of their own and "
        "in no other. The words leave open where an added thing goes: it counts wherever it is seen, and these cases "
        "have a score for the things that were there before in place of those against the truth.",
    ]
    for title, keys in _SECTIONS.items():
        shown = [_METHOD, *(scores[key] for key in keys)]
        parts += [f"## {title}", markdown(_by_method(_changing(rows), shown), shown)]
    shown = [_METHOD, *(scores[key] for key in _IDENTITY)]
    unchanging = [row for row in rows if row["kind"] == UNCHANGED]
    parts += [
        "## Nothing changed: how far the picture drifts",
        markdown(_by_method(unchanging, shown), shown),
    ]
    with_cost = [row for row in rows if row.get("unet_rows") is not None]
    parts += [
        "## What it cost",
        _COST_NOTE,
        markdown(_by_method(with_cost, [_METHOD, *_COSTS]), [_METHOD, *_COSTS]),
    ]
    for key in ("success", "truth_psnr", "outside_psnr", "kept_psnr"):
        parts += [f"## By kind: {scores[key].heading}", _by_kind(rows, scores[key])]
    parts += ["## Which scores can be gamed?", _GAME_NOTE, _gameable(rows, list(scores.values()))]
    parts += [_footer(bench, rows, command)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def summary(bench: Bench, rows: Rows) -> str:
    """The main scores, in Markdown."""
    scores = columns(bench.judges.distance.name)
    keys = ("success", "truth_psnr", "outside_psnr", "inside_psnr")
    shown = [_METHOD, *(scores[key] for key in keys), _COSTS[0]]
    return markdown(_by_method(_changing(rows), shown), shown)


def means(rows: Rows) -> dict[str, dict[str, float | None]]:
    """Each score's mean by method over the cases in which something changes, unscaled; None where it does not apply."""
    shown = [_METHOD, *columns("").values(), *_COSTS]
    return {
        str(line["method"]): {
            key: cell.mean if isinstance(cell, Interval) and cell.count else None
            for key, cell in line.items()
            if key != _METHOD.key
        }
        for line in _all_means(rows, shown)
    }


_COST_NOTE = (
    "A row is one latent through the UNet once. Cases of one scene share its inversion and one batch, and the cost "
    "is divided among them; a differentiated row costs about as much as three others."
)
_GAME_NOTE = (
    "*The source* is the picture unedited and *the truth* is the true answer. Where the source wins, doing nothing "
    "beats every edit; where an edit beats the truth, the score rewards something other than the right answer."
)


def _labels(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _changing(rows: Rows) -> Rows:
    return [row for row in rows if row["kind"] != UNCHANGED]


def _mean(rows: Rows, key: str) -> Interval:
    return interval([row.get(key) for row in rows], [row["scene"] for row in rows])


def _has_read(rows: Rows, column: Column) -> bool:
    """Whether the method of these rows has read the judge of a score."""
    return any(column.judge in row.get("reads", ()) for row in rows)


def _by_method(rows: Rows, shown: Sequence[Column]) -> list[dict[str, Cell]]:
    table: list[dict[str, Cell]] = []
    for label in _labels(rows):
        own = [row for row in rows if row["method"] == label]
        means: dict[str, Cell] = {
            column.key: MARKED if _has_read(own, column) else _mean(own, column.key)
            for column in shown
            if column != _METHOD
        }
        table.append({"method": label, **means})
    return table


def _all_means(rows: Rows, shown: Sequence[Column]) -> list[dict[str, Cell]]:
    """Each score's mean over the cases it applies to: something changes in them, or nothing."""
    identity = [_METHOD, *(column for column in shown if column.key in _IDENTITY[1:])]
    pairs = zip(_by_method(_changing(rows), shown), _by_method(rows, identity), strict=True)
    return [changing | unchanging for changing, unchanging in pairs]


def _by_kind(rows: Rows, score: Column) -> str:
    labels = _labels(rows)
    lines: list[dict[str, Cell]] = []
    for kind in KINDS:
        of_kind = [row for row in rows if row["kind"] == kind]
        if any(row.get(score.key) is not None for row in of_kind):  # some kinds have no such score
            line: dict[str, Cell] = {"kind": kind, "of": str(len(of_kind) // len(labels))}
            for label in labels:
                own = [row for row in of_kind if row["method"] == label]
                line[label] = MARKED if _has_read(own, score) else _mean(own, score.key)
            lines.append(line)
    own = [Column(label, label, score.digits, score.scale) for label in labels]
    return markdown(lines, [Column("kind", "kind"), Column("of", "cases"), *own])


def _gameable(rows: Rows, scores: Sequence[Column]) -> str:
    """For each score, whether the unedited source beats every edit, and whether an edit beats the truth."""
    edits = [label for label in _labels(rows) if label not in BOUNDS]
    lines: list[dict[str, Cell]] = []
    for score in scores:
        labels = [
            label for label in edits if not _has_read([row for row in rows if row["method"] == label], score)
        ]
        used = rows if score.key in _IDENTITY[1:] else _changing(rows)
        means = {
            label: _mean([row for row in used if row["method"] == label], score.key)
            for label in (*labels, SOURCE, TRUTH)
        }
        if means[TRUTH].count == 0 or not labels:
            continue
        sign = 1 if score.better == "high" else -1
        best = max(labels, key=lambda label: sign * means[label].mean)
        verdicts: list[str] = []
        if sign * means[SOURCE].mean > sign * means[best].mean:
            verdicts.append("the source wins")
        if sign * means[best].mean > sign * means[TRUTH].mean:
            verdicts.append("an edit beats the truth")
        lines.append(
            {
                "score": score.heading,
                "best": f"{means[best].mean * score.scale:.{score.digits}f} ({best})",
                "source": f"{means[SOURCE].mean * score.scale:.{score.digits}f}",
                "truth": f"{means[TRUTH].mean * score.scale:.{score.digits}f}",
                "verdict": "; ".join(verdicts) or "holds",
            }
        )
    return markdown(
        lines,
        [
            Column("score", "score"),
            Column("best", "best edit"),
            Column("source", "the source"),
            Column("truth", "the truth"),
            Column("verdict", "verdict"),
        ],
    )


def _footer(bench: Bench, rows: Rows, command: str) -> str:
    judges = "; ".join(f"{role}: {name}" for role, name in bench.judges.names.items())
    lines = [
        f"- `{command}`",
        f"- model: {bench.model.name}, hash {bench.model.hash[:12]}…",
        *(f"- with {listed(concepts)}" for concepts in [bench.model.concepts] if concepts),
        f"- judges: {judges}",
    ]
    for label in _labels(rows):
        if failed := [row for row in rows if row["method"] == label and row.get("error")]:
            lines.append(
                f"- {label} could not edit {len(failed)} cases, which count as the source: {failed[0]['error']}"
            )
    lines.append(
        "- *…, pasted* is the same edit as a user gets it: brought back into the picture, whose own pixels stay where "
        "nothing changed"
    )
    if any(", true mask" in label for label in _labels(rows)):
        lines.append(
            "- *…, true mask* was told where the answer differs from the picture: an upper bound, not to be compared "
            "with rows that were not"
        )
    if marked := [
        label for label in _labels(rows) if any(row.get("reads") for row in rows if row["method"] == label)
    ]:
        lines.append(f"- {read_that_judge(marked)}")
    lines += [f"- *{label}* {what}" for label, what in BOUNDS.items() if label in _labels(rows)]
    return "## How it was made\n\n" + "\n".join(lines)


# Sheets -----------------------------------------------------------------------------------------------------


def _worst(rows: Rows) -> Rows:
    """Failures first, then the farthest from the truth."""
    return sorted(rows, key=lambda row: (row["success"], row[_likeness(row)]))


def _likeness(row: Mapping[str, Any]) -> str:
    """The score to sort by and to print: an added thing has no one true answer."""
    return "kept_psnr" if row["kind"] == ADDED else "truth_psnr"


def _random(rows: Rows) -> Rows:
    return random.Random(0).sample(rows, len(rows))


_ORDERS: dict[str, Callable[[Rows], Rows]] = {"worst": _worst, "random": _random}


def _sheets(bench: Bench, label: str, rows: Rows) -> None:
    """For each kind of case the worst sixteen and sixteen at random; and all of these, small, on one page."""
    for name, order in _ORDERS.items():
        small: list[Image.Image] = []
        for kind in KINDS:
            of_kind = order([row for row in rows if row["kind"] == kind])[:ON_A_SHEET]
            if of_kind:
                title = f"{label}: {kind}, {name}"
                page = sheet(bench, label, of_kind, title)
                _save_jpeg(page, bench.out / "sheets" / label / f"{kind.replace(' ', '-')}-{name}.jpg")
                small.append(sheet(bench, label, of_kind, title, across=4, tile=52))
        with atomic_write(bench.out / "sheets" / f"{label}-{name}.webp") as file:
            _stacked(small).save(file, "WEBP", quality=60)


def sheet(
    bench: Bench, label: str, rows: Rows, title: str, *, across: int = 2, tile: int = 128
) -> Image.Image:
    """A contact sheet of a contender's cases, in the order of the rows."""
    cases = {case.name: case for case in bench.cases}
    shown = [
        Shown(
            cases[row["case"]],
            bench.picture(label, cases[row["case"]]),
            bool(row["success"]),
            f"{row[_likeness(row)]:.1f} dB",
        )
        for row in rows
    ]
    return contact_sheet(title, shown, across=across, tile=tile)


def _stacked(pages: Sequence[Image.Image]) -> Image.Image:
    whole = Image.new("RGB", (max(page.width for page in pages), sum(page.height for page in pages)), "white")
    top = 0
    for page in pages:
        whole.paste(page, (0, top))
        top += page.height
    return whole


def _save_jpeg(page: Image.Image, path: Path) -> None:
    """Sheets are only looked at, and a JPEG has a fifth of the PNG's size."""
    with atomic_write(path) as file:
        page.save(file, "JPEG", quality=88)
