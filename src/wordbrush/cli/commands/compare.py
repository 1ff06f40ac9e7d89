"""`wordbrush compare`: one picture or prompt pair, several ways to edit it, side by side."""

import math
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options import flags, several
from wordbrush.cli.options.flags import Given, OptionFile, Whole
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.errors import ModelError, OptionsError, OutputError, PromptError
from wordbrush.extras import need
from wordbrush.files import all_or_none
from wordbrush.options import InversionOptions, Options

if TYPE_CHECKING:
    from wordbrush.cli.origins import Photo
    from wordbrush.evaluation.compare.result import Cell, Comparison

SEED = "seed"  # among the inversions: the run that generated the source


def command(tokens: Sequence[str]) -> Callable[..., int]:
    """`compare` with the flags of those methods that `tokens` name, or of all. Raises `OptionsError`."""
    if "compare" not in tokens[:1]:  # another command's help need not wait for them
        return flags.with_flags(compare)
    edits = several.editings(several.named(tokens, "--method"))
    ways = _ways(several.named(tokens, "--inversion"), generated=True)
    return several.with_flags(compare, edits, ways)


def compare(
    picture: Path | None = None,
    /,
    *,
    target: list[str],
    out: str,
    source: str | None = None,
    seed: Whole | None = None,
    inversion: list[str] | None = None,
    method: list[str] | None = None,
    word: list[str] | None = None,
    clip: Annotated[str | None, Parameter(metavar="NAME")] = None,
    truth: list[Path] | None = None,
    mask: list[Path] | None = None,
    option_file: OptionFile = None,
    setup: Setup = POCKET,
    given: Given,
) -> int:
    """Edit one picture in several ways: a labelled grid, a table, and every edit (if one fails, exit 2).

    Parameters
    ----------
    picture
        a picture file; without one, --seed generates it
    target
        what the edited picture shall show; repeat it for more
    out
        the folder (FOLDER/) for grid.png, table.md, table.csv and the edits
    source
        what the picture shows (default: the prompt it was made from, where wordbrush made it)
    seed
        generate the picture from this seed; "seed" is then an inversion too, and needs no inverting
    inversion
        repeat it for more; `wordbrush methods` lists them (default: all)
    method
        how to edit; repeat it for more; `wordbrush methods` lists them (default: all)
    word
        show where this word looks, in the source and in every edit; repeat it for more
    clip
        the CLIP that judges: pocket, a hub id or a folder (default: pocket's for the model pocket, else none)
    truth
        the true answer, where it is known; one for each target
    mask
        white where the true answer differs, black where the source should stay; one for each target
    """
    terminal = setup.terminal
    edits, ways = several.editings(method), _ways(inversion, generated=picture is None)
    _require_one_origin(picture, seed, source, ways)
    target = list(dict.fromkeys(target))
    if not all(prompt.strip() for prompt in target):
        raise PromptError("expected --target to say what to see, got nothing")
    folder = _folder(out)
    paths = _paths(folder, target, ways, edits)
    written = [*paths.values(), *(folder / name for name in ("grid.png", "table.md", "table.csv"))]
    source_path = None if picture is not None else folder / "source.png"
    inputs = [picture, option_file, *(truth or ()), *(mask or ())]
    outputs.check(inputs, [*written, source_path])
    given_edits, given_ways = several.given(given, option_file, edits, ways)

    with terminal.busy("starting"):
        with need("eval", "SSIM"):  # minutes before it is asked for
            import_module("skimage")
        from wordbrush import images, provenance
        from wordbrush.cli import origins
        from wordbrush.evaluation.compare import run as comparing
        from wordbrush.progress import drain
    photo = None
    if picture is not None:
        photo = origins.photo(picture, source, flag="--source", method="", options={})
        source = photo.prompt
    assert source is not None
    truths = _truths(truth or [], mask or [], target)
    model = setup.load()
    notes = [] if photo is None else _notices(photo, model.image_size)
    with terminal.busy("loading the judges"):
        judge, distance = _judges(clip, model.name, setup.device, notes)
    with terminal.watching() as show:
        comparison = drain(
            comparing.compare(
                model,
                None if photo is None else photo.image,
                source,
                target,
                seed=seed or 0,
                inversions=given_ways,
                methods=given_edits,
                words=word or (),
                clip=judge,
                distance=distance,
                truths=truths,
            ),
            show,
        )
    if len(comparison.failures) == len(comparison.cells):
        terminal.note(notes)
        terminal.error(f"every edit failed, and nothing was written: {comparison.failures[0].failure}")
        return 2

    if source_path is not None:  # first of all: the others' records hold its hash
        assert comparison.generated is not None
        generated = origins.seeded(model, comparison.generated)
        made = provenance.record("generate", model, generated.record, comparison.picture)
        images.save_png(comparison.picture, source_path, made)
    original = picture or source_path
    assert original is not None
    with all_or_none() as opened:
        for cell in comparison.cells:
            start, result = cell.start, cell.result
            if result is None or start.source is None:
                continue
            record = origins.seeded(model, start.source).record
            if start.inversion != SEED:
                file = provenance.file_record(original)
                record = record.model_copy(update={"options": dict(start.options), "picture": file})
            made = provenance.record(
                "edit",
                model,
                record,
                result.image,
                method=cell.method,
                targets=[cell.target],
                options=cell.options,
                report=result.report.as_json(),
            )
            images.save_png(result.image, paths[cell.target, start.inversion, cell.method], made, opened)
        images.save_png(comparison.grid(), folder / "grid.png", opened=opened)
        for name, text in (("table.md", comparison.table()), ("table.csv", comparison.comma_separated())):
            with opened(folder / name) as file_:
                file_.write(text.encode())

    terminal.say(_shown(comparison))
    terminal.say(f"{folder / 'grid.png'}  {source} → {', '.join(target)}")
    terminal.note(notes)
    for cell in comparison.cells:
        if cell.result is not None:
            terminal.note(f"{_named(cell)}: {notice}" for notice in cell.notices)
    terminal.finish(
        command="compare",
        out=folder,
        grid=folder / "grid.png",
        rows=[
            {key: str(value) if value == math.inf else value for key, value in row.items()}
            for row in comparison.rows()  # JSON has no infinity
        ],
        failures=[_named(cell) for cell in comparison.failures],
    )
    if comparison.failures:
        told_of = "; ".join(f"{_named(cell)}: {cell.failure}" for cell in comparison.failures)
        terminal.error(
            f"{len(comparison.failures)} of {len(comparison.cells)} edits failed, the others are in {folder}: {told_of}"
        )
        return 2
    return 0


