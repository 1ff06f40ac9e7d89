"""The ground-truth bench: any editing method after any inversion, on scenes whose every edit has a true answer.

    bench = Bench(model, split(seed=1, count=20), Judges.load(reader=True), Path("out"), seed=1)
    rows = drain(bench.run([Contender("prompt_to_prompt", "direct")]))

A case that a method cannot edit (it raises an error, or its latents are not finite) counts as the source, and its row
holds the reason.

Every edit is scored twice: as the model's rendering, by the contender's label, and pasted back into the picture, as a
user gets it (`pasted`). What is pasted keeps the picture's own pixels where nothing changed, which no inversion can be
praised for, so the two are never mixed.

`out` keeps edits and scores apart: `edits.jsonl` with a PNG for each edit, which `wordbrush replay` makes again from
the PNG of its scene, and `results.jsonl` with the scores. A run that was stopped or killed, or is given more cases,
goes on where it was; with other judges the same edits are scored again. Cases of one scene share its inversion and are
edited in one batch, as a user would edit one picture in several ways; the cost is divided among them.
"""

import json
import os
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from wordbrush import api, images, provenance
from wordbrush.errors import ImageError, NumericsError, OutputError, PromptError, short
from wordbrush.evaluation.bench.cases import Case
from wordbrush.evaluation.bench.scores import columns, scored
from wordbrush.evaluation.contender import Contender, Outcome
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.results.cost import measured
from wordbrush.files import atomic_write
from wordbrush.masks import Mask, Where
from wordbrush.model import Model
from wordbrush.progress import Progress, drain
from wordbrush.reading import json_mapping
from wordbrush.records import Records
from wordbrush.source import Source

TRUTH, SOURCE = "the truth", "the source"
KEPT_TRUTH, KEPT_SOURCE = "the truth, autoencoded", "the source, autoencoded"
BOUNDS = {
    TRUTH: "is the true answer: the best possible edit, and the scores it gets",
    SOURCE: "is the source unedited: keeps everything and changes nothing",
    KEPT_TRUTH: "is the true answer through the autoencoder: the best that an edit of latents can be",
    KEPT_SOURCE: "is the source through the autoencoder: the best that an edit of latents can keep",
}


def pasted(label: str) -> str:
    """The label of a contender's edits as they are pasted back into their pictures."""
    return f"{label}, pasted"


def labels_of(contenders: Sequence[Contender]) -> list[str]:
    """The labels of all rows, in the order of the tables: the bounds, then each contender's two."""
    return [*BOUNDS, *(name for each in contenders for name in (each.label, pasted(each.label)))]


