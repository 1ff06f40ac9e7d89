"""Making a picture again from its record."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from wordbrush import editing, provenance, sampling
from wordbrush.api import OnProgress, apply, edit, generated_image, invert, record_steps, require_words
from wordbrush.inputs import listed
from wordbrush.model import Model
from wordbrush.options import SeedOptions, parse
from wordbrush.progress import drain
from wordbrush.source import Source


@dataclass(frozen=True, eq=False)
class Replay:
    """A picture made again. differences: empty if every pixel is the same, or else what is different now.

    >>> model = Model.load("pocket")
    >>> replay(generate(model, "a cat on a beach", steps=2), model=model).image.size
    (128, 128)
    """

    image: Image.Image
    differences: tuple[str, ...]


def replay(
    picture: Image.Image | str | os.PathLike[str],
    *,
    model: Model | None = None,
    on_progress: OnProgress | None = None,
) -> Replay:
    """Make a picture again from its record (in a PNG file, or in a picture's `info`), and compare.

    On the same machine, with the same versions and number of threads, the pixels are the same. A model is never
    fetched because a record names it: pass one that is neither built in nor on this machine. Concepts are found like
    pictures, at their paths or beside the picture, and applied; a model that has concepts is used as it is. Raises
    `ImageError` for a picture without a record, or one whose own source picture is gone or changed, `ConceptError` for
    such a concept, `OptionsError` for a damaged record.

    >>> from wordbrush.cli import main
    >>> main(["generate", "a cat on a beach", "--steps", "2", "--out", "cat.png"])
    cat.png  a cat on a beach
    0
    >>> replay("cat.png").differences
    ()
    """
    record = provenance.read_record(picture)
    beside = Path.cwd() / "picture" if isinstance(picture, Image.Image) else Path(picture)
    files = (
        [] if model is not None and model.concepts else [each.found(beside) for each in record.model.concepts]
    )
    model = model or Model.load(record.model.found(beside), dtype=record.model.dtype, fetch=False)
    if files:
        model = apply(model, *files, strength=[each.strength for each in record.model.concepts])
    model = model.with_chunks(record.model.chunks)
    image = _remake(record, beside, model, on_progress)
    differences: list[str] = []
    if provenance.pixel_hash(image) != record.pixels:
        threads, versions = torch.get_num_threads(), provenance.versions()
        if model.hash != record.model.hash:
            differences.append(f"the model: {record.model.hash[:12]}… then, {model.hash[:12]}… now")
        before, now = (listed(sorted(each, key=str)) for each in (record.model.concepts, model.concepts))
        if {e.sha256: e.strength for e in record.model.concepts} != {
            e.sha256: e.strength for e in model.concepts
        }:
            differences.append(f"the concepts: {before} then, {now} now")
        if threads != record.threads:
            differences.append(f"the number of threads: {record.threads} then, {threads} now")
        for name, before in record.versions.items():
            if versions.get(name) != before:
                differences.append(f"{name}: {before} then, {versions.get(name)} now")
        differences = differences or ["the machine: model, versions and threads are the same"]
    return Replay(image, tuple(differences))


def _remake(
    record: provenance.Record, path: Path, model: Model, on_progress: OnProgress | None
) -> Image.Image:
    origin = record.source
    where: dict[str, Any] = {
        "mask": None if record.mask is None else record.mask.found(path),
        "mask_words": record.mask_words,
        "keep_words": record.keep_words,
    }
    if origin.saved is not None:
        found = Source.load(origin.saved.found(path), model)
    elif origin.picture is not None:
        found = invert(
            model,
            origin.picture.found(path),
            origin.prompt,
            method=origin.method,
            options=origin.options,
            mask=where["mask"],
            on_progress=on_progress,
        )
    else:
        told = {"steps": origin.steps, "guidance_scale": origin.guidance_scale}
        told |= {"width": origin.width, "height": origin.height}
        settings = parse(SeedOptions, {**origin.options, **told})
        require_words(model, origin.prompt)
        found = drain(sampling.sample(model, origin.prompt, **settings.model_dump()), on_progress)
    was = None if found.recording is None else found.recording.options
    if origin.recording is None:
        found = replace(found, recording=None)
    elif origin.recording != was:
        found = drain(record_steps(model, found, origin.recording), on_progress)
    if record.command == "generate":
        return generated_image(model, found)
    results = edit(
        model,
        found,
        record.targets,
        method=record.method or editing.COMPARED,
        options=record.options,
        on_progress=on_progress,
        **where,
    )
    result = results[record.index]
    return result.image if record.is_pasted else result.rendering
