"""PIE-Bench (Ju et al. 2024): edit the pictures of a folder in its format, and score them by its seven metrics.

    bench = PieBench(pie_format.read(folder), Judges.load(Options()), Options(), Path("out"))
    drain(bench.edit(model, Contender("prompt_to_prompt", "direct"), "direct"))
    rows = drain(bench.score(["direct"]))

The metrics: structure distance; PSNR, LPIPS, MSE and SSIM of the background; CLIP of the target prompt with the whole
edited picture, and with its edited part on black. Whatever the released harness does in a way of its own is a field of
`Options`: `PRESETS["released"]` has all of them, `PRESETS["honest"]` averages over the background and nothing else.

PSNR ends at `pixels.PSNR_LIMIT` under both presets.

`out` keeps what is made (`edits.jsonl` and a PNG an edit) apart from what is measured (`results.jsonl`): a run that is
stopped or killed goes on where it was, and with other options the same edits are scored again.
"""

import hashlib
import json
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from PIL import Image
from pydantic import Field

from wordbrush import api, editing, images, inversion, methods, provenance
from wordbrush.errors import ImageError, OptionsError, OutputError, WordbrushError
from wordbrush.evaluation.bench.run import Contender
from wordbrush.evaluation.judges.backbones import Clip, Encoder, load_clip, load_encoder
from wordbrush.evaluation.metrics import pixels
from wordbrush.evaluation.metrics.perceptual import Lpips, PocketDistance, load_lpips
from wordbrush.evaluation.metrics.pixels import PSNR_LIMIT
from wordbrush.evaluation.metrics.similarity import clip_score_100
from wordbrush.evaluation.metrics.structure import structure_distances
from wordbrush.evaluation.pie.format import PieCase
from wordbrush.model import Model
from wordbrush.options import Options as BaseOptions
from wordbrush.options import parse
from wordbrush.progress import Progress
from wordbrush.records import Records

Protocol = Literal["wordbrush", "released"]
Edited = Callable[[PieCase], Image.Image]

METRICS = ("structure", "psnr", "distance", "mse", "ssim", "clip_whole", "clip_edited")
_FROM_ELSEWHERE: Mapping[str, Any] = {"error": None, "notices": []}


class Options(BaseOptions):
    """How the metrics are computed: the quirks of the released harness one by one, and the networks."""

    forced_border: bool = Field(
        False, description="count the outermost pixels as edited, as the released mask decoder does"
    )
    cut_masks: bool = Field(
        False,
        description="let a run of a mask that leaves the picture end there, which is an error otherwise",
    )
    whole_canvas: bool = Field(
        False,
        description="blacken the edited part of both pictures and average over the whole canvas: the black agrees, "
        "which flatters PSNR, SSIM, MSE and LPIPS, the more the larger the mask",
    )
    full_masks: Literal["exclude", "drop"] = Field(
        "exclude",
        description="cases without a background: exclude them from its means (the released nan), or drop them from "
        "all, so that every column speaks of the same cases",
    )
    structure_0_to_255: bool = Field(
        False, description="give the structure distance values of 0 to 255 where its network expects 0 to 1"
    )
    rightmost_panel: bool = Field(
        False, description="an edited picture larger than its source is a strip: score its lower right panel"
    )
    lpips_network: Literal["alex", "squeeze", "vgg"] = Field(
        "alex", description="the network whose weights are given; the released harness has squeeze"
    )
    lpips_weights: str | None = Field(
        None,
        description="a file of that network's weights (default: a distance by the encoder, which is no LPIPS)",
    )
    clip: str = Field(
        "pocket", description="a CLIP's hub id or folder; published: openai/clip-vit-large-patch14"
    )
    encoder: str = Field(
        "pocket", description="the structure distance's hub id or folder; published: facebook/dino-vitb8"
    )


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "honest": {},
    "released": {
        "forced_border": True,
        "cut_masks": True,
        "whole_canvas": True,
        "full_masks": "exclude",
        "structure_0_to_255": True,
        "rightmost_panel": True,
        "lpips_network": "squeeze",
    },
}


