"""The tables of an evaluation on the built-in world: ours, every row of the papers' beside ours, and the claims."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wordbrush.evaluation.results.statistics import interval
from wordbrush.evaluation.results.tables import (
    MARKED,
    Cell,
    Column,
    comma_separated,
    markdown,
    read_that_judge,
)
from wordbrush.evaluation.subjects.pocket import two
from wordbrush.evaluation.subjects.pocket.claims import Finding, findings
from wordbrush.evaluation.subjects.pocket.plot import plot
from wordbrush.evaluation.subjects.pocket.scores import REAL, Scores
from wordbrush.evaluation.subjects.pocket.variants import ALL, BASE, TRUTH, VARIANTS
from wordbrush.evaluation.subjects.pocket.world import PAIR_PLACES, pairs
from wordbrush.evaluation.subjects.protocols import Name
from wordbrush.evaluation.subjects.published import PUBLISHED, TWO, Setting, Table
from wordbrush.evaluation.subjects.report import checkpoint, score_columns
from wordbrush.files import all_or_none

"""In the place of a score whose judge the method read."""

_LABELS = {
    REAL: "real pictures, self-pairs excluded",
    **{variant.key: variant.label for variant in (TRUTH, BASE, *VARIANTS)},
    **{way.key: way.label for way in two.WAYS.values()},
}

_NEAR = Column("near", "nearness to the truth (encoder)", 3, better="high")
_SCENE = Column("scene", "scene as the words say, % (reader)", 0, 100.0, "high")
_READER = (
    Column("place", "place, %", 0, 100.0, "high"),
    Column("light", "light, %", 0, 100.0, "high"),
    Column("style", "style, %", 0, 100.0, "high"),
)
_KEPT = (
    Column("class_kept", "bare class is still the class, % (reader)", 0, 100.0, "high"),
    Column("class_drift", "drift of the bare class (encoder)", 3, better="low"),
    Column("drift", "drift of other prompts (encoder)", 3, better="low"),
)
_COST = (
    Column("cost_forwards", "training, forwards of one row", 0, better="low"),
    Column("cost_rows", "rows", 0),
    Column("cost_gradient_rows", "of these differentiated", 0),
)


def write(scores: Scores, folder: Path) -> list[Path]:
    """Write `subjects.md`, a CSV of each table, `scores.csv` with every score of every subject, and `plot.png`.

    Returns what was written. Raises `OutputError`, and `MissingExtraError` without matplotlib.
    """
    files = {folder / "subjects.md": text(scores), folder / "scores.csv": _every_score(scores)}
    for name, table in _tables(scores).items():
        files[folder / f"{name}.csv"] = comma_separated(table.rows, table.columns)
    with all_or_none() as opened:
        for path, content in files.items():
            with opened(path) as file:
                file.write(content.encode())
        plot(scores, folder / "plot.png", opened)
    return [*files, folder / "plot.png"]


def text(scores: Scores) -> str:
    """All tables as Markdown."""
    bench, counts = scores.bench, scores.bench.counts
    judges = ", ".join(f"{role} {name}" for role, name in scores.judges.items())
    lines = [
        "# Subjects of the built-in world",
        "",
        f"{len(scores.made)} subjects ({', '.join(subject.title for subject in scores.made)}), "
        f"{len(bench.subjects[0].prompts)} prompts each, {counts.pictures} pictures a prompt; {_sampler(scores)}. "
        f"Judges: {judges}. Means over subjects ± half of the 95 % bootstrap interval, whole subjects drawn.",
    ]
    if counts.training != 1:
        lines += [
            "",
            f"Trainings of {counts.training:g} of their own steps: good for trying this, not for a figure.",
        ]
    for table in _tables(scores).values():
        lines += ["", f"## {table.title}", "", markdown(table.rows, table.columns)]
        lines += [f"- {note}" for note in table.notes]
    return "\n".join(lines).rstrip() + "\n"


@dataclass(frozen=True)
class _Shown:
    """A table."""

    title: str
    rows: Sequence[dict[str, Cell]]
    columns: Sequence[Column]
    notes: Sequence[str] = ()


def _tables(scores: Scores) -> dict[str, _Shown]:
    """Every table by its file's name."""
    bench = scores.bench
    ways = [variant.key for variant in bench.variants]
    full = [variant.key for variant in bench.variants if variant.shows == ALL]
    shown = [TRUTH.key, *full, BASE.key]
    custom = _scores_of(scores, "custom-diffusion")
    dino, clip_i, clip_t, pres, div = _scores_of(scores, "dreambooth")
    there = scores.rows.get("two-truth", {})
    pair_names = ", ".join(pair.name for pair in pairs(bench.subjects) if pair.name in there)
    found = {
        "fidelity": _table(
            scores,
            "Subject and prompt: DreamBooth's table",
            [REAL, *shown],
            [dino, clip_i, clip_t, _NEAR, _SCENE, *_READER],
            [_COPIES],
        ),
        "kept": _table(
            scores,
            "What becomes of everything else: prior preservation and drift",
            shown,
            [dino, pres, div, *_KEPT],
            ["Drift: 1 − cosine with the untouched model's picture of the same prompt and seed."],
        ),
        "class-noun": _table(
            scores,
            "The class noun: right, none, wrong",
            [key for key in _NOUNS if key in ways],
            [dino, clip_i, clip_t, _NEAR],
            ["All three without the prior loss, so that nothing else differs; the paper's are Imagen's."],
        ),
        "custom-diffusion": _table(
            scores,
            "Custom Diffusion's table: one concept",
            shown,
            [*custom, _NEAR],
            [_KID.format(count=bench.counts.category)],
        ),
        "custom-diffusion-ablation": _table(
            scores,
            "Custom Diffusion's ablations",
            [key for key in ways if key.startswith("custom-diffusion")],
            [*custom, _NEAR],
        ),
        "two": _table(
            scores,
            "Custom Diffusion's table: two concepts in one picture",
            list(two.WAYS),
            [custom[0], custom[1], _NEAR, _SCENE],
            [_PAIRS.format(pairs=pair_names, count=len(PAIR_PLACES))],
        ),
        "dreambooth-papers": _beside(
            scores,
            "The papers' rows beside ours: DreamBooth",
            PUBLISHED["dreambooth"],
            [dino, clip_i, clip_t, pres, div],
        ),
        "custom-diffusion-papers": _beside(
            scores,
            "The papers' rows beside ours: Custom Diffusion",
            PUBLISHED["custom-diffusion"],
            custom,
        ),
        "two-papers": _beside(scores, "The papers' rows beside ours: two concepts", TWO, custom, of_two=True),
        "claims": _claims(scores),
        "cost": _table(scores, "What a training takes", ways, _COST),
    }
    return {name: table for name, table in found.items() if table.rows}


