"""What kind of change two captions ask for: a thing swapped, recoloured, resized, added or removed, or another place,
light or style.

Read from the alignment of the captions and from `lexicon.toml`, lists of general English words. A word that is in no
list names a thing, or describes the thing that it stands before; so does a learned word, whatever it is called. The
reading is a guess by words alone, so it is reported with its reason.
"""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from wordbrush.words import Alignment, Word, Words

Kind = Literal[
    "nothing", "swap", "recolour", "resize", "add", "remove", "place", "light", "style", "relation", "several"
]
LOCAL: frozenset[Kind] = frozenset({"swap", "recolour", "resize", "add", "remove"})
"""Changes of things, which are somewhere in the picture; the other kinds change all of it."""

_WHOLE: Mapping[Kind, str] = {"place": "the place", "light": "light or weather", "style": "the style"}
_DESCRIBING: tuple[Kind, ...] = ("recolour", "resize")
_ARTICLES = frozenset({"a", "an", "the"})


@dataclass(frozen=True)
class Part:
    """One change.

    source, target: the words of the things it is about, with what describes them; none for a change of the whole
    picture, and none in a caption that does not have the thing. old, new: of a change of the whole picture, what the
    source says of it and what the target says instead.
    """

    kind: Kind
    source: tuple[Word, ...]
    target: tuple[Word, ...]
    reason: str
    old: tuple[Word, ...] = ()
    new: tuple[Word, ...] = ()


@dataclass(frozen=True)
class Change:
    """All that two captions ask for. kind: that of the parts, or "several" where they are of different kinds."""

    kind: Kind
    parts: tuple[Part, ...]

    @property
    def kinds(self) -> frozenset[Kind]:
        """The kinds of the parts."""
        return frozenset(part.kind for part in self.parts)

    @property
    def is_local(self) -> bool:
        """Whether only things change, so that the rest of the picture has no reason to."""
        return self.kinds <= LOCAL

    @property
    def reason(self) -> str:
        """Why, in words."""
        return "; ".join(part.reason for part in self.parts) or "both captions say the same"


def read(alignment: Alignment) -> Change:
    """The change that the words ask for.

    >>> from wordbrush.words import align
    >>> model = Model.load("pocket")
    >>> read(align(model.read("a cat on a beach"), model.read("a red cat on a beach"))).reason
    "'red' describes 'cat'"
    """
    parts = tuple(part for run in _runs(alignment) for part in _parts(alignment, *run))
    # "in the snow", "on the beach": the words between things go with the things.
    parts = tuple(part for part in parts if part.kind != "relation") or parts
    kinds: set[Kind] = {part.kind for part in parts}
    kind: Kind = "nothing" if not kinds else kinds.pop() if len(kinds) == 1 else "several"
    return Change(kind, parts)


def things(words: Words) -> tuple[Word, ...]:
    """The words of a caption that name things: the last word of each phrase that is no place, light or style."""
    return tuple(word for word in words.words if _is_content(word) and _kind(words, word) == "thing")


def _runs(alignment: Alignment) -> list[tuple[list[Word], list[Word]]]:
    """What changed, run by run: the words of both captions between two that stay."""
    runs: list[tuple[list[Word], list[Word]]] = []
    is_open = False
    for match in alignment.matches:
        if match.kind == "same":
            is_open = False
            continue
        if not is_open:
            runs.append(([], []))
        is_open = True
        runs[-1][0].extend(match.source)
        runs[-1][1].extend(match.target)
    return runs


def _parts(alignment: Alignment, before: Sequence[Word], after: Sequence[Word]) -> list[Part]:
    """The changes in one run of changed words, of the source and of the target."""
    sides = (alignment.source, before), (alignment.target, after)
    changed = [[(word, _kind(words, word)) for word in run if _is_content(word)] for words, run in sides]
    changed = [_as_the_other(side, other) for side, other in zip(changed, reversed(changed), strict=True)]
    parts: list[Part] = []
    for whole, said_of in _WHOLE.items():
        said = [word for side in reversed(changed) for word, kind in side if kind == whole]
        if said:
            old, new = (tuple(word for word, kind in side if kind == whole) for side in changed)
            parts.append(Part(whole, (), (), f"{_quoted(said)} {_is(said)} about {said_of}", old, new))
    old, new = ([word for word, kind in side if kind == "thing"] for side in changed)
    if old and new:
        reason = f"{_quoted(new)} in place of {_quoted(old)}"
        parts.append(Part("swap", _phrases(alignment.source, old), _phrases(alignment.target, new), reason))
    elif old:
        reason = f"{_quoted(old)} {_is(old)} taken out"
        parts.append(Part("remove", _phrases(alignment.source, old), (), reason))
    elif new:
        parts.append(Part("add", (), _phrases(alignment.target, new), f"{_quoted(new)} {_is(new)} new"))
    for kind in _DESCRIBING:
        parts += _descriptions(alignment, changed, kind)
    relations = [word for word in (*after, *before) if word.key not in _ARTICLES and not word.is_punctuation]
    if not any(changed) and relations:
        parts.append(
            Part("relation", (), (), f"{_quoted(relations)} {_is(relations)} about how things stand")
        )
    return parts


