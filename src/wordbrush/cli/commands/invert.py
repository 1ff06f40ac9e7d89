"""`wordbrush invert`: a picture file's source, saved."""

from pathlib import Path

from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.setup import Setup
from wordbrush.cli.options.shared import (
    INVERSION,
    POCKET,
    OptionFile,
    Preview,
    Sheet,
    Told,
    inversion_options,
)


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
        from wordbrush import images, sheets
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
        images.save_png(sheets.sheet(pictures, ["the picture", "what its source makes of it"]), sheet_path)
    terminal.finish(
        command="invert",
        out=path,
        prompt=origin.source.prompt,
        method=origin.source.method,
        notices=origin.notices,
        sheet=sheet_path,
    )
    return 0
