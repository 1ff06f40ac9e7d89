"""InstructPix2Pix's curve (Brooks et al. 2023): how far an edit follows the words, against how much stays the same.

One point for each value of an option that trades the two; the paper's is `image_guidance_scale`. On y the image
similarity cos(E(I₀), E(I₁)) of the picture before and after; on x the directional similarity
cos(E(I₁) − E(I₀), E(T₁) − E(T₀)), with E of CLIP and the *captions* T before and after, not the instruction. Up and
to the right is better. Any option of any editing method or inversion can be swept.

    curves = Curves(cases, load_clip(), Path("out"))
    sweep = Sweep(Contender("prompt_to_prompt", "direct"), "direct", "self_replace_steps", ("0", "0.4", "0.8"))
    drain(curves.sweep(model, sweep))
    points(curves.rows())

Protocol of the paper: CLIP ViT-L/14, 5,000 pictures of the test split, image guidance 1.0 to 2.2, text guidance 7.5,
100 steps. Its released script gives CLIP pictures in [−1, 1] where CLIP's preprocessing expects [0, 1]; here every
picture passes through 8 bits and CLIP's own processor, so published curves are at other places than ours would be.
"""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from wordbrush import api, images, methods, provenance
from wordbrush.backbones import Clip
from wordbrush.errors import OptionsError, OutputError, nearest
from wordbrush.evaluation.contender import Contender
from wordbrush.evaluation.directional.cases import DirectionalCase
from wordbrush.evaluation.metrics.similarity import directional_similarity, image_similarity
from wordbrush.filenames import slug
from wordbrush.files import inside
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.progress import Progress, drain
from wordbrush.records import Records, fingerprint
from wordbrush.source import Source

TRUTH = "the truth"
PAPERS_OPTION, PAPERS_VALUES = "image_guidance_scale", ("1.0", "1.2", "1.4", "1.6", "1.8", "2.0", "2.2")
_KEY = ("curve", "value", "case")


@dataclass(frozen=True)
class Sweep:
    """One curve: a contender at each value of an option. values: as typed. curve: its name in rows and plots."""

    contender: Contender
    curve: str
    option: str
    values: tuple[str, ...]

    def at(self, value: str) -> Contender:
        """The contender at one value of the option.

        Where both the inversion and the editing method have an option of that name, both are given the value. Raises
        `OptionsError` for an option that neither has, one that has a value already, and a value out of its range.
        """
        contender, option = self.contender, self.option
        kinds = contender.inversion_class, contender.editing_class
        if not any(option in kind.model_fields for kind in kinds):
            known = [name for kind in kinds for name in kind.model_fields]
            raise OptionsError(
                f"neither {contender.inversion} nor {contender.method} has '{option}'{nearest(option, known)}"
            )
        given: list[dict[str, Any]] = []
        for kind, own in zip(kinds, (contender.inversion_options, contender.options), strict=True):
            if option in own:
                raise OptionsError(f"option '{option}' is swept: leave its own value {own[option]!r} out")
            swept = {option: value} if option in kind.model_fields else {}
            given.append(parse(kind, {**own, **swept}).model_dump(mode="json", exclude_defaults=True))
        return replace(contender, inversion_options=given[0], options=given[1])


def sweeps(
    contenders: Sequence[Contender],
    option: str | None,
    values: tuple[str, ...] = (),
    *,
    label: str | None = None,
) -> list[Sweep]:
    """One sweep for each contender over the values of an option, by default what the paper swept.

    label: the name of the only curve. Raises `OptionsError` for a label with several contenders, and for an option or
    a value that a contender does not accept.
    """
    if readers := [methods.typed(each.method) for each in contenders if "clip" in each.reads]:
        raise OptionsError(
            f"{' and '.join(readers)} read a CLIP while editing, and both scores here are CLIP's, which say nothing of "
            "that: choose other methods, or evaluate bench"
        )
    if label is not None and len(contenders) > 1:
        raise OptionsError(f"--label names one curve, and these are {len(contenders)}: leave it out")
    found: list[Sweep] = []
    for contender in contenders:
        swept = papers_sweep(contender) if option is None else (option, values)
        sweep = Sweep(contender, contender.label if label is None else slug(label), *swept)
        for value in sweep.values:
            sweep.at(value)  # an invalid value is reported before anything is loaded
        found.append(sweep)
    return found


def papers_sweep(contender: Contender) -> tuple[str, tuple[str, ...]]:
    """The option that the paper swept and its values. Raises `OptionsError` for a method that does not have it."""
    kinds = contender.inversion_class, contender.editing_class
    if any(PAPERS_OPTION in kind.model_fields for kind in kinds):
        return PAPERS_OPTION, PAPERS_VALUES
    raise OptionsError(
        f"{contender.method} has no {PAPERS_OPTION}: say what to sweep, as in --sweep self_replace_steps=0,0.4,0.8"
    )


