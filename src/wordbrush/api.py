"""The verbs: what `import wordbrush` offers, and all that the command line does.

Each runs one of the package's generators to its end; `on_progress` is called after every step.
"""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, overload

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from wordbrush import (
    changes,
    concept,
    editing,
    images,
    inversion,
    masks,
    methods,
    options,
    provenance,
    sampling,
    sheets,
    training,
)
from wordbrush.concept import Concept, Use, exchange, merging
from wordbrush.editing.prompt_to_prompt import defaults
from wordbrush.errors import ImageError, ModelError, OptionsError, PromptError, SourceError, short
from wordbrush.framing import framed
from wordbrush.images import Pixels, Recorded
from wordbrush.masks import Where
from wordbrush.model import Model
from wordbrush.options import Options, RecordOptions, SeedOptions, Solver
from wordbrush.picture import Picture
from wordbrush.progress import Progress, drain
from wordbrush.request import EditRequest
from wordbrush.result import Result
from wordbrush.source import Source
from wordbrush.training.pictures import Folder
from wordbrush.word_map import word_map
from wordbrush.words import align

OnProgress = Callable[[Progress], object]
ImageOrPath = Image.Image | str | os.PathLike[str]
ANYWHERE = Where()


def apply(
    model: Model,
    *concepts: Concept | str | os.PathLike[str],
    strength: float | list[float] | tuple[float, ...] = 1.0,
) -> Model:
    """A model that knows these concepts as well, beside those that were applied to it before.

    concepts: values, or paths of their files. strength: how strongly, from 0, the model without it, to 1, what was
    trained; between −10 and 10, one for all or one for each. The model that is given stays as it is and may be used
    beside the new one, which shares with it all weights that no concept changes; `model.base` has none. Such a model
    has its own hash, so a source that was made without a concept is refused with it.

    Raises `ConceptError` for a file that is damaged or missing, a concept of another kind of model, one that is applied
    already, or two with one word; `OptionsError` for strengths.

    >>> model = Model.load("pocket")
    >>> mine = apply(model, "my-cat.concept", strength=0.8)
    >>> mine.read("<my-cat> on a beach").words[0].text, str(mine.concepts[0])
    ('<my-cat>', 'my-cat.concept=0.8')
    >>> generate(mine, "<my-cat> on a beach", seed=7, steps=2).size
    (128, 128)
    >>> apply(mine, "my-cat.concept")
    Traceback (most recent call last):
    wordbrush.errors.ConceptError: expected each concept once, got my-cat.concept=0.8 and my-cat.concept, which are \
equal: give it one strength
    """
    _require_model(model)
    strengths = list(strength) if isinstance(strength, list | tuple) else [strength] * len(concepts)
    if len(strengths) != len(concepts):
        raise OptionsError(
            f"expected one strength, or one for each of {len(concepts)} concepts, got {len(strengths)}"
        )
    values = [each if isinstance(each, Concept) else exchange.read(each, model.base) for each in concepts]
    new = [Use(value, each) for value, each in zip(values, strengths, strict=True)]
    return concept.applied(model, [*model.uses, *new])


def generate(
    model: Model,
    prompt: str,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    width: int | None = None,
    height: int | None = None,
    solver: Solver = "ddim",
    on_progress: OnProgress | None = None,
) -> Image.Image:
    """A picture of `prompt`. The same seed gives the same picture; sizes are pixels, defaults the model's own.
    negative_prompt: what guidance leads away from. solver: what takes the steps; "dpm++" (DPM-Solver++ 2M) needs fewer.

    Its `info["wordbrush"]` says how it was made; saved as PNG, it takes that along.

    Raises `PromptError`, `OptionsError`, or `ModelError` for a size that the model cannot make.

    >>> model = Model.load("pocket")
    >>> generate(model, "a cat on a beach", seed=7, steps=2).size
    (128, 128)
    """
    source = from_seed(
        model,
        prompt,
        seed=seed,
        steps=steps,
        guidance_scale=guidance_scale,
        negative_prompt=negative_prompt,
        width=width,
        height=height,
        solver=solver,
        on_progress=on_progress,
    )
    return generated_image(model, source)


def generated_image(model: Model, source: Source) -> Recorded:
    """The picture of a source that was generated, with its record."""
    image = source.image(model)
    record = provenance.source_record(model, source)
    return Recorded(image, provenance.record("generate", model, record, image))


