"""`wordbrush train elite`: one masked picture to a concept, without training for it."""

from dataclasses import replace
from io import BytesIO
from pathlib import Path

from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import Given, OptionFile
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.files import all_or_none
from wordbrush.training.elite.options import EliteOptions

_SEEDS, _STEPS = range(2), 20


def elite(
    *,
    picture: Path,
    mask: Path,
    out: str,
    option_file: OptionFile = None,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """One masked picture of a thing, in seconds: no training, as mapping networks were trained before (ELITE).

    Parameters
    ----------
    picture
        a picture of the thing
    mask
        a picture of the same size, white where the thing is
    out
        the .concept file to write; what it draws is written beside it, to NAME.sample.png
    """
    path = outputs.single(out, ".concept")
    sample = outputs.beside([path], out, "sample")
    outputs.check([picture, mask, option_file], [path, sample])
    (options,) = flags.shared(given, option_file, EliteOptions)
    terminal = setup.terminal
    with terminal.busy("starting"):
        from wordbrush import api, images, sheets
        from wordbrush.training.elite.method import concept, doubts, framed
    notices = doubts(picture, mask)
    terminal.note(notices)
    model = setup.load()
    with terminal.busy("looking at the thing"):
        made = concept(model, picture, mask, options)
    learned = api.apply(model, made)
    with terminal.busy("drawing it"):
        shown = [api.generate(learned, made.prompt, seed=seed, steps=_STEPS) for seed in _SEEDS]
    content = BytesIO()
    shown[0].save(content, "PNG")
    page = sheets.sheet(
        [images.load(picture), framed(picture, mask), *shown],
        ["the picture", "the thing", *[made.prompt] * len(shown)],
    )
    with all_or_none() as opened:
        made = replace(made, previews=(content.getvalue(),)).save(path, opened)
        images.save_png(page, sample, {"command": "train elite"}, opened)
    use = setup.use(made.prompt, path)
    terminal.say(f"{path}  {made.prompt}")
    terminal.say(f"{sample}  what it draws")
    terminal.say(use)
    terminal.finish(
        command="train elite",
        method="elite",
        picture=picture,
        mask=mask,
        out=path,
        prompt=made.prompt,
        use=use,
        sample=sample,
        notices=notices,
    )
    return 0
