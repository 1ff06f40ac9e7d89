"""Edit pictures with words.

    import wordbrush

    model = wordbrush.Model.load("pocket")
    source = wordbrush.invert(model, "cat.png", "a cat on a beach")
    result = wordbrush.edit(model, source, "a dog on a beach")
    result.image.save("dog.png")

Names are imported when first used, so that `import wordbrush` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordbrush.api import (
        edit,
        editing_methods,
        from_seed,
        generate,
        heatmap,
        inversion_methods,
        invert,
        replay,
    )
    from wordbrush.errors import (
        ImageError,
        InputError,
        ModelError,
        NumericsError,
        OptionsError,
        OutputError,
        PromptError,
        SourceError,
        WordbrushError,
    )
    from wordbrush.model import Model
    from wordbrush.progress import Progress
    from wordbrush.result import Result
    from wordbrush.sheets import sheet
    from wordbrush.source import Source

# Where the names below are, those that import least first.
_MODULES = ("errors", "progress", "sheets", "model", "source", "result", "api")

__all__ = [
    "ImageError",
    "InputError",
    "Model",
    "ModelError",
    "NumericsError",
    "OptionsError",
    "OutputError",
    "Progress",
    "PromptError",
    "Result",
    "Source",
    "SourceError",
    "WordbrushError",
    "edit",
    "editing_methods",
    "from_seed",
    "generate",
    "heatmap",
    "inversion_methods",
    "invert",
    "replay",
    "sheet",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in map(import_module, (f"wordbrush.{each}" for each in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'wordbrush' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