def _ways(names: Sequence[str] | None, *, generated: bool) -> dict[str, type[Options]]:
    """Inversions by name, with their options; of a generated picture its own run is one of them, the first."""
    if names is None:
        return {**({SEED: InversionOptions} if generated else {}), **several.inversions(None)}
    chosen: dict[str, type[Options]] = {}
    for name in names:
        chosen |= {SEED: InversionOptions} if name == SEED else several.inversions([name])
    return chosen


def _require_one_origin(
    picture: Path | None, seed: int | None, source: str | None, ways: Mapping[str, Any]
) -> None:
    if (picture is None) == (seed is None):
        given = "neither" if picture is None else "both"
        raise OptionsError(f"expected a picture file, or --seed N to generate one, got {given}")
    if picture is not None and SEED in ways:
        raise OptionsError(f"--inversion {SEED} is for pictures that --seed N generates: leave {picture} out")
    if picture is None and not (source or "").strip():
        raise PromptError('expected --source to say what to generate, as in --source "a cat on a beach"')


def _notices(photo: "Photo", size: tuple[int, int]) -> list[str]:
    """What was done to the picture on its way in."""
    height, width = size
    if photo.image.width * height == photo.image.height * width:
        return list(photo.notices)
    own = f"{photo.image.width} × {photo.image.height}"
    cropped = f"{photo.path} ({own}) was cropped around its middle to fit {width} × {height}"
    return [*photo.notices, cropped]