def from_seed(
    model: Model,
    prompt: str,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str = "",
    width: int | None = None,
    height: int | None = None,
    solver: Solver = "ddim",
    on_progress: OnProgress | None = None,
) -> Source:
    """Generate like `generate`, and keep the trajectory: a source to edit.

    >>> model = Model.load("pocket")
    >>> from_seed(model, "a cat on a beach", seed=7, steps=2).steps
    2
    """
    _require_model(model)
    settings = options.parse(
        SeedOptions,
        {
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "negative_prompt": negative_prompt,
            "width": width,
            "height": height,
            "solver": solver,
        },
    )
    require_words(model, prompt)
    return drain(sampling.sample(model, prompt, **settings.model_dump()), on_progress)


@overload
def invert(
    model: Model,
    picture: Pixels,
    prompt: str,
    *,
    method: str | None = ...,
    options: Mapping[str, Any] | Options | None = ...,
    mask: Pixels | None = ...,
    on_progress: OnProgress | None = ...,
) -> Source: ...
@overload
def invert(
    model: Model,
    picture: list[Pixels],
    prompt: str | Sequence[str],
    *,
    method: str | None = ...,
    options: Mapping[str, Any] | Options | None = ...,
    mask: Pixels | None = ...,
    on_progress: OnProgress | None = ...,
) -> list[Source]: ...
def invert(
    model: Model,
    picture: Pixels | list[Pixels],
    prompt: str | Sequence[str],
    *,
    method: str | None = None,
    options: Mapping[str, Any] | Options | None = None,
    mask: Pixels | None = None,
    on_progress: OnProgress | None = None,
) -> Source | list[Source]:
    """Find the latents that lead from noise to a real picture: a source to edit.

    picture: a PIL image, a file's path or an open file, an array or a tensor (see `Pixels`), or a list of those. The
    model sees it whole, at the size nearest to its aspect and to the model's own area.
    prompt: what the picture shows; for a list, one for all or one each. method: see `inversion_methods`; by default
    "straight" with the built-in model and "direct" with others, on which nobody has measured "straight" yet. options:
    that method's `Options`. mask: where edits will be allowed to change the picture; of a large picture with a small
    mask the model sees a window around it (`wordbrush.framing`), and prompts say what is in the window.

    Raises `ImageError`, `PromptError`, `OptionsError`.

    >>> model = Model.load("pocket")
    >>> photo = generate(model, "a cat on a beach", seed=7, steps=2)
    >>> invert(model, photo, "a cat on a beach", options={"steps": 2}).method
    'straight'
    """
    if isinstance(picture, list):
        prompts = [prompt] * len(picture) if isinstance(prompt, str) else list(prompt)
        if len(prompts) != len(picture):
            raise PromptError(
                f"expected one prompt, or one for each of {len(picture)} pictures, got {len(prompts)}"
            )
        return [
            invert(model, each, own, method=method, options=options, mask=mask, on_progress=on_progress)
            for each, own in zip(picture, prompts, strict=True)
        ]
    steps = invert_steps(model, picture, cast(str, prompt), method=method, options=options, mask=mask)
    return drain(steps, on_progress)


def invert_steps(
    model: Model,
    picture: Pixels,
    prompt: str,
    *,
    method: str | None = None,
    options: Mapping[str, Any] | Options | None = None,
    mask: Pixels | masks.Mask | None = None,
) -> Generator[Progress, None, Source]:
    """`invert` of one picture as a generator, for callers that pause, show previews or measure."""
    _require_model(model)
    entry = methods.find(inversion.METHODS, method or inversion.default(model.name), "inversion")
    settings = options_of(entry, options)
    if isinstance(picture, Source):
        raise ImageError("expected a picture to invert, got a source: edit it as it is")
    require_words(model, prompt)
    own = Picture.of(picture)
    size = own.image.size
    given = masks.Mask.of(mask) if mask is not None and not isinstance(mask, masks.Mask) else mask
    frame = framed(model, *size, None if given is None else given.at(*size))
    own = own.within(frame.box)
    source = yield from entry.load().invert(model, own.seen(*frame.size), prompt, settings)
    return replace(source, picture=own)


