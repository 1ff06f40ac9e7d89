"""The methods that a command line names, and their options; nothing here imports torch."""

from collections.abc import Sequence

from wordbrush import editing, inversion
from wordbrush.editing.presets import PRESETS
from wordbrush.errors import OptionsError
from wordbrush.methods import find, key, typed
from wordbrush.options import Options

EDITING, COMPARED, INVERSION = typed(editing.DEFAULT), typed(editing.COMPARED), typed(inversion.DEFAULT)


def editing_options(method: str) -> type[Options]:
    """The options of an editing method. Raises `OptionsError` if there is no such method."""
    if key(method) in inversion.METHODS:
        raise OptionsError(f"{method} is an inversion, not an editing method: expected --inversion {method}")
    return find(editing.METHODS, method, "editing").options()


def editing_of(tokens: Sequence[str], command: str) -> type[Options]:
    """The options of the editing method that a command line uses, by its name or a preset's. Raises `OptionsError`."""
    preset = named(tokens, command, "--preset")
    known = PRESETS.get(key(preset)) if preset is not None else None
    return editing_options(named(tokens, command, "--method") or (known.method if known else EDITING))


def inversion_options(method: str) -> type[Options]:
    """The options of an inversion. Raises `OptionsError` if there is no such method."""
    return find(inversion.METHODS, method, "inversion").options()


def inverting(tokens: Sequence[str], command: str, flag: str) -> type[Options]:
    """The options of the inversion that a command line uses. Raises `OptionsError` if there is no such inversion."""
    model = named(tokens, command, "--model") or "pocket"
    name = named(tokens, command, flag)
    return inversion_options(inversion.default(model) if name is None else name)


def named(tokens: Sequence[str], command: str, flag: str) -> str | None:
    """The value of `flag` where `tokens` start with `command`: a method decides which other flags there are, so it is
    read before them."""
    if command in tokens[:1]:
        for token, value in zip(tokens, (*tokens[1:], None), strict=True):
            if token == flag:
                return value
            if token.startswith(f"{flag}="):
                return token.removeprefix(f"{flag}=")
    return None
