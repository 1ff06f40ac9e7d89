"""What several commands share: their common flags, the default methods, and the options of a method by its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from wordbrush import editing, inversion
from wordbrush.cli.options.flags import Whole
from wordbrush.cli.options.setup import Setup
from wordbrush.errors import OptionsError, PromptError
from wordbrush.methods import find
from wordbrush.options import Options

Told = Mapping[str, str | list[str]]
OptionFile = Annotated[Path | None, Parameter(metavar="TOML", help="a file of options; flags outweigh it")]
Sheet = Annotated[bool, Parameter(help="write a sheet as well: before and after, with captions")]
Preview = Annotated[
    Whole | None,
    Parameter(
        metavar="N",
        help="keep a preview beside the output, fresh every N steps, until the output is there",
        validator=validators.Number(gte=1),
    ),
]
POCKET = Setup()
EDITING, INVERSION = "prompt-to-prompt", "direct"  # the default methods


def editing_options(method: str) -> type[Options]:
    """The options of an editing method. Raises `OptionsError` if there is no such method."""
    if method.replace("-", "_") in inversion.METHODS:
        raise OptionsError(f"{method} is an inversion and no way to edit: expected --inversion {method}")
    return find(editing.METHODS, method, "editing").options()


def inversion_options(method: str) -> type[Options]:
    """The options of an inversion. Raises `OptionsError` if there is no such method."""
    return find(inversion.METHODS, method, "inversion").options()


def require_text(name: str, prompt: str) -> None:
    """Raise `PromptError` for a prompt without words."""
    if not prompt.strip():
        raise PromptError(f"expected {name} to say what to see, got nothing")
