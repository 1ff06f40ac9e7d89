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
    key = name.replace("-", "_")
    if key in methods:
        return methods[key]
    known = [each.replace("_", "-") for each in methods] if "-" in name else methods
    raise OptionsError(f"there is no {kind} method '{name}'{nearest(name, known)}")
