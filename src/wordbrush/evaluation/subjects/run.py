"""Scores a folder of generated subjects by the protocols of DreamBooth, Custom Diffusion and Textual Inversion.

    folder = read(Path("my-subjects"))
    results = drain(evaluate(folder, Judges.load(), Path("out")))
    write(results, Path("out"))  # from `report`

`out/results.jsonl` has a row for each subject and protocol. A run that was killed goes on there; rows of other
pictures, networks or rules are computed again. The tables show the mean over the subjects with its 95 % bootstrap
interval, whole subjects drawn, where the folder has fewer pictures than a protocol, and the papers' numbers with the
differences of their settings.
"""

import hashlib
import json
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.subjects.format import Folder, Subject
from wordbrush.evaluation.subjects.protocols import PROTOCOLS, Name, Rules, Seen
from wordbrush.progress import Progress
from wordbrush.records import Records

RESULTS = "results.jsonl"
Row = dict[str, Any]

_AT_ONCE = 25  # pictures open at a time


@dataclass(frozen=True)
class Results:
    """The rows of a folder's subjects by protocol, in the folder's order, and how they were made."""

    folder: Folder
    clip: str
    encoder: str
    distance: str
    rules: Rules
    rows: Mapping[Name, Sequence[Row]]
    notices: Sequence[str]


def evaluate(
    folder: Folder,
    judges: Judges,
    out: Path,
    *,
    protocols: Sequence[Name] = tuple(PROTOCOLS),
    rules: Rules = Rules(),  # noqa: B008, a value
) -> Generator[Progress, None, Results]:
    """Score every subject by every protocol that `out` has no row of yet.

    Raises `ImageError` for a picture that cannot be read, `PromptError` for a prompt that is too long for CLIP,
    `InputError` for a token that is to be kept and not given, `OutputError` if rows cannot be written.
    """
    for subject in folder.subjects:  # an invalid prompt is reported before any picture is opened
        for prompt in subject.prompts:
            subject.text(prompt, with_token=rules.text == "with-token")
    records = Records(out / RESULTS, ("subject", "protocol"))
    prints = {subject.name: _fingerprint(subject, folder, judges, rules) for subject in folder.subjects}
    missing: dict[str, list[Name]] = {
        name: [protocol for protocol in protocols if _is_stale(records, (name, protocol), fingerprint)]
        for name, fingerprint in prints.items()
    }
    again = sum((name, protocol) in records for name, names in missing.items() for protocol in names)
    waiting = [subject for subject in folder.subjects if missing[subject.name]]
    done, total = 0, sum(len(subject.pictures) for subject in waiting)
    compared, prompts = 0, sum(len(s.made) for s in waiting if "dreambooth" in missing[s.name])
    seen = Seen(judges)
    for subject in waiting:
        for first in range(0, len(subject.pictures), _AT_ONCE):
            paths = subject.pictures[first : first + _AT_ONCE]
            seen.look(paths)
            done += len(paths)
            yield Progress("looking at pictures", done, total)
        if "dreambooth" in missing[subject.name]:
            for paths in subject.made:
                seen.spread(paths)
                compared += 1
                yield Progress("comparing pictures", compared, prompts)
        counts = {"fingerprint": prints[subject.name], **_counts(subject)}
        records.add(
            {"subject": subject.name, "protocol": name, **counts, **PROTOCOLS[name](subject, seen, rules)}
            for name in missing[subject.name]
        )
    rows: dict[Name, Sequence[Row]] = {
        name: [records[subject.name, name] for subject in folder.subjects] for name in protocols
    }
    notice = (
        f"{again} rows of {records.path} were of other pictures, networks or rules and were computed again"
    )
    notices = [notice] if again else []
    return Results(folder, judges.clip.name, judges.encoder.name, judges.distance.name, rules, rows, notices)


def _is_stale(records: Records, key: tuple[str, Name], fingerprint: str) -> bool:
    return key not in records or records[key].get("fingerprint") != fingerprint


def _fingerprint(subject: Subject, folder: Folder, judges: Judges, rules: Rules) -> str:
    """Changes with everything a row depends on: pictures (by name, size and time), words, networks, rules.

    Not `records.fingerprint`, whose sorted keys would give rows that are already there another fingerprint.
    """

    def local(path: object) -> str:
        return os.path.relpath(str(path), folder.path)  # a folder may be moved

    pictures = (*subject.pictures, *subject.category_real, *subject.category_made)
    files = [(path.stat().st_size, path.stat().st_mtime_ns) for path in pictures]
    networks = (judges.clip.name, judges.encoder.name, judges.distance.name)
    text = json.dumps([asdict(subject), files, networks, asdict(rules)], default=local)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _counts(subject: Subject) -> Row:
    """The counts that the protocols specify, for the tables."""
    present = [len(paths) for paths in subject.made if paths]
    return {
        "real": len(subject.real),
        "prompts": len(present),
        "fewest_pictures": min(present, default=0),
        "most_pictures": max(present, default=0),
        "class_pictures": len(subject.class_made),
        "photos": len(subject.photos),
        "category_real": len(subject.category_real),
        "category_made": len(subject.category_made),
    }