_NOUNS = ("dreambooth-no-prior", "dreambooth-no-noun", "dreambooth-wrong-noun")
_COPIES = (
    "Real pictures and true renderings bound a method from above: who varies the scene as the words ask cannot be more "
    "like the five pictures than true renderings of the prompts are. The model as it was bounds it from below."
)
_KID = (
    "KID compares {count} pictures of captions of the category with four times as many real ones of other captions, "
    "the same for all: the rows compare with one another. So few leave noise in the level, which may be below 0."
)
_PAIRS = "Pairs: {pairs}; {count} prompts “a … next to a …”. Image-alignment is the mean over both subjects' pictures."
_CLAIM_NOTES = (
    "Each difference is of one subject (or pair) with itself, better minus worse as the paper says it; the interval "
    "draws whole subjects. “yes” means that all of it is above 0.",
    "Other pictures, networks and counts than the papers': a claim that is not so here may be so there.",
)


def _scores_of(scores: Scores, name: Name) -> list[Column]:
    judges = scores.judges
    return score_columns(
        name, judges["CLIP"], judges["encoder"], judges["distance"], scores.bench.counts.category
    )


def _table(
    scores: Scores, title: str, ways: Sequence[str], columns: Sequence[Column], notes: Sequence[str] = ()
) -> _Shown:
    """The rows of the ways of which there is something, without columns that are empty."""
    there = [way for way in ways if scores.has(way)]
    rows = [{"who": _LABELS[way], **{c.key: _cell(scores, way, c.key) for c in columns}} for way in there]
    kept = [c for c in columns if any(row[c.key] is not None for row in rows)]
    marked = [_LABELS[way] for way in there if any(c.key in scores.read.get(way, ()) for c in kept)]
    if marked:
        notes = [*notes, read_that_judge(marked)]
    return _Shown(title, rows, [Column("who", "method"), *kept], notes)