def record(
    model: Model,
    source: Source,
    *,
    memory: int | None = None,
    precision: Literal["half", "full"] | None = None,
    on_progress: OnProgress | None = None,
) -> Source:
    """The same source with a recording of what edits read of it: further edits do not compute it again.

    It pays after a few edits: recording computes one row a step, and each edit one row a step less. An edit of another
    strength than 1 follows other levels, and another noise is another source: they do not use it. What edits with
    default windows may read is recorded; an edit with wider windows, or with options of its own for self-attention
    sites, computes the source where the recording does not have it.

    memory: MB that it may take, 1200 by default; early steps come first, and `source.recording.share` is the share of
    steps that fitted. precision: "half" (the default) keeps queries and keys in half precision, which changes pixels
    by a grey level at most; "full" in the model's own.

    Raises `OptionsError`, or `SourceError` if the source was made with another model, or by EDICT, whose steps ask the
    network twice.

    >>> model = Model.load("pocket")
    >>> source = record(model, from_seed(model, "a cat on a beach", seed=7, steps=4))
    >>> source.recording
    <Recording, 100% of 4 steps, 1.1 MB>
    >>> edit(model, source, "a dog on a beach").report.unet_rows
    8
    """
    given = {"memory": memory, "precision": precision}
    settings = options.parse(
        RecordOptions, {name: value for name, value in given.items() if value is not None}
    )
    return drain(record_steps(model, source, settings), on_progress)


def record_steps(model: Model, source: Source, options: RecordOptions) -> Generator[Progress, None, Source]:
    """`record` as a generator, for callers that pause or measure."""
    _require_model(model)
    _require_source(source)
    return sampling.recorded(model, source, defaults.readable(model, source), options)


@overload
def edit(  # pyright: ignore[reportOverlappingOverload] - a str is a Sequence[str]; the first overload wins
    model: Model,
    source: Source | Pixels,
    target: str,
    *,
    prompt: str | None = ...,
    inversion: str | None = ...,
    inversion_options: Mapping[str, Any] | Options | None = ...,
    method: str = ...,
    options: Mapping[str, Any] | Options | None = ...,
    mask: Pixels | None = ...,
    mask_words: str | Sequence[str] | None = ...,
    keep_words: str | Sequence[str] | None = ...,
    strength: float | None = ...,
    on_progress: OnProgress | None = ...,
) -> Result: ...
@overload
def edit(
    model: Model,
    source: Source | Pixels,
    target: Sequence[str],
    *,
    prompt: str | None = ...,
    inversion: str | None = ...,
    inversion_options: Mapping[str, Any] | Options | None = ...,
    method: str = ...,
    options: Mapping[str, Any] | Options | None = ...,
    mask: Pixels | None = ...,
    mask_words: str | Sequence[str] | None = ...,
    keep_words: str | Sequence[str] | None = ...,
    strength: float | None = ...,
    on_progress: OnProgress | None = ...,
) -> list[Result]: ...
@overload
def edit(
    model: Model,
    source: list[Source | Pixels],
    target: str | Sequence[str],
    *,
    prompt: str | None = ...,
    inversion: str | None = ...,
    inversion_options: Mapping[str, Any] | Options | None = ...,
    method: str = ...,
    options: Mapping[str, Any] | Options | None = ...,
    mask: Pixels | None = ...,
    mask_words: str | Sequence[str] | None = ...,
    keep_words: str | Sequence[str] | None = ...,
    strength: float | None = ...,
    on_progress: OnProgress | None = ...,
) -> list[Any]: ...
def edit(
    model: Model,
    source: Source | Pixels | list[Source | Pixels],
    target: str | Sequence[str],
    *,
    prompt: str | None = None,
    inversion: str | None = None,
    inversion_options: Mapping[str, Any] | Options | None = None,
    method: str = editing.DEFAULT,
    options: Mapping[str, Any] | Options | None = None,
    mask: Pixels | None = None,
    mask_words: str | Sequence[str] | None = None,
    keep_words: str | Sequence[str] | None = None,
    strength: float | None = None,
    on_progress: OnProgress | None = None,
) -> Result | list[Any]:
    """Edit a source into what `target` describes; several targets share one source and one batch.

    source: what `invert` or `from_seed` made, or a picture, which is inverted first; then `prompt` says what it shows,
    and `inversion` and `inversion_options` how (see `invert`). A list of those gives a list of what each gives; one
    prompt stands for all. method: see `editing_methods`. options: that method's
    `Options`, e.g. {"reweight": {"night": 2}}. strength: how far to go, from 0, the source, to 1, the whole edit.
    mask: where the picture may change (1, white) and where not; any size of the picture's aspect. mask_words,
    keep_words: words of the source's prompt; only where the ones are may it change, and not where the others are.
    The result is the picture itself, edited: outside of the masks, and where nothing changed, it keeps its pixels.

    Raises `PromptError` if the prompts do not fit the edit, `OptionsError`, `ImageError`, or `SourceError` if the
    source was made with another model.

    >>> model = Model.load("pocket")
    >>> generate(model, "a cat on a beach", seed=7, steps=4).save("cat.png")
    >>> edit(model, "cat.png", "a dog on a beach", prompt="a cat on a beach").report.words
    'a [cat → dog] on a beach'
    """
    targets = [target] if isinstance(target, str) else _several(target)
    if isinstance(source, list):
        given = {"prompt": prompt, "inversion": inversion, "inversion_options": inversion_options}
        given |= {"method": method, "options": options, "strength": strength, "on_progress": on_progress}
        given |= {"mask": mask, "mask_words": mask_words, "keep_words": keep_words}
        return [cast(Any, edit)(model, each, target, **given) for each in source]
    where = masks.read(mask, mask_words, keep_words)
    if not isinstance(source, Source):
        if prompt is None:
            raise PromptError(
                f"expected a source, as invert and from_seed make them, got {type(source).__name__}; to edit a "
                'picture at once, say what it shows: edit(…, prompt="a cat on a beach")'
            )
        check_edit(model, prompt, targets, method=method, options=options, strength=strength)
        where.check(model, prompt)
        steps = invert_steps(
            model, source, prompt, method=inversion, options=inversion_options, mask=where.mask
        )
        source = drain(steps, on_progress)
    elif superfluous := [
        name
        for name, value in (
            ("prompt", prompt),
            ("inversion", inversion),
            ("inversion_options", inversion_options),
        )
        if value is not None
    ]:
        raise OptionsError(
            f"the source already has its prompt and its steps: leave {', '.join(superfluous)} out"
        )
    edits = edit_steps(model, source, targets, method=method, options=options, strength=strength, where=where)
    results = drain(edits, on_progress)
    return results[0] if isinstance(target, str) else results


