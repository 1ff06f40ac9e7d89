"""`wordbrush evaluate directional`: InstructPix2Pix's curve for any option of any method."""

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from wordbrush.cli import outputs
from wordbrush.cli.options import flags, several
from wordbrush.cli.options.flags import Given, OptionFile, Whole
from wordbrush.cli.options.methods import EDITING, INVERSION
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.errors import OptionsError
from wordbrush.extras import need

Some = Annotated[Whole | None, Parameter(metavar="N", validator=validators.Number(gte=1))]
Alike = Annotated[float, Parameter(validator=validators.Number(gte=-1, lte=1))]


def command(tokens: Sequence[str]) -> Callable[..., int]:
    """`directional` with the flags of those methods that `tokens` name. Raises `OptionsError`."""
    if list(tokens[:2]) != ["evaluate", "directional"]:  # another command's help need not wait for them
        return flags.with_flags(directional)
    edits = several.editings(several.named(tokens, "--method") or [EDITING])
    ways = several.inversions(several.named(tokens, "--inversion") or [INVERSION])
    return several.with_flags(directional, edits, ways)


def directional(
    cases: Path | None = None,
    /,
    *,
    out: str,
    sweep: Annotated[str | None, Parameter(metavar="OPTION=X,X,…")] = None,
    pocket: Some = None,
    seed: Whole = 0,
    method: list[str] | None = None,
    inversion: list[str] | None = None,
    label: str | None = None,
    most_alike: Alike = 1.0,
    clip: str = "pocket",
    option_file: OptionFile = None,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Plot how far edits go with the words against how much of the picture stays, over the values of an option.

    Every inversion with every method is one curve. Stopped or killed, the same command goes on where it was; each
    further run into the same folder adds its curves to the plot.

    Parameters
    ----------
    cases
        lines of JSON: "picture" (a path from the file's folder), "input" and "output" (captions), "instruction"
    out
        the folder for edits, results.jsonl, points.csv and curve.png
    sweep
        what to vary, as in self_replace_steps=0,0.4,0.8 (default: the paper's image_guidance_scale, where there is one)
    pocket
        in the place of a file: so many cases of the built-in world, with the true answer as a point of its own
    seed
        which cases of the built-in world
    method
        how to edit; repeat it for more; `wordbrush methods` lists them (default: prompt-to-prompt)
    inversion
        repeat it for more; `wordbrush methods` lists them (default: direct)
    label
        what the curve is called (default: inversion and method)
    most_alike
        leave out cases whose captions have a higher CLIP cosine: nearly equal ones say no direction
    clip
        a CLIP's hub id or folder; the paper has openai/clip-vit-large-patch14
    """
    terminal = setup.terminal
    edits, ways = several.editings(method or [EDITING]), several.inversions(inversion or [INVERSION])
    if not out.strip():
        raise OptionsError("expected --out to say where the results go, got nothing")
    place = Path(out)
    if (cases is None) == (pocket is None):
        raise OptionsError("expected a file of cases or --pocket N, one of the two")
    if label is not None and len(edits) * len(ways) > 1:
        raise OptionsError(f"--label names one curve, and these are {len(edits) * len(ways)}: leave it out")
    outputs.check([cases, option_file], [place / "results.jsonl"])
    shares = flags.shared(given, option_file, *edits.values(), *ways.values())
    with terminal.busy("starting"):
        with need("eval", "a plot"):  # hours before it is asked for
            import_module("matplotlib")
        from wordbrush.evaluation.bench.run import Contender
        from wordbrush.evaluation.directional import run as curve
        from wordbrush.evaluation.directional.plot import plot
        from wordbrush.evaluation.judges.backbones import load_clip
        from wordbrush.evaluation.results.tables import comma_separated, markdown
        from wordbrush.files import all_or_none
        from wordbrush.progress import drain
    contenders = [
        Contender(edit, way, own, inverting)
        for edit, own in zip(edits, shares[: len(edits)], strict=True)
        for way, inverting in zip(ways, shares[len(edits) :], strict=True)
    ]
    sweeps = [_sweep(sweep) if sweep is not None else curve.papers_sweep(each) for each in contenders]
    for contender, (option, values) in zip(contenders, sweeps, strict=True):
        for value in values:
            curve.swept(contender, option, value)  # a wrong value should not wait for the model
    asked = curve.read(cases) if cases is not None else curve.from_pocket(pocket or 0, seed)
    model = setup.load()
    curves = curve.Curves(asked, load_clip(clip, setup.device), place)
    with terminal.watching() as show:
        for contender, (option, values) in zip(contenders, sweeps, strict=True):
            name = outputs.slug(label) if label is not None else contender.label
            drain(curves.sweep(model, contender, name, option, values), show)
        drain(curves.add_truth(model), show)
    points = curve.points(curves.rows(), most_alike)
    rows, columns = curve.table(points, curves.clip.name), curve.columns(curves.clip.name)
    with all_or_none() as opened:
        with opened(place / "points.csv") as file:
            file.write(comma_separated(rows, columns).encode())
        plot(points, place / "curve.png", curves.clip.name, opened)
    terminal.say(markdown(rows, columns))
    terminal.say(f"{place / 'curve.png'}")
    counted = {point.directional.count for point in points}
    if counted != {len(asked)}:
        said = " to ".join(map(str, sorted({min(counted), max(counted)})))
        terminal.note([f"of {len(asked)} cases {said} count: captions without a direction are left out"])
    terminal.finish(command="evaluate directional", out=place, results=curves.rows())
    return 0


def _sweep(text: str) -> tuple[str, tuple[str, ...]]:
    option, equals, values = text.partition("=")
    given = tuple(dict.fromkeys(value.strip() for value in values.split(",") if value.strip()))
    if not equals or not given:
        raise OptionsError(f"expected --sweep OPTION=VALUE,VALUE,…, got '{text}'")
    return option.strip().replace("-", "_"), given