@dataclass(frozen=True, eq=False)
class Bench:
    """Cases, judges, and the folder that keeps everything. seed: the one that the cases were drawn with."""

    model: Model
    cases: Sequence[Case]
    judges: Judges
    out: Path
    seed: int

    def run(self, contenders: Sequence[Contender]) -> Generator[Progress, None, list[dict[str, Any]]]:
        """Edit and score what is missing; returns the rows of the bounds and of these contenders, in that order.

        Raises `OutputError` if `out` holds the bench of another model or seed, or of a contender with other options.
        """
        self._check(contenders)
        edits = Records(self.out / "edits.jsonl", ("method", "case"))
        results = Records(self.out / "results.jsonl", ("method", "case"))
        for contender in contenders:
            yield from self._edit(contender, edits)
        labels = labels_of(contenders)
        read = {name: each.reads for each in contenders for name in (each.label, pasted(each.label))}
        for label in labels:
            yield from self._score(label, edits, results, read.get(label, frozenset()))
        return [results[label, case.name] for label in labels for case in self.cases]

    def picture(self, label: str, case: Case) -> Image.Image:
        """The edit of a case by a contender, or a bound's picture. Raises `ImageError` if its file cannot be read."""
        if label in BOUNDS:
            picture = case.truth if label in (TRUTH, KEPT_TRUTH) else case.picture
            return self._autoencoded(picture) if label in (KEPT_TRUTH, KEPT_SOURCE) else picture
        return images.load(self.path(label, case))

    def path(self, label: str, case: Case) -> Path:
        """The file of a contender's edit of a case."""
        return self.out / "edits" / label / f"{case.name}.png"

    def _scenes(self) -> Iterator[tuple[list[Case], int]]:
        """The cases scene by scene, with the number of cases up to there."""
        done = 0
        for _, cases in groupby(self.cases, key=lambda case: case.scene):
            group = list(cases)
            done += len(group)
            yield group, done

    def _edit(self, contender: Contender, edits: Records) -> Generator[Progress, None, None]:
        for group, done in self._scenes():
            labels = contender.label, pasted(contender.label)
            if not all(self._is_edited(label, case, edits) for case in group for label in labels):
                # All cases of the scene, since the batch's shape can decide the last bit.
                edits.add(self._edited(contender, group))
            yield Progress(f"editing: {contender.label}", done, len(self.cases))

    def _is_edited(self, label: str, case: Case, edits: Records) -> bool:
        key = (label, case.name)
        try:
            return key in edits and provenance.pixel_hash(self.picture(label, case)) == edits[key]["pixels"]
        except ImageError:
            return False

    def _edited(self, contender: Contender, group: Sequence[Case]) -> list[dict[str, Any]]:
        """Edit the cases of one scene and write their pictures; returns their rows."""
        first, count = group[0], len(group)
        scene = Path("scenes", f"{first.scene}.png")
        images.save_png(first.picture, self.out / scene)
        inversion = contender.invert(self.model, self.out / scene, first.source_prompt)
        source, inverting = drain(measured(self.model, inversion))
        source = source.made_of(scene.as_posix())  # the records hold wherever the folder is
        outcomes, cost = drain(measured(self.model, self._attempts(contender, source, group)))
        cost += inverting
        rows: list[dict[str, Any]] = []
        for case, outcome in zip(group, outcomes, strict=True):
            result = outcome.result
            notices = [] if result is None else list(result.report.notices)
            made = {
                contender.label: source.image(self.model) if result is None else result.rendering,
                pasted(contender.label): case.picture if result is None else result.image,
            }
            for label, picture in made.items():
                images.save_png(picture, self.path(label, case))
            rows += [
                {
                    "method": label,
                    "case": case.name,
                    "pixels": provenance.pixel_hash(picture),
                    "seconds": cost.seconds / count,
                    "processor_seconds": cost.processor_seconds / count,
                    "unet_rows": cost.rows / count,
                    "inversion_rows": inverting.rows / count,
                    "gradient_rows": cost.with_gradient / count,
                    "together": count,
                    "words": None if result is None else result.report.words,
                    "notices": notices,
                    "error": outcome.error,
                }
                for label, picture in made.items()
            ]
        return rows

    def _attempts(
        self, contender: Contender, source: Source, group: Sequence[Case]
    ) -> Generator[Progress, None, list[Outcome]]:
        """The cases of one scene in one batch; one by one where each has a mask of its own."""
        failures = PromptError, NumericsError
        if not contender.true_mask:
            targets = [case.target_prompt for case in group]
            return (yield from contender.attempt(self.model, source, targets, failures))
        outcomes: list[Outcome] = []
        for case in group:
            where = self._true_mask(case)
            outcomes += yield from contender.attempt(
                self.model, source, [case.target_prompt], failures, where
            )
        return outcomes

    def _true_mask(self, case: Case) -> Where:
        """The case's true mask, from a file that its record names; none where nothing changes, since nothing would be
        left to edit."""
        if not case.mask.any():
            return api.ANYWHERE
        name = Path("masks", f"{case.name}.png")
        images.save_png(Image.fromarray(np.where(case.mask, np.uint8(255), np.uint8(0))), self.out / name)
        mask = Mask.of(self.out / name)
        return Where(replace(mask, file=mask.file.model_copy(update={"path": name.as_posix()})))

    def _score(
        self, label: str, edits: Records, results: Records, read: frozenset[str]
    ) -> Generator[Progress, None, None]:
        """Score what is missing; those by judges that the method has read are left out."""
        judges = self.judges.hash
        left_out = {key: None for key, column in columns("").items() if column.judge in read}
        for group, done in self._scenes():
            made = [edits[label, case.name] if (label, case.name) in edits else {} for case in group]
            fingerprints = [f"{judges} {edit.get('pixels', self.model.hash)}" for edit in made]
            is_new = any(
                (label, case.name) not in results or results[label, case.name]["judged"] != fingerprint
                for case, fingerprint in zip(group, fingerprints, strict=True)
            )
            if is_new:
                scores = scored(self.judges, group, [self.picture(label, case) for case in group])
                results.add(
                    {
                        "method": label,
                        "case": case.name,
                        "kind": case.kind,
                        "scene": case.scene,
                        "source_prompt": case.source_prompt,
                        "target_prompt": case.target_prompt,
                        **score,
                        **left_out,
                        "reads": sorted(read),
                        **{key: edit.get(key) for key in COSTS},
                        "judged": fingerprint,
                    }
                    for case, score, edit, fingerprint in zip(group, scores, made, fingerprints, strict=True)
                )
            yield Progress(f"scoring: {label}", done, len(self.cases))

    def _autoencoded(self, picture: Image.Image) -> Image.Image:
        with torch.no_grad():
            latents = self.model.encode_image(api.fitted(self.model, picture))
            return images.to_image(self.model.decode(latents)[0].cpu())

    def _check(self, contenders: Sequence[Contender]) -> None:
        """Compare `run.json` with what is asked for now, and write down what is new."""
        path = self.out / "run.json"
        now: dict[str, Any] = {
            "model": provenance.model_record(self.model).model_dump(mode="json"),
            "seed": self.seed,
            "contenders": {
                contender.label: {
                    "options": dict(contender.options),
                    "inversion_options": dict(contender.inversion_options),
                }
                for contender in contenders
            },
            "judges": self.judges.names,
            "threads": torch.get_num_threads(),
            "versions": provenance.versions(),
        }
        before = _read_run(path)
        for key in ("model", "seed") if before else ():
            if before[key] != now[key]:
                raise OutputError(
                    f"{self.out} holds the bench of another {key} ({_short(before[key])}, now "
                    f"{_short(now[key])}): choose another --out"
                )
        known: dict[str, Any] = before.get("contenders", {})
        for label, options in now["contenders"].items():
            if known.get(label, options) != options:
                raise OutputError(
                    f"{self.out} holds {label} with other options ({short(known[label])}): choose another --out"
                )
        now["contenders"] = known | now["contenders"]
        with atomic_write(path) as file:
            file.write((json.dumps(now, indent=2, ensure_ascii=False) + "\n").encode())


COSTS = ("seconds", "processor_seconds", "unet_rows", "inversion_rows", "gradient_rows", "notices", "error")
"""What a row of results repeats from the edit's row: its cost, its notices, and its error if it is the source."""


def _read_run(path: Path) -> dict[str, Any]:
    """The content of a `run.json`, empty if there is no file. Raises `OutputError` for anything else."""
    if not os.path.lexists(path):
        return {}
    content = json_mapping(path, OutputError, finite=False)
    if not {"model", "seed", "contenders"} <= set(content) or not isinstance(content["contenders"], dict):
        raise OutputError(f"{path} was not written by the bench: choose another --out")
    return content


def _short(value: object) -> str:
    plain = short(value)
    named = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    return f"hash {str(named['hash'])[:12]}…" if "hash" in named else plain