def edit_steps(
    model: Model,
    source: Source,
    targets: Sequence[str],
    *,
    method: str,
    options: Mapping[str, Any] | Options | None = None,
    strength: float | None = None,
    where: Where = ANYWHERE,
) -> Generator[Progress, None, list[Result]]:
    """`edit` of a source as a generator, for callers that pause, show previews or measure."""
    _require_model(model)
    _require_source(source)
    given = editing.dialled(method, _given(options), strength)
    module, request = _requested(model, source.prompt, targets, method, given)
    source.check(model)
    where.check(model, source.prompt)
    shares = where.shares(model, source)
    mask = None if shares is None else masks.seen(shares, source, model)
    results = yield from module.edit(model, replace(request, source=source, mask=mask))
    told: dict[str, Any] = {"method": method, "options": given, "targets": request.targets}
    told |= {"where": where, "shares": shares}
    return [
        replace(result, index=i, **told).noted([model.strange(result.prompt)])
        for i, result in enumerate(results)
    ]


@dataclass(frozen=True)
class Check:
    """What is known of an edit before it is made.

    words: the target's words, with what becomes of the source's. change, because: what kind of change the words ask
    for, and why. notices: what a user should know before the work, such as words that the model does not know.

    >>> (check,) = check_edit(Model.load("pocket"), "a cat on a beach", ["a unicorn on a beach"])
    >>> check.words, check.notices
    ('a [cat → unicorn] on a beach', ("pocket does not know 'unicorn' (but 'horse'): do not expect to see it",))
    """

    target: str
    words: str
    change: str
    because: str
    notices: tuple[str, ...] = ()


def check_edit(
    model: Model,
    prompt: str,
    targets: Sequence[str],
    *,
    method: str = editing.DEFAULT,
    options: Mapping[str, Any] | Options | None = None,
    strength: float | None = None,
) -> list[Check]:
    """Raise what `edit` would raise for these words and options with a source of `prompt`, before there is one: an
    invalid word is reported before the inversion starts. Returns what is known of each edit. Raises `PromptError`,
    `OptionsError`.

    >>> model = Model.load("pocket")
    >>> check_edit(model, "a cat on a beach", ["a red cat on a beach"])[0].because
    "'red' describes 'cat'"
    >>> check_edit(model, "a cat on a beach", ["a dog on a beach"], options={"spare": ["tree"]})
    Traceback (most recent call last):
    wordbrush.errors.PromptError: the prompt 'a dog on a beach' has no 'tree'; there is a, dog, on, beach
    """
    _require_model(model)
    require_words(model, prompt)
    given = editing.dialled(method, _given(options), strength)
    module, request = _requested(model, prompt, targets, method, given)
    module.plan(model, request)
    found: list[Check] = []
    for target in request.targets:
        alignment = align(model.read(prompt), model.read(target))
        change = changes.read(alignment)
        strange = [model.strange(prompt), model.strange(target)]
        notices = tuple(said for said in strange if said)
        found.append(Check(target, alignment.describe(), change.kind, change.reason, notices))
    return found


