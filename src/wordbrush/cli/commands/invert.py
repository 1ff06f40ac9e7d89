"""`wordbrush invert`: a picture file's source, saved."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import Given, OptionFile, Preview, Sheet, Whole
from wordbrush.cli.options.methods import inversion_options
from wordbrush.cli.options.setup import POCKET, LongPrompt, Setup
from wordbrush.cli.options.where import Mask
from wordbrush.errors import OptionsError
from wordbrush.files import all_or_none
from wordbrush.inversion import default
from wordbrush.options import RecordOptions, parse
from wordbrush.progress import drain


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
    record: bool = False,
    record_memory: Annotated[Whole | None, Parameter(metavar="MB")] = None,
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
    record
        also record what edits read of the source, so that they need not compute it again; the file is larger
    record_memory
        how much may be recorded (default: 1200)
    """
    terminal = setup.terminal
    method = default(setup.model) if method is None else method
    path = outputs.single(out, ".source")
    inputs = [picture, option_file, mask, *setup.files]
    files = outputs.planned([path], out, inputs, sheet=sheet, preview=preview)
    (options,) = flags.shared(given, option_file, inversion_options(method))
    if record_memory is not None and not record:
        raise OptionsError("--record-memory says how much --record may record: give both, or neither")
    recording = parse(RecordOptions, {} if record_memory is None else {"memory": record_memory})
    with terminal.busy("starting"):
        from wordbrush import api, images, masks, sheets
        from wordbrush.cli import origins
    start = origins.photo(picture, prompt, flag="--prompt", method=method, options=options)
    model = setup.load()
    if long_prompt:
        model = start.reader(model)
    terminal.note([model.strange(start.prompt)])
    with terminal.watching(files.preview, every=preview or 1) as show:
        origin = start.origin(model, show, None if mask is None else masks.Mask.of(mask))
        source, notices = origin.source, [*origin.notices]
        if record:
            source = drain(api.record_steps(model, source, recording), show)
            assert source.recording is not None, "what was recorded has a recording"
            notices += source.recording.notices
    with all_or_none() as opened:
        source.save(path, opened, recording=record)
        if files.sheet is not None:
            pictures = [origin.image, source.image(model)]
            page = sheets.sheet(pictures, ["the picture", "the reconstruction"])
            images.save_png(page, files.sheet, opened=opened)
    terminal.say(f"{path}  {source.prompt}")
    terminal.note(notices)
    terminal.finish(
        command="invert",
        out=path,
        prompt=source.prompt,
        method=source.method,
        notices=notices,
        sheet=files.sheet,
    )
    return 0
