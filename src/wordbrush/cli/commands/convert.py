"""`wordbrush convert`: a learned concept from one tool's file to another's."""

import re
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.errors import OptionsError, short
from wordbrush.options import CompressOptions, parse
from wordbrush.progress import drain

_SUFFIXES = {".concept": "wordbrush"}


def convert(
    concept: Path,
    /,
    *,
    out: str,
    to: str | None = None,
    token: str | None = None,
    init: str | None = None,
    compress: Annotated[
        float | None,
        Parameter(
            help="keep the largest singular values of each weight's change, those that make this share of their sum: "
            "0.6 is the paper's for Custom Diffusion (default: all)"
        ),
    ] = None,
    size: Annotated[
        str | None,
        Parameter(help="or keep as many as make files of at most this size together: 100k, 1.5M, or bytes"),
    ] = None,
    allow_pickle: Annotated[
        bool,
        Parameter(help="open a .pt, .bin or .ckpt file, in a process that may make tensors and nothing else"),
    ] = False,
    setup: Setup = POCKET,
) -> int:
    """Convert a learned concept to the file of another tool, or from one: docs/concepts.md lists them.

    Parameters
    ----------
    concept
        a file of ours or of another tool; what it is, is told from its content
    out
        the file to write; a folder for peft
    to
        wordbrush, kohya, diffusers, peft, a1111, custom-diffusion or svdiff (default: wordbrush for a .concept)
    token
        what to call its word, as in "<my-cat>"
    init
        what its word was before training, as in cat: then it can be applied at other strengths than 1
    """
    terminal = setup.terminal
    form = to or _SUFFIXES.get(Path(out).suffix.lower())
    if form is None:
        raise OptionsError(
            f"expected --to with a format, or --out to end in .concept, got {out}: see wordbrush convert --help"
        )
    most = None if size is None else _size(size)
    parse(CompressOptions, {"compress": compress, "size": most})
    if compress is not None and most is not None:
        raise OptionsError("expected --compress or --size, got both: leave one out")
    with terminal.busy("starting"):
        from wordbrush.concept import Concept, compression, exchange
    if form not in exchange.FORMATS:
        raise OptionsError(f"expected --to to be one of {', '.join(exchange.FORMATS)}, got {form}")
    suffix = exchange.FORMATS[form].suffix
    path = outputs.single(out, suffix) if suffix else Path(out)
    outputs.check([concept], [path if suffix else path / "adapter_config.json"])
    with ExitStack() as folders:
        source = concept
        if allow_pickle and concept.is_file() and exchange.is_pickle(concept):
            folder = folders.enter_context(tempfile.TemporaryDirectory(prefix="wordbrush-"))
            with terminal.busy("opening the pickle"):
                source = exchange.unpickled(concept, Path(folder))
        model = setup.load()
        found = exchange.read(source, model)
    if token is not None:
        found = exchange.renamed(found, token)
    if init is not None:
        found = exchange.initialised(found, init, model)
    kept = None
    if compress is not None or most is not None:

        def measured(concept: Concept) -> int:
            return _bytes(exchange.files(concept, path, model, to=form))

        steps = compression.compress(found, model, share=compress, size=most, measured=measured)
        with terminal.watching() as show:
            smaller = drain(steps, show)
        found, kept = smaller.concept, smaller.kept
    contents = exchange.files(found, path, model, to=form)
    outputs.check([concept], contents)
    exchange.save(contents)
    notices = [found.options[exchange.ASSUMED]] if exchange.ASSUMED in found.options else []
    if found.base.hash not in ("", model.base_hash):
        notices.append(f"it was trained on {found.base.name}, not on {model.name}, and is still that one's")
    for file in contents:
        terminal.say(str(file))
    if kept is not None:
        before = sum(file.stat().st_size for file in ([concept] if concept.is_file() else concept.iterdir()))
        terminal.say(
            f"  {_kilobytes(before)} → {_kilobytes(_bytes(contents))}, with {kept:.1%} of what it changes"
        )
    terminal.note(notices)
    terminal.finish(
        command="convert",
        concept=concept,
        out=list(contents),
        to=form,
        words=list(found.placeholders),
        weights=len(found.weights),
        bytes=_bytes(contents),
        kept=kept,
        notices=notices,
    )
    return 0


def _size(text: str) -> int:
    """A size in bytes. Raises `OptionsError`."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([kmg]?)b?", text.strip(), re.IGNORECASE)
    if found is None:
        raise OptionsError(f"expected --size in bytes, such as 100k or 1.5M, got {short(text)}")
    return int(float(found[1]) * 1000 ** " kmg".index(found[2].lower() or " "))


def _bytes(contents: Mapping[Path, bytes]) -> int:
    return sum(map(len, contents.values()))


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.0f} kB"