def heatmap(
    model: Model,
    picture: Pixels,
    prompt: str,
    word: str,
    *,
    method: str | None = None,
    options: Mapping[str, Any] | Options | None = None,
    on_progress: OnProgress | None = None,
) -> Image.Image:
    """Where `word` of `prompt` looks in a picture, drawn over what the model sees of it.

    The picture is inverted, by default with "direct", and the word's cross-attention averaged over the trajectory.
    method, options: the inversion's. Raises `PromptError` if the prompt has no such word.

    >>> model = Model.load("pocket")
    >>> photo = generate(model, "a cat on a beach", seed=7, steps=2)
    >>> heatmap(model, photo, "a cat on a beach", "cat").size
    (128, 128)
    """
    _require_model(model)
    require_words(model, prompt)
    model.read(prompt).find(word)  # before any work is done
    steps = invert_steps(model, picture, prompt, method=method or inversion.DEFAULT, options=options)
    found = drain(steps, on_progress)
    assert found.picture is not None, "it was made of a picture"
    heat = word_map(model, prompt, word, found.trajectory, found.schedule)
    return sheets.overlay(found.picture.part, heat)


def train(
    model: Model,
    pictures: Folder,
    method: str,
    *,
    options: Mapping[str, Any] | Options | None = None,
    work: str | os.PathLike[str] | None = None,
    on_progress: OnProgress | None = None,
) -> Concept:
    """Teach a model a thing or a style from pictures; the model itself stays as it is.

    pictures: a folder, or a list of files and PIL images; a list of folders, one for each thing, for methods that learn
    several. method: see `training_methods`. options: that method's `Options`, such as {"token": "<my-cat>", "init":
    "cat"}. work: a folder for checkpoints, a log and samples; a training that was stopped goes on there when it is
    called with the same again, and ends with the same concept.

    Raises `ImageError`, `PromptError`, `OptionsError`, or `NumericsError` where the loss is no number.

    >>> model = Model.load("pocket")
    >>> generate(model, "a cat on a beach", seed=7, steps=2).save("cat.png")
    >>> options = {"token": "<my-cat>", "init": "cat", "steps": 1}
    >>> train(model, ["cat.png"], "textual_inversion", options=options).prompt
    'a photo of <my-cat>'
    """
    from wordbrush.training.run import finish, held, planned, run

    _require_model(model)
    place = None if work is None else Path(work)
    plan = planned(model, pictures, method, _given(options))
    with nullcontext() if place is None else held(place):
        trained = drain(run(plan, place), on_progress)
        if place is not None:
            finish(plan, place)
    return trained.concept


def merge(
    model: Model,
    concepts: Sequence[Concept | str | os.PathLike[str]],
    captions: Sequence[str] | str | os.PathLike[str] | None = None,
    *,
    targets: Sequence[str] = (),
    on_progress: OnProgress | None = None,
) -> Concept:
    """One concept of several that Custom Diffusion learned, without training: each word keeps its meaning, and all
    other text changes as little as that allows.

    concepts: values, or paths of their files. captions: texts of many different pictures, which shall mean what they
    did, or a file with one a line; the built-in model has its own. targets: prompts in which the words shall mean
    exactly what they do in their concepts; by default each concept's own prompt, "photo of a <my-cat> cat", and the
    same from the word on, "<my-cat> cat".

    Raises `ConceptError` for concepts of another model, that changed other weights than the keys and values of
    cross-attention, or with one word; `OptionsError` for too few captions; `PromptError` for targets.

    >>> model = Model.load("pocket")
    >>> merge(model, ["my-dog.concept", "my-vase.concept"]).prompt
    'photo of a <my-dog> dog and a <my-vase> vase'
    """
    _require_model(model)
    values = [each if isinstance(each, Concept) else exchange.read(each, model.base) for each in concepts]
    texts = merging.captions_in(captions) if isinstance(captions, str | os.PathLike) else captions
    return drain(merging.merge(model, values, texts, targets), on_progress).concept


