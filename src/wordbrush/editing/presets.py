"""Edits of the papers as named sets of options (`docs/methods/presets.md`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wordbrush.editing import DEFAULT
from wordbrush.errors import OptionsError, nearest, short
from wordbrush.methods import key, typed


@dataclass(frozen=True)
class Preset:
    """A method and its options. keeps_word: whether a word must be named, whose attention alone is the source's."""

    summary: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    keeps_word: bool = False


_FREE: Mapping[str, Any] = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0, "local_blend": "off"}
_WHOLE_RUN = 0.8

PRESETS: Mapping[str, Preset] = {
    "object_preservation": Preset(
        "one word's maps are injected: the thing keeps its shape, all else may change",
        "prompt_to_prompt",
        _FREE,
        keeps_word=True,
    ),
    "stylisation": Preset(
        "a phrase for all of the picture is added: the layout stays",
        "prompt_to_prompt",
        {"cross_replace_steps": 0.8, "self_replace_steps": 0.8, "local_blend": "off"},
    ),
    "mask_based": Preset(
        "a real picture is noised and drawn again where the new words look",
        "mask_based",
    ),
}


def preset(name: str, word: str | None = None) -> dict[str, Any]:
    """The method and the options of a preset, as keywords of `edit`.

    word: the thing to preserve, for object-preservation. Raises `OptionsError` for an unknown name, and for a word that
    is missing or not read.

    >>> preset("object-preservation", word="cat")["options"]["word_steps"]
    {'cat': 0.8}
    """
    if key(name) not in PRESETS:
        raise OptionsError(f"there is no preset '{name}'{nearest(name, map(typed, PRESETS))}")
    found = PRESETS[key(name)]
    if found.keeps_word != (word is not None and bool(word.strip())):
        said = "needs the word of the thing to preserve, got none" if found.keeps_word else "reads no word"
        raise OptionsError(
            f"the preset {typed(key(name))} {said}: {'add' if found.keeps_word else 'leave'} word"
        )
    own = {"word_steps": {word: _WHOLE_RUN}} if found.keeps_word else {}
    return {"method": found.method, "options": {**found.options, **own}}


def chosen(method: str | None, name: str | None, word: str | None) -> tuple[str, Mapping[str, Any]]:
    """The method and the options that a method's name, a preset's, or neither mean. Raises `OptionsError` for both."""
    if name is None:
        if word is not None:
            raise OptionsError(
                f"expected --preset object-preservation beside --word, got the word {short(word)} alone"
            )
        return typed(DEFAULT) if method is None else method, {}
    if method is not None:
        raise OptionsError(
            f"expected --method or --preset, which says the method, got both: leave out --method {method}"
        )
    found = preset(name, word)
    return typed(found["method"]), found["options"]
