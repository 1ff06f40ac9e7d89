"""A method's entry in its folder's table: names and strings only, so that listing methods imports none."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Generic, Literal, TypeVar, cast

from wordbrush.errors import OptionsError, nearest
from wordbrush.options import Options

T = TypeVar("T", covariant=True)

Seen = Literal["measured", "run", "no"]
"""What was seen of a method on a family of models. measured: its row is in docs/benchmarks. run: computed on random
weights of that shape, in the tests; no picture of it was judged. no: it does not go, or nobody has tried."""

FAMILIES: Mapping[str, str] = {"pocket": "built-in", "sd1": "SD 1", "sd2": "SD 2 (v)", "sdxl": "SDXL"}


def seen(**other: Seen) -> Mapping[str, Seen]:
    """What was seen of most methods, and where one differs."""
    return {"pocket": "measured", "sd1": "run", "sd2": "run", "sdxl": "run", **other}


@dataclass(frozen=True)
class Method(Generic[T]):
    """One line of a table. T is the protocol that the method's module has.

    module: the method's module. summary: what it does, in one line. where: where its `Options` are, as "module" or
    "module:Class"; by default in the method's module. Those of methods that ship are in a module which does not import
    torch, so that `--help` does not wait for it. after: the inversion that an editing method is compared after where
    none is named; empty: every one. seen: what was seen of it on each of the `FAMILIES`. reads: the networks that score
    pictures ("clip", "encoder", "reader") and that the method has read or optimised: none of them judges what it makes.
    """

    module: str
    summary: str
    where: str = ""
    after: str = ""
    seen: Mapping[str, Seen] = field(default_factory=seen)
    reads: frozenset[str] = frozenset()

    def load(self) -> T:
        """The method's module."""
        return cast(T, import_module(self.module))

    def options(self) -> type[Options]:
        """The class of the method's options."""
        module, _, name = (self.where or self.module).partition(":")
        return getattr(import_module(module), name or "Options")


def find(methods: Mapping[str, Method[T]], name: str, kind: str) -> Method[T]:
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
