"""`wordbrush evaluate directional`: InstructPix2Pix's curve for any option of any method."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from wordbrush.cli.commands.evaluate.judging import Clip
from wordbrush.cli.options import flags, several
from wordbrush.cli.options.flags import Count, Given, OptionFile, Whole
from wordbrush.cli.options.methods import COMPARED, INVERSION
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.cli.options.several import Inversions, Methods
from wordbrush.errors import OptionsError
from wordbrush.methods import key

Alike = Annotated[float, Parameter(validator=validators.Number(gte=-1, lte=1))]
Cases = Annotated[
    Path | None,
    Parameter(
        help='lines of JSON: "picture" (a path relative to the file), "input" and "output" (captions), "instruction"'
    ),
]
Out = Annotated[str, Parameter(help="the folder for edits, results.jsonl, points.csv and curve.png")]
Sweep = Annotated[
    str | None,
    Parameter(
        metavar="OPTION=X,X,…",
        help="what to vary, as in self_replace_steps=0,0.4,0.8 "
        "(default: the paper's image_guidance_scale, where there is one)",
    ),
]
Pocket = Annotated[
    Count | None,
    Parameter(
        help="instead of a file: so many cases of the built-in world, with the true answer as a point of its own"
    ),
]
Seed = Annotated[
    Whole, Parameter(help="which cases of the built-in world", validator=validators.Number(gte=0))
]
Label = Annotated[str | None, Parameter(help="the name of the curve (default: inversion and method)")]
MostAlike = Annotated[
    Alike,
    Parameter(
        help="leave out cases whose captions have a higher CLIP cosine: nearly equal ones have no clear direction"
    ),
]


def command(tokens: Sequence[str]) -> Callable[..., int]:
    """`directional` with the flags of those methods that `tokens` name. Raises `OptionsError`."""
    if list(tokens[:2]) != ["evaluate", "directional"]:  # the help of other commands does not need them
        return flags.with_flags(directional)
    edits = several.editings(several.named(tokens, "--method") or [COMPARED])
    inversions = several.inversions(several.named(tokens, "--inversion") or [INVERSION])
    return several.with_flags(directional, edits, inversions)


def directional(
    cases: Cases = None,
    /,
    *,
    out: Out,
    sweep: Sweep = None,
    pocket: Pocket = None,
    seed: Seed = 0,
    method: Methods = None,
    inversion: Inversions = None,
    label: Label = None,
    most_alike: MostAlike = 1.0,
    clip: Clip = "pocket",
    option_file: OptionFile = None,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Plot how far edits follow the words against how much of the picture stays, over the values of an option.

    Every inversion with every method is one curve. If it is stopped or killed, the same command goes on where it was;
    each further run into the same folder adds its curves to the plot.
    """
    terminal = setup.terminal
    edits = several.editings(method or [COMPARED])
    inversions = several.inversions(inversion or [INVERSION])
    if (cases is None) == (pocket is None):
        raise OptionsError("expected a file of cases or --pocket N, one of the two")
    place = several.results_folder(out, cases, option_file, *setup.files)
    given_edits, given_inversions, _ = several.options_for(given, option_file, edits, inversions)
    option, values = (None, ()) if sweep is None else _sweep(sweep)
    with terminal.busy("starting"):
        several.require("matplotlib", "a plot")
        from wordbrush.evaluation.directional.cases import from_pocket, read
        from wordbrush.evaluation.directional.curve import notices, points
        from wordbrush.evaluation.directional.plot import write
        from wordbrush.evaluation.directional.run import Curves, sweeps
        from wordbrush.evaluation.judges.judges import Judges
        from wordbrush.progress import drain
    wanted = sweeps(several.contenders(given_edits, given_inversions), option, values, label=label)
    chosen = read(cases) if cases is not None else from_pocket(pocket or 0, seed)
    model = setup.load()
    curves = Curves(chosen, Judges.load(clip, device=setup.device).clip, place)
    with terminal.watching() as show:
        rows = drain(curves.run(model, wanted), show)
    found = points(rows, most_alike)
    terminal.say(write(found, place, curves.clip.name))
    terminal.say(f"{place / 'curve.png'}")
    terminal.note(notices(found, len(chosen)))
    terminal.finish(command="evaluate directional", out=place, results=rows)
    return 0


def _sweep(text: str) -> tuple[str, tuple[str, ...]]:
    """`OPTION=VALUE,VALUE` as the option's name and its values. Raises `OptionsError`."""
    option, equals, values = text.partition("=")
    pieces = tuple(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
    if not equals or not pieces:
        raise OptionsError(f"expected --sweep OPTION=VALUE,VALUE,…, got '{text}'")
    return key(option.strip()), pieces
