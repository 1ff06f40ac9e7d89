"""The tables of a folder of subjects: our scores, what is missing for them, and the papers' numbers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wordbrush.evaluation.results.statistics import Interval, interval
from wordbrush.evaluation.results.tables import Cell, Column, comma_separated, markdown
from wordbrush.evaluation.subjects.protocols import Name
from wordbrush.evaluation.subjects.published import PUBLISHED, Setting
from wordbrush.evaluation.subjects.run import Results, Row
from wordbrush.files import all_or_none

# Checkpoints that may bear a published score's name. Anything else has its role, and a name that says so.
_DINOS = {"dino-vits16", "dino-vits8", "dino-vitb16", "dino-vitb8"}
_CLIPS = {
    "clip-vit-base-patch32",
    "clip-vit-base-patch16",
    "clip-vit-large-patch14",
    "clip-vit-large-patch14-336",
}


@dataclass(frozen=True)
class _Protocol:
    """A protocol's title, its counts (None: the paper has none), and its lines by the prefix of their scores."""

    title: str
    subjects: int | None
    prompts: int | None
    pictures: int
    lines: Mapping[str, str]


_PROTOCOLS: Mapping[Name, _Protocol] = {
    "dreambooth": _Protocol("DreamBooth", 30, 25, 4, {"real_": "real pictures, self-pairs {self_pairs}"}),
    "custom-diffusion": _Protocol("Custom Diffusion", None, 20, 50, {}),
    "textual-inversion": _Protocol(
        "Textual Inversion",
        None,
        None,
        64,
        {
            "image_only_": "image only: the real pictures, self-pairs {self_pairs}",
            "prompt_only_": "prompt only: without the token",
        },
    ),
}

_NEEDS = {
    "pres": "pictures in generated/<subject>/_class",
    "div": "two pictures of a prompt",
    "kid": "enough pictures in category/<class> and in generated/<subject>/_category",
    "reconstruction": "pictures in generated/<subject>/_photo",
}


def write(results: Results, out: Path) -> list[Path]:
    """Write `subjects.md`, and for each protocol its tables as CSV: ours, by subject, and the papers'.

    Returns what was written. Raises `OutputError`.
    """
    files = {out / "subjects.md": text(results)}
    for name, rows in results.rows.items():
        files[out / f"{name}.csv"] = comma_separated(_ours(name, results), _our_columns(name, results))
        files[out / f"{name}-subjects.csv"] = comma_separated(
            _by_subject(name, rows), _subject_columns(name, results)
        )
        if PUBLISHED[name].rows:
            files[out / f"{name}-published.csv"] = comma_separated(
                _published(name, results), _published_columns(name)
            )
    with all_or_none() as opened:
        for path, content in files.items():
            with opened(path) as file:
                file.write(content.encode())
    return list(files)


def text(results: Results) -> str:
    """All of it as Markdown."""
    folder, rules = results.folder, results.rules
    prompts = "without their token" if rules.text == "token-free" else "with their token"
    lines = [
        f"# {folder.method}",
        "",
        f"{len(folder.subjects)} subjects; subjects and prompts: {folder.data}. "
        f"CLIP: {results.clip}. Encoder in DINO's role: {results.encoder}. Distance: {results.distance}. "
        f"Prompts are read {prompts}. Sampler: {folder.sampler or 'not reported'}. "
        "Means over subjects ± half of the 95 % bootstrap interval, whole subjects drawn.",
    ]
    for name, rows in results.rows.items():
        published = PUBLISHED[name]
        lines += [
            "",
            f"## {_PROTOCOLS[name].title}'s protocol",
            "",
            markdown(_ours(name, results), _our_columns(name, results)),
            *(f"- {note}" for note in _notes(name, results)),
            "",
            "By subject:",
            "",
            markdown(_by_subject(name, rows), _subject_columns(name, results)),
        ]
        if published.rows:
            shared = published.shared_differences(setting(name, results))
            lines += [
                "In the papers:",
                "",
                markdown(_published(name, results, shared), _published_columns(name)),
            ]
            if shared:
                lines += [f"- None of these rows can be compared with ours: {'; '.join(shared)}."]
        lines += [f"- {note}" for note in published.notes]
    return "\n".join(lines) + "\n"


