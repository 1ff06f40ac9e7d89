"""InstructPix2Pix's curve (Brooks et al. 2023): how far an edit goes with the words, against how much stays.

One point a value of an option that trades the two, the paper's being `image_guidance_scale`. On y the image
similarity cos(E(I₀), E(I₁)) of the picture before and after; on x the directional similarity
cos(E(I₁) − E(I₀), E(T₁) − E(T₀)), with E of CLIP and the *captions* T before and after, not the instruction. Up and
to the right is better. Any option of any editing method or inversion can be swept.

    curves = Curves(cases, load_clip(), Path("out"))
    drain(curves.sweep(model, Contender("prompt_to_prompt", "direct"), "direct", "self_replace_steps", (0, 0.4, 0.8)))
    points(curves.rows())

Protocol of the paper: CLIP ViT-L/14, 5,000 pictures of the test split, image guidance 1.0 to 2.2, text guidance 7.5,
100 steps. Its released script gives CLIP pictures in [−1, 1] where CLIP's preprocessing expects [0, 1]; here every
picture passes through 8 bits and CLIP's own processor, so published curves sit elsewhere than ours would.

Where the captions barely differ, T₁ − T₀ is noise and so is its cosine. Equal captions have no direction and take no
part; `most_alike` leaves out those whose cos(E(T₀), E(T₁)) is above it, and every row keeps that number.
"""

import hashlib
import json
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from wordbrush import api, editing, images, inversion, methods, provenance
from wordbrush.errors import InputError, OptionsError, OutputError, nearest
from wordbrush.evaluation.bench import cases as scenes
from wordbrush.evaluation.bench.run import Contender
from wordbrush.evaluation.judges.backbones import Clip
from wordbrush.evaluation.metrics.similarity import directional_similarity, image_similarity
from wordbrush.evaluation.results.statistics import Interval, interval
from wordbrush.evaluation.results.tables import Cell, Column
from wordbrush.model import Model
from wordbrush.options import Options, parse
from wordbrush.progress import Progress
from wordbrush.records import Records

TRUTH = "the truth"
PAPERS_OPTION, PAPERS_VALUES = "image_guidance_scale", ("1.0", "1.2", "1.4", "1.6", "1.8", "2.0", "2.2")
_KEY = ("curve", "value", "case")


@dataclass(frozen=True, eq=False)
class DirectionalCase:
    """A picture, its caption and the caption after the edit.

    group: what cases have in common that share a picture; they are drawn together for intervals. instruction: for
    methods that read one. truth: the true answer, where the world can draw it.
    """

    name: str
    group: str
    input_caption: str
    output_caption: str
    content: Image.Image | Path
    instruction: str | None = None
    truth: Image.Image | None = None

    @cached_property
    def picture(self) -> Image.Image:
        """The picture before, RGB. Raises `ImageError` if its file cannot be read."""
        return images.load(self.content) if isinstance(self.content, Path) else self.content