def _folder(out: str) -> Path:
    """The folder to write to. Raises `OutputError` for what looks like a file."""
    if not out.strip():
        raise OptionsError("expected --out to say where the results go, got nothing")
    folder = Path(out)
    if folder.suffix and not folder.is_dir() and not out.endswith(("/", os.sep)):
        raise OutputError(f"expected --out FOLDER/, for there are several files to write, got {out}")
    return folder


def _paths(
    folder: Path, targets: Sequence[str], ways: Iterable[str], edits: Iterable[str]
) -> dict[tuple[str, str, str], Path]:
    """Where the edit into each target from each inversion by each method goes."""
    stems = [path.stem for path in outputs.destinations(f"{folder}/", targets)]
    return {
        (target, way, edit): folder / f"{stem}.{way}.{edit}.png".replace("_", "-")
        for target, stem in zip(targets, stems, strict=True)
        for way in ways
        for edit in edits
    }


def _truths(truths: Sequence[Path], masks: Sequence[Path], targets: Sequence[str]) -> list[Any]:
    """One truth for each target, if there is any. Raises `OptionsError`."""
    from wordbrush.evaluation.compare.run import Truth

    for flag, paths in (("--truth", truths), ("--mask", masks)):
        if paths and len(paths) != len(targets):
            raise OptionsError(
                f"expected {flag} once for each of {len(targets)} targets, in their order, got {len(paths)}"
            )
    nothing = [None] * len(targets)
    pairs = zip(truths or nothing, masks or nothing, strict=True)
    return [Truth(*pair) for pair in pairs] if truths or masks else []


def _judges(clip: str | None, model: str, device: str | None, notes: list[str]) -> tuple[Any, Any]:
    """A CLIP and a distance. The ones that ship know the built-in world alone, and judge no other model's pictures
    unless they are asked to."""
    from wordbrush.evaluation.judges.backbones import load_clip, load_encoder
    from wordbrush.evaluation.metrics.perceptual import PocketDistance

    clip = clip or ("pocket" if model == "pocket" else None)
    if clip is None:
        notes.append(
            "no CLIP judges this model's pictures: name one with --clip openai/clip-vit-base-patch32"
        )
    judge = None if clip is None else load_clip(clip, device)
    if clip != "pocket":
        return judge, None
    try:
        return judge, PocketDistance(load_encoder(device=device))
    except ModelError as error:
        notes.append(f"without a distance: {error}")
        return judge, None


def _named(cell: "Cell") -> str:
    ways = f"{cell.start.inversion}, {cell.method}".replace("_", "-")
    return f"{cell.target} ({ways})"


def _shown(comparison: "Comparison") -> str:
    """The table without its notices, as narrow as it can be: headings go over several lines."""
    from wordbrush.evaluation.results import tables

    columns = [column for column in comparison.columns() if column.key != "notices"]
    titles, rule, *rows = (
        line.strip("| ").split(" | ") for line in tables.markdown(comparison.rows(), columns).splitlines()
    )
    values = list(zip(*rows, strict=True))
    widths = [max(map(len, (*title.split(), *column))) for title, column in zip(titles, values, strict=True)]
    wrapped = [textwrap.wrap(title, width) for title, width in zip(titles, widths, strict=True)]
    tallest = max(map(len, wrapped))
    heads = zip(*([""] * (tallest - len(lines)) + lines for lines in wrapped), strict=True)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if numeric.endswith(":") else cell.ljust(width)
            for cell, width, numeric in zip(line, widths, rule, strict=True)
        ).rstrip()
        for line in (*heads, *rows)
    )
