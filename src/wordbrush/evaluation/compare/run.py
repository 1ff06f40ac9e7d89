"""One picture or prompt pair, edited in several ways, side by side.

Every inversion is done once, and each of its edits is a run of its own: one method, one target. So the cost in a cell
does not depend on what else is compared. Seconds are those of inverting and of sampling, without the autoencoder's
last step; the UNet is run once before the first is measured.
"""

import math
import os
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from PIL import Image
from torch import Tensor

from wordbrush import api, images, sampling, sheets
from wordbrush.backbones import Clip
from wordbrush.errors import WordbrushError
from wordbrush.evaluation.compare.request import SEED, Checked, Look, Request, impossible, looks
from wordbrush.evaluation.compare.result import Cell, Comparison, Start
from wordbrush.evaluation.compare.score import Distance, Scorer, known
from wordbrush.evaluation.contender import Contender, reason
from wordbrush.evaluation.metrics.pixels import psnr
from wordbrush.evaluation.results.cost import Cost, measured, warm_up
from wordbrush.model import Model
from wordbrush.options import SolvedOptions, parse
from wordbrush.progress import Progress, staged
from wordbrush.word_map import word_map

T = TypeVar("T")

# What one method can raise without the others being affected; torch raises RuntimeError for everything it lacks.
_FAILURES = (WordbrushError, MemoryError, RuntimeError)


def compare(
    model: Model, request: Request, *, clip: Clip | None = None, distance: Distance | None = None
) -> Generator[Progress, None, Comparison]:
    """Edit a picture into each target from each inversion by each method.

    clip, distance: what scores by more than pixels; without one its column is left out.

    What one of them cannot do (not-a-number, a target that it has no edit for) is reported in its cells, and the
    others go on. Raises `OptionsError`, `PromptError` and `ImageError` for what none of them can do, before any work.
    """
    asked = request.checked()
    reasons, shown_words, truths = impossible(model, asked), looks(model, asked), known(model, asked)
    notices = list(filter(None, [model.strange(asked.prompt)]))
    picture = None if asked.picture is None else _fitted(model, asked.picture, notices)
    texts: dict[str, Tensor] = {}
    if clip is not None:
        is_long = model.chunks > 1  # then a judge with one context may judge by the beginning
        if is_long:
            notices.append(f"{clip.name} judges by as much of a target as its text encoder's context holds")
        texts = dict(zip(asked.targets, clip.texts(asked.targets, truncate=is_long), strict=True))
    warm_up(model)

    count = _Count(asked)
    yield count.progress()
    generated: Start | None = None
    if picture is None:
        generated = yield from _generated(model, asked)
        assert generated.source is not None
        picture = generated.source.image(model)
        yield count.one_more()
    encoded = model.encode_image(api.fitted(model, picture).to(model.device))
    best = images.to_image(model.decode(encoded)[0].cpu())
    scorer = Scorer(picture, truths, clip, distance, texts)
    editor = _Editor(model, asked, reasons, shown_words, scorer)
    references = scorer.references()  # a missing package is reported before the long work

    starts: list[Start] = []
    cells: list[Cell] = []
    for name in asked.inversions:
        if name == SEED and generated is not None:
            start = generated
        else:
            start = yield from _inverted(
                model, asked, name, picture if asked.picture is None else asked.picture, best
            )
            yield count.one_more()
        starts.append(start)
        for method in asked.methods:
            if (name, method) not in asked.pairs:
                continue
            for target in asked.targets:
                cells.append((yield from editor.cell(start, method, target)))
                yield count.one_more()

    order = list(asked.methods)
    cells.sort(key=lambda cell: (asked.targets.index(cell.target), order.index(cell.method)))
    return Comparison(
        picture=picture,
        original=asked.picture,
        prompt=asked.prompt,
        targets=asked.targets,
        bound=psnr(best, picture),
        generated=None if generated is None else generated.source,
        starts=tuple(starts),
        cells=tuple(cells),
        references=tuple(references),
        looks=shown_words,
        heatmaps=_heatmaps(model, picture, starts, [look for each in shown_words.values() for look in each]),
        judges={key: each.name for key, each in (("clip", clip), ("distance", distance)) if each is not None},
        notices=tuple(notices),
    )


