"""`wordbrush edit`: a picture file or a saved source, edited into what the targets say."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import DropMetadata, Given, OptionFile, Preview, SaveMask, Sheet
from wordbrush.cli.options.methods import editing_options, inversion_options
from wordbrush.cli.options.setup import POCKET, LongPrompt, Setup
from wordbrush.cli.options.where import ANYWHERE, Masking
from wordbrush.editing import presets
from wordbrush.files import all_or_none
from wordbrush.inversion import default
from wordbrush.methods import typed
from wordbrush.options import StrengthOptions

if TYPE_CHECKING:
    from wordbrush.cli.origins import Origin
    from wordbrush.result import Result


def edit(
    picture: Path,
    /,
    *,
    target: list[str],
    out: str,
    source: str | None = None,
    method: str | None = None,
    preset: str | None = None,
    word: str | None = None,
    inversion: str | None = None,
    option_file: OptionFile = None,
    sheet: Sheet = False,
    save_mask: SaveMask = False,
    preview: Preview = None,
    long_prompt: LongPrompt = False,
    where: Masking = ANYWHERE,
    drop_metadata: DropMetadata = False,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Edit a picture file, or a source made by `invert`, into what the targets say.

    Parameters
    ----------
    picture
        a picture file, or a .source file
    target
        what the edited picture shall show; repeat it for more pictures
    out
        the file to write (.png, .jpg, .tif or .webp), or a folder (FOLDER/), which several targets need
    source
        what the picture shows (default: the prompt it was made from, where wordbrush made it)
    method
        how to edit; `wordbrush methods` lists them (default: auto)
    preset
        an edit of the papers, as a method with options; `wordbrush methods` lists them
    word
        the thing that --preset object-preservation preserves
    inversion
        how to invert a picture file; `wordbrush methods` lists them (default: straight for pocket, direct for other
        models, on which nobody has measured straight yet)
    """
    terminal = setup.terminal
    method, named = presets.chosen(method, preset, word)
    inputs = [picture, option_file, where.mask, *setup.files]
    files = outputs.planned(
        outputs.destinations(out, target, picture), out, inputs, sheet=sheet, preview=preview, mask=save_mask
    )
    for prompt in target:
        outputs.require_text("--target", prompt)
    inverts = inversion or default(setup.model)
    kinds = editing_options(method), inversion_options(inverts)
    options, inverting, slider = flags.shared(given, option_file, *kinds, StrengthOptions)
    with terminal.busy("starting"):
        from wordbrush import api, editing
        from wordbrush.cli import origins
        from wordbrush.progress import drain
    said = where.read()
    unused = flags.superfluous(inversion, inverting.keys() - options)
    options = {**named, **options}
    options = editing.dialled(method, options, slider.get("strength"))
    start = origins.read(picture, source, flag="--source", method=inverts, options=inverting, unused=unused)
    model = setup.load()
    if long_prompt:
        model = start.reader(model, [*target, options.get("negative_prompt", "")])
    if start.prompt is not None:  # an invalid word is reported before the inversion starts, and a strange one
        checked = api.check_edit(model, start.prompt, target, method=method, options=options)
        terminal.note(notice for each in checked for notice in each.notices)
        said.check(model, start.prompt)
    with terminal.watching(files.preview, every=preview or 1) as show:
        origin = start.origin(model, show, said.mask)
        edits = api.edit_steps(model, origin.source, target, method=method, options=options, where=said)
        results = drain(edits, show)
    noted = [result.noted(origin.notices) for result in results]
    written = _write(noted, origin, files, metadata=not drop_metadata)
    for output in written:
        terminal.say(f"{output['out']}  {output['report']['words']}")
        if line := _decision(output["report"]):
            terminal.say(f"  {line}")
    terminal.note(notice for output in written for notice in output["report"]["notices"])
    terminal.finish(command="edit", outputs=written, sheet=files.sheet)
    return 0


def _decision(report: Mapping[str, Any]) -> str:
    """What the words ask for, why, the method and the options that follow from it, and how often it was drawn."""
    if "change" not in report:
        return ""
    chosen = [f"{typed(name)} {_short(value)}" for name, value in report["chosen"].items()]
    if report.get("method") and report["change"] != "nothing":  # nobody named one
        chosen.insert(0, typed(report["method"]))
    if report.get("tried", 1) > 1:
        chosen.append(f"noise-seed {report['noise_seed']}, the best of {report['tried']} noises")
    return f"{report['change']}: {report['because']}; {', '.join(chosen)}".rstrip("; ")


def _short(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _write(
    results: "Sequence[Result]",
    origin: "Origin",
    files: outputs.Outputs,
    *,
    metadata: bool,
) -> list[dict[str, Any]]:
    """Write the edited pictures with their records, their masks and the sheet, all or none; returns what `--json`
    prints."""
    from wordbrush import images, sheets

    targets = [result.prompt for result in results]
    written: list[dict[str, Any]] = []
    with all_or_none() as opened:
        for path, result in zip(files.paths, results, strict=True):
            notices = result.save(path, opened, metadata=metadata)
            report = result.noted(notices).report.as_json()
            written.append({"out": path, "target": result.prompt, "report": report})
        for path, result in zip(files.masks, results, strict=bool(files.masks)):
            images.save_png(result.mask_image, path, {"command": "mask", "of": result.prompt}, opened)
        if files.sheet is not None:
            pictures = [(origin.source.prompt, origin.image)]
            for target, result in zip(targets, results, strict=True):
                pictures += [*result.shown_maps(), (target, result.image)]
            sheet = sheets.sheet([image for _, image in pictures], [caption for caption, _ in pictures])
            images.save_png(sheet, files.sheet, opened=opened)
    return written
