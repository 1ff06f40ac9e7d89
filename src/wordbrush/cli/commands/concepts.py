"""`wordbrush concepts`: what learned concepts are."""

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options.concepts import OWN
from wordbrush.cli.options.setup import Json, Setup
from wordbrush.errors import ConceptError

if TYPE_CHECKING:
    from wordbrush.concept import Concept
    from wordbrush.model import Model


def concepts(
    *files: Path,
    model: Annotated[str | None, Parameter(help="say whether they were trained on this model")] = None,
    preview: Annotated[str | None, Parameter(help="a PNG to write their previews to")] = None,
    json: Json = False,
) -> int:
    """Tell what learned concepts are: words, weights, how they were trained, and on what.

    Parameters
    ----------
    files
        files of concepts, or folders of .concept files (default: the current folder)
    """
    setup = Setup("pocket" if model is None else model, "cpu", json=json)
    terminal = setup.terminal
    found = _found(files)
    path = None if preview is None else outputs.single(preview, ".png", flag="--preview")
    outputs.check(found, [path])
    with terminal.busy("starting"):
        from wordbrush import images, sheets
        from wordbrush.concept import Concept, exchange
    # Files of other tools have names that mean something with a model alone.
    own = setup.load() if model is not None or any(each.suffix != OWN for each in found) else None
    read = {each: Concept.load(each) if own is None else exchange.read(each, own) for each in found}
    told = [_told(each, concept, None if model is None else own) for each, concept in read.items()]
    shown = [(picture, str(each)) for each, concept in read.items() for picture in concept.shown]
    if path is not None:
        if not shown:
            raise ConceptError("expected a concept with previews for --preview, got none: leave it out")
        pictures, captions = zip(*shown, strict=True)
        images.save_png(sheets.sheet(pictures, captions, columns=len(pictures)), path)
    for each, (file, concept) in zip(told, read.items(), strict=True):
        terminal.say(f"{file}  {concept.prompt}")
        terminal.rows(_rows(each))
    if not found:
        terminal.say(f"no {OWN} files here")
    terminal.finish(command="concepts", concepts=told, preview=path)
    return 0


def _found(files: tuple[Path, ...]) -> list[Path]:
    """The files, and those in folders. Raises `ConceptError`."""
    found: list[Path] = []
    for path in files or (Path(),):
        if path.is_dir():
            found += sorted(each for each in path.glob(f"*{OWN}") if each.is_file())
        elif path.is_file():
            found.append(path)
        else:
            raise ConceptError(f"expected a concept's file, but there is none at {path}; check the path")
    return list(dict.fromkeys(found))


def _told(path: Path, concept: "Concept", model: "Model | None") -> dict[str, Any]:
    """What `--json` prints of a concept."""
    return {
        "file": path,
        "prompt": concept.prompt,
        "words": {token: own.count for token, own in concept.placeholders.items()},
        "weights": Counter(change.kind for change in concept.weights.values()),
        "likenesses": {
            token: {"layers": len(own.layers), "local": own.gate} for token, own in concept.portraits.items()
        },
        "method": concept.method,
        "options": dict(concept.options),
        "seed": concept.seed,
        "base": concept.base.model_dump(),
        "fits": None if model is None else concept.base.hash == model.base_hash,
        "model": None if model is None else model.name,
        "pictures": [picture.name for picture in concept.pictures],
        "previews": len(concept.previews),
        "bytes": path.stat().st_size,
    }


def _rows(told: dict[str, Any]) -> dict[str, str]:
    """The same as lines."""
    base = told["base"]["name"] or "unknown"
    if told["model"] is not None:
        base += f", which is {told['model']}" if told["fits"] else f", which is not {told['model']}"
    rows = {
        "words": ", ".join(f"{token} ({_counted(n, 'vector')})" for token, n in told["words"].items()),
        "weights": ", ".join(f"{n} {kind}" for kind, n in told["weights"].items()),
        "likeness": ", ".join(
            f"{token} (in {_counted(own['layers'], 'layer')}, parts × {own['local']:g})"
            for token, own in told["likenesses"].items()
        ),
        "method": f"{told['method']}, seed {told['seed']}",
        "options": ", ".join(
            f"{name} {value}" for name, value in told["options"].items() if value not in (None, "", [])
        ),
        "base": base,
        "trained on": ", ".join(told["pictures"]),
        "size": f"{told['bytes'] / 1000:,.0f} kB",
    }
    return {name: value for name, value in rows.items() if value}


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s'[: number != 1]}"
