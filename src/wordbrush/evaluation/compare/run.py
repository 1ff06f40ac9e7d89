"""One picture or prompt pair, edited in several ways, side by side.

Every inversion is done once, and each of its edits is a run of its own: one method, one target. So what a cell says
of its cost does not depend on what else was asked for. Seconds are those of inverting and of sampling, without the
autoencoder's last step; the UNet is warm before the first is counted.
"""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from wordbrush import api, editing, images, inversion, methods, options, sampling, sheets
from wordbrush.errors import ImageError, InputError, OptionsError, PromptError, WordbrushError
from wordbrush.evaluation.compare.result import Cell, Comparison, Look, Reference, Spent, Start
from wordbrush.evaluation.judges.backbones import Clip
from wordbrush.evaluation.metrics.pixels import Picture, psnr, ssim
from wordbrush.evaluation.results.cost import counting
from wordbrush.model import Conditioning, Model
from wordbrush.options import InversionOptions
from wordbrush.progress import Progress
from wordbrush.request import EditRequest
from wordbrush.source import Source
from wordbrush.word_map import word_map
from wordbrush.words import align

SEED = (
    "seed"  # stands among the inversions where the source is generated: its own run, which needs no inverting
)

Asked = Sequence[str] | Mapping[str, Mapping[str, Any]]
T = TypeVar("T")

# What one method can meet without the others being at fault; torch raises RuntimeError for all that it lacks.
_FAILURES = (WordbrushError, MemoryError, RuntimeError)


@runtime_checkable
class Distance(Protocol):
    """How far apart pictures are by something that is more than pixels: `perceptual.PocketDistance`, for one."""

    @property
    def name(self) -> str:
        """For the table: two kinds of distances are not comparable."""
        ...

    def distances(self, made: Sequence[Picture], true: Sequence[Picture]) -> list[float]:
        """Of each pair of pictures; 0 where they are equal."""
        ...


@dataclass(frozen=True, eq=False)
class Truth:
    """What is known of one target's true answer; pictures of any size are cropped and scaled to the model's.

    image: the true answer. mask: white where the change belongs, black where the source should stay.
    """

    image: api.ImageOrPath | None = None
    mask: api.ImageOrPath | None = None


def compare(
    model: Model,
    picture: api.ImageOrPath | None,
    prompt: str,
    targets: str | Sequence[str],
    *,
    seed: int = 0,
    inversions: Asked | None = None,
    methods: Asked | None = None,
    words: Sequence[str] = (),
    clip: Clip | None = None,
    distance: Distance | None = None,
    truths: Sequence[Truth] = (),
) -> Generator[Progress, None, Comparison]:
    """Edit `picture`, which shows `prompt`, into each target from each inversion by each method.

    picture: a picture or file; None: it is generated from `seed`, and "seed" stands among the inversions.
    inversions, methods: names, or names with their options; by default all there are, with their defaults.
    words: to be looked for in source and edits; of a word that one prompt has and the other has not, the word in
    its place is looked for there.
    clip, distance: what judges by more than pixels; without one its column is left out.
    truths: one for each target, in order, or none.

    What one of them cannot do (not-a-number, a target that it has no edit for) stands in its cells, and the others
    go on. Raises `OptionsError`, `PromptError` and `ImageError` for what none of them could, before any work.
    """
    targets = (targets,) if isinstance(targets, str) else tuple(dict.fromkeys(targets))
    edits = _asked(methods, editing.METHODS, "editing")
    ways = _asked(inversions, inversion.METHODS, "inversion", generated=picture is None)
    objections = _objections(model, prompt, targets, edits)
    looks = {target: _looks(model, prompt, target, words) for target in targets}
    _require_found(model, prompt, targets, words)
    known = _known(model, targets, truths)
    pixels = None if picture is None else api.fitted(model, picture)
    texts = dict(zip(targets, clip.texts(targets), strict=True)) if clip is not None else {}
    _warm(model)

    units = len(ways) * (1 + len(edits) * len(targets)) + (picture is None and SEED not in ways)
    count = _Count(units)
    yield count.progress()

    generated: Start | None = None
    if pixels is None:
        told = ways[SEED] if SEED in ways else _shared(ways)
        run = sampling.sample(model, prompt, seed, **_checked(told).model_dump())
        found, spent = yield from _metered(model, run, SEED)
        generated = Start(SEED, told, found, spent, reconstruction=math.inf)
        shown = found.image(model)
        pixels = images.to_tensor(shown)
        count.done += 1
        yield count.progress()
    else:
        shown = images.to_image(pixels[0])
    possible = images.to_image(model.decode(model.encode_image(pixels.to(model.device)))[0].cpu())

    judge = _Judge(shown, clip, distance, texts, known)
    references = judge.references(targets)  # what is missing for the scores is told before the long work

    starts: list[Start] = []
    cells: list[Cell] = []
    for name, told in ways.items():
        if name == SEED and generated is not None:
            start = generated
        else:
            start = yield from _inverted(model, pixels, prompt, name, told, possible)
            count.done += 1
            yield count.progress()
        starts.append(start)
        for method, given in edits.items():
            for target in targets:
                cell = Cell(start, method, given, target, failure=objections.get((method, target), ""))
                if start.source is None:
                    cell = replace(cell, failure=start.failure)
                if not cell.failure:
                    cell = yield from _edited(model, cell, start.source, looks[target], judge)
                cells.append(cell)
                count.done += 1
                yield count.progress()

    cells.sort(key=lambda cell: (targets.index(cell.target), list(edits).index(cell.method)))
    return Comparison(
        picture=shown,
        prompt=prompt,
        targets=targets,
        bound=psnr(possible, shown),
        generated=None if generated is None else generated.source,
        starts=tuple(starts),
        cells=tuple(cells),
        references=tuple(references),
        looks=looks,
        heatmaps=_heatmaps(model, shown, starts, [look for each in looks.values() for look in each]),
        judges={key: each.name for key, each in (("clip", clip), ("distance", distance)) if each is not None},
    )


