"""The concepts of an edit: what is added and removed, and how strongly, where and when each of them acts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from wordbrush import changes
from wordbrush.editing.ledits_pp.options import Options
from wordbrush.errors import OptionsError, PromptError, nearest, short
from wordbrush.model import Model
from wordbrush.words import Alignment, Match, Word, Words

_PUBLISHED = 0.9
_CHOSEN: Mapping[str, float] = {"pocket": 0.8}
"""The threshold of a concept that is a thing, and by model, where another was chosen for what is read in captions."""
_WHOLE = 0.0
"""That of a concept that is about all of the picture."""


@dataclass(frozen=True)
class Concept:
    """What changes the picture on its own: ψ = direction · (ε of its prompt − ε of the reference).

    prompt: what its branch reads. about: the words of that which say where it is; before: those of the reference.
    direction: 1, or −1 to lead away from the prompt. threshold: the quantile from which on a position counts as the
    concept's. warmup: the fraction of the run before it acts.
    """

    name: str
    prompt: Words
    about: tuple[Word, ...]
    before: tuple[Word, ...]
    direction: Literal[1, -1]
    scale: float
    threshold: float
    warmup: float

    def describe(self) -> str:
        """It and its numbers, in one line."""
        return f"{self.name} ×{self.scale:g} above {self.threshold:g} from {self.warmup:g}"


@dataclass(frozen=True)
class _Draft:
    """A concept without its numbers. spoken: the phrases by which it can be given numbers of its own. is_whole: whether
    it is about all of the picture."""

    name: str
    prompt: Words
    about: tuple[Word, ...]
    before: tuple[Word, ...]
    direction: Literal[1, -1]
    spoken: tuple[Words, ...]
    is_whole: bool

    def own(self, numbers: Mapping[str, float], otherwise: float) -> float:
        """The number of the first of these words that the concept has."""
        return next(
            (number for word, number in numbers.items() if any(words.has(word) for words in self.spoken)),
            otherwise,
        )


def concepts(model: Model, alignments: Sequence[Alignment], options: Options) -> list[list[Concept]]:
    """The concepts of each target: those that are named, else those that its words ask for.

    options: filled. Raises `PromptError` for a concept without words, for a word with a number of its own that no
    concept has, and for what the model cannot read; `OptionsError` for named concepts that shall be read in captions.
    """
    assert options.edit_guidance_scale is not None, "this has a default"
    is_named = options.add != "auto" or options.remove != "auto"
    if is_named and options.concept_text == "caption":
        raise OptionsError(
            "concept_text: expected 'alone' beside concepts that are named (add, remove), which stand in no caption, "
            "got 'caption'"
        )
    in_captions = options.concept_text == "caption"
    drafts = [
        _in_captions(model, alignment) if in_captions else _alone(model, alignment, options)
        for alignment in alignments
    ]
    _require_known([draft for own in drafts for draft in own], options)
    thing = _CHOSEN.get(model.name, _PUBLISHED) if in_captions else _PUBLISHED
    found: list[list[Concept]] = []
    for own in drafts:
        found.append([])
        for draft in own:
            threshold = options.edit_threshold
            if threshold is None:
                threshold = _WHOLE if draft.is_whole else thing
            found[-1].append(
                Concept(
                    draft.name,
                    draft.prompt,
                    draft.about,
                    draft.before,
                    draft.direction,
                    draft.own(options.word_guidance, options.edit_guidance_scale),
                    draft.own(options.word_thresholds, threshold),
                    draft.own(options.word_warmups, options.edit_warmup),
                )
            )
    return found


def _require_known(drafts: Iterable[_Draft], options: Options) -> None:
    """Raise `PromptError` for a word with a number of its own that none of the concepts has."""
    spoken = [words for draft in drafts for words in draft.spoken]
    texts = list(dict.fromkeys(words.prompt for words in spoken))
    for word in (*options.word_guidance, *options.word_thresholds, *options.word_warmups):
        if not any(words.has(word) for words in spoken):
            raise PromptError(
                f"expected a word of one of the concepts ({', '.join(texts) or 'there is none'}), got "
                f"{short(word)}{nearest(word, texts)}"
            )


# Concepts that are read alone, beside no text ------------------------------------------------------------------


def _alone(model: Model, alignment: Alignment, options: Options) -> list[_Draft]:
    """What is added and what is removed, each read as a prompt of its own."""
    asked = _asked(alignment)
    found: list[_Draft] = []
    signs: list[tuple[str, Literal[1, -1]]] = [("+", 1), ("−", -1)]
    for (sign, direction), named, auto in zip(signs, (options.add, options.remove), asked, strict=True):
        for text, is_whole in _named(model, named, auto).items():
            words = model.read(text)
            naming = tuple(word for word in words.words if word.names_something) or words.words
            found.append(_Draft(f"{sign} {text}", words, naming, (), direction, (words,), is_whole))
    return found


def _asked(alignment: Alignment) -> tuple[dict[str, bool], dict[str, bool]]:
    """What the target says anew and what it does not say any more, and whether that is about all of the picture.

    A thing that is described in another way stays: its new phrase is added and its old one is not removed. Where only
    words change that name nothing, such as how things stand, the captions are the concepts.
    """
    added: dict[str, bool] = {}
    removed: dict[str, bool] = {}
    new = {word for match in alignment.changed() for word in match.target}
    parts = changes.read(alignment).parts
    for part in parts:
        is_whole = part.kind not in changes.LOCAL
        source, target = (part.old, part.new) if is_whole else (part.source, part.target)
        is_described = part.kind in ("recolour", "resize")
        if not is_described or new & {*target}:
            added |= dict.fromkeys(_phrases(alignment.target, target), is_whole)
        if not is_described or not new & {*target}:
            removed |= dict.fromkeys(_phrases(alignment.source, source), is_whole)
    if parts and not added and not removed:
        return {alignment.target.prompt: True}, {alignment.source.prompt: True}
    return added, removed


def _phrases(prompt: Words, words: Iterable[Word]) -> list[str]:
    """Words of a prompt as the phrases in which they stand there."""
    runs: list[list[Word]] = []
    last = None
    for i in sorted(prompt.words.index(word) for word in words):
        if last is None or any(not word.is_punctuation for word in prompt.words[last + 1 : i]):
            runs.append([])
        runs[-1].append(prompt.words[i])
        last = i
    return [_text(run) for run in runs]


def _named(model: Model, named: str | tuple[str, ...], auto: Mapping[str, bool]) -> Mapping[str, bool]:
    """The concepts that are named, each about things unless its words are those of an automatic one that is not."""
    if isinstance(named, str):
        return auto if named == "auto" else {}
    for text in named:
        if not model.read(text).words:
            raise PromptError(f"expected a concept's words, got {short(text)}")
    return {text: auto.get(text, False) for text in named}


# Concepts that are read in the source's caption, beside that caption -------------------------------------------


def _in_captions(model: Model, alignment: Alignment) -> list[_Draft]:
    """Each change that the captions ask for, in a caption of its own: the source's with this change alone."""
    changed = [match for run in _runs(alignment) for match in run]
    went = {word.key for match in changed for word in match.source if word.names_something}
    came = {word.key for match in changed for word in match.target if word.names_something}
    found: dict[str, _Draft] = {}
    for part in changes.read(alignment).parts:
        old, new = {*part.source, *part.old}, {*part.target, *part.new}
        mine = [
            match
            for run in _runs(alignment)
            if any(old & {*match.source} or new & {*match.target} for match in run)
            for match in run
        ]
        if not mine or went & came:
            # The words of the change name nothing, or a word went to another place, so that changes cannot be told
            # apart: all that changed belongs together.
            mine = changed
        words = [
            word
            for match in alignment.matches
            for word in (match.target if match.kind == "same" or match in mine else match.source)
        ]
        prompt = model.read(_text(words))
        about = tuple(prompt.words[i] for i, word in enumerate(words) if word in new)
        before = tuple(word for word in alignment.source.words if word in old)
        sides = [model.read(_text(side)) for side in (before, about) if side]
        if before and about:
            name = f"{_text(before)} → {_text(about)}"
        else:
            name = f"+ {_text(about)}" if about else f"− {_text(before)}" if before else part.reason
        one = _Draft(name, prompt, about, before, 1, tuple(sides), part.kind not in changes.LOCAL)
        found[prompt.prompt] = _together(found.get(prompt.prompt), one)
    return list(found.values())


def _together(first: _Draft | None, second: _Draft) -> _Draft:
    """Two changes whose words cannot be told apart, as one."""
    if first is None:
        return second
    return _Draft(
        first.name if first.name == second.name else f"{first.name}, {second.name}",
        first.prompt,
        tuple(dict.fromkeys(first.about + second.about)),
        tuple(dict.fromkeys(first.before + second.before)),
        1,
        first.spoken + second.spoken,
        first.is_whole or second.is_whole,
    )


def _runs(alignment: Alignment) -> list[list[Match]]:
    """The matches that change, each run of them between two that stay."""
    groups = groupby(alignment.matches, lambda match: match.kind == "same")
    return [list(run) for is_same, run in groups if not is_same]


def _text(words: Iterable[Word]) -> str:
    return " ".join(word.text for word in words)