# Ours -------------------------------------------------------------------------------------------------------


def _ours(name: Name, results: Results) -> list[dict[str, Cell]]:
    """The folder's line, and the reference lines of the protocol as far as their pictures are there."""
    rows, protocol = results.rows[name], _PROTOCOLS[name]
    table: list[dict[str, Cell]] = []
    for prefix, label in {"": results.folder.method, **protocol.lines}.items():
        cells: dict[str, Cell] = {"who": label.replace("{self_pairs}", results.rules.self_pairs)}
        groups = [row["subject"] for row in rows]
        for column in _score_columns(name, results):
            cells[column.key] = interval([row.get(prefix + column.key) for row in rows], groups)
        if not prefix:
            cells |= {
                "subjects": _of([len(rows)], protocol.subjects),
                "prompts": _of([row["prompts"] for row in rows], protocol.prompts),
                "pictures": _of(_pictures(rows), protocol.pictures),
            }
        if not prefix or any(isinstance(cell, Interval) and cell.count for cell in cells.values()):
            table.append(cells)
    return table


def _our_columns(name: Name, results: Results) -> list[Column]:
    return [
        Column("who", "method"),
        *_score_columns(name, results),
        Column("subjects", "subjects"),
        Column("prompts", "prompts a subject"),
        Column("pictures", "pictures a prompt"),
    ]


def _score_columns(name: Name, results: Results) -> list[Column]:
    return score_columns(name, results.clip, results.encoder, results.distance, results.rules.kid_subset)


def score_columns(name: Name, clip: str, encoder: str, distance: str, kid_subset: int) -> list[Column]:
    """A protocol's scores, under names that cannot be mistaken for those of another network."""

    def by_clip(score: str) -> str:
        return _role(score, clip, _CLIPS, "pocket CLIP")

    def by_encoder(score: str) -> str:
        return _role(score, encoder, _DINOS, "pocket encoder")

    match name:
        case "dreambooth":
            is_lpips = distance.startswith("lpips")
            return [
                Column("dino", by_encoder("DINO"), 3, better="high"),
                Column("clip_i", by_clip("CLIP-I"), 3, better="high"),
                Column("clip_t", by_clip("CLIP-T"), 3, better="high"),
                Column("pres", by_encoder("PRES"), 3, better="low"),
                Column("div", f"DIV{'' if is_lpips else '-role'} ({distance})", 3, better="high"),
            ]
        case "custom-diffusion":
            kid = _role("KID", encoder, set(), "pocket encoder")
            return [
                Column("text_alignment", by_clip("text-alignment"), 3, better="high"),
                Column("image_alignment", by_clip("image-alignment"), 3, better="high"),
                Column("image_alignment_dino", by_encoder("image-alignment by DINO"), 3, better="high"),
                Column("kid", f"{kid} ×10³, subsets of {kid_subset}", 2, better="low"),
            ]
        case "textual-inversion":
            return [
                Column("reconstruction", by_clip("image similarity"), 3, better="high"),
                Column(
                    "editability",
                    by_clip("text similarity") + ", embeddings averaged first",
                    3,
                    better="high",
                ),
                Column(
                    "editability_of_code", by_clip("text similarity") + ", cosines averaged", 3, better="high"
                ),
            ]


def _role(score: str, network: str, published: set[str], pocket: str) -> str:
    shown = pocket if network == "pocket" else network
    return f"{score}{'' if checkpoint(network) in published else '-role'} ({shown})"


def checkpoint(network: str) -> str:
    """The last part of a hub id or a folder."""
    return network.rstrip("/").rpartition("/")[2]


