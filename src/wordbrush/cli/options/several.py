"""Several methods on one command line: which are named, and the flags of all of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wordbrush import editing, inversion
from wordbrush.cli.options import flags
from wordbrush.cli.options.flags import Given
from wordbrush.cli.options.methods import editing_options, inversion_options
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


def with_flags(
    command: Callable[..., int],
    edits: Mapping[str, type[Options]],
    ways: Mapping[str, type[Options]],
    **more: type[Options],
) -> Callable[..., int]:
    """`command` with the flags of every editing method and inversion, in groups by their names, and of `more`."""
    titled = {
        f"{title}: {name.replace('_', '-')}": options
        for title, chosen in (("Editing", edits), ("Inversion", ways))
        for name, options in chosen.items()
    }
    return flags.with_flags(command, **titled, **more)


def given(
    given: Given,
    option_file: Path | None,
    edits: Mapping[str, type[Options]],
    ways: Mapping[str, type[Options]],
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """What flags and an option file say to each editing method and to each inversion. Raises `OptionsError`."""
    shares = flags.shared(given, option_file, *edits.values(), *ways.values())
    return (
        dict(zip(edits, shares[: len(edits)], strict=True)),
        dict(zip(ways, shares[len(edits) :], strict=True)),
    )