def read(path: Path) -> list[DirectionalCase]:
    """Cases from lines of JSON: `picture` (a path from the file's folder), `input`, `output`, perhaps `instruction`.

    Raises `InputError`, naming the line, for a file that is missing or not this, and for a picture that is missing.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}; expected lines of JSON") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text: expected lines of JSON") from error
    told = [_told(path, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not told:
        raise InputError(f"{path}: expected at least one case, got none")
    return told


def _told(path: Path, number: int, line: str) -> DirectionalCase:
    where = f"{path}, line {number}"
    try:
        given: object = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: expected a case as JSON, got {line[:60]!r}") from error
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected keys and values, got {line[:60]!r}")
    entry = cast(dict[str, object], given)
    known = ("picture", "input", "output", "instruction")
    for key in entry:
        if key not in known:
            raise InputError(f"{where}: unknown key '{key}'{nearest(key, known)}")
    for key in known[: 4 if "instruction" in entry else 3]:
        if not isinstance(entry.get(key), str) or not str(entry[key]).strip():
            raise InputError(f"{where}: expected '{key}' to be text, got {entry.get(key)!r}")
    picture = path.parent / str(entry["picture"])
    if not picture.is_file():
        raise InputError(f"{where}: expected a picture at {picture}, and there is none")
    instruction = str(entry["instruction"]) if "instruction" in entry else None
    return DirectionalCase(
        str(number), str(picture), str(entry["input"]), str(entry["output"]), picture, instruction
    )


def from_pocket(count: int, seed: int) -> list[DirectionalCase]:
    """Cases of the built-in world (`cases.split`) with their true answers; those that change nothing are left out."""
    return [
        DirectionalCase(
            case.name,
            str(case.scene),
            case.source_prompt,
            case.target_prompt,
            case.picture,
            f"make it {case.target_prompt}",
            case.truth,
        )
        for case in scenes.split(seed, count)
        if case.kind != "nothing changed"
    ]


# What is swept ----------------------------------------------------------------------------------------------


def swept(contender: Contender, option: str, text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the inversion and the edit are told at one value of the swept option.

    Where both have an option of that name, both are told. Raises `OptionsError` for an option that neither has, one
    that is told already, and a value out of its range.
    """
    kinds = _options(contender)
    if not any(option in kind.model_fields for kind in kinds):
        known = [name for kind in kinds for name in kind.model_fields]
        raise OptionsError(
            f"neither {contender.inversion} nor {contender.method} has '{option}'{nearest(option, known)}"
        )
    told: list[dict[str, Any]] = []
    for kind, own in zip(kinds, (contender.inversion_options, contender.options), strict=True):
        if option in own:
            raise OptionsError(f"option '{option}' is swept: leave its own value {own[option]!r} out")
        value = {option: text} if option in kind.model_fields else {}
        told.append(parse(kind, {**own, **value}).model_dump(mode="json", exclude_defaults=True))
    return told[0], told[1]


def papers_sweep(contender: Contender) -> tuple[str, tuple[str, ...]]:
    """What the paper swept, for a method that has it. Raises `OptionsError` for one that has not."""
    if any(PAPERS_OPTION in kind.model_fields for kind in _options(contender)):
        return PAPERS_OPTION, PAPERS_VALUES
    raise OptionsError(
        f"{contender.method} has no {PAPERS_OPTION}: say what to sweep, as in --sweep self_replace_steps=0,0.4,0.8"
    )


def _options(contender: Contender) -> tuple[type[Options], type[Options]]:
    found = (
        methods.find(inversion.METHODS, contender.inversion, "inversion"),
        methods.find(editing.METHODS, contender.method, "editing"),
    )
    return found[0].options(), found[1].options()