@dataclass(frozen=True, eq=False)
class Curves:
    """The cases, the CLIP that scores them, and the folder that keeps rows and pictures.

    A sweep that was stopped goes on where it was; each further one adds a curve.
    """

    cases: Sequence[DirectionalCase]
    clip: Clip
    out: Path

    def run(self, model: Model, sweeps: Sequence[Sweep]) -> Generator[Progress, None, list[dict[str, Any]]]:
        """Run the sweeps and score the true answers; returns the rows of all curves in `out`."""
        for sweep in sweeps:
            yield from self.sweep(model, sweep)
        yield from self.add_truth(model)
        return self.rows()

    def sweep(self, model: Model, sweep: Sweep) -> Generator[Progress, None, None]:
        """Edit every case at every value that has no row yet; values with equal inversion options share a source.

        Raises `OutputError` if `out` holds the curve with other settings, `OptionsError`, and whatever an edit raises:
        points of a curve can be compared only over the same cases.
        """
        contenders = {value: sweep.at(value) for value in sweep.values}
        records = self._records()
        for case in self.cases:
            for at in contenders.values():
                captions = case.input_caption, [case.output_caption]
                api.check_edit(model, *captions, method=at.method, options=at.options)
        done, total = 0, len(self.cases) * len(contenders)
        for case in self.cases:
            sources: dict[str, Source] = {}
            for value, contender in contenders.items():
                row = self._row(sweep, value, contender, model, case)
                key = (sweep.curve, value, case.name)
                if key in records and records[key]["made_with"] != row["made_with"]:
                    raise OutputError(
                        f"{self.out} holds {sweep.curve} with another model, CLIP, options or pictures (case "
                        f"{case.name}): choose another --out or --label"
                    )
                if key not in records:
                    image = self._edited(model, contender, case, sources, self.path(sweep.curve, value, case))
                    records.add([row | self._scored(model, case, image)])
                done += 1
                yield Progress(f"sweeping: {sweep.curve}", done, total)

    def add_truth(self, model: Model) -> Generator[Progress, None, None]:
        """Score the true answers, where there are any, as a point of their own."""
        records = self._records()
        known = [(case, case.truth) for case in self.cases if case.truth is not None]
        for done, (case, truth) in enumerate(known, 1):
            made_with = fingerprint(self._fingerprint(case))
            key = (TRUTH, "", case.name)
            if key not in records or records[key]["made_with"] != made_with:
                row = {"curve": TRUTH, "option": "", "value": "", "made_with": made_with}
                records.add([row | self._scored(model, case, truth)])
            yield Progress("scoring: the truth", done, len(known))

    def path(self, curve: str, value: str, case: DirectionalCase) -> Path:
        """The file of the edit of a case at a value."""
        return inside(self.out / "edits" / curve, f"{value.replace('/', '_')}/{case.name}.png")

    def rows(self) -> list[dict[str, Any]]:
        """The rows of every curve in `out`, for these cases and this CLIP only."""
        names = {case.name for case in self.cases}
        return [row for row in self._records() if row["case"] in names and row["clip"] == self.clip.name]

    def _records(self) -> Records:
        return Records(self.out / "results.jsonl", _KEY)

    def _row(
        self, sweep: Sweep, value: str, contender: Contender, model: Model, case: DirectionalCase
    ) -> dict[str, Any]:
        """The part of a row that says how its picture was made."""
        options = contender.inversion_options, contender.options
        made_with = fingerprint(
            model.hash, contender.method, contender.inversion, options, self._fingerprint(case)
        )
        return {"curve": sweep.curve, "option": sweep.option, "value": value, "made_with": made_with}

    def _edited(
        self,
        model: Model,
        contender: Contender,
        case: DirectionalCase,
        sources: dict[str, Source],
        path: Path,
    ) -> Image.Image:
        """Edit a case and write its picture. sources: the case's, by the inversion's options; a new one is added."""
        inverting = fingerprint(contender.inversion_options)
        if inverting not in sources:
            sources[inverting] = drain(contender.invert(model, case.content, case.input_caption))
        source = sources[inverting]
        (result,) = drain(contender.edit(model, source, [case.output_caption]))
        images.save_png(result.rendering, path)
        return result.rendering

    def _fingerprint(self, case: DirectionalCase) -> str:
        pictures = [provenance.pixel_hash(case.picture)]
        pictures += [provenance.pixel_hash(case.truth)] if case.truth is not None else []
        return fingerprint(self.clip.name, case.input_caption, case.output_caption, pictures)

    def _scored(self, model: Model, case: DirectionalCase, edited: Image.Image) -> dict[str, Any]:
        height, width = model.image_size
        before, after = self.clip.images([images.fit(case.picture, width, height), edited]).unsqueeze(1)
        source, target = self.clip.texts([case.input_caption, case.output_caption], truncate=True).unsqueeze(
            1
        )
        return {
            "case": case.name,
            "group": case.group,
            "clip": self.clip.name,
            "image_similarity": image_similarity(before, after).item(),
            "directional_similarity": directional_similarity(before, after, source, target).item(),
            "caption_similarity": (source * target).sum(-1).item(),
        }
