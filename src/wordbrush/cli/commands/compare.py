"""`wordbrush compare`: one picture or prompt pair, several ways to edit it, side by side."""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options import flags, several
from wordbrush.cli.options.flags import Given, OptionFile, Whole
from wordbrush.cli.options.setup import POCKET, LongPrompt, Setup
from wordbrush.cli.options.several import AllInversions, AllMethods
from wordbrush.cli.terminal import Terminal
from wordbrush.errors import OptionsError, OutputError
from wordbrush.evaluation.compare.figures import FIGURES
from wordbrush.evaluation.compare.figures import figure as found
from wordbrush.options import Options, SolvedOptions

if TYPE_CHECKING:
    from wordbrush.evaluation.compare.result import Comparison

FigureName = Annotated[
    str | None,
    Parameter(
        help=f"the ways to edit of a comparison in a paper: {', '.join(FIGURES)}; in place of --method and --inversion"
    ),
]
SEED = "seed"  # as in compare.request: the run that generated the source
Photo = Annotated[Path | None, Parameter(help="a picture file; without one, --seed generates it")]
Targets = Annotated[list[str], Parameter(help="what the edited picture shall show; repeat it for more")]
Out = Annotated[str, Parameter(help="the folder (FOLDER/) for grid.png, table.md, table.csv and the edits")]
Source = Annotated[
    str | None,
    Parameter(help="what the picture shows (default: the prompt it was made from, where wordbrush made it)"),
]
Seed = Annotated[
    Whole | None,
    Parameter(
        help='generate the picture from this seed; "seed" is then an inversion too, and needs no inverting'
    ),
]
Words = Annotated[
    list[str] | None,
    Parameter(help="show where this word looks, in the source and in every edit; repeat it for more"),
]
Clip = Annotated[
    str | None,
    Parameter(
        metavar="NAME",
        help="the CLIP that judges: pocket, a hub id or a folder (default: pocket's for the model pocket, else none)",
    ),
]
Truths = Annotated[
    list[Path] | None, Parameter(help="the true answer, where it is known; one for each target")
]
Masks = Annotated[
    list[Path] | None,
    Parameter(
        help="white where the true answer differs, black where the source should stay; one for each target"
    ),
]


def command(tokens: Sequence[str]) -> Callable[..., int]:
    """`compare` with the flags of those methods that `tokens` name, or of all. Raises `OptionsError`."""
    if "compare" not in tokens[:1]:  # the help of other commands does not need them
        return flags.with_flags(compare)
    drawn = several.named(tokens, "--figure") or [None]
    methods, inverts, _ = _ways(
        several.named(tokens, "--method"), several.named(tokens, "--inversion"), drawn[-1]
    )
    edits, inversions = several.editings(methods), _inversions(inverts, is_generated=True)
    return several.with_flags(compare, edits, inversions)


def compare(
    picture: Photo = None,
    /,
    *,
    target: Targets,
    out: Out,
    source: Source = None,
    seed: Seed = None,
    inversion: AllInversions = None,
    method: AllMethods = None,
    figure: FigureName = None,
    word: Words = None,
    clip: Clip = None,
    truth: Truths = None,
    mask: Masks = None,
    option_file: OptionFile = None,
    long_prompt: LongPrompt = False,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Edit one picture in several ways: a labelled grid, a table, and every edit (if one fails, exit 2)."""
    terminal = setup.terminal
    folder = _folder(out)
    methods, inverts, pairs = _ways(method, inversion, figure)
    edits, inversions = several.editings(methods), _inversions(inverts, is_generated=picture is None)
    given_edits, given_inversions, _ = several.options_for(given, option_file, edits, inversions)
    with terminal.busy("starting"):
        several.require("skimage", "SSIM")
        from wordbrush.cli import origins
        from wordbrush.evaluation.compare import report, run
        from wordbrush.evaluation.compare.request import Request, paths, truths
        from wordbrush.evaluation.compare.score import load_judges
        from wordbrush.progress import drain
    known = truths(truth or [], mask or [], len(dict.fromkeys(target)))
    photo = None
    if picture is not None and seed is None:
        photo = origins.photo(picture, source, flag="--source", method="", options={})
        source = photo.prompt
    request = Request(
        picture,
        source,
        target,
        seed,
        given_inversions,
        given_edits,
        word or (),
        known,
        inverts is None,
        pairs,
    )
    asked = request.checked()
    files = paths(folder, asked)
    written = [*files.values(), *(folder / name for name in report.FILES)]
    inputs = [picture, option_file, *(truth or ()), *(mask or ()), *setup.files]
    outputs.check(inputs, [*written, folder / report.SOURCE if picture is None else None])
    model = setup.load()
    if long_prompt:
        model = model.for_prompts(asked.prompts)
    with terminal.busy("loading the judges"):
        judge, distance, notices = load_judges(clip, model, setup.device)
    with terminal.watching() as show:
        comparison = drain(run.compare(model, request, clip=judge, distance=distance), show)
    terminal.note([*(photo.notices if photo else ()), *comparison.notices, *notices])
    if len(comparison.failures) == len(comparison.cells):
        terminal.error(f"every edit failed, and nothing was written: {comparison.failures[0].failure}")
        return 2
    report.write(comparison, model, folder, files)
    return _show(comparison, folder, setup.terminal)


def _ways(
    methods: list[str] | None, inversions: list[str] | None, drawn: str | None
) -> tuple[list[str] | None, list[str] | None, Sequence[tuple[str, str]] | None]:
    """The editing methods, the inversions, and which of them go together where a figure says it. Raises `OptionsError`
    for a figure beside either."""
    if drawn is None:
        return methods, inversions, None
    if methods is not None or inversions is not None:
        raise OptionsError("expected --figure, or --method and --inversion, which say the same, got both")
    pairs = found(drawn).pairs
    return [method for _, method in pairs], [inversion for inversion, _ in pairs], pairs


def _show(comparison: "Comparison", folder: Path, terminal: Terminal) -> int:
    """Print the results; returns the exit code."""
    from wordbrush.evaluation.compare import report

    grid = folder / "grid.png"
    terminal.say(report.shown(comparison))
    terminal.say(f"{grid}  {comparison.prompt} → {', '.join(comparison.targets)}")
    terminal.note(comparison.edit_notices)
    failures = [cell.name for cell in comparison.failures]
    rows = [
        {key: str(value) if value == math.inf else value for key, value in row.items()}
        for row in comparison.rows()  # JSON has no infinity
    ]
    terminal.finish(command="compare", out=folder, grid=grid, rows=rows, failures=failures)
    if not failures:
        return 0
    reasons = "; ".join(f"{cell.name}: {cell.failure}" for cell in comparison.failures)
    terminal.error(
        f"{len(failures)} of {len(comparison.cells)} edits failed, the others are in {folder}: {reasons}"
    )
    return 2


def _inversions(names: Sequence[str] | None, *, is_generated: bool) -> dict[str, type[Options]]:
    """Inversions by name, with their options; for a generated picture its own run is the first of them."""
    if names is None:
        return {**({SEED: SolvedOptions} if is_generated else {}), **several.inversions(None)}
    chosen: dict[str, type[Options]] = {}
    for name in names:
        chosen |= {SEED: SolvedOptions} if name == SEED else several.inversions([name])
    return chosen


def _folder(out: str) -> Path:
    """The folder to write to. Raises `OutputError` for a name that looks like a file's."""
    folder = several.folder_of(out)
    if folder.suffix and not os.path.isdir(folder) and not out.endswith(("/", os.sep)):
        raise OutputError(f"expected --out FOLDER/, since several files are written, got {out}")
    return folder
