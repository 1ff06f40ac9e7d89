"""`wordbrush edit`: a picture file or a saved source, edited into what the targets say."""

from pathlib import Path
from typing import Any

import wordbrush
from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.setup import Setup
from wordbrush.cli.options.shared import (
    EDITING,
    INVERSION,
    POCKET,
    OptionFile,
    Preview,
    Sheet,
    Told,
    editing_options,
    inversion_options,
    require_text,
)
from wordbrush.files import all_or_none


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
        require_text("--target", prompt)
    options, inverting = flags.shared(
        told, option_file, editing_options(method), inversion_options(inversion)
    )
    with terminal.busy("starting"):
        from wordbrush import api, images, provenance, sheets
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
            report = {**result.report.as_json(), "notices": [*origin.notices, *result.report.notices]}
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
                sheets.sheet(pictures, [origin.source.prompt, *target]), sheet_path, opened=opened
            )
    for output in written:
        terminal.say(f"{output['out']}  {output['report']['words']}")
    terminal.note(notice for output in written for notice in output["report"]["notices"])
    terminal.finish(command="edit", outputs=written, sheet=sheet_path)
    return 0
