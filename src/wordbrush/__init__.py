"""Edit pictures with words.

    import wordbrush

    model = wordbrush.Model.load("pocket")
    result = wordbrush.edit(model, "cat.png", "a dog on a beach", prompt="a cat on a beach")
    result.save("dog.png")

Names are imported when first used, so that `import wordbrush` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordbrush.api import (
        Check,
        apply,
        check_edit,
        edit,
        editing_methods,
        from_seed,
        generate,
        heatmap,
        inversion_methods,
        invert,
        merge,
        record,
        train,
        training_methods,
        word_of,
    )
    from wordbrush.concept import Concept
    from wordbrush.editing.presets import preset
    from wordbrush.errors import (
        ConceptError,
        ImageError,
        InputError,
        ModelError,
        NumericsError,
        OptionsError,
        OutputError,
        PromptError,
        SourceError,
        UnlearnedError,
        WordbrushError,
    )
    from wordbrush.model import Model
    from wordbrush.options import Options
    from wordbrush.progress import Progress
    from wordbrush.replaying import Replay, replay
    from wordbrush.result import Report, Result
    from wordbrush.sheets import sheet
    from wordbrush.source import Source
    from wordbrush.sweeping import sweep

# Where the names below are, those that import least first.
_MODULES = (
    "errors",
    "options",
    "editing.presets",
    "progress",
    "sheets",
    "model",
    "concept",
    "source",
    "result",
    "api",
    "replaying",
    "sweeping",
)

__all__ = [
    "Check",
    "Concept",
    "ConceptError",
    "ImageError",
    "InputError",
    "Model",
    "ModelError",
    "NumericsError",
    "Options",
    "OptionsError",
    "OutputError",
    "Progress",
    "PromptError",
    "Replay",
    "Report",
    "Result",
    "Source",
    "SourceError",
    "UnlearnedError",
    "WordbrushError",
    "apply",
    "check_edit",
    "edit",
    "editing_methods",
    "from_seed",
    "generate",
    "heatmap",
    "inversion_methods",
    "invert",
    "merge",
    "preset",
    "record",
    "replay",
    "sheet",
    "sweep",
    "train",
    "training_methods",
    "word_of",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("wordbrush")
    if name in __all__:
        for module in map(import_module, (f"wordbrush.{each}" for each in _MODULES)):
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'wordbrush' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
