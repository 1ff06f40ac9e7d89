"""`wordbrush convert`: a learned concept from one tool's file to another's."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from wordbrush.cli import outputs
from wordbrush.cli.options.setup import POCKET, Setup
from wordbrush.errors import OptionsError

_SUFFIXES = {".concept": "wordbrush"}


def convert(
    concept: Path,
    /,
    *,
    out: str,
    to: str | None = None,
    token: str | None = None,
    init: str | None = None,
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
    with terminal.busy("starting"):
        from wordbrush.concept import exchange
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
    contents = exchange.files(found, path, model, to=form)
    outputs.check([concept], contents)
    exchange.save(contents)
    notices = [found.options[exchange.ASSUMED]] if exchange.ASSUMED in found.options else []
    for file in contents:
        terminal.say(str(file))
    terminal.note(notices)
    terminal.finish(
        command="convert",
        concept=concept,
        out=list(contents),
        to=form,
        words=list(found.placeholders),
        weights=len(found.weights),
        notices=notices,
    )
    return 0