# Scores -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Judges:
    """The networks that score: a CLIP, an encoder for the structure distance, and LPIPS or what stands for it."""

    clip: Clip
    encoder: Encoder
    distance: Lpips | PocketDistance

    @staticmethod
    def load(options: Options, device: str | None = None) -> "Judges":
        """The networks that the options name, by default on the accelerator if there is one. Raises `ModelError`."""
        encoder, weights = load_encoder(options.encoder, device), options.lpips_weights
        distance = (
            PocketDistance(encoder)
            if weights is None
            else load_lpips(options.lpips_network, weights, device=device)
        )
        return Judges(load_clip(options.clip, device), encoder, distance)

    @property
    def names(self) -> dict[str, str]:
        """What the scores were made with."""
        return {"CLIP": self.clip.name, "structure": self.encoder.name, "perceptual": self.distance.name}


def scored(judges: Judges, case: PieCase, edited: Image.Image, options: Options) -> dict[str, float]:
    """The seven metrics of one edited picture by the names in `METRICS`; nan where one does not apply.

    structure: no unit. psnr: dB, at most `PSNR_LIMIT`. distance: LPIPS, or the encoder's. mse: of values in [0, 1].
    clip_…: max(100·cos, 0). Besides them `clip_source`, the source's picture and prompt, which no method changes.
    A picture of the source's aspect in another size is resampled to the source's. Raises `ImageError` for one of
    another aspect.
    """
    source = case.picture
    made = _at_size(edited, source, options.rightmost_panel)
    edit = bordered(case.mask) if options.forced_border else case.mask
    rest = ~edit
    if options.full_masks == "drop" and not rest.any():
        return dict.fromkeys((*METRICS, "clip_source"), math.nan)
    seen = judges.clip.images([made, _blackened(made, edit), source])
    said = judges.clip.texts([case.target_prompt, case.target_prompt, case.source_prompt], truncate=True)
    whole, part, before = map(float, clip_score_100(seen, said))
    (structure,) = structure_distances(
        judges.encoder, [made], [source], values_0_to_255=options.structure_0_to_255
    )
    return {
        "structure": structure,
        **_background(judges, made, source, rest, options),
        "clip_whole": whole,
        "clip_edited": part if edit.any() else math.nan,
        "clip_source": before,
    }


def _background(
    judges: Judges, made: Image.Image, source: Image.Image, rest: Bool[np.ndarray, "h w"], options: Options
) -> dict[str, float]:
    """What is to stay, compared: over the whole canvas with the edited part black in both, or where it is alone."""
    if not rest.any():
        return dict.fromkeys(("psnr", "distance", "mse", "ssim"), math.nan)
    one, other, where = made, source, rest
    if options.whole_canvas:
        one, other, where = _blackened(made, rest), _blackened(source, rest), None
    (distance,) = judges.distance.distances([one], [other], [where])
    return {
        "psnr": min(pixels.psnr(one, other, where), PSNR_LIMIT),
        "distance": distance,
        "mse": pixels.mse(one, other, where),
        "ssim": pixels.ssim(one, other, where),
    }


