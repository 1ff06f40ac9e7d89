"""`wordbrush evaluate pie`: PIE-Bench's metrics over a folder in its format."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter, validators

from wordbrush.cli import outputs
from wordbrush.cli.options import flags, several
from wordbrush.cli.options.flags import Given, OptionFile, Whole
from wordbrush.cli.options.methods import EDITING, INVERSION
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.errors import OptionsError
from wordbrush.extras import need
from wordbrush.methods import Method
from wordbrush.options import Options, read_toml

Some = Annotated[Whole | None, Parameter(metavar="N", validator=validators.Number(gte=1))]


def command(tokens: Sequence[str]) -> Callable[..., int]:
    """`pie` with the flags of its metrics and of those methods that `tokens` name. Raises `OptionsError`."""
    if list(tokens[:2]) != ["evaluate", "pie"]:  # another command's help need not wait for them
        return flags.with_flags(pie)
    edits = several.editings(several.named(tokens, "--method") or [EDITING])
    ways = several.inversions(several.named(tokens, "--inversion") or [INVERSION])
    return several.with_flags(pie, edits, ways, Measuring=measuring_options())


def pie(
    folder: Path,
    /,
    *,
    out: str,
    method: list[str] | None = None,
    inversion: list[str] | None = None,
    protocol: Literal["wordbrush", "released"] = "wordbrush",
    edited: Path | None = None,
    label: str | None = None,
    preset: Literal["honest", "released"] = "honest",
    count: Some = None,
    from_pocket: Some = None,
    option_file: OptionFile = None,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Edit the pictures of a folder in PIE-Bench's format, and score the edits by its seven metrics.

    Stopped or killed, the same command goes on where it was; each further run into the same folder is one more line
    of its tables.

    Parameters
    ----------
    folder
        PIE-Bench, or a folder like it: mapping_file.json and annotation_images
    out
        the folder for edits, results.jsonl, table.md, table.csv and a sheet of pictures
    method
        how to edit; repeat it for more; `wordbrush methods` lists them (default: prompt-to-prompt)
    inversion
        repeat it for more; `wordbrush methods` lists them (default: direct)
    protocol
        what Prompt-to-Prompt is given: our defaults, or what it was given for the published table
    edited
        score this folder of pictures, laid out like annotation_images, and edit nothing
    label
        what the run is called in the tables (default: inversion and method, or the folder's name)
    preset
        honest averages over the background; released has every quirk of the published harness
    count
        the first so many cases alone
    from_pocket
        write so many cases of the built-in world to the folder first, if they are not there yet
    """
    terminal = setup.terminal
    edits, ways = several.editings(method or [EDITING]), several.inversions(inversion or [INVERSION])
    if not out.strip():
        raise OptionsError("expected --out to say where the results go, got nothing")
    place = Path(out)
    outputs.check([option_file], [place / "results.jsonl"])
    measuring = measuring_options()
    *shares, measure = flags.shared(given, option_file, *edits.values(), *ways.values(), measuring)
    unused = sorted({f"'{name}'" for options in shares for name in options})
    unused += [f"--{name}" for name, said in (("method", method), ("inversion", inversion)) if said]
    if edited is not None and (unused := unused + ["--protocol"] * (protocol != "wordbrush")):
        raise OptionsError(f"--edited edits nothing: leave {', '.join(unused)} out")
    if label is not None and edited is None and len(edits) * len(ways) > 1:
        raise OptionsError(f"--label names one run, and these are {len(edits) * len(ways)}: leave it out")
    with terminal.busy("starting"):
        with need("eval", "SSIM"):  # hours before it is asked for
            import_module("skimage")
        from wordbrush.evaluation.bench.run import Contender
        from wordbrush.evaluation.pie import format as pie_format
        from wordbrush.evaluation.pie import report as pie_tables
        from wordbrush.evaluation.pie import run as pie_bench
        from wordbrush.files import all_or_none
        from wordbrush.images import save_png
        from wordbrush.progress import drain
    given_edits = dict(zip(edits, shares[: len(edits)], strict=True))
    given_ways = dict(zip(ways, shares[len(edits) :], strict=True))
    suffix = "" if protocol == "wordbrush" else f"-{protocol}"
    runs = {
        f"{contender.label}{suffix}": contender
        for edit in given_edits
        for way in given_ways
        for contender in [Contender(edit, way, given_edits[edit], given_ways[way])]
    }
    names = list(runs) if edited is None else [_name(edited)]
    if label is not None:
        runs, names = {outputs.slug(label): next(iter(runs.values()))}, [outputs.slug(label)]

    if from_pocket is not None:
        _write_pocket(folder, from_pocket)
    options = pie_bench.Options(
        **(dict(pie_bench.PRESETS[preset]) | _explicit(measuring, measure, given, option_file))
    )
    cases = pie_format.read(folder, cut_masks=options.cut_masks)[:count]
    pictures = pie_bench.from_folder(edited, cases) if edited is not None else None
    model = setup.load() if pictures is None else None
    with terminal.busy("loading the judges"):
        bench = pie_bench.PieBench(cases, pie_bench.Judges.load(options, setup.device), options, place)
    rows: dict[str, list[dict[str, Any]]] = {}
    with terminal.watching() as show:
        for run in names:
            if model is not None:
                drain(bench.edit(model, runs[run], run, protocol), show)
            rows[run] = drain(bench.score(run, pictures), show)
    report = pie_tables.Report(bench.rows(), cases, bench.judges, options, preset)
    with all_or_none() as opened:
        for name, text in (("table.md", report.markdown()), ("table.csv", report.csv())):
            with opened(place / name) as file:
                file.write(text.encode())
        for run in names:
            if shown := [case for case, row in zip(cases, rows[run], strict=True) if not row["error"]]:
                page = pie_tables.sheet(shown, pictures or bench.own(run), options)
                save_png(page, place / f"{run}.sheet.png", opened=opened)
    terminal.say(report.summary())
    terminal.say(f"{place / 'table.md'}  every kind of edit, and the published table")
    if others := bench.measured_otherwise():
        terminal.note(
            [f"not in the tables, since scored otherwise: {', '.join(others)}; run them again to have them"]
        )
    terminal.note(notice for run in names for row in rows[run] for notice in row["notices"])
    terminal.finish(
        command="evaluate pie", out=place, runs=names, results=[row for run in names for row in rows[run]]
    )
    return 0


