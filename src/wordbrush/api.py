"""The verbs: what `import wordbrush` offers, and all that the command line does.

Each runs one of the package's generators to its end; `on_progress` is called after every step.
"""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, overload

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor

from wordbrush import editing, images, inversion, methods, options, provenance, sampling, sheets
from wordbrush.errors import PromptError
from wordbrush.model import Model
from wordbrush.options import InversionOptions, Options
from wordbrush.picture import Picture
from wordbrush.progress import Progress, drain
from wordbrush.request import EditRequest
from wordbrush.result import Result
from wordbrush.source import Source
from wordbrush.word_map import word_map

OnProgress = Callable[[Progress], object]
ImageOrPath = Image.Image | str | os.PathLike[str]


class _SeedOptions(InversionOptions):
    """What a picture is generated from, checked like every other option."""

    seed: int = Field(ge=0, lt=2**63)
    width: int | None
    height: int | None


def generate(
    model: Model,
    prompt: str,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    on_progress: OnProgress | None = None,
) -> Image.Image:
    """A picture of `prompt`. The same seed gives the same picture; sizes are pixels, defaults the model's own.

    Raises `PromptError`, `OptionsError`, or `ModelError` for a size that the model cannot make.

    >>> model = Model.load("pocket")
    >>> generate(model, "a cat on a beach", seed=7, steps=2).size
    (128, 128)
    """
    return from_seed(
        model,
        prompt,
        seed=seed,
        steps=steps,
        guidance_scale=guidance_scale,
        width=width,
        height=height,
        on_progress=on_progress,
    ).image(model)


def from_seed(
    model: Model,
    prompt: str,
    *,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    width: int | None = None,
    height: int | None = None,
    on_progress: OnProgress | None = None,
) -> Source:
    """Generate like `generate`, and keep the trajectory: a source to edit.

    >>> model = Model.load("pocket")
    >>> from_seed(model, "a cat on a beach", seed=7, steps=2).steps
    2
    """
    settings = options.parse(
        _SeedOptions,
        {
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "width": width,
            "height": height,
        },
    )
    _require_words(model, prompt)
    return drain(sampling.sample(model, prompt, **settings.model_dump()), on_progress)


def invert(
    model: Model,
    picture: ImageOrPath,
    prompt: str,
    *,
    method: str | None = None,
    options: Mapping[str, Any] | Options | None = None,
    on_progress: OnProgress | None = None,
) -> Source:
    """Find the latents that lead from noise to a real picture: a source to edit.

    picture: a PIL image or a file; it is cropped around its middle to the model's aspect and scaled to its size.
    prompt: what the picture shows. method: see `inversion_methods`; by default "straight" with the built-in model and
    "direct" with others, on which nobody has measured "straight" yet. options: that method's `Options`.

    Raises `ImageError`, `PromptError`, `OptionsError`.

    >>> model = Model.load("pocket")
    >>> photo = generate(model, "a cat on a beach", seed=7, steps=2)
    >>> invert(model, photo, "a cat on a beach", options={"steps": 2}).method
    'straight'
    """
    return drain(invert_steps(model, picture, prompt, method=method, options=options), on_progress)


def invert_steps(
    model: Model,
    picture: ImageOrPath,
    prompt: str,
    *,
    method: str | None = None,
    options: Mapping[str, Any] | Options | None = None,
) -> Generator[Progress, None, Source]:
    """`invert` as a generator, for callers that pause, show previews or measure."""
    entry = methods.find(inversion.METHODS, method or inversion.default(model.name), "inversion")
    settings = options_of(entry, options)
    _require_words(model, prompt)
    size = model.image_size
    own = Picture.of(picture, *size)
    source = yield from entry.load().invert(model, own.seen(*size), prompt, settings)
    return replace(source, picture=own)