# Measuring --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Curves:
    """The cases, the CLIP that sees them, and the folder where rows and pictures are kept.

    A sweep that is stopped goes on where it was; each further one is one more curve.
    """

    cases: Sequence[DirectionalCase]
    clip: Clip
    out: Path

    def sweep(
        self, model: Model, contender: Contender, curve: str, option: str, values: Sequence[str]
    ) -> Generator[Progress, None, None]:
        """Edit every case at every value that is not there yet; a source serves all values that leave it as it is.

        values: as typed. Raises `OutputError` if `out` holds the curve with other settings, `OptionsError`, and
        whatever an edit raises: points of a curve are only comparable over the same cases.
        """
        settings = {value: swept(contender, option, value) for value in values}
        records = self._records()
        for case in self.cases:
            for value in values:
                options = settings[value][1]
                api.check_edit(
                    model, case.input_caption, [case.output_caption], method=contender.method, options=options
                )
        done, total = 0, len(self.cases) * len(values)
        for case in self.cases:
            sources: dict[str, Any] = {}
            for value in values:
                inverting, options = settings[value]
                sign = _digest(
                    model.hash, contender.method, contender.inversion, settings[value], self._sign(case)
                )
                key = (curve, value, case.name)
                if key in records and records[key]["made_with"] != sign:
                    raise OutputError(
                        f"{self.out} holds {curve} with another model, CLIP, options or pictures (case {case.name}): "
                        "choose another --out or --label"
                    )
                if key not in records:
                    same = _digest(inverting)
                    if same not in sources:
                        sources[same] = api.invert(
                            model,
                            case.picture,
                            case.input_caption,
                            method=contender.inversion,
                            options=inverting,
                        )
                    result = api.edit(
                        model, sources[same], case.output_caption, method=contender.method, options=options
                    )
                    images.save_png(result.image, self.path(curve, value, case))
                    about = {"curve": curve, "option": option, "value": value, "made_with": sign}
                    records.add([about | self._scored(model, case, result.image)])
                done += 1
                yield Progress(f"sweeping: {curve}", done, total)

    def add_truth(self, model: Model) -> Generator[Progress, None, None]:
        """Score the true answers, where there are any, as one point of their own."""
        records = self._records()
        known = [case for case in self.cases if case.truth is not None]
        for done, case in enumerate(known, 1):
            sign = _digest(self._sign(case))
            key = (TRUTH, "", case.name)
            if key not in records or records[key]["made_with"] != sign:
                assert case.truth is not None
                about = {"curve": TRUTH, "option": "", "value": "", "made_with": sign}
                records.add([about | self._scored(model, case, case.truth)])
            yield Progress("scoring: the truth", done, len(known))

    def path(self, curve: str, value: str, case: DirectionalCase) -> Path:
        """Where the edit of a case at a value lies."""
        return self.out / "edits" / curve / value.replace("/", "_") / f"{case.name}.png"

    def rows(self) -> list[dict[str, Any]]:
        """The rows of every curve in `out`, of these cases alone."""
        names = {case.name for case in self.cases}
        return [row for row in self._records() if row["case"] in names and row["clip"] == self.clip.name]

    def _records(self) -> Records:
        return Records(self.out / "results.jsonl", _KEY)

    def _sign(self, case: DirectionalCase) -> str:
        pictures = [provenance.pixel_hash(case.picture)]
        pictures += [provenance.pixel_hash(case.truth)] if case.truth is not None else []
        return _digest(self.clip.name, case.input_caption, case.output_caption, pictures)

    def _scored(self, model: Model, case: DirectionalCase, made: Image.Image) -> dict[str, Any]:
        height, width = model.image_size
        before, after = self.clip.images([images.fit(case.picture, width, height), made]).unsqueeze(1)
        said, wanted = self.clip.texts([case.input_caption, case.output_caption], truncate=True).unsqueeze(1)
        return {
            "case": case.name,
            "group": case.group,
            "clip": self.clip.name,
            "image_similarity": _number(image_similarity(before, after)),
            "directional_similarity": _number(directional_similarity(before, after, said, wanted)),
            "caption_similarity": _number((said * wanted).sum(-1)),
        }


def _number(score: Float[Tensor, " 1"]) -> float:
    return score.item()


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]


# Points -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One value of one curve: both similarities, their means over the cases with 95 % bootstrap intervals."""

    curve: str
    option: str
    value: str
    directional: Interval
    image: Interval


def points(rows: Sequence[Mapping[str, Any]], most_alike: float = 1.0) -> list[Point]:
    """The points of all curves, in the order of the rows.

    most_alike: leave out cases whose captions have a higher cosine. Both means are over the same cases: those whose
    captions have a direction.
    """
    kept: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        direction = row["directional_similarity"]
        defined = direction is not None and not math.isnan(direction)
        if defined and row["caption_similarity"] <= most_alike + 1e-6:
            kept.setdefault((row["curve"], row["option"], row["value"]), []).append(row)
    drawn: list[Point] = []
    for (curve, option, value), own in kept.items():
        groups = [row["group"] for row in own]
        directional, image = (
            interval([row[f"{which}_similarity"] for row in own], groups)
            for which in ("directional", "image")
        )
        drawn.append(Point(curve, option, value, directional, image))
    return drawn


def columns(clip: str) -> list[Column]:
    """The columns of `table`; the CLIP is in their titles and keys, since it decides every number."""
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
    return [
        dict(
            zip(
                keys,
                (
                    point.curve,
                    point.option,
                    point.value,
                    point.directional,
                    point.image,
                    float(point.directional.count),
                ),
                strict=True,
            )
        )
        for point in points
    ]
