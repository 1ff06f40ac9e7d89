"""The verbs: what `import wordbrush` offers, and all that the command line does.

Each runs one of the package's generators to its end; pass `on_progress` to be told of every step.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, overload

import torch
from jaxtyping import Float
from PIL import Image
from pydantic import Field
from torch import Tensor

from wordbrush import editing, images, inversion, methods, options, provenance, source
from wordbrush.errors import PromptError
from wordbrush.model import Model
from wordbrush.options import InversionOptions, Options
from wordbrush.progress import Progress, drain
from wordbrush.result import Result
from wordbrush.source import Source
from wordbrush.word_map import word_map

OnProgress = Callable[[Progress], object]
Picture = Image.Image | str | os.PathLike[str]


class _SeedOptions(InversionOptions):
    """What a picture is generated from, checked in the words of every other option."""

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
    """Generate like `generate`, and keep the way there: a source to edit.

    >>> model = Model.load("pocket")
    >>> from_seed(model, "a cat on a beach", seed=7, steps=2).steps
    2
    """
    told = options.parse(
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
    return drain(source.from_seed(model, prompt, **told.model_dump()), on_progress)


def invert(
    model: Model,
    picture: Picture,
    prompt: str,
    *,
    method: str = "direct",
    options: Mapping[str, Any] | Options | None = None,
    on_progress: OnProgress | None = None,
) -> Source:
    """Find the way from noise to a real picture: a source to edit.

    picture: a PIL image or a file; it is cropped around its middle to the model's aspect and scaled to its size.
    prompt: what the picture shows. method: see `inversion_methods`. options: that method's `Options`.

    Raises `ImageError`, `PromptError`, `OptionsError`.

    >>> model = Model.load("pocket")
    >>> photo = generate(model, "a cat on a beach", seed=7, steps=2)
    >>> invert(model, photo, "a cat on a beach", options={"steps": 2}).method
    'direct'
    """
    module = methods.find(inversion.METHODS, method, "inversion").load()
    told = _options(module.Options, options)
    _require_words(model, prompt)
    return drain(module.invert(model, fitted(model, picture), prompt, told), on_progress)


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
    method: str = "prompt_to_prompt",
    options: Mapping[str, Any] | Options | None = None,
    on_progress: OnProgress | None = None,
) -> Result | list[Result]:
    """Edit a source into what `target` says; several targets share one source and one batch.

    method: see `editing_methods`. options: that method's `Options`, e.g. {"reweight": {"night": 2}}.

    Raises `PromptError` if the prompts do not fit the edit, `OptionsError`, or `SourceError` if the source was
    made with another model.

    >>> model = Model.load("pocket")
    >>> source = from_seed(model, "a cat on a beach", seed=7, steps=4)
    >>> edit(model, source, "a dog on a beach").report["words"]
    'a [cat → dog] on a beach'
    """
    module = methods.find(editing.METHODS, method, "editing").load()
    told = _options(module.Options, options)
    targets = [target] if isinstance(target, str) else _several(target)
    for prompt in targets:
        _require_words(model, prompt)
    results: list[Result] = drain(module.edit(model, source, targets, told), on_progress)
    return results[0] if isinstance(target, str) else results


def check_edit(
    model: Model,
    prompt: str,
    targets: Sequence[str],
    *,
    method: str = "prompt_to_prompt",
    options: Mapping[str, Any] | Options | None = None,
) -> None:
    """Raise what `edit` would say of these words and options for a source of `prompt`, while there is none yet.

    An inversion takes long; what is wrong with a word should not wait for its end. Raises `PromptError`,
    `OptionsError`.

    >>> check_edit(Model.load("pocket"), "a cat on a beach", ["a dog on a beach"], options={"spare": ["tree"]})
    Traceback (most recent call last):
    wordbrush.errors.PromptError: the prompt 'a dog on a beach' has no 'tree'; there is a, dog, on, beach
    """
    module = methods.find(editing.METHODS, method, "editing").load()
    told = _options(module.Options, options)
    for target in targets:
        _require_words(model, target)
    module.plan(model, prompt, targets, told)


def heatmap(
    model: Model, picture: Picture, prompt: str, word: str, *, on_progress: OnProgress | None = None
) -> Image.Image:
    """Where `word` of `prompt` looks in a picture, drawn over it.

    The picture is inverted, and the word's cross-attention averaged along the way. Raises `PromptError` if the
    prompt has no such word.

    >>> model = Model.load("pocket")
    >>> photo = generate(model, "a cat on a beach", seed=7, steps=2)
    >>> heatmap(model, photo, "a cat on a beach", "cat").size
    (128, 128)
    """
    model.read(prompt).find(word)  # before any work is done
    found = invert(model, picture, prompt, on_progress=on_progress)
    return images.overlay(found.image(model), word_map(model, prompt, word, found.trajectory, found.schedule))


def fitted(model: Model, picture: Picture) -> Float[Tensor, "1 3 height width"]:
    """A picture or picture file at the model's own size, as a tensor in [−1, 1]. Raises `ImageError`."""
    image = images.rgb(picture) if isinstance(picture, Image.Image) else images.load(picture)
    height, width = model.image_size
    return images.to_tensor(images.fit(image, width, height))


def inversion_methods() -> dict[str, str]:
    """Name and summary of every inversion.

    >>> sorted(inversion_methods())
    ['ddim', 'direct', 'negative_prompt', 'null_text']
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
    """A picture made again: `differences` is empty if every pixel is the same, or else says what differs."""

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
    made = provenance.read_record(path)
    model = model or Model.load(made.model.found(Path(path)), dtype=getattr(torch, made.model.dtype, None))
    image = _remake(made, Path(path), model, on_progress)
    differences: list[str] = []
    if provenance.pixel_hash(image) != made.pixels:
        now = provenance.Record.model_validate(provenance.record(made.command, model, made.source, image))
        if now.model.hash != made.model.hash:
            differences.append(f"the model: {made.model.hash[:12]}… then, {now.model.hash[:12]}… now")
        if now.threads != made.threads:
            differences.append(f"the number of threads: {made.threads} then, {now.threads} now")
        for name, before in made.versions.items():
            if now.versions.get(name) != before:
                differences.append(f"{name}: {before} then, {now.versions.get(name)} now")
        differences = differences or ["the machine: model, versions and threads are the same"]
    return Replay(image, tuple(differences))


def _remake(made: provenance.Record, path: Path, model: Model, on_progress: OnProgress | None) -> Image.Image:
    origin = made.source
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
    if made.command == "generate":
        return found.image(model)
    results = edit(
        model,
        found,
        made.targets,
        method=made.method or "prompt_to_prompt",
        options=made.options,
        on_progress=on_progress,
    )
    return results[made.index].image


def _several(targets: object) -> list[str]:
    try:
        return list(cast(Sequence[str], targets))
    except TypeError as error:
        raise PromptError(f"expected a target prompt, or a list of them, got {targets!r}") from error


def _require_words(model: Model, prompt: object) -> None:
    """Raise `PromptError` for a prompt without words: it would leave nothing to draw and nothing to align."""
    if not isinstance(prompt, str) or all(word.is_punctuation for word in model.read(prompt).words):
        raise PromptError(f"expected a prompt that says what the picture shows, got {prompt!r}")


def _options(kind: type[Options], given: Mapping[str, Any] | Options | None) -> Options:
    return (
        given
        if isinstance(given, kind)
        else options.parse(kind, given.model_dump() if isinstance(given, Options) else given or {})
    )