def _as_the_other(
    side: Sequence[tuple[Word, str]], other: Sequence[tuple[Word, str]]
) -> list[tuple[Word, str]]:
    """The changed words of one caption with their kinds: a learned word is about what it takes the place of, such as
    a beach, if that is no thing; nothing else tells what it shows."""
    kinds = [kind for _, kind in other]
    whole = None if "thing" in kinds else next((kind for kind in kinds if kind in _WHOLE), None)
    return [(word, whole if whole and word.is_learned and kind == "thing" else kind) for word, kind in side]


def _descriptions(
    alignment: Alignment, changed: Sequence[Sequence[tuple[Word, str]]], kind: Kind
) -> list[Part]:
    """What describes a thing in another way than before. What describes a thing that is new or gone belongs to it."""
    prompts = alignment.source, alignment.target
    mine = [[word for word, its in side if its == kind] for side in changed]
    renamed = [{word for word, its in side if its == "thing"} for side in changed]
    is_swap = all(renamed)
    if not is_swap:
        mine = [
            [word for word in side if _head(words, word) not in gone]
            for words, side, gone in zip(prompts, mine, renamed, strict=True)
        ]
    elif not mine[1]:  # what described the old thing went with it
        return []
    said = mine[1] or mine[0]
    if not said:
        return []
    words = prompts[1] if mine[1] else prompts[0]
    heads = {_head(words, word) for word in said}
    source = [_head(prompts[0], word) for word in mine[0]]
    target = [_head(prompts[1], word) for word in mine[1]]
    for match in alignment.matches:
        # One caption may describe the thing and the other only name it.
        if match.kind == "same" and (match.source[0] in source or match.target[0] in target):
            source += match.source
            target += match.target
    verb = "describes" if mine[1] else "described"
    reason = f"{_quoted(said)} {verb} {_quoted(sorted(heads, key=lambda word: word.start))}"
    return [Part(kind, _phrases(prompts[0], source), _phrases(prompts[1], target), reason)]


# One word in its caption ------------------------------------------------------------------------------------


def _kind(words: Words, word: Word) -> str:
    """What a change of this word is about: "thing", "recolour", "resize" or one of `_WHOLE`."""
    head = _head(words, word)
    whole = _whole(words, head)
    if whole is not None:
        return whole
    if _is_in(word, "sizes") and word != head:
        return "resize"
    return "thing" if word == head else "recolour"


def _whole(words: Words, head: Word) -> Kind | None:
    """The kind of change of the whole picture that a phrase is about, by its last word."""
    for kind in _WHOLE:
        if _is_in(head, f"{kind}s"):
            return kind
    before = [
        word.key
        for word in words.words[: words.words.index(head)]
        if not _is_content(word) or _is_in(word, "styles")
    ]
    # "in the style of Monet", "a painting by Monet"
    return "style" if before[-2:] == ["style", "of"] or before[-1:] == ["by"] else None


def _head(words: Words, word: Word) -> Word:
    """The last word of the phrase that a word belongs to: "cat" of "a small red cat", and of "a cat leaning out"."""
    first = words.words.index(word)
    phrase = [word]
    for one in words.words[first + 1 :]:
        if not _is_content(one) or _is_in(one, "alone") or _is_in(phrase[-1], "alone"):
            break
        phrase.append(one)
    last = phrase[-1]
    ends_in_verb = last.key.endswith(("ing", "ed")) and not last.is_learned and not _is_in(last, "nouns")
    return phrase[-2] if ends_in_verb and len(phrase) > 1 else phrase[-1]


def _phrases(words: Words, heads: Iterable[Word]) -> tuple[Word, ...]:
    """The whole phrases with these last words, in the caption's order."""
    chosen = set(heads)
    return tuple(word for word in words.words if _is_content(word) and _head(words, word) in chosen)


def _is_content(word: Word) -> bool:
    return word.names_something and not _is_in(word, "joining")


def _is_in(word: Word, name: str) -> bool:
    known = _lexicon()[name]
    if word.is_learned:
        return False
    return word.key in known or (word.key.endswith("s") and word.key.removesuffix("s") in known)


@cache
def _lexicon() -> dict[str, frozenset[str]]:
    text = files("wordbrush").joinpath("lexicon.toml").read_text(encoding="utf-8")
    return {name: frozenset(listed.split()) for name, listed in tomllib.loads(text).items()}


def _quoted(words: Sequence[Word]) -> str:
    return ", ".join(dict.fromkeys(f"'{word.text}'" for word in words))


def _is(words: Sequence[Word]) -> str:
    return "is" if len({word.key for word in words}) == 1 else "are"
