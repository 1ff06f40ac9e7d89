"""PIE-Bench (Ju et al. 2024): edit the pictures of a folder in its format, and score them by its seven metrics.

    bench = PieBench(read(folder), Judges.load(), Options(), Path("out"))
    rows = drain(bench.run(model, {"direct": Contender("prompt_to_prompt", "direct")}))

Everything that the released harness does in a way of its own is a field of `Options`: `PRESETS["released"]` turns all
of it on, `PRESETS["honest"]` averages over the background and nothing else.

`out` keeps edits (`edits.jsonl` and a PNG for each) and scores (`results.jsonl`) apart: a run that was stopped or
killed goes on where it was, and with other options the same edits are scored again.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from wordbrush import images, methods, provenance
from wordbrush.errors import ImageError, OptionsError, OutputError, WordbrushError, short
from wordbrush.evaluation.contender import Contender, reason
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.pie.format import PieCase
from wordbrush.evaluation.pie.metrics import JUDGES, METRICS, scored
from wordbrush.evaluation.pie.options import RELEASED_EDITING, RELEASED_INVERSION, Options, Protocol
from wordbrush.filenames import slug
from wordbrush.files import inside
from wordbrush.model import Model
from wordbrush.progress import Progress, drain
from wordbrush.records import Records, fingerprint

Edited = Callable[[PieCase], Image.Image]
Row = dict[str, Any]

_FROM_ELSEWHERE: Mapping[str, Any] = {"error": None, "notices": []}


def settings(
    model: Model, case: PieCase, contender: Contender, protocol: Protocol
) -> tuple[Contender, list[str]]:
    """The contender with the options for this case under a protocol, and notices.

    "wordbrush": the contender's own options, all others at their defaults. "released": those of the published table,
    for an editing method that has them (Prompt-to-Prompt): 50 DDIM steps, guidance 7.5, refine even for swaps, cross
    0.4, self 0.6 where a site has at most 32² positions, local blend on the blended words from 0.2 of the run on, and
    the target's blended word weighted by 2. The contender's own options take precedence. Raises `OptionsError` for a
    method without these options.
    """
    if protocol == "wordbrush":
        return contender, []
    if missing := RELEASED_EDITING.keys() - contender.editing_class.model_fields:
        raise OptionsError(
            f"the released protocol is Prompt-to-Prompt's, and {contender.method} has no "
            f"{', '.join(sorted(missing))}: use the protocol wordbrush"
        )
    options, notices = dict(RELEASED_EDITING), list[str]()
    if case.blended_words is not None:
        prompts = model.read(case.source_prompt), model.read(case.target_prompt)
        pairs = list(zip(prompts, case.blended_words, strict=True))
        present = [word for words, word in pairs if words.has(word)]
        notices = [f"blended word '{word}' is not in its prompt" for _, word in pairs if word not in present]
        if present:
            options["local_blend"] = present
        if prompts[1].has(case.blended_words[1]):
            options["reweight"] = {case.blended_words[1]: 2.0}
    return replace(
        contender,
        options=options | dict(contender.options),
        inversion_options={**RELEASED_INVERSION, **contender.inversion_options},
    ), notices


def runs(
    contenders: Sequence[Contender],
    *,
    protocol: Protocol = "wordbrush",
    label: str | None = None,
    edited: Path | None = None,
) -> dict[str, Contender]:
    """The contenders by the names of their runs.

    label: the name of the only run. edited: a folder of pictures edited elsewhere, whose run is named after it.
    Raises `OptionsError` for a label with several contenders.
    """
    if edited is not None:
        return {slug(label) if label is not None else _folder_name(edited): contenders[0]}
    if label is None:
        suffix = "" if protocol == "wordbrush" else f"-{protocol}"
        return {f"{contender.label}{suffix}": contender for contender in contenders}
    if len(contenders) > 1:
        raise OptionsError(f"--label names one run, and these are {len(contenders)}: leave it out")
    return {slug(label): contender for contender in contenders}


def _folder_name(edited: Path) -> str:
    """A run's name after the folder of its pictures, which the released harness always calls `annotation_images`."""
    folder = edited.resolve()
    return slug(folder.parent.name if folder.name == "annotation_images" else folder.name)