def bordered(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """The mask with its outermost pixels counted as edited."""
    framed = np.ones_like(mask)
    framed[1:-1, 1:-1] = mask[1:-1, 1:-1]
    return framed


def _blackened(picture: Image.Image, keep: Bool[np.ndarray, "h w"]) -> Image.Image:
    return Image.fromarray(np.asarray(picture) * keep[..., None].astype(np.uint8))


def _at_size(edited: Image.Image, source: Image.Image, rightmost_panel: bool) -> Image.Image:
    (width, height), (w, h) = edited.size, source.size
    if rightmost_panel and (width, height) != (w, h) and width >= w and height >= h:
        return edited.crop((width - w, height - h, width, height))
    if width * h != height * w:
        raise ImageError(
            f"expected an edited picture of its source's aspect, {w} × {h}, got {width} × {height}; "
            "rightmost_panel takes the last panel of a strip"
        )
    return edited if (width, height) == (w, h) else edited.resize((w, h), Image.Resampling.LANCZOS)


# The released protocol --------------------------------------------------------------------------------------


def told(
    model: Model, case: PieCase, contender: Contender, protocol: Protocol
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What the inversion and the edit of a case are told, and what there is to note.

    "wordbrush": the contender's own options, all else by default. "released": those of the published table, for an
    editing method that has them (Prompt-to-Prompt): 50 DDIM steps, guidance 7.5, refine even for swaps, cross 0.4,
    self 0.6 where a site has at most 32² positions, local blend on the blended words from 0.2 of the run on, the
    target's blended word twice as heavy. The contender's own options outweigh it. Raises `OptionsError` for a
    method without these options.
    """
    own = dict(contender.inversion_options), dict(contender.options)
    if protocol == "wordbrush":
        return *own, []
    settings: dict[str, Any] = {
        "kind": "refine",
        "cross_replace_steps": 0.4,
        "self_replace_steps": 0.6,
        "self_limit": 32**2,
        "blend_start": 0.2,
        "blend_threshold": 0.3,
        "local_blend": "off",
    }
    known = methods.find(editing.METHODS, contender.method, "editing").options().model_fields
    if missing := settings.keys() - known:
        raise OptionsError(
            f"the released protocol is Prompt-to-Prompt's, and {contender.method} has no "
            f"{', '.join(sorted(missing))}: use the protocol wordbrush"
        )
    notes: list[str] = []
    if case.blended_words is not None:
        before, after = model.read(case.source_prompt), model.read(case.target_prompt)
        found = [
            word for words, word in zip((before, after), case.blended_words, strict=True) if words.has(word)
        ]
        notes = [
            f"blended word '{word}' is not in its prompt" for word in case.blended_words if word not in found
        ]
        if found:
            settings["local_blend"] = found
        if after.has(case.blended_words[1]):
            settings["reweight"] = {case.blended_words[1]: 2.0}
    return {"steps": 50, "guidance_scale": 7.5} | own[0], settings | own[1], notes


# Runs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PieBench:
    """Cases, who judges and how, and the folder where everything is kept."""

    cases: Sequence[PieCase]
    judges: Judges
    options: Options
    out: Path

    def edit(
        self, model: Model, contender: Contender, run: str, protocol: Protocol = "wordbrush"
    ) -> Generator[Progress, None, None]:
        """Edit every case that is not edited yet; `run` is what the rows and the folder of its pictures are called.

        A case that cannot be edited gets a row that says why, and the others go on. Raises `OutputError` if `out`
        holds the run with other settings, `OptionsError` for options that the methods do not have.
        """
        for table, name, kind, options in (
            (inversion.METHODS, contender.inversion, "inversion", contender.inversion_options),
            (editing.METHODS, contender.method, "editing", contender.options),
        ):
            parse(methods.find(table, name, kind).options(), options)
        made = Records(self.out / "edits.jsonl", ("run", "case"))
        for done, case in enumerate(self.cases, 1):
            settings = told(model, case, contender, protocol)
            sign = _digest(
                model.hash,
                contender.method.replace("-", "_"),
                contender.inversion.replace("-", "_"),
                settings[:2],
                case.source_prompt,
                case.target_prompt,
                provenance.pixel_hash(case.picture),
            )
            key = (run, case.name)
            if key in made and made[key]["made_with"] != sign:
                raise OutputError(
                    f"{self.out} holds {run} with another model, other options or other pictures "
                    f"(case {case.name}): choose another --out or --label"
                )
            if key not in made or not (made[key]["error"] or self.path(run, case).is_file()):
                row = self._edited(model, case, contender, settings, run)
                made.add([{"run": run, "case": case.name, "made_with": sign, **row}])
            yield Progress(f"editing: {run}", done, len(self.cases))

    def path(self, run: str, case: PieCase) -> Path:
        """Where a run's edit of a case lies."""
        return (self.out / "edits" / run / case.image_path).with_suffix(".png")

    def score(
        self, run: str, edited: Edited | None = None
    ) -> Generator[Progress, None, list[dict[str, Any]]]:
        """Score what a run made, or pictures from elsewhere; returns the run's rows, one a case.

        A row holds the metrics, or the `error` for which there are none. Raises `ImageError` for a picture that is
        missing.
        """
        results = Records(self.out / "results.jsonl", ("run", "case"))
        made = Records(self.out / "edits.jsonl", ("run", "case"))
        rows: list[dict[str, Any]] = []
        for done, case in enumerate(self.cases, 1):
            key = (run, case.name)
            about: Mapping[str, Any] = made[key] if edited is None and key in made else _FROM_ELSEWHERE
            picture = None if about["error"] else (edited or self.own(run))(case)
            sign = _digest(
                self.measure,
                case.target_prompt,
                case.mask.tobytes().hex(),
                picture and provenance.pixel_hash(picture),
            )
            if key not in results or results[key]["measured"] != sign:
                row: dict[str, Any] = {
                    "run": run,
                    "case": case.name,
                    "type": case.type,
                    "picture": provenance.pixel_hash(case.picture)[:16],
                    "measure": self.measure,
                    "measured": sign,
                    "error": about["error"],
                    "notices": about["notices"],
                }
                if picture is not None:
                    try:
                        row |= scored(self.judges, case, picture, self.options)
                    except ImageError as error:
                        row["error"] = str(error)
                results.add([row])
            rows.append(results[key])
            yield Progress(f"scoring: {run}", done, len(self.cases))
        return rows

    @property
    def measure(self) -> str:
        """Changes with the options and the judges: scores of another measure share no table with these."""
        return _digest(self.options.model_dump(mode="json"), self.judges.names)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of every run in `out`, of these cases and this measure alone."""
        names = {case.name for case in self.cases}
        results = Records(self.out / "results.jsonl", ("run", "case"))
        return [row for row in results if row["measure"] == self.measure and row["case"] in names]

    def measured_otherwise(self) -> list[str]:
        """Runs in `out` that were last scored by another measure, or on other cases alone, and so are in no table."""
        shown = {row["run"] for row in self.rows()}
        results = Records(self.out / "results.jsonl", ("run", "case"))
        return list(dict.fromkeys(row["run"] for row in results if row["run"] not in shown))

    def own(self, run: str) -> Edited:
        """What a run made of a case."""
        return lambda case: images.load(self.path(run, case))

    def _edited(
        self,
        model: Model,
        case: PieCase,
        contender: Contender,
        settings: tuple[dict[str, Any], dict[str, Any], list[str]],
        run: str,
    ) -> dict[str, Any]:
        """Edit one case and write its picture; returns what its row says of that."""
        inverting, options, notes = settings
        picture = case.picture
        height, width = model.image_size
        if picture.width * height != picture.height * width:
            size = f"{picture.width} × {picture.height}"
            error = f"the model makes pictures of {width} × {height}, and this one is {size}"
            return {"error": error, "notices": notes}
        try:
            source = api.invert(
                model, picture, case.source_prompt, method=contender.inversion, options=inverting
            )
            result = api.edit(model, source, case.target_prompt, method=contender.method, options=options)
        except WordbrushError as error:  # its words do not fit the method; the next one's may
            return {"error": str(error), "notices": notes}
        notices = [*notes, *result.report.notices]
        file = provenance.file_record(case.content) if isinstance(case.content, Path) else None
        origin = provenance.source_record(model, source, inverting, picture=file)
        record = provenance.record(
            "edit",
            model,
            origin,
            result.image,
            method=contender.method.replace("-", "_"),
            targets=[case.target_prompt],
            options=options,
            report={**result.report.as_json(), "notices": notices},
        )
        images.save_png(result.image, self.path(run, case), record)
        return {"error": None, "notices": notices}


def from_folder(folder: Path, cases: Sequence[PieCase]) -> Edited:
    """Pictures edited elsewhere: a folder laid out like `annotation_images`, PNG in the place of JPEG allowed.

    Raises `ImageError`, before anything is scored, if a case has none.
    """
    paths: dict[str, Path] = {}
    missing: list[Path] = []
    for case in cases:
        path = folder / case.image_path
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


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:16]
