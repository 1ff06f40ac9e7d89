"""What a way to teach comes to: by the papers' protocols, and by the truth that only this world has."""

from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from wordbrush import images
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.judges.reader import Reader, likeliest
from wordbrush.evaluation.subjects import format
from wordbrush.evaluation.subjects.pocket import making, two
from wordbrush.evaluation.subjects.pocket.making import Bench
from wordbrush.evaluation.subjects.pocket.variants import BASE, TRUTH, Variant
from wordbrush.evaluation.subjects.pocket.world import Prompt, Subject, pairs
from wordbrush.evaluation.subjects.protocols import Rules
from wordbrush.evaluation.subjects.run import evaluate
from wordbrush.progress import Progress
from wordbrush.records import Records, fingerprint

Score = float | None
Row = Mapping[str, Score]

REAL = "real"
"""The key of the row in which real pictures replace generated ones."""

_TRUTHS = 6  # renderings of a prompt that pictures are compared with
_VERSION = 1  # to be increased when the meaning of a score changes

BY_JUDGE: Mapping[str, frozenset[str]] = {
    "clip": frozenset({"clip_i", "clip_t", "text_alignment", "image_alignment"}),
    "encoder": frozenset(
        {
            "dino",
            "pres",
            "div",
            "nearest",
            "copying",
            "image_alignment_dino",
            "kid",
            "near",
            "drift",
            "class_drift",
        }
    ),
    "reader": frozenset({"scene", "place", "light", "style", "class_kept"}),
}
"""Which judge a score is by."""


@dataclass(frozen=True)
class Scores:
    """The scores of each way to teach, for each subject that was made; a row for the real pictures, too.

    read: for each way the scores that its method read the judge of: they are not in its rows.
    """

    bench: Bench
    judges: Mapping[str, str]
    rows: Mapping[str, Mapping[str, Row]]
    read: Mapping[str, frozenset[str]]

    def of(self, way: str, key: str) -> list[Score]:
        """A way's score for each of the bench's subjects, or pairs of them; None where there is none."""
        return [self.rows.get(way, {}).get(name, {}).get(key) for name in self.groups(way)]

    def groups(self, way: str) -> list[str]:
        """What a way's scores are of, in the order of `of`: the subjects, or pairs of them."""
        units = pairs(self.bench.subjects) if way in two.WAYS else self.bench.subjects
        return [unit.name for unit in units]

    @property
    def made(self) -> list[Subject]:
        """The subjects that there is something of."""
        return [
            subject
            for subject in self.bench.subjects
            if any(subject.name in own for own in self.rows.values())
        ]

    def has(self, way: str) -> bool:
        """Whether anything was made in this way."""
        return bool(self.rows.get(way))


def masked(reads: Iterable[str]) -> frozenset[str]:
    """The scores by these judges."""
    return frozenset(score for judge in reads for score in BY_JUDGE.get(judge, ()))


def score(bench: Bench, judges: Judges) -> Generator[Progress, None, Scores]:
    """Score what is made; rows that are there and still true are not computed again. judges: with their reader."""
    rows: dict[str, dict[str, Row]] = {}
    read: dict[str, frozenset[str]] = {}
    rules = Rules(kid_subset=bench.counts.category)
    for variant in bench.all:
        place = bench.place(variant)
        made = [subject for subject in bench.subjects if bench.is_made(variant, subject)]
        if not made:
            continue
        making.write_listing(bench, variant)  # now: another process may have made parts meanwhile
        folder = format.read(place)
        names = {subject.name for subject in made}
        kept = tuple(each for each in folder.subjects if each.name in names)
        results = yield from evaluate(
            replace(folder, subjects=kept),
            judges,
            place / "scores",
            protocols=("dreambooth", "custom-diffusion"),
            rules=rules,
        )
        true = Records(place / "scores" / "truth.jsonl", ("subject",))
        read[variant.key] = masked(variant.reads)
        own: dict[str, Row] = {}
        for i, subject in enumerate(made):
            has_base = bench.is_made(BASE, subject)
            mark = fingerprint(_VERSION, bench.made(variant, subject), judges.hash, has_base)
            if (subject.name,) not in true or true[subject.name,].get("fingerprint") != mark:
                true.add(
                    [
                        {
                            "subject": subject.name,
                            "fingerprint": mark,
                            **by_truth(bench, variant, subject, judges),
                        }
                    ]
                )
            found: dict[str, Any] = {}
            for scored in (*(by[i] for by in results.rows.values()), true[subject.name,]):
                found |= {name: value for name, value in scored.items() if isinstance(value, float)}
            found |= {f"cost_{name}": value for name, value in bench.cost(variant, subject).items()}
            if variant is TRUTH:
                rows.setdefault(REAL, {})[subject.name] = {
                    name.removeprefix("real_"): value
                    for name, value in found.items()
                    if name.startswith("real_")
                }
            own[subject.name] = {
                name: value for name, value in found.items() if name not in read[variant.key]
            }
            yield Progress("scoring by the truth", i + 1, len(made))
        rows[variant.key] = own
    for way, own in two.score(bench, judges).items():
        read[way] = masked(two.WAYS[way].reads)
        rows[way] = {
            name: {key: value for key, value in row.items() if key not in read[way]}
            for name, row in own.items()
        }
    return Scores(bench, judges.names, rows, read)


