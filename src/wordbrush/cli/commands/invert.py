"""`wordbrush invert`: a picture file's source, saved."""

from pathlib import Path

from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import Given, OptionFile, Preview, Sheet
from wordbrush.cli.options.methods import inversion_options
from wordbrush.cli.options.setup import POCKET, LongPrompt, Setup
from wordbrush.cli.options.where import Mask
from wordbrush.files import all_or_none
from wordbrush.inversion import default


def invert(
    picture: Path,
    /,
    *,
    out: str,
    prompt: str | None = None,
    method: str | None = None,
    option_file: OptionFile = None,
    sheet: Sheet = False,
    preview: Preview = None,
    long_prompt: LongPrompt = False,
    mask: Mask = None,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Invert a picture and save its source: invert once, edit as often as you like.

    Parameters
    ----------
    picture
        a picture file
    out
        the .source file to write
    prompt
        what the picture shows (default: the prompt it was made from, where wordbrush made it)
    method
        how to invert; `wordbrush methods` lists them (default: straight for pocket, direct for other models)
    """
    terminal = setup.terminal
    method = default(setup.model) if method is None else method
    path = outputs.single(out, ".source")
    files = outputs.planned([path], out, [picture, option_file, mask], sheet=sheet, preview=preview)
    (options,) = flags.shared(given, option_file, inversion_options(method))
    with terminal.busy("starting"):
        from wordbrush import images, masks, sheets
        from wordbrush.cli import origins
    start = origins.photo(picture, prompt, flag="--prompt", method=method, options=options)
    model = setup.load()
    if long_prompt:
        model = start.reader(model)
    terminal.note([model.strange(start.prompt)])
    with terminal.watching(files.preview, every=preview or 1) as show:
        origin = start.origin(model, show, None if mask is None else masks.Mask.of(mask))
    with all_or_none() as opened:
        origin.source.save(path, opened)
        if files.sheet is not None:
            pictures = [origin.image, origin.source.image(model)]
            page = sheets.sheet(pictures, ["the picture", "the reconstruction"])
            images.save_png(page, files.sheet, opened=opened)
    terminal.say(f"{path}  {origin.source.prompt}")
    terminal.note(origin.notices)
    terminal.finish(
        command="invert",
        out=path,
        prompt=origin.source.prompt,
        method=origin.source.method,
        notices=origin.notices,
        sheet=files.sheet,
    )
    return 0
