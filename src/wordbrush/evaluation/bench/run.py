"""The ground-truth bench: any editing method after any inversion, on scenes whose every edit has a true answer.

    bench = Bench(model, split(seed=1, count=20), Judges.load(), "out")
    table = drain(bench.run([Contender("prompt_to_prompt", "direct")]))

A case that a method cannot edit (it says so, or its latents are not finite) gets the source back, and its row the
reason.

`out` holds what is made and what is measured apart from one another: `edits.jsonl` and a PNG an edit, which
`wordbrush replay` makes again from the PNG of its scene, and `results.jsonl` with the scores. A run that is stopped,
killed or asked for more cases goes on where it was; with other judges the same edits are scored again. Cases of one
scene share its inversion and are edited in one batch, as one would edit a picture in several ways; what that cost is
divided among them.
"""

import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wordbrush import api, images, provenance
from wordbrush.errors import ImageError, NumericsError, OutputError, PromptError
from wordbrush.evaluation.bench.cases import Case
from wordbrush.evaluation.bench.scores import Judges, scored
from wordbrush.evaluation.results.cost import counting
from wordbrush.files import atomic_write
from wordbrush.model import Model
from wordbrush.progress import Progress
from wordbrush.records import Records
from wordbrush.source import Source

TRUTH, SOURCE = "the truth", "the source"
KEPT_TRUTH, KEPT_SOURCE = "the truth, autoencoded", "the source, autoencoded"
BOUNDS = {
    TRUTH: "pastes the true answer: the best there is, and what the scores make of it",
    SOURCE: "gives the source back: keeps everything and edits nothing",
    KEPT_TRUTH: "the true answer through the autoencoder: the best that an edit of latents can be",
    KEPT_SOURCE: "the source through the autoencoder: the best that an edit of latents can keep",
}