def _cell(scores: Scores, way: str, key: str) -> Cell:
    if key in scores.read.get(way, ()):
        return MARKED
    found = interval(scores.of(way, key), scores.groups(way))
    return found if found.count else None


# The papers' -----------------------------------------------------------------------------------------------


def _beside(
    scores: Scores, title: str, published: Table, ours: Sequence[Column], *, of_two: bool = False
) -> _Shown:
    """Every row of a paper's table with ours beside it, and in which settings they differ."""
    setting = _setting(scores)
    if of_two:
        count = len(scores.rows.get("two-truth", {}))
        setting = replace(setting, subjects=count, prompts=len(PAIR_PLACES))
    shared = published.shared_differences(setting)
    titles = {column.key: column for column in ours}
    columns = [Column("who", "in the paper")]
    for column in published.columns:
        columns.append(
            Column(f"paper_{column.key}", f"{column.title}, paper", column.digits, better=column.better)
        )
        columns.append(titles[column.key])
    rows: list[dict[str, Cell]] = []
    for row in published.rows:
        is_there = bool(row.ours) and scores.has(row.ours)
        cells: dict[str, Cell] = {"who": row.method, "source": row.source}
        cells |= {f"paper_{key}": value for key, value in row.scores.items()}
        if is_there:
            cells |= {column.key: _cell(scores, row.ours, column.key) for column in published.columns}
            cells["ours"] = _LABELS[row.ours]
        else:
            cells["ours"] = row.without or "not made"
        rows.append({**cells, "comparable": row.comparable(setting, shared)})
    columns += [Column("ours", "ours"), Column("source", "source"), Column("comparable", "comparable")]
    notes = [f"In all rows other than ours: {'; '.join(shared)}."] if shared else []
    return _Shown(title, rows, columns, [*notes, *published.notes])


def _setting(scores: Scores) -> Setting:
    """What our numbers are measured with, in the words of the papers' settings."""
    bench, judges = scores.bench, scores.judges
    encoder = checkpoint(judges["encoder"])
    return Setting(
        "the built-in world",
        checkpoint(judges["CLIP"]),
        encoder,
        len(scores.made),
        len(bench.subjects[0].prompts),
        bench.counts.pictures,
        _sampler(scores),
        judges["distance"],
        encoder,
    )


def _sampler(scores: Scores) -> str:
    return f"DDIM, {scores.bench.counts.steps} steps, guidance 3"


def _claims(scores: Scores) -> _Shown:
    papers = [*_scores_of(scores, "dreambooth"), *_scores_of(scores, "custom-diffusion")]
    titles = {column.key: column.title for column in (*papers, _NEAR, *_KEPT)}
    rows = [_claimed(found, titles[found.claim.score]) for found in findings(scores)]
    columns = [
        Column("source", "claimed in"),
        Column("claim", "claim"),
        Column("score", "by"),
        Column("by", "better by", 3),
        Column("verdict", "here"),
    ]
    return _Shown("What the papers claim, and whether it is so here", rows, columns, _CLAIM_NOTES)


def _claimed(found: Finding, score: str) -> dict[str, Cell]:
    claim = found.claim
    better, worse = (_LABELS.get(way, way) for way in (claim.better, claim.worse))
    return {
        "source": claim.source,
        "claim": f"{better} above {worse}" if claim.which == "high" else f"{better} below {worse}",
        "score": score,
        "by": found.by if found.by.count else None,
        "verdict": found.verdict + (f": {found.why}" if found.why else ""),
    }


def _every_score(scores: Scores) -> str:
    """Every score of every subject, and of every pair, as CSV."""
    names = sorted({key for own in scores.rows.values() for row in own.values() for key in row})
    page = io.StringIO()
    writer = csv.DictWriter(page, ["way", "subject", *names], lineterminator="\n")
    writer.writeheader()
    for way, own in scores.rows.items():
        for subject, row in own.items():
            writer.writerow({"way": way, "subject": subject, **row})
    return page.getvalue()