def _write_pocket(folder: Path, count: int) -> None:
    """Write cases of the built-in world, but for those that the same command has written before it was stopped."""
    from wordbrush.evaluation.pie import format as pie_format

    cases = pie_format.from_pocket(count, seed=0)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if there <= {pie_format.PICTURES}:
        pie_format.write(folder, cases)
    elif pie_format.MAPPING not in there or [case.name for case in pie_format.read(folder)] != [
        case.name for case in cases
    ]:
        raise OptionsError(
            f"{folder} is there already, with something else in it: leave --from-pocket out, or name a new folder"
        )


def measuring_options() -> type[Options]:
    """The switches of the metrics, without what computes them."""
    return Method[Any]("wordbrush.evaluation.pie.run", "PIE-Bench's metrics").options()


def _explicit(
    kind: type[Options], differing: Mapping[str, Any], given: Given, option_file: Path | None
) -> dict[str, Any]:
    """What was said of a preset's switches, the defaults included: `--forced-border false` unsays the preset's."""
    written = read_toml(option_file) if option_file else {}
    said = {name.replace("-", "_") for name in (*given, *written)}
    return {
        name: differing.get(name, field.get_default(call_default_factory=True))
        for name, field in kind.model_fields.items()
        if name in said
    }


def _name(edited: Path) -> str:
    """A run's name after its folder; the released harness keeps every run's pictures in one named alike."""
    folder = edited.resolve()
    return outputs.slug(folder.parent.name if folder.name == "annotation_images" else folder.name)
