"""Rare words, which a training gives a meaning: what the DreamBooth paper calls identifiers (Ruiz et al. 2023, section
4.2), and what to say of a prompt whose words are none.

A word that a model knows keeps its meaning beside the new one; a string of letters falls apart into tokens that other
words have as well. So the paper looks in the tokenizer's own table: tokens of at most three letters, from its rare end,
drawn without replacement, and turned back into text. Here a token also has to be a whole word, and its text has to
become that very token again, in each of the model's tokenizers.

Byte pairs are in the order of their frequency, so the rare end is the last fifth: 40,000 and up of CLIP's 49,408. A
model that lists the words it was trained on, as pocket does, has never seen any other: no word of the list is drawn,
and none that is a piece of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from wordbrush.errors import OptionsError, PromptError
from wordbrush.fit import generator
from wordbrush.model import Model
from wordbrush.training.options import ClassOptions
from wordbrush.training.pictures import Pictures, listed
from wordbrush.words import Word

_RARE_FROM = 0.809  # of a tokenizer's table
_END = "</w>"  # of a token that ends a word


@dataclass(frozen=True)
class RareToken:
    """A word, and its id in the first tokenizer."""

    text: str
    id: int


def candidates(model: Model, length: int = 3) -> list[RareToken]:
    """All rare words of at most this many letters, in the order of their ids."""
    table: dict[str, int] = model.base.text.tokenizers[0].get_vocab()
    words = {token.removesuffix(_END): id for token, id in table.items() if token.endswith(_END)}
    fitting = [
        RareToken(word, id)
        for word, id in words.items()
        if len(word) <= length and word.isascii() and word.isalpha() and id >= _RARE_FROM * len(table)
    ]
    taken = _taken(model)
    return sorted(
        (
            each
            for each in fitting
            if each.id not in taken
            and Word(each.text, 0, 1).names_something
            and all(
                _ids(own, each.text) == [own.get_vocab().get(each.text + _END)] for own in _tokenizers(model)
            )
        ),
        key=lambda each: each.id,
    )


def drawn(model: Model, count: int, seed: int = 0, length: int = 3) -> list[RareToken]:
    """So many rare words, drawn without replacement; all of them where there are fewer."""
    found = candidates(model, length)
    order = torch.randperm(len(found), generator=generator(seed))[:count]
    return [found[int(k)] for k in order]


def doubts(model: Model, options: ClassOptions, found: Pictures, *, wants_class: bool) -> list[str]:
    """What to say of a training's prompts before the work: nothing of those that are as they should be.

    wants_class: whether the method needs pictures of the class. Raises `OptionsError` for other numbers of prompts than
    of things, `PromptError` for a prompt or a caption that cannot be read.
    """
    _require_one_for_each(options, found.count_of_things)
    classes = options.class_prompts or ("",)
    classes = classes * len(options.prompts) if len(classes) == 1 else classes
    return [
        notice
        for thing, (prompt, class_prompt) in enumerate(zip(options.prompts, classes, strict=True))
        for notice in _of_thing(model, prompt, class_prompt, found, thing, wants_class)
    ]


def _require_one_for_each(options: ClassOptions, things: int) -> None:
    if (count := len(options.prompts)) != things:
        raise OptionsError(
            f"option 'prompt': expected one for each of {things} folder{'s'[: things - 1]}, got {count}: say --prompt "
            "once for each, in the order of the folders"
        )
    if (count := len(options.class_prompts)) not in (0, 1, things):
        raise OptionsError(
            f"option 'class_prompt': expected one for all, or one for each of {things} folders, got {count}: say "
            "--class-prompt once for each, in the order of the folders"
        )


def _of_thing(
    model: Model, prompt: str, class_prompt: str, found: Pictures, thing: int, wants_class: bool
) -> list[str]:
    own, of_class = _naming(model, prompt), _naming(model, class_prompt)
    notices: list[str] = []
    if not class_prompt and wants_class:
        notices.append(
            "without --class-prompt nothing keeps the class as it is: other things of its kind may come to look like "
            "this one; say --class-prompt 'a cat', if it is a cat"
        )
    if class_prompt and not own.keys() & of_class.keys():
        notices.append(
            f"--prompt '{prompt}' and --class-prompt '{class_prompt}' have no word in common: the thing does not take "
            "part in what the model knows of its class; name the class in both"
        )
    new = [text for key, text in own.items() if key not in of_class]
    rare = [text for text in new if _is_rare(model, text)]
    if not rare:
        notices += _not_rare(model, prompt, new)
    words = rare or new
    captions = {
        name: _read(model, caption, name)
        for k, (name, caption) in enumerate(zip(found.names, found.captions, strict=True))
        if caption and found.thing(k) == thing
    }
    keys = {Word(each, 0, 1).key for each in words}
    without = [name for name, named in captions.items() if words and not named.keys() & keys]
    if without:
        notices.append(
            f"the captions of {listed(without)} do not have '{words[0]}': what these pictures show does not become its "
            "meaning"
        )
    return notices


def _not_rare(model: Model, prompt: str, new: Sequence[str]) -> list[str]:
    """What to say of words of which none is rare."""
    hint = "choose another one (`wordbrush train rare-tokens` draws some)"
    if not new:
        return [
            f"--prompt '{prompt}' has no word of its own: it is the class that changes; add one, as in 'a sks cat'"
        ]
    pieces = {text: len(_ids(_tokenizers(model)[0], text)) for text in new if not _is_known(model, text)}
    if split := {text: count for text, count in pieces.items() if count > 1}:
        text, count = next(iter(split.items()))
        return [
            f"'{text}' is {count} tokens, which other words have as well, not one that is its own: {hint}"
        ]
    known = " and ".join(f"'{text}'" for text in new)
    return [f"{model.name} knows {known}, and what that means stays in the way: {hint}"]


def _is_rare(model: Model, text: str) -> bool:
    ids = [_ids(own, text) for own in _tokenizers(model)]
    if any(len(each) != 1 for each in ids) or ids[0][0] in _taken(model):
        return False
    return model.vocabulary is not None or ids[0][0] >= _RARE_FROM * len(_tokenizers(model)[0].get_vocab())


def _is_known(model: Model, text: str) -> bool:
    if model.vocabulary is not None:
        return Word(text, 0, 1).key in model.vocabulary.known
    ids = _ids(_tokenizers(model)[0], text)
    return len(ids) == 1


def _taken(model: Model) -> set[int]:
    """The ids of all pieces of the words that a model lists."""
    known = () if model.vocabulary is None else model.vocabulary.known
    return {id for word in known for id in _ids(_tokenizers(model)[0], word)}


def _naming(model: Model, prompt: str) -> dict[str, str]:
    """The words of a prompt that name something, by the keys they are compared by."""
    return {word.key: word.text for word in model.read(prompt).words if word.names_something}


def _read(model: Model, caption: str, name: str) -> dict[str, str]:
    try:
        return _naming(model, caption)
    except PromptError as error:
        raise PromptError(f"the caption of {name}: {error}") from error


def _tokenizers(model: Model) -> Sequence[Any]:
    return model.base.text.tokenizers


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