@overload
def edit(  # pyright: ignore[reportOverlappingOverload] - a str is a Sequence[str]; the first overload wins
    model: Model,
    source: Source,
    target: str,
    *,
    method: str = ...,
    options: Mapping[str, Any] | Options | None = ...,
    on_progress: OnProgress | None = ...,
) -> Result: ...
@overload
def edit(
    model: Model,
    source: Source,
    target: Sequence[str],
    *,
    method: str = ...,
    options: Mapping[str, Any] | Options | None = ...,
    on_progress: OnProgress | None = ...,
) -> list[Result]: ...
def edit(
    model: Model,
    source: Source,
    target: str | Sequence[str],
    *,
    method: str = editing.DEFAULT,
    options: Mapping[str, Any] | Options | None = None,
    on_progress: OnProgress | None = None,
) -> Result | list[Result]:
    """Edit a source into what `target` describes; several targets share one source and one batch.

    method: see `editing_methods`. options: that method's `Options`, e.g. {"reweight": {"night": 2}}.

    Raises `PromptError` if the prompts do not fit the edit, `OptionsError`, or `SourceError` if the source was
    made with another model.

    >>> model = Model.load("pocket")
    >>> source = from_seed(model, "a cat on a beach", seed=7, steps=4)
    >>> edit(model, source, "a dog on a beach").report.words
    'a [cat → dog] on a beach'
    """
    targets = [target] if isinstance(target, str) else _several(target)
    results = drain(edit_steps(model, source, targets, method=method, options=options), on_progress)
    return results[0] if isinstance(target, str) else results


def edit_steps(
    model: Model,
    source: Source,
    targets: Sequence[str],
    *,
    method: str,
    options: Mapping[str, Any] | Options | None = None,
) -> Generator[Progress, None, list[Result]]:
    """`edit` as a generator, for callers that pause, show previews or measure."""
    module, request = _requested(model, source.prompt, targets, method, options)
    return (yield from module.edit(model, replace(request, source=source)))


def check_edit(
    model: Model,
    prompt: str,
    targets: Sequence[str],
    *,
    method: str = editing.DEFAULT,
    options: Mapping[str, Any] | Options | None = None,
) -> None:
    """Raise what `edit` would raise for these words and options with a source of `prompt`, before there is one: an
    invalid word is reported before the inversion starts. Raises `PromptError`, `OptionsError`.

    >>> check_edit(Model.load("pocket"), "a cat on a beach", ["a dog on a beach"], options={"spare": ["tree"]})
    Traceback (most recent call last):
    wordbrush.errors.PromptError: the prompt 'a dog on a beach' has no 'tree'; there is a, dog, on, beach
    """
    module, request = _requested(model, prompt, targets, method, options)
    module.plan(model, request)


def heatmap(
    model: Model, picture: ImageOrPath, prompt: str, word: str, *, on_progress: OnProgress | None = None
) -> Image.Image:
    """Where `word` of `prompt` looks in a picture, drawn over it.

    The picture is inverted, and the word's cross-attention averaged over the trajectory. Raises `PromptError` if the
    prompt has no such word.

    >>> model = Model.load("pocket")
    >>> photo = generate(model, "a cat on a beach", seed=7, steps=2)
    >>> heatmap(model, photo, "a cat on a beach", "cat").size
    (128, 128)
    """
    model.read(prompt).find(word)  # before any work is done
    found = invert(model, picture, prompt, method=inversion.DEFAULT, on_progress=on_progress)
    return sheets.overlay(found.image(model), word_map(model, prompt, word, found.trajectory, found.schedule))


def fitted(model: Model, picture: ImageOrPath) -> Float[Tensor, "1 3 height width"]:
    """A picture or picture file at the model's own size, as a tensor in [−1, 1]. Raises `ImageError`."""
    image = images.rgb(picture) if isinstance(picture, Image.Image) else images.load(picture)
    height, width = model.image_size
    return images.to_tensor(images.fit(image, width, height))


def inversion_methods() -> dict[str, str]:
    """Name and summary of every inversion.

    >>> sorted(inversion_methods())
    ['ddim', 'direct', 'negative_prompt', 'null_text', 'straight']
    """
    return {name: method.summary for name, method in inversion.METHODS.items()}


