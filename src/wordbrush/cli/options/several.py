"""Several methods on one command line: which are named, the flags of all of them, and their contenders."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from wordbrush import editing, inversion
from wordbrush.cli import outputs
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import Given
from wordbrush.cli.options.methods import COMPARED, INVERSION, editing_options, inversion_options
from wordbrush.errors import OptionsError
from wordbrush.extras import need
from wordbrush.methods import key, typed
from wordbrush.options import Options

if TYPE_CHECKING:
    from wordbrush.evaluation.contender import Contender

Kinds = Mapping[str, type[Options]]
Settings = dict[str, dict[str, Any]]

_HELP = "repeat it for more; `wordbrush methods` lists them (default: {})"
AllMethods = Annotated[list[str] | None, Parameter(help=f"how to edit; {_HELP.format('all')}")]
AllInversions = Annotated[
    list[str] | None,
    Parameter(help=_HELP.format(f"all for {COMPARED}, else the one that suits")),
]
Methods = Annotated[list[str] | None, Parameter(help=f"how to edit; {_HELP.format(COMPARED)}")]
Inversions = Annotated[list[str] | None, Parameter(help=_HELP.format(INVERSION))]


def named(tokens: Sequence[str], flag: str) -> list[str] | None:
    """Every value of a flag. The named methods decide which other flags there are, so they are read first."""
    values = [
        value if token == flag else token.removeprefix(f"{flag}=")
        for token, value in zip(tokens, (*tokens[1:], ""), strict=True)
        if token == flag or token.startswith(f"{flag}=")
    ]
    return values or None


def editings(names: Iterable[str] | None) -> dict[str, type[Options]]:
    """Editing methods by their names in the table, each once, with their options; all where none is named.

    Raises `OptionsError` for unknown ones.
    """
    chosen = editing.METHODS if names is None else names
    return {key(name): editing_options(name) for name in chosen}


def inversions(names: Iterable[str] | None) -> dict[str, type[Options]]:
    """The same for inversions."""
    chosen = inversion.METHODS if names is None else names
    return {key(name): inversion_options(name) for name in chosen}


def with_flags(
    command: Callable[..., int], edits: Kinds, inversions: Kinds, **more: type[Options]
) -> Callable[..., int]:
    """`command` with the flags of every editing method and inversion, in groups by their names, and of `more`."""
    titled = {
        f"{title}: {typed(name)}": options
        for title, chosen in (("Editing", edits), ("Inversion", inversions))
        for name, options in chosen.items()
    }
    return flags.with_flags(command, **titled, **more)


def options_for(
    given: Given, option_file: Path | None, edits: Kinds, inversions: Kinds, *more: type[Options]
) -> tuple[Settings, Settings, list[dict[str, Any]]]:
    """The options from flags and an option file, for each editing method, each inversion and each class of `more`.

    Raises `OptionsError`.
    """
    shares = flags.shared(given, option_file, *edits.values(), *inversions.values(), *more)
    first, last = len(edits), len(edits) + len(inversions)
    return (
        dict(zip(edits, shares[:first], strict=True)),
        dict(zip(inversions, shares[first:last], strict=True)),
        shares[last:],
    )


def contenders(edits: Settings, inversions: Settings, *, suited: bool = False) -> "list[Contender]":
    """Every editing method after every inversion. suited: after those that suit it."""
    from wordbrush.evaluation.contender import Contender

    return [
        Contender(method, inversion, options, inversion_options)
        for method, options in edits.items()
        for inversion, inversion_options in inversions.items()
        if not suited or editing.suits(method, inversion)
    ]


def folder_of(out: str) -> Path:
    """The folder that --out names. Raises `OptionsError` for no name."""
    if not out.strip():
        raise OptionsError("expected --out to say where the results go, got nothing")
    return Path(out)


def results_folder(out: str, *inputs: Path | None) -> Path:
    """The folder of a run's results. Raises `OptionsError` for no name, `OutputError` if it cannot be written to."""
    folder = folder_of(out)
    outputs.check(inputs, [folder / "results.jsonl"])
    return folder


def require(package: str, purpose: str) -> None:
    """Raise `MissingExtraError` for an optional package now, and not after hours when it is first used."""
    with need("eval", purpose):
        import_module(package)