@dataclass(frozen=True, eq=False)
class PieBench:
    """Cases, the judges and their options, and the folder that keeps everything."""

    cases: Sequence[PieCase]
    judges: Judges
    options: Options
    out: Path

    def run(
        self,
        model: Model | None,
        runs: Mapping[str, Contender],
        protocol: Protocol = "wordbrush",
        edited: Edited | None = None,
    ) -> Generator[Progress, None, dict[str, list[Row]]]:
        """Edit and score every run; returns the rows of each, one for each case. Raises like `edit` and `score`.

        model: None to score only. edited: pictures from elsewhere to score.
        """
        rows: dict[str, list[Row]] = {}
        for run, contender in runs.items():
            if model is not None:
                yield from self.edit(model, contender, run, protocol)
            rows[run] = yield from self.score(run, edited)
        return rows

    def notices(self, rows: Mapping[str, Sequence[Row]]) -> list[str]:
        """What a user should know after `run` returned these rows."""
        others = self.measured_otherwise()
        return [
            *[
                f"not in the tables, since scored otherwise: {', '.join(others)}; run them again to include them"
            ]
            * bool(others),
            *(notice for run in rows.values() for row in run for notice in row["notices"]),
        ]

    def edit(
        self, model: Model, contender: Contender, run: str, protocol: Protocol = "wordbrush"
    ) -> Generator[Progress, None, None]:
        """Edit every case that is not edited yet; `run` is the name of its rows and of its pictures' folder.

        A case that cannot be edited gets a row with the reason, and the others go on. Raises `OutputError` if `out`
        holds the run with other settings, or an edit would replace a picture of the folder or another edit,
        `OptionsError` for options that the methods do not have.
        """
        contender.check()
        self._check_paths(run)
        edits = Records(self.out / "edits.jsonl", ("run", "case"))
        for done, case in enumerate(self.cases, 1):
            given, notices = settings(model, case, contender, protocol)
            made_with = fingerprint(
                model.hash,
                methods.key(given.method),
                methods.key(given.inversion),
                (given.inversion_options, given.options),
                case.source_prompt,
                case.target_prompt,
                provenance.pixel_hash(case.picture),
            )
            key = (run, case.name)
            if key in edits and edits[key]["made_with"] != made_with:
                raise OutputError(
                    f"{self.out} holds {run} with another model, other options or other pictures "
                    f"(case {case.name}): choose another --out or --label"
                )
            if key not in edits or not (edits[key]["error"] or self.path(run, case).is_file()):
                row = self._edited(model, case, given, notices, run)
                reads = sorted(given.reads)
                edits.add([{"run": run, "case": case.name, "made_with": made_with, "reads": reads, **row}])
            yield Progress(f"editing: {run}", done, len(self.cases))

    def _check_paths(self, run: str) -> None:
        """Every edit has a file of its own, which is none of the pictures that are edited."""
        pictures = {case.content.resolve() for case in self.cases if isinstance(case.content, Path)}
        edits: dict[Path, str] = {}
        for case in self.cases:
            path = self.path(run, case).resolve()
            if path in pictures:
                raise OutputError(f"{path} is an input and would be overwritten: choose another --out")
            if path in edits:
                raise OutputError(
                    f"cases {short(edits[path])} and {short(case.name)} would both be written to {path}: "
                    "give each case an image_path of its own"
                )
            edits[path] = case.name

    def path(self, run: str, case: PieCase) -> Path:
        """The file of a run's edit of a case. Raises `InputError` for one that is not in the run's folder."""
        return inside(self.out / "edits" / run, str(Path(case.image_path).with_suffix(".png")), "image_path")

    def score(self, run: str, edited: Edited | None = None) -> Generator[Progress, None, list[Row]]:
        """Score a run's edits, or pictures from elsewhere; returns the run's rows, one a case.

        A row holds the metrics, or the `error` that is the reason for having none. Raises `ImageError` for a picture
        that is missing.
        """
        results = Records(self.out / "results.jsonl", ("run", "case"))
        edits = Records(self.out / "edits.jsonl", ("run", "case"))
        rows: list[Row] = []
        for done, case in enumerate(self.cases, 1):
            key = (run, case.name)
            edit: Mapping[str, Any] = edits[key] if edited is None and key in edits else _FROM_ELSEWHERE
            picture = None if edit["error"] else (edited or self.edited(run))(case)
            measured = fingerprint(
                self.measure,
                case.target_prompt,
                case.mask.tobytes().hex(),
                picture and provenance.pixel_hash(picture),
            )
            if key not in results or results[key]["measured"] != measured:
                results.add([self._scored(case, run, picture, edit, measured)])
            rows.append(results[key])
            yield Progress(f"scoring: {run}", done, len(self.cases))
        return rows

    @property
    def measure(self) -> str:
        """Changes with the options and the judges: scores of different measures are never in one table."""
        names = self.judges.names
        networks = {"CLIP": names["CLIP"], "structure": names["encoder"], "perceptual": names["distance"]}
        return fingerprint(self.options.model_dump(mode="json"), networks)

    def rows(self) -> list[Row]:
        """The rows of all runs in `out`, for these cases and this measure only."""
        names = {case.name for case in self.cases}
        results = Records(self.out / "results.jsonl", ("run", "case"))
        return [row for row in results if row["measure"] == self.measure and row["case"] in names]

    def measured_otherwise(self) -> list[str]:
        """Runs in `out` that are in no table, since they were last scored by another measure or on other cases."""
        shown = {row["run"] for row in self.rows()}
        results = Records(self.out / "results.jsonl", ("run", "case"))
        return list(dict.fromkeys(row["run"] for row in results if row["run"] not in shown))

    def edited(self, run: str) -> Edited:
        """The edits of a run, by case."""
        return lambda case: images.load(self.path(run, case))

    def _edited(
        self, model: Model, case: PieCase, contender: Contender, notices: list[str], run: str
    ) -> dict[str, Any]:
        """Edit one case and write its picture; returns the error and the notices for its row."""
        picture = case.picture
        height, width = model.image_size
        if picture.width * height != picture.height * width:
            size = f"{picture.width} × {picture.height}"
            error = f"the model makes pictures of {width} × {height}, and this one is {size}"
            return {"error": error, "notices": notices}
        try:
            source = drain(contender.invert(model, case.content, case.source_prompt))
        except WordbrushError as error:  # this case may not fit the method, and the next one may
            return {"error": reason(error), "notices": notices}
        (outcome,) = drain(contender.attempt(model, source, [case.target_prompt]))
        if outcome.result is None:
            return {"error": outcome.error, "notices": notices}
        result = outcome.result.noted(notices)
        images.save_png(result.rendering, self.path(run, case))
        notices = list(result.report.notices)
        return {"error": None, "notices": notices}

    def _scored(
        self,
        case: PieCase,
        run: str,
        picture: Image.Image | None,
        edit: Mapping[str, Any],
        measured: str,
    ) -> Row:
        """The row of one case: its metrics, or the reason why it has none."""
        row: Row = {
            "run": run,
            "case": case.name,
            "type": case.type,
            "picture": provenance.pixel_hash(case.picture)[:16],
            "measure": self.measure,
            "measured": measured,
            "reads": edit.get("reads", []),
            "error": edit["error"],
            "notices": edit["notices"],
        }
        if picture is None:
            return row
        left_out = {metric: None for metric in METRICS if JUDGES.get(metric) in row["reads"]}
        try:
            return row | scored(self.judges, case, picture, self.options) | left_out
        except ImageError as error:
            return row | {"error": str(error)}


def from_folder(folder: Path, cases: Sequence[PieCase]) -> Edited:
    """Pictures edited elsewhere: a folder laid out like `annotation_images`; PNG in place of JPEG is accepted.

    Raises `ImageError`, before anything is scored, if a case has no picture.
    """
    paths: dict[str, Path] = {}
    missing: list[Path] = []
    for case in cases:
        path = inside(folder, case.image_path, "image_path")
        found = next((each for each in (path, path.with_suffix(".png")) if each.is_file()), None)
        if found is None:
            missing.append(path)
        else:
            paths[case.name] = found
    if missing:
        raise ImageError(
            f"expected an edited picture for each of {len(cases)} cases, {len(missing)} are missing, the first at "
            f"{missing[0]}"
        )
    return lambda case: images.load(paths[case.name])