@dataclass(frozen=True)
class Contender:
    """An editing method after an inversion, with what both are told."""

    method: str
    inversion: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inversion_options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def label(self) -> str:
        """What tables, folders and rows call it: `direct+prompt-to-prompt`."""
        return f"{self.inversion}+{self.method}".replace("_", "-")


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What became of a case, one of the `targets` edited together; of one that could not be, the source and why."""

    picture: Image.Image
    targets: Sequence[str]
    index: int
    report: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error: str | None = None


@dataclass(frozen=True, eq=False)
class Bench:
    """Cases, who judges, and the folder where everything is kept. `seed`: what the cases were drawn by."""

    model: Model
    cases: Sequence[Case]
    judges: Judges
    out: Path
    seed: int

    def run(self, contenders: Sequence[Contender]) -> Generator[Progress, None, list[dict[str, Any]]]:
        """Edit what is not edited yet, score what is not scored yet; returns the rows of all that `out` holds of
        these contenders and of the bounds, in that order.

        Raises `OutputError` if `out` holds the bench of another model, or of a contender with other options.
        """
        self._check(contenders)
        edits = Records(self.out / "edits.jsonl", ("method", "case"))
        results = Records(self.out / "results.jsonl", ("method", "case"))
        for contender in contenders:
            yield from self._edit(contender, edits)
        labels = [*BOUNDS, *(contender.label for contender in contenders)]
        for label in labels:
            yield from self._score(label, edits, results)
        wanted = [(label, case.name) for label in labels for case in self.cases]
        return [results[key] for key in wanted]

    def picture(self, label: str, case: Case) -> Image.Image:
        """What a contender or a bound made of a case. Raises `ImageError` if its file is gone or another."""
        if label == TRUTH:
            return case.truth
        if label == SOURCE:
            return case.picture
        if label == KEPT_TRUTH:
            return self._autoencoded(case.truth)
        if label == KEPT_SOURCE:
            return self._autoencoded(case.picture)
        return images.load(self.path(label, case))

    def path(self, label: str, case: Case) -> Path:
        """Where a contender's edit of a case lies."""
        return self.out / "edits" / label / f"{case.name}.png"

    def _edit(self, contender: Contender, edits: Records) -> Generator[Progress, None, None]:
        label, done = contender.label, 0
        for _, together in groupby(self.cases, key=lambda case: case.scene):
            group = list(together)
            done += len(group)
            if not all(self._is_made(label, case, edits) for case in group):
                # All of the scene, since the batch's shape can decide the last bit.
                edits.add(self._edited(contender, group))
            yield Progress(f"editing: {label}", done, len(self.cases))

    def _is_made(self, label: str, case: Case, edits: Records) -> bool:
        key = (label, case.name)
        try:
            return key in edits and provenance.pixel_hash(self.picture(label, case)) == edits[key]["pixels"]
        except ImageError:
            return False

    def _edited(self, contender: Contender, group: Sequence[Case]) -> list[dict[str, Any]]:
        """Edit the cases of one scene, write their pictures; returns their rows."""
        first = group[0]
        scene = Path("scenes", f"{first.scene}.png")
        images.save_png(first.picture, self.out / scene)
        file = provenance.FileRecord(path=scene.as_posix(), sha256=provenance.sha256(self.out / scene))
        with counting(self.model) as spent:
            began = time.perf_counter(), time.process_time()
            source = api.invert(
                self.model,
                first.picture,
                first.source_prompt,
                method=contender.inversion,
                options=contender.inversion_options,
            )
            inversion = spent.rows
            outcomes = self._outcomes(contender, source, group)
            ended = time.perf_counter(), time.process_time()
        origin = provenance.source_record(self.model, source, contender.inversion_options, picture=file)
        among = len(group)
        rows: list[dict[str, Any]] = []
        for case, made in zip(group, outcomes, strict=True):
            record = None if made.error else self._record(contender, origin, made)
            images.save_png(made.picture, self.path(contender.label, case), record)
            rows.append(
                {
                    "method": contender.label,
                    "case": case.name,
                    "pixels": provenance.pixel_hash(made.picture),
                    "seconds": (ended[0] - began[0]) / among,
                    "processor_seconds": (ended[1] - began[1]) / among,
                    "unet_rows": spent.rows / among,
                    "inversion_rows": inversion / among,
                    "gradient_rows": spent.with_gradient / among,
                    "together": among,
                    "words": made.report.get("words"),
                    "notices": made.report.get("notices", []),
                    "error": made.error,
                }
            )
        return rows

    def _record(
        self, contender: Contender, origin: provenance.SourceRecord, made: _Outcome
    ) -> dict[str, Any]:
        return provenance.record(
            "edit",
            self.model,
            origin,
            made.picture,
            method=contender.method,
            targets=made.targets,
            index=made.index,
            options=contender.options,
            report=made.report,
        )

    def _outcomes(self, contender: Contender, source: Source, group: Sequence[Case]) -> list[_Outcome]:
        """What becomes of the cases of one scene, edited in one batch; one by one if the batch cannot be done, so that
        a case which is beyond the method does not take the others with it.
        """
        targets = [case.target_prompt for case in group]
        try:
            results = api.edit(
                self.model, source, targets, method=contender.method, options=contender.options
            )
            return [
                _Outcome(made.image, targets, index, report=made.report.as_json())
                for index, made in enumerate(results)
            ]
        except (PromptError, NumericsError) as error:
            if len(group) == 1:
                return [_Outcome(source.image(self.model), targets, 0, error=str(error))]
        return [made for case in group for made in self._outcomes(contender, source, [case])]

    def _score(self, label: str, edits: Records, results: Records) -> Generator[Progress, None, None]:
        judged, done = self.judges.hash, 0
        for _, together in groupby(self.cases, key=lambda case: case.scene):
            group = list(together)
            done += len(group)
            costs = [edits[label, case.name] if (label, case.name) in edits else {} for case in group]
            signs = [f"{judged} {cost.get('pixels', self.model.hash)}" for cost in costs]
            is_new = any(
                (label, case.name) not in results or results[label, case.name]["judged"] != sign
                for case, sign in zip(group, signs, strict=True)
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
                        **{key: cost.get(key) for key in COSTS},
                        "judged": sign,
                    }
                    for case, score, cost, sign in zip(group, scores, costs, signs, strict=True)
                )
            yield Progress(f"scoring: {label}", done, len(self.cases))

    def _autoencoded(self, picture: Image.Image) -> Image.Image:
        with torch.no_grad():
            latents = self.model.encode_image(api.fitted(self.model, picture))
            return images.to_image(self.model.decode(latents)[0].cpu())

    def _check(self, contenders: Sequence[Contender]) -> None:
        """Hold what `out` was made with against what is asked for now, and write down what is new."""
        path = self.out / "run.json"
        told = {
            contender.label: {
                "options": dict(contender.options),
                "inversion_options": dict(contender.inversion_options),
            }
            for contender in contenders
        }
        now: dict[str, Any] = {
            "model": provenance.model_record(self.model).model_dump(mode="json"),
            "seed": self.seed,
            "contenders": told,
            "judges": self.judges.names,
            "threads": torch.get_num_threads(),
            "versions": provenance.versions(),
        }
        try:
            before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            before = {}
        except (OSError, json.JSONDecodeError) as error:
            raise OutputError(f"cannot read {path}: {error}; choose another --out") from error
        if before and not {"model", "seed", "contenders"} <= set(before):
            raise OutputError(f"{path} is not what a bench wrote: choose another --out")
        if before:
            for what in ("model", "seed"):
                if before[what] != now[what]:
                    raise OutputError(
                        f"{self.out} holds the bench of another {what} ({_short(before[what])}, now "
                        f"{_short(now[what])}): choose another --out"
                    )
            for label, options in told.items():
                if before["contenders"].get(label, options) != options:
                    raise OutputError(
                        f"{self.out} holds {label} with other options ({before['contenders'][label]}): "
                        "choose another --out"
                    )
            now["contenders"] = before["contenders"] | told
        with atomic_write(path) as file:
            file.write((json.dumps(now, indent=2, ensure_ascii=False) + "\n").encode())


COSTS = ("seconds", "processor_seconds", "unet_rows", "inversion_rows", "gradient_rows", "notices", "error")
"""What a row of results repeats of an edit's: what it cost, what it said, and why it is the source if it is."""


def _short(value: Any) -> str:
    return f"hash {value['hash'][:12]}…" if isinstance(value, dict) else str(value)
