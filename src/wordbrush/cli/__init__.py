"""The command line: `wordbrush generate`, `edit`, `invert`, `heatmap`, `replay`, `methods`, `models`.

    commands   what each of them does, from its flags to its files
    listings   `methods` and `models`, which compute nothing
    flags      a method's flags, from its `Options`
    origins    what an edit starts from: a picture file or a saved source
    outputs    where results go
    setup      model and machine
    terminal   what is shown

Exit codes: 0 done; 1 `replay` found a difference, or wordbrush is at fault; 2 the input is; 130 Ctrl-C.
"""

import os
import sys
import traceback
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from wordbrush.cli import commands, flags, listings
from wordbrush.cli.terminal import Terminal, speak_any_language
from wordbrush.errors import WordbrushError


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code. Whatever goes wrong is told in one line, never as a traceback."""
    tokens = list(sys.argv[1:] if tokens is None else tokens)
    speak_any_language()
    terminal = Terminal()
    try:
        code = application(tokens)(tokens, exit_on_error=False, print_error=False) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever reads our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        terminal.error("stopped; no half file is left")
        return 130
    except (WordbrushError, CycloptsError, OSError) as error:
        terminal.error(str(error))
        return 2
    except Exception as error:
        if "WORDBRUSH_TRACEBACK" in os.environ:
            traceback.print_exc()
        terminal.error(
            f"{type(error).__name__}: {error} (wordbrush did not expect that; WORDBRUSH_TRACEBACK=1 tells more)"
        )
        return 1


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
    editing, inversion = commands.editing_options, commands.inversion_options
    app.command(commands.generate)
    app.command(
        flags.with_flags(
            commands.edit,
            Editing=editing(_told(tokens, "edit", "--method") or commands.EDITING),
            Inversion=inversion(_told(tokens, "edit", "--inversion") or commands.INVERSION),
        )
    )
    app.command(
        flags.with_flags(
            commands.invert,
            Inversion=inversion(_told(tokens, "invert", "--method") or commands.INVERSION),
        )
    )
    app.command(
        flags.with_flags(
            commands.heatmap,
            Inversion=inversion(_told(tokens, "heatmap", "--inversion") or commands.INVERSION),
        )
    )
    app.command(commands.replay)
    app.command(listings.methods)
    app.command(listings.models)
    return app


def _told(tokens: Sequence[str], command: str, flag: str) -> str | None:
    """What follows `flag`, if this is `command`: a method decides the other flags, so it is read before them."""
    if command in tokens[:1]:
        for token, value in zip(tokens, (*tokens[1:], None), strict=True):
            if token == flag:
                return value
            if token.startswith(f"{flag}="):
                return token.removeprefix(f"{flag}=")
    return None


def _version() -> str:
    from importlib.metadata import version

    return version("wordbrush")
