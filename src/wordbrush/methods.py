"""The entry of a method in its folder's table: names and strings only, so that listing methods imports none."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from wordbrush.errors import OptionsError, nearest


@dataclass(frozen=True, slots=True)
class Method:
    """Where a method lives and what it does, in a line."""

    module: str
    summary: str

    def load(self) -> Any:
        """The method's module: its `Options` and its one function."""
        return import_module(self.module)


def find(methods: Mapping[str, Method], name: str, kind: str) -> Method:
    """The method of that name; dashes may stand for underscores. Raises `OptionsError`, naming the nearest."""
    if key(name) in methods:
        return methods[key(name)]
    known = map(typed, methods) if "-" in name else methods
    raise OptionsError(f"there is no {kind} method '{name}'{nearest(name, known)}")


def key(name: str) -> str:
    """The name of a method or an option in tables, records and TOML: `prompt_to_prompt`."""
    return name.replace("-", "_")


def typed(name: str) -> str:
    """The name of a method or an option on the command line, in file names and on labels: `prompt-to-prompt`."""
    return name.replace("_", "-")
