"""`wordbrush mask`: where words of the prompt are in a picture, as a mask to edit with."""

from pathlib import Path

from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import Given, OptionFile, Sheet
from wordbrush.cli.options.methods import inversion_options
from wordbrush.cli.options.setup import POCKET, LongPrompt, Setup
from wordbrush.cli.options.where import ANYWHERE, Masking
from wordbrush.errors import OptionsError
from wordbrush.files import all_or_none
from wordbrush.inversion import default


def mask(
    picture: Path,
    /,
    *,
    out: str,
    prompt: str | None = None,
    inversion: str | None = None,
    option_file: OptionFile = None,
    sheet: Sheet = False,
    long_prompt: LongPrompt = False,
    where: Masking = ANYWHERE,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Make a mask from words: look at it, correct it with any paint program, and edit with --mask.

    Parameters
    ----------
    picture
        a picture file, or a .source file
    out
        the PNG to write: white where the picture may change
    prompt
        what the picture shows (default: the prompt it was made from, where wordbrush made it)
    inversion
        how to invert a picture file (default: straight for pocket, direct for other models)
    """
    terminal = setup.terminal
    inverts = inversion or default(setup.model)
    path = outputs.single(out, ".png")
    files = outputs.planned([path], out, [picture, option_file, where.mask, *setup.files], sheet=sheet)
    (options,) = flags.shared(given, option_file, inversion_options(inverts))
    if not where.mask_words and not where.keep_words:
        raise OptionsError('expected words to make a mask from: --mask-words cat, --keep-words "the mirror"')
    with terminal.busy("starting"):
        from wordbrush import images, masks, sheets
        from wordbrush.cli import origins
    said = where.read()
    unused = flags.superfluous(inversion, options)
    start = origins.read(picture, prompt, flag="--prompt", method=inverts, options=options, unused=unused)
    model = setup.load()
    if long_prompt:
        model = start.reader(model)
    if start.prompt is not None:
        said.check(model, start.prompt)  # an invalid word is reported before the inversion starts
        terminal.note([model.strange(start.prompt)])
    with terminal.watching() as show:
        origin = start.origin(model, show)
    said.check(model, origin.source.prompt)
    shares = said.shares(model, origin.source)
    assert shares is not None, "there are words"
    words = {"words": said.words, "keep": said.keep}
    with all_or_none() as opened:
        images.save_png(masks.drawn(shares), path, {"command": "mask", **words}, opened)
        if files.sheet is not None:
            pictures = [origin.image, masks.drawn(shares), masks.shown(origin.image, shares)]
            page = sheets.sheet(pictures, [origin.source.prompt, "the mask", "what may change"])
            images.save_png(page, files.sheet, opened=opened)
    free = float(shares.mean()) / 255
    terminal.say(f"{path}  {free:.0%} of the picture may change")
    terminal.note(origin.notices)
    terminal.finish(
        command="mask",
        out=path,
        prompt=origin.source.prompt,
        **words,
        free=free,
        notices=origin.notices,
        sheet=files.sheet,
    )
    return 0