def by_truth(bench: Bench, variant: Variant, subject: Subject, judges: Judges) -> dict[str, Score]:
    """The scores of a part that need the truth, or the model as it was.

    near: by the encoder, the mean cosine with true renderings of the prompt. place, light, style: the share of the
    pictures whose prompt names it in which the reader sees that one; scene: in which it sees all that is named.
    class_kept: the share of the bare class's pictures in which it sees the class. drift, class_drift: by the encoder,
    1 − the cosine with the picture that the model as it was makes of the same prompt and seed: of prompts that name
    neither the subject nor its class, and of the bare class.
    """
    assert judges.reader is not None, "the truth needs the world reader"
    generated = bench.place(variant) / "generated" / subject.name
    near: list[float] = []
    right: dict[str, list[float]] = {"place": [], "light": [], "style": [], "scene": []}
    for i, prompt in enumerate(subject.prompts):
        made = _opened(generated / str(i))
        true = prompt.truths(subject, _TRUTHS)
        near.append(float((judges.encoder.images(made) @ judges.encoder.images(true).T).mean()))
        for seen in _seen(judges.reader, made, prompt):
            for name, is_right in seen.items():
                right[name].append(is_right)
    bare = _opened(generated / "_class")
    kept = [float(each.sees(subject.class_word)) for each in judges.reader.read(bare)] if bare else []
    return {
        "near": _mean(near),
        **{name: _mean(values) for name, values in right.items()},
        "class_kept": _mean(kept),
        **_drifts(bench, variant, subject, judges),
    }


def _seen(reader: Reader, made: Sequence[Image.Image], prompt: Prompt) -> list[dict[str, float]]:
    """Of each picture, whether what the prompt names of the scene is seen; day and photo are not named."""
    named = {"place": prompt.place}
    named |= {"light": prompt.light} if prompt.light != "day" else {}
    named |= {"style": prompt.style} if prompt.style != "photo" else {}
    found: list[dict[str, float]] = []
    for each in reader.read(made):
        right = {name: float(likeliest(getattr(each, name)) == wanted) for name, wanted in named.items()}
        found.append({**right, "scene": min(right.values())})
    return found


def _drifts(bench: Bench, variant: Variant, subject: Subject, judges: Judges) -> dict[str, Score]:
    if variant in (TRUTH, BASE):
        return {}
    found: dict[str, Score] = {}
    for name, below in (
        ("drift", Path("others") / subject.name),
        ("class_drift", Path("generated") / subject.name / "_class"),
    ):
        own, base = (_opened(bench.place(which) / below) for which in (variant, BASE))
        if own and len(own) == len(base):
            cosines = (judges.encoder.images(own) * judges.encoder.images(base)).sum(-1)
            found[name] = float(1 - cosines.mean())
    return found


def _opened(folder: Path) -> list[Image.Image]:
    return [images.load(path) for path in sorted(folder.glob("*.png"))]


def _mean(values: Sequence[float]) -> Score:
    return sum(values) / len(values) if values else None
