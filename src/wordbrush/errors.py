"""The exceptions that wordbrush raises.

    WordbrushError
    ├── InputError (also a ValueError)   the request cannot be carried out
    │   ├── PromptError                  a prompt, a word in it, or the two prompts of an edit
    │   │   └── UnlearnedError           a word of a concept that is not applied
    │   ├── ImageError                   a picture file or a picture
    │   ├── ModelError                   a model folder, its files, or a model that does not fit
    │   ├── SourceError                  a saved source, or one that belongs to another model
    │   ├── ConceptError                 a file of a learned concept, or one that fits no model here
    │   └── OptionsError                 an option: its name, its value or its range
    ├── OutputError (also an OSError)    a file could not be written
    ├── MissingExtraError (an ImportError)  an optional dependency is not installed
    └── NumericsError (an ArithmeticError)  NaN or infinity in a computation

A message says what was expected, what came and what to do, in that order; it is shown to the user unchanged.
Invariants of the code are checked with `assert`.
"""

import difflib
from collections.abc import Iterable


class WordbrushError(Exception):
    """The base class: `except WordbrushError` catches every exception that this package raises deliberately.

    >>> try:
    ...     invert(Model.load("pocket"), "no-such.png", "a cat on a beach")
    ... except WordbrushError as error:
    ...     print(error)
    expected a picture file, but there is none at no-such.png; check the path
    """


class InputError(WordbrushError, ValueError):
    """The request cannot be carried out; nothing has been written.

    >>> try:
    ...     generate(Model.load("pocket"), "a cat on a beach", steps=0)
    ... except InputError as error:
    ...     print(error)
    option 'steps': expected greater than or equal to 1, got 0
    """


class PromptError(InputError):
    """A prompt is empty or too long, a word is not in it, or two prompts cannot be aligned.

    >>> generate(Model.load("pocket"), "???")
    Traceback (most recent call last):
    wordbrush.errors.PromptError: expected a prompt that says what the picture shows, got '???'
    """


class UnlearnedError(PromptError):
    """A prompt has a word of a concept that is not applied to the model. token: the word.

    >>> generate(Model.load("pocket"), "<my-cat> on a beach")
    Traceback (most recent call last):
    wordbrush.errors.UnlearnedError: expected words that the model knows, got '<my-cat>', which a concept teaches: \
apply its file (--concept my-cat.concept), or leave out the angle brackets
    """

    def __init__(self, message: str, token: str = "") -> None:
        super().__init__(message, token)
        self.token = token

    def __str__(self) -> str:
        return str(self.args[0])


class ImageError(InputError):
    """A picture cannot be read, is too large, or is of an unsupported kind.

    >>> sheet([], [])
    Traceback (most recent call last):
    wordbrush.errors.ImageError: expected at least one picture, got none
    """


class ModelError(InputError):
    """A model cannot be found or read, is not safe to load, or lacks what a method needs.

    >>> generate(Model.load("pocket"), "a cat on a beach", width=33)
    Traceback (most recent call last):
    wordbrush.errors.ModelError: this model makes pictures whose sides are multiples of 8 px, got 33×128
    """


class SourceError(InputError):
    """A saved source cannot be read, or was made with another model.

    >>> Source.load("no-such.source", Model.load("pocket"))
    Traceback (most recent call last):
    wordbrush.errors.SourceError: there is no source file no-such.source
    """


class ConceptError(InputError):
    """A concept's file cannot be read, or a concept does not fit the model that it is applied to.

    >>> Concept.load("no-such.concept")
    Traceback (most recent call last):
    wordbrush.errors.ConceptError: there is no concept file no-such.concept
    """


class OptionsError(InputError):
    """An option has an unknown name, a wrong type, or a value outside its range.

    >>> source = from_seed(Model.load("pocket"), "a cat on a beach", steps=1)
    >>> edit(Model.load("pocket"), source, "a dog on a beach", options={"rewieght": {"dog": 2}})
    Traceback (most recent call last):
    wordbrush.errors.OptionsError: unknown option 'rewieght'; did you mean 'reweight'?
    """


class OutputError(WordbrushError, OSError):
    """A file could not be written (full disk, no permission); an existing file is unchanged.

    >>> try:
    ...     from_seed(Model.load("pocket"), "a cat on a beach", steps=1).save("/")
    ... except OutputError as error:
    ...     print(error)
    cannot write /: it is a folder; choose another path or free disk space
    """


class MissingExtraError(WordbrushError, ImportError):
    """An optional dependency is missing; the message contains the `pip install` line."""


class NumericsError(WordbrushError, ArithmeticError):
    """A computation gave NaN or infinity; no picture is made from it.

    >>> import torch
    >>> model = Model.load("pocket")
    >>> model.decode(torch.full((1, model.latent_channels, 16, 16), torch.nan))
    Traceback (most recent call last):
    wordbrush.errors.NumericsError: expected latents to decode, got NaN or infinity in them: compute in float32, \
or with less guidance
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'steps'?"`, or the list of known names, in their order, if none is similar."""
    names = list(dict.fromkeys(known))
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"; did you mean '{close[0]}'?"
    return f"; there is {', '.join(names)}" if names else "; there are none"


def short(value: object) -> str:
    """A value as a message repeats it: at most sixty characters, since it may be a whole file."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
