"""`wordbrush evaluate bench`: methods on rendered scenes whose every edit has a true answer."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from wordbrush.cli.commands.evaluate.judging import Judging
from wordbrush.cli.options import flags, several
from wordbrush.cli.options.flags import Count, Given, OptionFile, Whole
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.cli.options.several import AllInversions, AllMethods
from wordbrush.methods import typed

PUBLIC_SEED, PUBLIC_COUNT = 2026, 200  # as in bench.cases, which takes too long to import for help
SHIPPED = Judging()
Out = Annotated[
    str, Parameter(help="the folder (FOLDER/) for results.jsonl, table.md, table.csv, sheets and edits")
]
Cases = Annotated[Count, Parameter(help="how many cases; 200 of the default seed are the public split")]
Kind = Annotated[
    str | None,
    Parameter(help='draw this kind of change alone, e.g. "add object": few of 200 cases are of one kind'),
]
TrueMasks = Annotated[
    bool,
    Parameter(
        help="tell every method where the answer differs from the picture, as no user's mask could: an upper bound, in "
        "rows of their own",
        negative="",
    ),
]
StudyFolder = Annotated[
    Path | None,
    Parameter(
        help="a new folder for these edits as a study, as `wordbrush study serve` shows it (Prompt-to-Prompt's Table 1)"
    ),
]
Seed = Annotated[Whole, Parameter(help="decides which cases are drawn", validator=validators.Number(gte=0))]


def command(tokens: Sequence[str]) -> Callable[..., int]:
    """`bench` with the flags of those methods that `tokens` name, or of all. Raises `OptionsError`."""
    if list(tokens[:2]) != ["evaluate", "bench"]:  # the help of other commands does not need them
        return flags.with_flags(bench)
    edits = several.editings(several.named(tokens, "--method"))
    inversions = several.inversions(several.named(tokens, "--inversion"))
    return several.with_flags(bench, edits, inversions)


def bench(
    *,
    out: Out,
    count: Cases = PUBLIC_COUNT,
    seed: Seed = PUBLIC_SEED,
    kind: Kind = None,
    method: AllMethods = None,
    inversion: AllInversions = None,
    true_masks: TrueMasks = False,
    study: StudyFolder = None,
    judging: Judging = SHIPPED,
    option_file: OptionFile = None,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Edit rendered scenes, compare with the true answers: tables, contact sheets, a row for each case.

    If it is stopped or killed, the same command goes on where it was.
    """
    terminal = setup.terminal
    edits, inversions = several.editings(method), several.inversions(inversion)
    folder = several.results_folder(out, option_file, judging.lpips_weights, *setup.files)
    given_edits, given_inversions, _ = several.options_for(given, option_file, edits, inversions)
    with terminal.busy("starting"):
        several.require("skimage", "SSIM")
        from wordbrush.evaluation.bench import cases, report
        from wordbrush.evaluation.bench import study as studies
        from wordbrush.evaluation.bench.run import Bench, labels_of
        from wordbrush.progress import drain
    if study is not None:
        studies.check(study)
    ways = several.contenders(given_edits, given_inversions, suited=inversion is None)
    contenders = [replace(each, true_mask=true_masks) for each in ways]
    drawn = cases.split(seed, count, kind)
    with terminal.busy("loading the judges"):
        judges = judging.load(setup.device, reader=True)
    run = Bench(setup.load(), drawn, judges, folder, seed)
    with terminal.watching() as show:
        rows = drain(run.run(contenders), show)
        named = {"--kind": [kind] if kind else (), "--method": method or (), "--inversion": inversion or ()}
        named |= {"--concept": setup.concept}
        changed = _changed(setup, judging) | {"--option-file": option_file}
        drain(report.report(run, rows, _typed(count, seed, named, changed, given, true_masks)), show)
    terminal.say(report.summary(run, rows).rstrip())
    if study is not None:
        made = studies.write(run, contenders, study)
        terminal.say(f"{study}  a study of {len(made.items)} pictures; wordbrush study serve {study}")
    terminal.say(f"{folder / 'table.md'}  cases: {len(run.cases)}, ways to edit them: {len(contenders)}")
    means = report.means(rows)
    terminal.finish(
        command="evaluate bench", out=folder, cases=len(run.cases), methods=labels_of(contenders), means=means
    )
    return 0


def _changed(setup: Setup, judging: Judging) -> dict[str, object]:
    """The flags of model and judges that are not at their defaults; None for the others."""
    return {
        "--model": setup.model if setup.model != POCKET.model else None,
        "--dtype": setup.dtype,
        "--clip": judging.clip if judging.clip != SHIPPED.clip else None,
        "--encoder": judging.encoder if judging.encoder != SHIPPED.encoder else None,
        "--lpips": judging.lpips,
        "--lpips-weights": judging.lpips_weights,
    }


def _typed(
    count: int,
    seed: int,
    named: Mapping[str, Sequence[str]],
    changed: Mapping[str, object],
    given: Given,
    true_masks: bool,
) -> str:
    """The command that makes the same table."""
    words = ["wordbrush", "evaluate", "bench", "--count", str(count), "--seed", str(seed)]
    for flag, names in named.items():
        for name in names:
            words += [flag, name]
    for flag, value in changed.items():
        words += [] if value is None else [flag, str(value)]
    for name, text in given.items():
        for value in [text] if isinstance(text, str) else text:
            words += [f"--{typed(name)}", value]
    words += ["--true-masks"] if true_masks else []
    return shlex.join([*words, "--out", "DIR"])
