"""`wordbrush evaluate pie`: PIE-Bench's metrics over a folder in its format."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from wordbrush.cli.options import flags, several
from wordbrush.cli.options.flags import Count, Given, OptionFile
from wordbrush.cli.options.methods import COMPARED, INVERSION
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.cli.options.several import Inversions, Methods
from wordbrush.errors import OptionsError
from wordbrush.evaluation.pie.options import PRESETS, Options, Preset, Protocol
from wordbrush.methods import key
from wordbrush.options import read_toml

Folder = Annotated[
    Path, Parameter(help="PIE-Bench, or a folder like it: mapping_file.json and annotation_images")
]
Out = Annotated[
    str, Parameter(help="the folder for edits, results.jsonl, table.md, table.csv and a sheet of pictures")
]
EditProtocol = Annotated[
    Protocol, Parameter(help="Prompt-to-Prompt's options: our defaults, or those of the published table")
]
EditedFolder = Annotated[
    Path | None,
    Parameter(help="score this folder of pictures, laid out like annotation_images, and edit nothing"),
]
Label = Annotated[
    str | None,
    Parameter(help="the run's name in the tables (default: inversion and method, or the folder's name)"),
]
MetricsPreset = Annotated[
    Preset,
    Parameter(help="honest averages over the background; released has every quirk of the published harness"),
]
First = Annotated[Count | None, Parameter(help="the first so many cases only")]
FromPocket = Annotated[
    Count | None,
    Parameter(
        help="write so many cases of the built-in world to the folder first, if they are not there yet"
    ),
]


def command(tokens: Sequence[str]) -> Callable[..., int]:
    """`pie` with the flags of its metrics and of those methods that `tokens` name. Raises `OptionsError`."""
    if list(tokens[:2]) != ["evaluate", "pie"]:  # the help of other commands does not need them
        return flags.with_flags(pie)
    edits = several.editings(several.named(tokens, "--method") or [COMPARED])
    inversions = several.inversions(several.named(tokens, "--inversion") or [INVERSION])
    return several.with_flags(pie, edits, inversions, Measuring=Options)


def pie(
    folder: Folder,
    /,
    *,
    out: Out,
    method: Methods = None,
    inversion: Inversions = None,
    protocol: EditProtocol = "wordbrush",
    edited: EditedFolder = None,
    label: Label = None,
    preset: MetricsPreset = "honest",
    count: First = None,
    from_pocket: FromPocket = None,
    option_file: OptionFile = None,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Edit the pictures of a folder in PIE-Bench's format, and score the edits by its seven metrics.

    If it is stopped or killed, the same command goes on where it was; each further run into the same folder is one
    more line of its tables.
    """
    terminal = setup.terminal
    edits = several.editings(method or [COMPARED])
    inversions = several.inversions(inversion or [INVERSION])
    place = several.results_folder(out, option_file, *setup.files)
    *settings, (measuring,) = several.options_for(given, option_file, edits, inversions, Options)
    if edited is not None:
        names = {name for options in settings for values in options.values() for name in values}
        flags_given = {"--method": method, "--inversion": inversion, "--protocol": protocol != "wordbrush"}
        flags_given |= {"--concept": setup.concept}
        _require_unused([*sorted(f"'{name}'" for name in names), *(f for f, v in flags_given.items() if v)])
    with terminal.busy("starting"):
        several.require("skimage", "SSIM")
        from wordbrush.evaluation.pie import format, report, run
        from wordbrush.evaluation.pie.metrics import load_judges
        from wordbrush.progress import drain
    runs = run.runs(several.contenders(*settings), protocol=protocol, label=label, edited=edited)
    if from_pocket is not None:
        format.write_pocket(folder, from_pocket)
    options = Options(**{**PRESETS[preset], **_explicit(measuring, given, option_file)})
    cases = format.read(folder, cut_masks=options.cut_masks)[:count]
    pictures = run.from_folder(edited, cases) if edited is not None else None
    model = setup.load() if pictures is None else None
    with terminal.busy("loading the judges"):
        bench = run.PieBench(cases, load_judges(options, setup.device), options, place)
    with terminal.watching() as show:
        rows = drain(bench.run(model, runs, protocol, pictures), show)
    written = report.write(bench, preset, rows, pictures)
    terminal.say(written.summary())
    terminal.say(f"{place / 'table.md'}  every kind of edit, and the published table")
    terminal.note(bench.notices(rows))
    results = [row for run_rows in rows.values() for row in run_rows]
    terminal.finish(command="evaluate pie", out=place, runs=list(rows), results=results)
    return 0


def _require_unused(given: Sequence[str]) -> None:
    if given:
        raise OptionsError(f"--edited edits nothing: leave {', '.join(given)} out")


def _explicit(measuring: Mapping[str, Any], given: Given, option_file: Path | None) -> dict[str, Any]:
    """The metrics' options that were given, defaults included: `--forced-border false` overrides the preset's true.

    measuring: those that differ from their defaults.
    """
    written = read_toml(option_file) if option_file else {}
    names = {key(name) for name in (*given, *written)}
    return {
        name: measuring.get(name, field.get_default(call_default_factory=True))
        for name, field in Options.model_fields.items()
        if name in names
    }