def editing_methods() -> dict[str, str]:
    """Name and summary of every editing method.

    >>> list(editing_methods())
    ['prompt_to_prompt']
    """
    return {name: method.summary for name, method in editing.METHODS.items()}


@dataclass(frozen=True, eq=False)
class Replay:
    """A picture made again. differences: empty if every pixel is the same, or else what is different now."""

    image: Image.Image
    differences: tuple[str, ...]


def replay(
    path: str | os.PathLike[str], *, model: Model | None = None, on_progress: OnProgress | None = None
) -> Replay:
    """Make a picture again from the record in its PNG, and compare.

    On the same machine, with the same versions and number of threads, the pixels are the same. Raises
    `ImageError` for a picture without a record, or one whose own source picture is gone or changed.

    >>> from wordbrush.cli import main
    >>> main(["generate", "a cat on a beach", "--steps", "2", "--out", "cat.png"])
    cat.png  a cat on a beach
    0
    >>> replay("cat.png").differences
    ()
    """
    record = provenance.read_record(path)
    model = model or Model.load(
        record.model.found(Path(path)), dtype=getattr(torch, record.model.dtype, None)
    )
    image = _remake(record, Path(path), model, on_progress)
    differences: list[str] = []
    if provenance.pixel_hash(image) != record.pixels:
        now = provenance.Record.model_validate(provenance.record(record.command, model, record.source, image))
        if now.model.hash != record.model.hash:
            differences.append(f"the model: {record.model.hash[:12]}… then, {now.model.hash[:12]}… now")
        if now.threads != record.threads:
            differences.append(f"the number of threads: {record.threads} then, {now.threads} now")
        for name, before in record.versions.items():
            if now.versions.get(name) != before:
                differences.append(f"{name}: {before} then, {now.versions.get(name)} now")
        differences = differences or ["the machine: model, versions and threads are the same"]
    return Replay(image, tuple(differences))


def _remake(
    record: provenance.Record, path: Path, model: Model, on_progress: OnProgress | None
) -> Image.Image:
    origin = record.source
    if origin.saved is not None:
        found = Source.load(origin.saved.found(path), model)
    elif origin.picture is not None:
        found = invert(
            model,
            origin.picture.found(path),
            origin.prompt,
            method=origin.method,
            options=origin.options,
            on_progress=on_progress,
        )
    else:
        found = from_seed(
            model,
            origin.prompt,
            seed=int(origin.options["seed"]),
            steps=origin.steps,
            guidance_scale=origin.guidance_scale,
            width=origin.width,
            height=origin.height,
            on_progress=on_progress,
        )
    if record.command == "generate":
        return found.image(model)
    results = edit(
        model,
        found,
        record.targets,
        method=record.method or editing.DEFAULT,
        options=record.options,
        on_progress=on_progress,
    )
    return results[record.index].image


def options_of(entry: methods.Method[Any], given: Mapping[str, Any] | Options | None) -> Any:
    """A method's options, checked. Raises `OptionsError`."""
    kind = entry.options()
    if isinstance(given, kind):
        return given
    return options.parse(kind, given.model_dump() if isinstance(given, Options) else given or {})


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
        _require_words(model, target)
    module = entry.load()
    request = EditRequest(tuple(targets), settings, prompt)
    request.check(module.NEEDS, method)
    return module, request


def _several(targets: object) -> list[str]:
    try:
        return list(cast(Sequence[str], targets))
    except TypeError as error:
        raise PromptError(f"expected a target prompt, or a list of them, got {targets!r}") from error


def _require_words(model: Model, prompt: object) -> None:
    """Raise `PromptError` for a prompt without words: it would leave nothing to draw and nothing to align."""
    if not isinstance(prompt, str) or all(word.is_punctuation for word in model.read(prompt).words):
        raise PromptError(f"expected a prompt that says what the picture shows, got {prompt!r}")
