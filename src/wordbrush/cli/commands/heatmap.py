"""`wordbrush heatmap`: where a word looks in a picture."""

from pathlib import Path

from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import Given, OptionFile, Sheet
from wordbrush.cli.options.methods import INVERSION, inversion_options
from wordbrush.cli.options.setup import POCKET, LongPrompt, Setup
from wordbrush.files import all_or_none


def heatmap(
    picture: Path,
    /,
    *,
    word: str,
    out: str,
    prompt: str | None = None,
    inversion: str | None = None,
    option_file: OptionFile = None,
    sheet: Sheet = False,
    long_prompt: LongPrompt = False,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Draw the attention map of a word of the prompt over a picture.

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
        how to invert a picture file; `wordbrush methods` lists them (default: direct)
    """
    terminal = setup.terminal
    path = outputs.single(out, ".png")
    files = outputs.planned([path], out, [picture, option_file, *setup.files], sheet=sheet)
    inverts = inversion or INVERSION
    (options,) = flags.shared(given, option_file, inversion_options(inverts))
    with terminal.busy("starting"):
        from wordbrush import images, provenance, sheets
        from wordbrush.cli import origins
        from wordbrush.word_map import word_map
    unused = flags.superfluous(inversion, options)
    start = origins.read(picture, prompt, flag="--prompt", method=inverts, options=options, unused=unused)
    model = setup.load()
    if long_prompt:
        model = start.reader(model)
    if start.prompt is not None:
        model.read(start.prompt).find(word)  # an invalid word is reported before the inversion starts
        terminal.note([model.strange(start.prompt)])
    with terminal.watching() as show:
        origin = start.origin(model, show)
    source = origin.source
    seen = origin.image if source.picture is None else source.picture.part
    heat = sheets.overlay(seen, word_map(model, source.prompt, word, source.trajectory, source.schedule))
    record = provenance.source_record(model, source).model_dump(mode="json", exclude_defaults=True)
    with all_or_none() as opened:
        images.save_png(heat, path, {"command": "heatmap", "word": word, "source": record}, opened)
        if files.sheet is not None:
            page = sheets.sheet([origin.image, heat], [source.prompt, word])
            images.save_png(page, files.sheet, opened=opened)
    terminal.say(f"{path}  {word} in: {source.prompt}")
    terminal.note(origin.notices)
    terminal.finish(
        command="heatmap",
        out=path,
        prompt=source.prompt,
        word=word,
        notices=origin.notices,
        sheet=files.sheet,
    )
    return 0