def word_of(
    model: Model,
    picture: Pixels,
    mask: Pixels,
    *,
    options: Mapping[str, Any] | Options | None = None,
) -> Concept:
    """A word for the thing in one picture, without training for it (ELITE; docs/methods/elite.md).

    mask: of the picture's size, 1 (white) where the thing is. options: `EliteOptions`, such as {"token": "<my-cat>"}.
    There are mapping networks for the built-in model; those of another are given as a folder, {"mappers": "FOLDER"}.

    Raises `ImageError` for a mask that does not fit, `ModelError` without mapping networks, `OptionsError`.

    >>> from wordbrush.pocket import render, sample, segment
    >>> scene = sample(7, things=1)
    >>> word_of(Model.load("pocket"), render(scene), segment(scene) == 1, options={"token": "<it>"}).prompt
    'a photo of <it>'
    """
    from wordbrush.training.elite.method import concept

    _require_model(model)
    return concept(model, picture, mask, _given(options))


def fitted(model: Model, picture: ImageOrPath) -> Float[Tensor, "1 3 height width"]:
    """A picture or picture file at the model's own size, as a tensor in [−1, 1]. Raises `ImageError`."""
    image = images.rgb(picture) if isinstance(picture, Image.Image) else images.load(picture)
    height, width = model.image_size
    return images.to_tensor(images.fit(image, width, height))


def inversion_methods() -> dict[str, str]:
    """Name and summary of every inversion.

    >>> sorted(inversion_methods())
    ['ddim', 'direct', 'edict', 'edit_friendly', 'fixed_point', 'negative_prompt', 'null_text', 'regularised', \
'renoise', 'straight']
    """
    return {name: method.summary for name, method in inversion.METHODS.items()}


def editing_methods() -> dict[str, str]:
    """Name and summary of every editing method.

    >>> list(editing_methods())[:3]
    ['auto', 'prompt_to_prompt', 'mask_based']
    """
    return {name: method.summary for name, method in editing.METHODS.items()}


def training_methods() -> dict[str, str]:
    """Name and summary of every training.

    >>> list(training_methods())
    ['textual_inversion', 'dreambooth', 'lora', 'custom_diffusion', 'svdiff', 'cones']
    """
    return {name: method.summary for name, method in training.METHODS.items()}


def options_of(entry: methods.Method[Any], given: Mapping[str, Any] | Options | None) -> Any:
    """A method's options, checked. Raises `OptionsError`."""
    kind = entry.options()
    return given if isinstance(given, kind) else options.parse(kind, _given(given))


def _given(given: object) -> Mapping[str, Any]:
    """Options as a mapping. Raises `OptionsError` for what is none."""
    if given is None:
        return {}
    if isinstance(given, Options):
        return given.model_dump(exclude_unset=True)
    if not isinstance(given, Mapping):
        raise OptionsError(f"expected options as a mapping of names to values, got {type(given).__name__}")
    return cast(Mapping[str, Any], given)


def _requested(
    model: Model,
    prompt: str,
    targets: Sequence[str],
    method: str,
    options: Mapping[str, Any] | Options | None,
) -> tuple[editing.EditingMethod, EditRequest]:
    """An editing method and what it is asked for, without the source."""
    entry = methods.find(editing.METHODS, method, "editing")
    settings = options_of(entry, options)
    for target in targets:
        require_words(model, target)
    module = entry.load()
    request = EditRequest(tuple(targets), settings, prompt)
    request.check(module.NEEDS, method)
    return module, request


def _several(targets: object) -> list[str]:
    try:
        return list(cast(Sequence[str], targets))
    except TypeError as error:
        raise PromptError(f"expected a target prompt, or a list of them, got {short(targets)}") from error


def _require_model(model: object) -> None:
    if not isinstance(model, Model):
        hint = f"Model.load({short(model)})" if isinstance(model, str) else "Model.load()"
        raise ModelError(f"expected a model, as {hint} gives one, got {type(model).__name__}")


def _require_source(source: object) -> None:
    if not isinstance(source, Source):
        raise SourceError(
            f"expected a source, as invert and from_seed make them, got {type(source).__name__}"
        )


def require_words(model: Model, prompt: object) -> None:
    """Raise `PromptError` for a prompt without words: it would leave nothing to draw and nothing to align."""
    if not isinstance(prompt, str) or all(word.is_punctuation for word in model.read(prompt).words):
        raise PromptError(f"expected a prompt that says what the picture shows, got {short(prompt)}")
