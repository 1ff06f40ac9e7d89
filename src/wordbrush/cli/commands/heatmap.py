"""`wordbrush heatmap`: where a word looks in a picture."""

from pathlib import Path

from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.setup import Setup
from wordbrush.cli.options.shared import INVERSION, POCKET, OptionFile, Sheet, Told, inversion_options


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
        from wordbrush import images, sheets
        from wordbrush.cli import origins
        from wordbrush.word_map import word_map
    start = origins.read(picture, prompt, flag="--prompt", method=inversion, options=options, unused=options)
    model = setup.load()
    if start.prompt is not None:
        model.read(start.prompt).find(word)  # what is wrong with the word should not wait for the inversion
    with terminal.watching() as show:
        origin = start.origin(model, show)
    source = origin.source
    heat = sheets.overlay(
        origin.image, word_map(model, source.prompt, word, source.trajectory, source.schedule)
    )
    record = origin.record.model_dump(mode="json", exclude_defaults=True)
    images.save_png(heat, path, {"command": "heatmap", "word": word, "source": record})
    terminal.say(f"{path}  {word} in: {source.prompt}")
    terminal.note(origin.notices)
    if sheet_path is not None:
        images.save_png(sheets.sheet([origin.image, heat], [source.prompt, word]), sheet_path)
    terminal.finish(
        command="heatmap",
        out=path,
        prompt=source.prompt,
        word=word,
        notices=origin.notices,
        sheet=sheet_path,
    )
    return 0
