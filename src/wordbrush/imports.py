"""Importing diffusers and transformers without all the models in them.

A module of theirs is in a package whose own file imports every model that there is: a UNet brings sixty video
networks. While `libraries` imports what is used here, those packages' own files are left unread; each is read when
somebody asks the package for a name that it does not have yet. So nothing is missing, for other code either: only
the moment differs.
"""

import gc
import importlib
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock, get_ident
from types import ModuleType
from typing import Any

# The modules of a Stable Diffusion's parts.
_USED = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
)
# Packages whose own file takes long and is not needed for the modules in them. scipy comes with diffusers' schedulers.
_UNREAD = {
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "scipy.stats",
    "transformers.models",
}
_READING = RLock()


def libraries() -> tuple[Any, Any]:
    """diffusers and transformers, with the classes of a Stable Diffusion's parts imported."""
    with no_collection(), _sparing():
        for module in _USED:
            importlib.import_module(module)
        import diffusers
        import transformers

    return diffusers, transformers


@contextmanager
def no_collection() -> Generator[None, None, None]:
    """Without garbage collection: imports make a million objects and no garbage, and looking through them again and
    again takes a third of their time. At the end they count as old, as if they had been looked through."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()  # puts all that was frozen among the oldest objects
            gc.enable()


@contextmanager
def _sparing() -> Generator[None, None, None]:
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Unread(ModuleType):
    """A package whose own file has not been read; modules inside can be imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__all__":  # what Python asks every module for
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _READING:
            if self.__dict__.pop("_is_unread", False):
                importlib.reload(self)
        found = sys.modules[self.__name__]  # a package may put another object in its place
        if found is not self:
            return getattr(found, name)
        try:
            return self.__dict__[name]
        except KeyError:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}") from None


class _Finder(MetaPathFinder, Loader):
    """Makes packages of `_UNREAD` for imports of the thread that it was made in."""

    def __init__(self) -> None:
        self._thread = get_ident()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _UNREAD or fullname in sys.modules or get_ident() != self._thread:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = self
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Unread(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["_is_unread"] = True
