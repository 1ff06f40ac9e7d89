"""Several methods on one command line: which are named, and the flags of all of them."""

from collections.abc import Iterable, Sequence

from wordbrush import editing, inversion
from wordbrush.cli.commands import editing_options, inversion_options
from wordbrush.options import Options


def named(tokens: Sequence[str], flag: str) -> list[str] | None:
    """Every value of a flag: methods decide the other flags, so they are read before them."""
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
    return {name.replace("-", "_"): editing_options(name) for name in chosen}


def inversions(names: Iterable[str] | None) -> dict[str, type[Options]]:
    """The same of inversions."""
    chosen = inversion.METHODS if names is None else names
    return {name.replace("-", "_"): inversion_options(name) for name in chosen}
