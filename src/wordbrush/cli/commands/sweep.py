"""`wordbrush sweep`: one edit over several values of one option, as a labelled strip."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import DropMetadata, Given, OptionFile
from wordbrush.cli.options.methods import EDITING, editing_options, inversion_options
from wordbrush.cli.options.setup import POCKET, LongPrompt, Setup
from wordbrush.cli.options.where import ANYWHERE, Masking
from wordbrush.errors import OptionsError
from wordbrush.files import all_or_none
from wordbrush.inversion import default
from wordbrush.options import StrengthOptions

Values = Annotated[
    str | None,
    Parameter(metavar="X,…", help="numbers with commas between them (default: some that suit the option)"),
]


def sweep(
    picture: Path,
    /,
    *,
    target: str,
    option: str,
    out: str,
    values: Values = None,
    keep: str | None = None,
    source: str | None = None,
    method: str = EDITING,
    inversion: str | None = None,
    option_file: OptionFile = None,
    long_prompt: LongPrompt = False,
    where: Masking = ANYWHERE,
    drop_metadata: DropMetadata = False,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Edit a picture once for each value of an option: a labelled strip, the source first.

    Parameters
    ----------
    picture
        a picture file, or a .source file
    target
        what the edited picture shall show
    option
        any numeric option of the editing method or of the inversion, or strength
    out
        the PNG of the strip
    keep
        a folder (FOLDER/) for every edited picture, each with its record
    source
        what the picture shows (default: the prompt it was made from, where wordbrush made it)
    method
        how to edit; `wordbrush methods` lists them
    inversion
        how to invert a picture file (default: straight for pocket, direct for other models)
    """
    terminal = setup.terminal
    is_saved = picture.suffix == ".source"
    inverts = inversion or default(setup.model)
    outputs.require_text("--target", target)
    strip = outputs.single(out, ".png")
    kinds = editing_options(method), inversion_options(inverts)
    options, inverting, slider = flags.shared(given, option_file, *kinds, StrengthOptions)
    with terminal.busy("starting"):
        from wordbrush import editing, images, sheets
        from wordbrush.cli import origins
        from wordbrush.progress import drain
        from wordbrush.sweeping import Swept, sweep_steps
    texts = None if values is None else [value.strip() for value in values.split(",")]
    swept = Swept.of(option, texts, method, None if is_saved else inverts)
    if keep is not None and not keep.strip():
        raise OptionsError("expected --keep FOLDER/ for the edited pictures, got nothing")
    kept = [Path(keep) / f"{swept.file_name(value)}.png" for value in swept.values] if keep else []
    outputs.check([picture, option_file, where.mask, *setup.files], [strip, *kept])
    said = where.read()
    unused = flags.superfluous(inversion, inverting.keys() - options)
    options = editing.dialled(method, options, slider.get("strength"))
    start = origins.read(picture, source, flag="--source", method=inverts, options=inverting, unused=unused)
    model = setup.load()
    if long_prompt:
        model = start.reader(model, [target, options.get("negative_prompt", "")])
    asked = (target, option, swept.values)
    with terminal.watching() as show:
        if isinstance(start, origins.Photo):
            image = start.image
            terminal.note(start.notices)
            steps = sweep_steps(
                model,
                start.path,
                *asked,
                prompt=start.prompt,
                inversion=inverts,
                inversion_options=inverting,
                method=method,
                options=options,
                where=said,
            )
        else:
            origin = start.origin(model, show)
            image = origin.image
            steps = sweep_steps(model, origin.source, *asked, method=method, options=options, where=said)
        results = drain(steps, show)
    seen = results[0].source.picture
    terminal.note([] if seen is None else seen.notices)
    labels = ["source", *map(swept.label, swept.values)]
    with all_or_none() as opened:
        sheet = sheets.sheet([image, *(result.image for result in results)], labels, columns=len(labels))
        images.save_png(sheet, strip, opened=opened)
        for path, result in zip(kept, results, strict=False):
            result.save(path, opened, metadata=not drop_metadata)
    terminal.say(f"{strip}  {results[0].report.words}: {', '.join(labels[1:])}")
    terminal.note(notice for result in results for notice in result.report.notices)
    reports = [
        {"value": value, "report": result.report.as_json()}
        for value, result in zip(swept.values, results, strict=True)
    ]
    terminal.finish(command="sweep", out=strip, option=swept.option, edits=reports, kept=kept)
    return 0
