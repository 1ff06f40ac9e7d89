"""From a scene to its caption and back: two inverse functions for one small grammar.

    caption = [style] thing [relation thing] ["and" thing] [place] [light]
    thing   = ("a" | "an") [size] [colour] name

Captions are lower case, without commas, and have at most 24 words. Half of the photos are called "a photo of", and
eleven of twelve captions name the place (`Scene.wording` decides). Medium size and day are never mentioned;
everything else always is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from wordbrush.errors import PromptError
from wordbrush.pocket.scene import Scene, Thing
from wordbrush.pocket.vocabulary import (
    COLOURS,
    HELD_OUT,
    LIGHTS,
    NAMES,
    PLACES,
    PLURALS,
    RELATIONS,
    SIZES,
    SPELLINGS,
    STYLES,
    in_captions,
    nearest,
)

Referent = int | str | None


@dataclass(frozen=True)
class Constraint:
    """What a caption says about one thing: its name, and optionally its colour and size (None: not mentioned)."""

    name: str
    colour: str | None = None
    size: str | None = None


@dataclass(frozen=True)
class Constraints:
    """What a caption says, as keys of `NAMES`, `PLACES`, …; None for what it does not mention."""

    things: tuple[Constraint, ...]
    relation: str | None = None
    place: str | None = None
    light: str | None = None
    style: str | None = None


def caption(scene: Scene) -> str:
    """The caption of a scene. A held-out thing is called by its class ("a dog" for a poodle), without its pattern."""
    return " ".join(text for text, _ in caption_parts(scene))


def caption_parts(scene: Scene) -> list[tuple[str, Referent]]:
    """The caption in parts, each with what it refers to.

    A referent is the index of a thing (for its adjectives and its noun), "place", "light", "style", "relation",
    or None for articles and "and". The texts joined with single spaces are the caption.
    """
    parts: list[tuple[str, Referent]] = []
    if scene.style != "photo" or scene.wording % 2 == 0:
        parts.append((STYLES[scene.style], "style"))
    for i, thing in enumerate(scene.things):
        if i == 1 and scene.relation is not None:
            parts.append((RELATIONS[scene.relation], "relation"))
        elif i > 0:
            parts.append(("and", None))
        words = _noun_phrase(thing)
        if thing.name not in PLURALS:
            parts.append(("an" if words[0][0] in "aeiou" else "a", None))
        parts += [(word, i) for word in words]
    if scene.wording // 2 != 11:
        parts.append((PLACES[scene.place], "place"))
    if scene.light != "day":
        parts.append((LIGHTS[scene.light], "light"))
    return parts


def _noun_phrase(thing: Thing) -> list[str]:
    words = [] if thing.size == "medium" else [thing.size]
    words += [thing.colour] if thing.colour in COLOURS else []
    return [*words, HELD_OUT[thing.name][1] if thing.name in HELD_OUT else thing.name]


def parse(text: str) -> Constraints:
    """What a caption says: the inverse of `caption`, for everything that a caption mentions.

    Case, punctuation, repeated spaces, the spellings in `SPELLINGS` and "the" for "a" make no difference. Raises
    `PromptError` for an unknown word (suggesting the nearest known one) and for words in an order that the
    grammar does not allow.
    """
    words = _words(text)
    if not words:
        raise PromptError("expected a caption such as 'a cat on a beach', got nothing.")
    style, words = _leading(words, STYLES)
    things: list[Constraint] = []
    relation = None
    while True:
        thing, words = _thing(words)
        things.append(thing)
        if len(things) == 3:
            break
        if words[:1] == ["and"]:
            words = words[1:]
            continue
        # "on a red chair" is a relation, "on a red background" a place: so places are tried first.
        if len(things) == 2 or _leading(words, PLACES)[0]:
            break
        relation, rest = _leading(words, RELATIONS)
        if relation is None:
            break
        words = rest
    place, words = _leading(words, PLACES)
    light, words = _leading(words, {name: phrase for name, phrase in LIGHTS.items() if phrase})
    if words:
        _refuse(words, "a place or a light")
    return Constraints(tuple(things), relation, place, light, style)


def _words(text: str) -> list[str]:
    kept = "".join(c if c.isalnum() or c == "'" else " " for c in text.lower().replace("’", "'"))
    return [SPELLINGS.get(word, word) for word in kept.split()]


def _leading(words: list[str], phrases: dict[str, str]) -> tuple[str | None, list[str]]:
    """The key whose phrase `words` begins with (the longest such phrase), and the words after it."""
    for key, phrase in sorted(phrases.items(), key=lambda item: -len(item[1])):
        opening = phrase.split()
        if _same(words[: len(opening)], opening):
            return key, words[len(opening) :]
    return None, words


def _same(words: list[str], phrase: list[str]) -> bool:
    articles = {"an": "a", "the": "a"}
    return [articles.get(w, w) for w in words] == [articles.get(w, w) for w in phrase]


def _thing(words: list[str]) -> tuple[Constraint, list[str]]:
    rest = words[1:] if words[:1] and words[0] in ("a", "an", "the") else words
    size, rest = _leading(rest, {size: size for size in SIZES})
    colour, rest = _leading(rest, {colour: colour for colour in COLOURS})
    name, rest = _leading(rest, {name: name for name in NAMES})
    if name is None:
        _refuse(rest, "a thing")
    return Constraint(name, colour, size), rest


def _refuse(words: list[str], expected: str) -> NoReturn:
    if not words:
        raise PromptError(f"the caption ends where {expected} was expected.")
    known = in_captions()
    for word in words:
        if word not in known:
            near = nearest(word, (*NAMES, *sorted(known)))
            raise PromptError(f"the built-in world does not know the word {word!r}: did you mean {near!r}?")
    raise PromptError(
        f"expected {expected} at {' '.join(words)!r}: write it like 'a small red cat on a beach at night'."
    )
