"""The commands. What computes is imported inside of them, so that help never waits for torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from cyclopts import Parameter, validators

import wordbrush
from wordbrush import editing, inversion
from wordbrush.cli import flags, outputs
from wordbrush.cli.flags import Whole
from wordbrush.cli.setup import Device, Json, Setup
from wordbrush.cli.terminal import Terminal
from wordbrush.errors import OptionsError, PromptError
from wordbrush.files import all_or_none
from wordbrush.methods import find
from wordbrush.options import Options

Told = Mapping[str, str | list[str]]
OptionFile = Annotated[Path | None, Parameter(metavar="TOML", help="a file of options; flags outweigh it")]
Sheet = Annotated[bool, Parameter(help="write a sheet as well: before and after, with captions")]
Preview = Annotated[
    Whole | None,
    Parameter(
        metavar="N",
        help="keep a preview beside the output, fresh every N steps, until the output is there",
        validator=validators.Number(gte=1),
    ),
]
POCKET = Setup()
EDITING, INVERSION = "prompt-to-prompt", "direct"  # the default methods


def generate(
    prompt: str,
    /,
    *,
    out: str,
    seed: Whole = 0,
    steps: Whole | None = None,
    guidance_scale: float | None = None,
    width: Whole | None = None,
    height: Whole | None = None,
    preview: Preview = None,
    setup: Setup = POCKET,
) -> int:
    """Make a picture of a prompt.

    Parameters
    ----------
    prompt
        what to see in the picture
    out
        the PNG to write
    seed
        the same seed makes the same picture
    steps
        sampling steps (default: the model's own)
    guidance_scale
        how strongly the prompt pulls (default: the model's own)
    width
        in pixels (default: the model's own)
    height
        in pixels (default: the model's own)
    """
    path = outputs.single(out, ".png")
    preview_path = outputs.beside([path], out, "preview") if preview else None
    outputs.check([], [path], preview_path)
    _require_text("the prompt", prompt)
    model = setup.load()
    from wordbrush import images, provenance
    from wordbrush.cli import origins

    with setup.terminal.watching(preview_path, every=preview or 1) as show:
        source = wordbrush.from_seed(
            model,
            prompt,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
            width=width,
            height=height,
            on_progress=show,
        )
    made = origins.seeded(model, source)
    images.save_png(made.image, path, provenance.record("generate", model, made.record, made.image))
    setup.terminal.say(f"{path}  {prompt}")
    setup.terminal.finish(command="generate", out=path, prompt=prompt, seed=seed)
    return 0


def edit(
    picture: Path,
    /,
    *,
    target: list[str],
    out: str,
    source: str | None = None,
    method: str = EDITING,
    inversion: str = INVERSION,
    option_file: OptionFile = None,
    sheet: Sheet = False,
    preview: Preview = None,
    setup: Setup = POCKET,
    told: Told,
) -> int:
    """Edit a picture file, or a source made by `invert`, into what the targets say.

    Parameters
    ----------
    picture
        a picture file, or a .source file
    target
        what the edited picture shall show; repeat it for more pictures
    out
        the PNG to write, or a folder (FOLDER/), which several targets need
    source
        what the picture shows (default: the prompt it was made from, where wordbrush made it)
    method
        how to edit; `wordbrush methods` lists them
    inversion
        how to invert a picture file; `wordbrush methods` lists them
    """
    terminal = setup.terminal
    paths = outputs.destinations(out, target)
    sheet_path = outputs.beside(paths, out, "sheet") if sheet else None
    preview_path = outputs.beside(paths, out, "preview") if preview else None
    outputs.check([picture, option_file], [*paths, sheet_path], preview_path)
    for prompt in target:
        _require_text("--target", prompt)
    options, inverting = flags.shared(
        told, option_file, editing_options(method), inversion_options(inversion)
    )
    with terminal.busy("starting"):
        from wordbrush import api, images, provenance
        from wordbrush.cli import origins
    start = origins.read(
        picture,
        source,
        flag="--source",
        method=inversion,
        options=inverting,
        unused=inverting.keys() - options,
    )
    model = setup.load()
    if start.prompt is not None:  # a wrong word should not wait for the inversion
        api.check_edit(model, start.prompt, target, method=method, options=options)
    with terminal.watching(preview_path, every=preview or 1) as show:
        origin = start.origin(model, show)
        results = wordbrush.edit(
            model, origin.source, target, method=method, options=options, on_progress=show
        )

    written: list[dict[str, Any]] = []
    with all_or_none() as opened:
        for index, (path, result) in enumerate(zip(paths, results, strict=True)):
            report = {**result.report, "notices": [*origin.notices, *result.report["notices"]]}
            made = provenance.record(
                "edit",
                model,
                origin.record,
                result.image,
                method=method.replace("-", "_"),
                targets=target,
                index=index,
                options=options,
                report=report,
            )
            images.save_png(result.image, path, made, opened)
            written.append({"out": path, "target": result.prompt, "report": report})
        if sheet_path is not None:
            pictures = [origin.image, *(result.image for result in results)]
            images.save_png(
                images.sheet(pictures, [origin.source.prompt, *target]), sheet_path, opened=opened
            )
    for output in written:
        terminal.say(f"{output['out']}  {output['report']['words']}")
    terminal.note(notice for output in written for notice in output["report"]["notices"])
    terminal.finish(command="edit", outputs=written, sheet=sheet_path)
    return 0


def invert(
    picture: Path,
    /,
    *,
    out: str,
    prompt: str | None = None,
    method: str = INVERSION,
    option_file: OptionFile = None,
    sheet: Sheet = False,
    preview: Preview = None,
    setup: Setup = POCKET,
    told: Told,
) -> int:
    """Find the way from noise to a picture and keep it: invert once, edit for ever.

    Parameters
    ----------
    picture
        a picture file
    out
        the .source file to write
    prompt
        what the picture shows (default: the prompt it was made from, where wordbrush made it)
    method
        how to invert; `wordbrush methods` lists them
    """
    terminal = setup.terminal
    path = outputs.single(out, ".source")
    sheet_path = outputs.beside([path], out, "sheet") if sheet else None
    preview_path = outputs.beside([path], out, "preview") if preview else None
    outputs.check([picture, option_file], [path, sheet_path], preview_path)
    (options,) = flags.shared(told, option_file, inversion_options(method))
    with terminal.busy("starting"):
        from wordbrush import images
        from wordbrush.cli import origins
    start = origins.photo(picture, prompt, flag="--prompt", method=method, options=options)
    model = setup.load()
    with terminal.watching(preview_path, every=preview or 1) as show:
        origin = start.origin(model, show)
    origin.source.save(path)
    terminal.say(f"{path}  {origin.source.prompt}")
    terminal.note(origin.notices)
    if sheet_path is not None:
        pictures = [origin.image, origin.source.image(model)]
        images.save_png(images.sheet(pictures, ["the picture", "what its source makes of it"]), sheet_path)
    terminal.finish(
        command="invert",
        out=path,
        prompt=origin.source.prompt,
        method=origin.source.method,
        notices=origin.notices,
        sheet=sheet_path,
    )
    return 0


def heatmap(
    picture: Path,
    /,
    *,
    word: str,
    out: str,
    prompt: str | None = None,
    inversion: str = INVERSION,
    option_file: OptionFile = None,
    sheet: Sheet = False,
    setup: Setup = POCKET,
    told: Told,
) -> int:
    """Show where a word of the prompt looks in a picture.

    Parameters
    ----------
    picture
        a picture file, or a .source file
    word
        a word of the prompt, or several in a row
    out
        the PNG to write
    prompt
        what the picture shows (default: the prompt it was made from, where wordbrush made it)
    inversion
        how to invert a picture file; `wordbrush methods` lists them
    """
    terminal = setup.terminal
    path = outputs.single(out, ".png")
    sheet_path = outputs.beside([path], out, "sheet") if sheet else None
    outputs.check([picture, option_file], [path, sheet_path])
    (options,) = flags.shared(told, option_file, inversion_options(inversion))
    with terminal.busy("starting"):
        from wordbrush import images
        from wordbrush.cli import origins
        from wordbrush.word_map import word_map
    start = origins.read(picture, prompt, flag="--prompt", method=inversion, options=options, unused=options)
    model = setup.load()
    if start.prompt is not None:
        model.read(start.prompt).find(word)  # what is wrong with the word should not wait for the inversion
    with terminal.watching() as show:
        origin = start.origin(model, show)
    source = origin.source
    heat = images.overlay(
        origin.image, word_map(model, source.prompt, word, source.trajectory, source.schedule)
    )
    record = origin.record.model_dump(mode="json", exclude_defaults=True)
    images.save_png(heat, path, {"command": "heatmap", "word": word, "source": record})
    terminal.say(f"{path}  {word} in: {source.prompt}")
    terminal.note(origin.notices)
    if sheet_path is not None:
        images.save_png(images.sheet([origin.image, heat], [source.prompt, word]), sheet_path)
    terminal.finish(
        command="heatmap",
        out=path,
        prompt=source.prompt,
        word=word,
        notices=origin.notices,
        sheet=sheet_path,
    )
    return 0


def replay(
    picture: Path,
    /,
    *,
    out: str | None = None,
    model: Annotated[str | None, Parameter(help="where the model lies now (default: where it lay)")] = None,
    device: Device = None,
    json: Json = False,
) -> int:
    """Make a picture again from the record in its PNG, and say whether every pixel is the same (if not, exit 1).

    Parameters
    ----------
    picture
        a PNG that wordbrush made
    out
        a PNG to write what was made now to
    """
    terminal = Terminal(as_json=json)
    path = outputs.single(out, ".png") if out is not None else None
    with terminal.busy("starting"):
        import torch

        from wordbrush import images, provenance
    made = provenance.read_record(picture)
    files = [Path(file.path) for file in (made.source.picture, made.source.saved) if file is not None]
    outputs.check([picture, *files], [path])
    if made.threads:
        torch.set_num_threads(made.threads)  # the last bits of a sum depend on how it was split
    setup = Setup(model or made.model.found(picture), device, cast(Any, made.model.dtype), json)
    loaded = setup.load()
    with terminal.watching() as show:
        again = wordbrush.replay(picture, model=loaded, on_progress=show)
    if path is not None:
        record = provenance.record(
            made.command,
            loaded,
            made.source,
            again.image,
            method=made.method,
            targets=made.targets,
            index=made.index,
            options=made.options,
            report=made.report,
        )
        images.save_png(again.image, path, record)
    same = not again.differences
    terminal.say(
        f"{picture}  "
        + ("every pixel is the same" if same else f"the pixels differ: {'; '.join(again.differences)}")
    )
    terminal.finish(command="replay", picture=picture, same=same, differences=again.differences, out=path)
    return 0 if same else 1


def editing_options(method: str) -> type[Options]:
    """The options of an editing method. Raises `OptionsError` if there is no such method."""
    if method.replace("-", "_") in inversion.METHODS:
        raise OptionsError(f"{method} is an inversion and no way to edit: expected --inversion {method}")
    return flags.options_of(find(editing.METHODS, method, "editing"))


def inversion_options(method: str) -> type[Options]:
    """The options of an inversion. Raises `OptionsError` if there is no such method."""
    return flags.options_of(find(inversion.METHODS, method, "inversion"))


def _require_text(name: str, prompt: str) -> None:
    if not prompt.strip():
        raise PromptError(f"expected {name} to say what to see, got nothing")
