"""`wordbrush evaluate bench`: methods on rendered scenes whose every edit has a true answer."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from wordbrush.cli import outputs
from wordbrush.cli.options import flags, several
from wordbrush.cli.options.flags import Given, OptionFile, Whole
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.errors import OptionsError
from wordbrush.extras import need

PUBLIC_SEED, PUBLIC_COUNT = 2026, 200  # as in evaluation.cases, which help has no time to import
Count = Annotated[Whole, Parameter(validator=validators.Number(gte=1))]
Checkpoint = Annotated[str, Parameter(metavar="NAME")]


def command(tokens: Sequence[str]) -> Callable[..., int]:
    """`bench` with the flags of those methods that `tokens` name, or of all. Raises `OptionsError`."""
    if list(tokens[:2]) != ["evaluate", "bench"]:  # another command's help need not wait for them
        return flags.with_flags(bench)
    edits = several.editings(several.named(tokens, "--method"))
    ways = several.inversions(several.named(tokens, "--inversion"))
    return several.with_flags(bench, edits, ways)


def bench(
    *,
    out: str,
    count: Count = PUBLIC_COUNT,
    seed: Whole = PUBLIC_SEED,
    method: list[str] | None = None,
    inversion: list[str] | None = None,
    clip: Checkpoint = "pocket",
    encoder: Checkpoint = "pocket",
    lpips: Literal["alex", "vgg", "squeeze"] | None = None,
    lpips_weights: Annotated[Path | None, Parameter(metavar="FILE")] = None,
    option_file: OptionFile = None,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Edit rendered scenes, compare with the true answers: tables, contact sheets, one row a case.

    Stopped or killed, the same command goes on where it was.

    Parameters
    ----------
    out
        the folder (FOLDER/) for results.jsonl, table.md, table.csv, sheets and edits
    count
        how many cases; 200 of the default seed are the public split
    seed
        what the cases are drawn by
    method
        how to edit; repeat it for more; `wordbrush methods` lists them (default: all)
    inversion
        repeat it for more; `wordbrush methods` lists them (default: all)
    clip
        the CLIP that judges: pocket, a hub id or a folder
    encoder
        the encoder that judges, in DINO's role: pocket, a hub id or a folder
    lpips
        measure LPIPS on this network instead of the encoder's own distance
    lpips_weights
        that network's weights, as torchvision publishes them
    """
    terminal = setup.terminal
    edits, ways = several.editings(method), several.inversions(inversion)
    if not out.strip():
        raise OptionsError("expected --out to say where the results go, got nothing")
    if (lpips is None) != (lpips_weights is None):
        raise OptionsError("expected --lpips NET and --lpips-weights FILE together, got one of them")
    folder = Path(out)
    outputs.check([option_file, lpips_weights], [folder / "results.jsonl"])
    given_edits, given_ways = several.given(given, option_file, edits, ways)

    with terminal.busy("starting"):
        with need("eval", "SSIM"):  # hours before it is asked for
            import_module("skimage")
        from wordbrush.evaluation.bench import cases
        from wordbrush.evaluation.bench import report as bench_report
        from wordbrush.evaluation.bench.run import BOUNDS, Bench, Contender
        from wordbrush.evaluation.bench.scores import Judges
        from wordbrush.evaluation.metrics.perceptual import load_lpips
        from wordbrush.progress import drain
    contenders = [
        Contender(edit, way, given_edits[edit], given_ways[way]) for edit in given_edits for way in given_ways
    ]
    drawn = cases.split(seed, count)
    model = setup.load()
    with terminal.busy("loading the judges"):
        distance = load_lpips(lpips, lpips_weights, device=setup.device) if lpips and lpips_weights else None
        judges = Judges.load(clip, encoder, distance)
    run = Bench(model, drawn, judges, folder, seed)
    with terminal.watching() as show:
        rows = drain(run.run(contenders), show)
        differing = {
            "--model": setup.model if setup.model != POCKET.model else None,
            "--dtype": setup.dtype,
            "--clip": clip if clip != "pocket" else None,
            "--encoder": encoder if encoder != "pocket" else None,
            "--lpips": lpips,
            "--lpips-weights": lpips_weights,
            "--option-file": option_file,
        }
        drain(bench_report.report(run, rows, _typed(count, seed, method, inversion, differing, given)), show)
    terminal.say(bench_report.summary(run, rows).rstrip())
    terminal.say(f"{folder / 'table.md'}  cases: {len(drawn)}, ways to edit them: {len(contenders)}")
    terminal.finish(
        command="evaluate bench",
        out=folder,
        cases=len(drawn),
        methods=[*BOUNDS, *(contender.label for contender in contenders)],
        means=bench_report.means(rows),
    )
    return 0


def _typed(
    count: int,
    seed: int,
    methods: Sequence[str] | None,
    inversions: Sequence[str] | None,
    differing: Mapping[str, object],
    given: Given,
) -> str:
    """The command that makes the same table; `differing` has None where a flag was left as it is."""
    words = ["wordbrush", "evaluate", "bench", "--count", str(count), "--seed", str(seed)]
    for flag, names in (("--method", methods), ("--inversion", inversions)):
        for name in names or ():
            words += [flag, name]
    for flag, value in differing.items():
        words += [] if value is None else [flag, str(value)]
    for name, text in given.items():
        for value in [text] if isinstance(text, str) else text:
            words += [f"--{name.replace('_', '-')}", value]
    return shlex.join([*words, "--out", "DIR"])