def _notes(name: Name, results: Results) -> Iterator[str]:
    """What the folder lacks for the protocol, and other notes on its numbers."""
    rows, protocol = results.rows[name], _PROTOCOLS[name]
    if absent := results.folder.absent:
        yield f"No pictures of {', '.join(absent)}: left out."
    wanted = (
        ("subjects", [len(rows)], protocol.subjects),
        ("prompts a subject", [row["prompts"] for row in rows], protocol.prompts),
        ("pictures a prompt", _pictures(rows), protocol.pictures),
    )
    if name == "textual-inversion":
        wanted += (("pictures of “A photo of S*”", [row["photos"] for row in rows], 64),)
    if name == "custom-diffusion":
        wanted += (
            ("real pictures of the category", [row["category_real"] for row in rows], 500),
            ("pictures made of their captions", [row["category_made"] for row in rows], 1000),
        )
    others = [
        f"{_of(counts, count)} {what}" for what, counts, count in wanted if count and {*counts} != {count}
    ]
    if others:
        yield f"Not the paper's counts: {', '.join(others)}."
    for column in _score_columns(name, results):
        count = sum(row.get(column.key) is not None for row in rows)
        if count < len(rows):
            needs = _NEEDS.get(column.key, "generated pictures of its prompts")
            yield f"{column.title}: {count} of {len(rows)} subjects have it; it needs {needs}."
    if len(rows) == 1:
        yield "One subject says nothing about the spread: ± 0 does not mean certainty."
    copied = [row["subject"] for row in rows if row.get("copying")]
    if copied:
        yield (
            f"Copying suspected of {len(copied)} of {len(rows)} subjects ({', '.join(copied)}): their pictures are "
            "more like the real ones than those are like each other. Compare the column “nearest real picture”."
        )
    if unknown := [row["subject"] for row in rows if name == "dreambooth" and row.get("copying") is None]:
        yield f"Copying cannot be checked for {', '.join(unknown)}: that takes two real pictures and generated ones."


def _of(counts: Sequence[int], expected: int | None) -> str:
    """`25 of 25`, or `3–5 of 25`; without the paper's count where it has none."""
    return _range(counts) + ("" if expected is None else f" of {expected}")


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low}–{high}"


def _pictures(rows: Sequence[Row]) -> list[int]:
    return [row[key] for row in rows for key in ("fewest_pictures", "most_pictures")]


# By subject -------------------------------------------------------------------------------------------------


def _by_subject(name: Name, rows: Sequence[Row]) -> list[dict[str, Cell]]:
    protocol = _PROTOCOLS[name]
    return [
        {
            **{key: value for key, value in row.items() if isinstance(value, float | str)},
            "real": str(row["real"]),
            "prompts": _of([row["prompts"]], protocol.prompts),
            "pictures": _of(_pictures([row]), protocol.pictures),
            "copying": "suspected" if row.get("copying") else None,
        }
        for row in rows
    ]


def _subject_columns(name: Name, results: Results) -> list[Column]:
    columns = [Column("subject", "subject"), *_score_columns(name, results)]
    if name == "dreambooth":
        columns += [
            Column("real_dino", "real pictures among themselves", 3),
            Column("nearest", "nearest real picture", 3),
            Column("copying", "copying"),
        ]
    return [
        *columns,
        Column("real", "real pictures"),
        Column("prompts", "prompts"),
        Column("pictures", "pictures a prompt"),
    ]


# The papers' ------------------------------------------------------------------------------------------------


def _published(name: Name, results: Results, known: Sequence[str] = ()) -> list[dict[str, Cell]]:
    """The papers' rows, without the differences from ours that are `known` already."""
    ours = setting(name, results)
    return [
        {"who": row.method, **row.scores, "source": row.source, "comparable": row.comparable(ours, known)}
        for row in PUBLISHED[name].rows
    ]


def _published_columns(name: Name) -> list[Column]:
    return [
        Column("who", "method"),
        *PUBLISHED[name].columns,
        Column("source", "source"),
        Column("comparable", "comparable with ours"),
    ]


def setting(name: Name, results: Results) -> Setting:
    """What our numbers of a protocol were measured with, in the words of the papers' settings."""
    rows = results.rows[name]
    return Setting(
        results.folder.data,
        checkpoint(results.clip),
        checkpoint(results.encoder),
        len(rows),
        _number(_range([row["prompts"] for row in rows])),
        _number(_range(_pictures(rows))),
        results.folder.sampler or None,
        "LPIPS" if results.distance.startswith("lpips") else results.distance,
        checkpoint(results.encoder),
    )


def _number(shown: str) -> int | str:
    return int(shown) if shown.isdecimal() else shown