class _Count:
    """How many of the inversions and edits are done."""

    def __init__(self, asked: Checked) -> None:
        self.done = 0
        self.total = len(asked.inversions) + len(asked.pairs) * len(asked.targets)
        self.total += asked.picture is None and SEED not in asked.inversions

    def progress(self) -> Progress:
        return Progress("comparing", self.done, self.total)

    def one_more(self) -> Progress:
        self.done += 1
        return self.progress()


def _fitted(model: Model, picture: api.ImageOrPath, notices: list[str]) -> Image.Image:
    """The picture at the model's size; `notices` gets what was done to it."""
    image = picture if isinstance(picture, Image.Image) else images.load(picture)
    height, width = model.image_size
    name = "the picture" if isinstance(picture, Image.Image) else os.fspath(picture)
    notices += [*image.info.get("notices", []), *images.crop_notices(name, image, width, height)]
    return images.to_image(api.fitted(model, image)[0])


def _generated(model: Model, asked: Checked) -> Generator[Progress, None, Start]:
    assert asked.seed is not None
    options = asked.generating
    settings = parse(SolvedOptions, options).model_dump()
    run = sampling.sample(model, asked.prompt, asked.seed, **settings)
    found, cost = yield from _measured(model, run, SEED)
    return Start(SEED, options, found, cost, reconstruction=math.inf)


def _inverted(
    model: Model, asked: Checked, name: str, picture: api.ImageOrPath, best: Image.Image
) -> Generator[Progress, None, Start]:
    options = asked.inversions[name]
    contender = Contender(next(iter(asked.methods)), name, inversion_options=options)
    try:
        run = contender.invert(model, picture, asked.prompt)
        found, cost = yield from _measured(model, run, name)
        return Start(name, options, found, cost, psnr(found.image(model), best))
    except _FAILURES as error:
        return Start(name, options, failure=reason(error))


@dataclass(frozen=True, eq=False)
class _Editor:
    """Makes the cells of one comparison. reasons: why a method cannot do a target, by both."""

    model: Model
    asked: Checked
    reasons: Mapping[tuple[str, str], str]
    looks: Mapping[str, Sequence[Look]]
    scorer: Scorer

    def cell(self, start: Start, method: str, target: str) -> Generator[Progress, None, Cell]:
        options = self.asked.methods[method]
        cell = Cell(start, method, options, target)
        failure = start.failure if start.source is None else self.reasons.get((method, target), "")
        if failure or start.source is None:
            return replace(cell, failure=failure)
        contender = cell.contender
        try:
            run = contender.edit(self.model, start.source, [target])
            (result,), cost = yield from _measured(self.model, run, f"{start.inversion}, {method}")
            shown = [look.target for look in self.looks[target] if look.target is not None]
            heatmaps = {word: result.heatmap(word) for word in shown}
            scores = self.scorer.scores(result.rendering, target, contender.reads)
            return replace(cell, result=result, cost=cost, scores=scores, heatmaps=heatmaps)
        except _FAILURES as error:
            return replace(cell, failure=reason(error))


def _measured(
    model: Model, run: Generator[Progress, None, T], name: str
) -> Generator[Progress, None, tuple[T, Cost]]:
    """`cost.measured` with the stages named after what is run."""
    return staged(measured(model, run), f"{name}: {{}}".format)


def _heatmaps(
    model: Model, picture: Image.Image, starts: Sequence[Start], looks: Sequence[Look]
) -> dict[str, Image.Image]:
    """Where the words of the source's prompt look in the picture, along the best reconstruction's trajectory."""
    best = max(starts, key=lambda start: start.reconstruction if start.source is not None else -math.inf)
    found = best.source
    if found is None:
        return {}
    maps = {
        word: word_map(model, found.prompt, word, found.trajectory, found.schedule)
        for word in dict.fromkeys(look.source for look in looks)
        if word is not None
    }
    return {word: sheets.overlay(picture, heat) for word, heat in maps.items()}
