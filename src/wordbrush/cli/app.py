"""All commands as one application, and the message when one of them fails."""

import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from cyclopts import App, CycloptsError, Parameter, UnknownOptionError, UnusedCliTokensError

from wordbrush import editing, inversion
from wordbrush.cli.commands import compare, evaluate, listings, study, train
from wordbrush.cli.commands.batch import batch
from wordbrush.cli.commands.concepts import concepts as list_concepts
from wordbrush.cli.commands.convert import convert
from wordbrush.cli.commands.edit import edit
from wordbrush.cli.commands.generate import generate
from wordbrush.cli.commands.heatmap import heatmap
from wordbrush.cli.commands.invert import invert
from wordbrush.cli.commands.mask import mask
from wordbrush.cli.commands.merge import merge
from wordbrush.cli.commands.replay import replay
from wordbrush.cli.commands.sweep import sweep
from wordbrush.cli.options import concepts, flags
from wordbrush.cli.options.methods import (
    EDITING,
    INVERSION,
    editing_of,
    editing_options,
    inversion_options,
    inverting,
    named,
)
from wordbrush.cli.terminal import Terminal, speak_any_language
from wordbrush.errors import OptionsError, UnlearnedError, WordbrushError, short
from wordbrush.methods import key, typed
from wordbrush.options import StrengthOptions


def run(tokens: Sequence[str]) -> int:
    """Run one command; returns its exit code, and raises what goes wrong."""
    speak_any_language()
    _require_text(tokens)
    code = application(tokens)(tokens, exit_on_error=False, print_error=False) or 0
    sys.stdout.flush()
    return code


def _require_text(tokens: Sequence[str]) -> None:
    """Raise `OptionsError` for bytes that are no text: no prompt can hold them, nor a record name such a file. A
    character 0 comes only from a program that calls `main`."""
    for token in tokens:
        if "\0" in token:
            raise OptionsError(f"expected arguments without a character 0, got {short(token)}; leave it out")
        try:
            token.encode()
        except UnicodeEncodeError as error:
            raise OptionsError(
                f"expected arguments in UTF-8, got {short(token)}; type it again, or rename the file"
            ) from error


def explain(error: BaseException, tokens: Sequence[str] = ()) -> int:
    """Print in one line what went wrong with a command line; returns the exit code."""
    terminal = Terminal()
    _let_go_of_stdout()
    match error:
        case BrokenPipeError():  # the reader of our output (head, less) has closed it
            return 0
        case UnusedCliTokensError(unused_tokens=list(unused)):
            terminal.error(f"unexpected arguments: {' '.join(unused)}; put quotes around text with spaces")
            return 2
        case UnknownOptionError(token=token):
            flag = (token.keyword or token.value).partition("=")[0]
            owners = _owners(error, flag)
            terminal.error(f"{flag} is an option of {owners}: give that as well" if owners else str(error))
            return 2
        case UnlearnedError(token=token) if (file := _teaching(token, tokens)) is not None:
            terminal.error(
                f"expected words that the model knows, got {short(token)}, which {file} teaches: give --concept "
                f"{shlex.quote(str(file))}"
            )
            return 2
        case WordbrushError() | CycloptsError() | OSError():
            terminal.error(str(error))
            return 2
        case MemoryError() | RuntimeError() if _is_out_of_memory(error):
            terminal.error("out of memory: make a smaller picture, or fewer at once")
            return 2
        case _:
            if "WORDBRUSH_TRACEBACK" in os.environ:
                traceback.print_exception(error)
            terminal.error(
                f"{type(error).__name__}: {error} "
                "(an error in wordbrush; WORDBRUSH_TRACEBACK=1 prints the traceback)"
            )
            return 1


def _teaching(token: str, tokens: Sequence[str]) -> Path | None:
    """The concept's file that teaches a word, in the current folder or beside a file of the command line."""
    beside = [Path(text).parent for text in tokens[1:] if os.path.isfile(text)]
    return concepts.teaching(token, [Path(), *beside])


def _owners(error: UnknownOptionError, flag: str) -> str:
    """How to name the methods that have a flag, where the command could name one; nothing if none has."""
    offered = {name for argument in error.argument_collection for name in argument.names}
    is_invert = tuple(error.command_chain or ())[:1] == ("invert",)
    tables = {
        "--method": inversion.METHODS if is_invert else editing.METHODS,
        "--inversion": inversion.METHODS,
    }
    return " or ".join(
        f"{choice} {typed(method)}"
        for choice, table in tables.items()
        if choice in offered
        for method, entry in table.items()
        if key(flag.removeprefix("--")) in entry.options().model_fields
    )


def _let_go_of_stdout() -> None:
    """Drop output that stdout does not accept: Python would try again at exit, fail, and set its own exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _is_out_of_memory(error: BaseException) -> bool:
    """Torch has an exception class for an accelerator's memory, but none for the CPU's."""
    return isinstance(error, MemoryError) or any(
        phrase in str(error) for phrase in ("out of memory", "can't allocate memory")
    )


def application(tokens: Sequence[str]) -> App:
    """The commands, with the flags of those methods that `tokens` name. Raises `OptionsError` for unknown ones."""
    app = App(
        name="wordbrush",
        help="Edit pictures with words: change the caption, and only what the caption names changes.",
        help_format="plaintext",
        version=_version,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
        default_parameter=Parameter(negative=()),
    )
    app.command(generate)
    app.command(
        flags.with_flags(
            edit,
            Editing=editing_of(tokens, "edit"),
            Inversion=inverting(tokens, "edit", "--inversion"),
            Strength=StrengthOptions,
        )
    )
    app.command(
        flags.with_flags(
            invert,
            Inversion=inverting(tokens, "invert", "--method"),
        )
    )
    app.command(
        flags.with_flags(
            heatmap,
            Inversion=inversion_options(named(tokens, "heatmap", "--inversion") or INVERSION),
        )
    )
    app.command(flags.with_flags(mask, Inversion=inverting(tokens, "mask", "--inversion")))
    app.command(
        flags.with_flags(
            sweep,
            Editing=editing_options(named(tokens, "sweep", "--method") or EDITING),
            Inversion=inverting(tokens, "sweep", "--inversion"),
            Strength=StrengthOptions,
        )
    )
    app.command(compare.command(tokens))
    app.command(evaluate.application(tokens))
    app.command(study.application())
    app.command(train.application(tokens))
    app.command(replay)
    app.command(batch)
    app.command(convert)
    app.command(merge)
    app.command(listings.methods)
    app.command(listings.models)
    app.command(list_concepts, name="concepts")
    return app


def _version() -> str:
    from importlib.metadata import version

    return version("wordbrush")