# What was asked for -----------------------------------------------------------------------------------------


def _asked(
    given: Asked | None, table: Mapping[str, methods.Method[Any]], kind: str, *, generated: bool = False
) -> dict[str, dict[str, Any]]:
    """Names as in the table, with their options, checked. Raises `OptionsError`."""
    if given is None:
        given = [SEED, *table] if generated else list(table)
    told = given if isinstance(given, Mapping) else dict.fromkeys(given, dict[str, Any]())
    asked: dict[str, dict[str, Any]] = {}
    for name, values in told.items():
        if name == SEED and kind == "inversion":
            if not generated:
                raise OptionsError(
                    f"'{SEED}' is no inversion of a picture: leave the picture out, or '{SEED}'"
                )
            _checked(values)
        else:
            options.parse(methods.find(table, name, kind).options(), values)
        asked[name.replace("-", "_")] = dict(values)
    if not asked:
        raise OptionsError(f"expected at least one {kind} method, got none")
    return asked


def _checked(values: Mapping[str, Any]) -> InversionOptions:
    return options.parse(InversionOptions, values)


def _shared(ways: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of the first inversion's options those that generating has too: the picture is made as it is inverted."""
    told = next(iter(ways.values()))
    return {name: value for name, value in told.items() if name in InversionOptions.model_fields}


def _objections(
    model: Model, prompt: str, targets: Sequence[str], edits: Mapping[str, Mapping[str, Any]]
) -> dict[tuple[str, str], str]:
    """What each method says of a target that it cannot do. Raises if every one of them objects."""
    objections: dict[tuple[str, str], str] = {}
    error: InputError | None = None
    if not targets:
        raise PromptError("expected at least one target prompt, got none")
    for method, given in edits.items():
        for target in targets:
            try:
                api.check_edit(model, prompt, [target], method=method, options=given)
            except InputError as objection:
                objections[method, target] = str(objection)
                error = error or objection
    if error is not None and len(objections) == len(edits) * len(targets):
        raise error
    return objections


def _looks(model: Model, prompt: str, target: str, words: Sequence[str]) -> list[Look]:
    """For each word its name in both prompts: its own, or its counterpart's."""
    before, after = model.read(prompt), model.read(target)
    matches = align(before, after).matches
    looks: list[Look] = []
    for word in words:
        own = Look(word if before.has(word) else None, word if after.has(word) else None)
        if own.source is None and own.target is None:
            continue
        if own.source is None:
            spoken = after.find(word)
            found = next((m.source for m in matches if set(spoken) & set(m.target)), ())
            own = replace(
                own, source=" ".join(each.text for each in found if not each.is_punctuation) or None
            )
        elif own.target is None:
            spoken = before.find(word)
            found = next((m.target for m in matches if set(spoken) & set(m.source)), ())
            own = replace(
                own, target=" ".join(each.text for each in found if not each.is_punctuation) or None
            )
        if own not in looks:
            looks.append(own)
    return looks


def _require_found(model: Model, prompt: str, targets: Sequence[str], words: Sequence[str]) -> None:
    """Raise `PromptError` for a word that is in none of the prompts."""
    for word in words:
        if not any(model.read(each).has(word) for each in (prompt, *targets)):
            model.read(prompt).find(word)


@dataclass(frozen=True, eq=False)
class _Known:
    """A target's truth at the model's size, and where the source should stay."""

    image: Image.Image | None
    outside: Bool[np.ndarray, "h w"] | None


def _known(model: Model, targets: Sequence[str], truths: Sequence[Truth]) -> dict[str, _Known]:
    if truths and len(truths) != len(targets):
        raise OptionsError(f"expected one truth for each of {len(targets)} targets, got {len(truths)}")
    known: dict[str, _Known] = {}
    for target, truth in zip(targets, truths, strict=False):
        image = None if truth.image is None else images.to_image(api.fitted(model, truth.image)[0])
        outside = None
        if truth.mask is not None:
            grey = np.asarray(images.to_image(api.fitted(model, truth.mask)[0]).convert("L"))
            outside = grey < 128
            if not outside.any() or outside.all():
                raise ImageError(
                    f"expected a mask of white, where the change belongs, and black, got one that is all "
                    f"{'black' if outside.all() else 'white'}: draw it anew, or leave it out"
                )
        known[target] = _Known(image, outside)
    return known


# Computing --------------------------------------------------------------------------------------------------


@dataclass
class _Count:
    """How many of the inversions and edits are done."""

    total: int
    done: int = 0

    def progress(self) -> Progress:
        return Progress("comparing", self.done, self.total)


def _inverted(
    model: Model, pixels: Tensor, prompt: str, name: str, told: Mapping[str, Any], possible: Image.Image
) -> Generator[Progress, None, Start]:
    method = methods.find(inversion.METHODS, name, "inversion")
    try:
        run = method.load().invert(model, pixels, prompt, options.parse(method.options(), told))
        found, spent = yield from _metered(model, run, name)
        return Start(name, told, found, spent, psnr(found.image(model), possible))
    except _FAILURES as error:
        return Start(name, told, failure=_line(error))


def _heatmaps(
    model: Model, shown: Image.Image, starts: Sequence[Start], looks: Sequence[Look]
) -> dict[str, Image.Image]:
    """Where the words of the source's prompt look in it, on the way that ends nearest to it."""
    best = max(starts, key=lambda start: start.reconstruction if start.source is not None else -math.inf)
    if best.source is None:
        return {}
    way = best.source
    maps = {
        word: word_map(model, way.prompt, word, way.trajectory, way.schedule)
        for word in dict.fromkeys(look.source for look in looks)
        if word is not None
    }
    return {word: sheets.overlay(shown, heat) for word, heat in maps.items()}


def _edited(
    model: Model, cell: Cell, start: Source | None, looks: Sequence[Look], judge: "_Judge"
) -> Generator[Progress, None, Cell]:
    assert start is not None, "a failed inversion is no source"
    method = methods.find(editing.METHODS, cell.method, "editing")
    try:
        settings = options.parse(method.options(), cell.options)
        run = method.load().edit(model, EditRequest((cell.target,), settings, start.prompt, start))
        (result,), spent = yield from _metered(model, run, f"{cell.start.inversion}, {cell.method}")
        heat = {look.target: result.heatmap(look.target) for look in looks if look.target is not None}
        scores = judge.scores(result.image, cell.target)
        return replace(cell, result=result, spent=spent, scores=scores, heatmaps=heat)
    except _FAILURES as error:
        return replace(cell, failure=_line(error))


def _metered(
    model: Model, run: Generator[Progress, None, T], name: str
) -> Generator[Progress, None, tuple[T, Spent]]:
    """Run a computation, its stages named after it; returns its result and what it alone took."""
    seconds = 0.0
    try:
        with counting(model) as count:
            while True:
                began = time.perf_counter()
                try:
                    progress = next(run)
                except StopIteration as end:
                    _settle(model)
                    seconds += time.perf_counter() - began
                    return end.value, Spent(seconds, count.rows, count.with_gradient)
                seconds += time.perf_counter() - began
                yield replace(progress, stage=f"{name}: {progress.stage}")
    finally:
        run.close()


def _settle(model: Model) -> None:
    """Wait for what an accelerator was given to do."""
    if model.device.type != "cpu":
        torch.accelerator.synchronize(model.device)


@torch.no_grad()
def _warm(model: Model) -> None:
    """The first pass through a network prepares what the others use; nobody's seconds should hold that."""
    height, width = model.latent_size(*model.image_size)
    latents = torch.zeros(1, model.latent_channels, height, width, device=model.device)
    text = Conditioning(model.encode_text([""]))
    model.predict(latents.to(model.latent_dtype), model.schedule(1).levels[0], text)
    _settle(model)


def _line(error: BaseException) -> str:
    told = " ".join(str(error).split())
    return told if isinstance(error, WordbrushError) else f"{type(error).__name__}: {told}"


# Judging ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Judge:
    """Scores an edit against what is known."""

    source: Image.Image
    clip: Clip | None
    distance: Distance | None
    texts: Mapping[str, Tensor]
    known: Mapping[str, _Known]

    def scores(self, image: Image.Image, target: str) -> dict[str, float]:
        scores = {"psnr": psnr(image, self.source), "ssim": ssim(image, self.source)}
        if self.distance is not None:
            scores["distance"] = self.distance.distances([image], [self.source])[0]
        if self.clip is not None:
            scores["clip"] = float(self.clip.images([image])[0] @ self.texts[target])
        known = self.known.get(target, _Known(None, None))
        if known.image is not None:
            scores["truth_psnr"] = psnr(image, known.image)
            if self.distance is not None:
                scores["truth_distance"] = self.distance.distances([image], [known.image])[0]
        if known.outside is not None:
            scores["outside_psnr"] = psnr(image, self.source, known.outside)
        return scores

    def references(self, targets: Sequence[str]) -> list[Reference]:
        """The source unedited, and the truth where it is known: what every figure is to be read against."""
        references: list[Reference] = []
        for target in targets:
            references.append(Reference(target, "source", self.source, self.scores(self.source, target)))
            known = self.known.get(target)
            if known is not None and known.image is not None:
                scores = self.scores(known.image, target)
                references.append(Reference(target, "truth", known.image, scores))
        return references
