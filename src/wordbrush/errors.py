"""Everything wordbrush raises on purpose.

    WordbrushError
    ├── InputError (also a ValueError)   what was asked for cannot be done as asked
    │   ├── PromptError                  a prompt, a word in it, or the two prompts of an edit
    │   ├── ImageError                   a picture file or a picture
    │   ├── ModelError                   a model folder, its files, or a model that does not fit
    │   ├── SourceError                  a saved source, or one that belongs to another model
    │   └── OptionsError                 an option: its name, its value or its range
    ├── OutputError (also an OSError)    a file could not be written
    ├── MissingExtraError (an ImportError)  an optional dependency is not installed
    └── NumericsError (an ArithmeticError)  not-a-number or infinity where numbers belong

A message says what was expected, what was got and what to do, in that order; it is shown to the user as it
stands. Violations of our own invariants are `assert`s, never these.
"""

import difflib
from collections.abc import Iterable


class WordbrushError(Exception):
    """The root: `except WordbrushError` catches everything this package raises on purpose."""


class InputError(WordbrushError, ValueError):
    """What was asked for cannot be done as asked; nothing has been written."""


class PromptError(InputError):
    """A prompt is empty or too long, a word is not in it, or two prompts cannot be aligned."""


class ImageError(InputError):
    """A picture cannot be read, is too large, or is of a kind that has no meaning here."""


class ModelError(InputError):
    """A model cannot be found, read or trusted, or lacks what a method needs."""


class SourceError(InputError):
    """A saved source cannot be read, or was made with another model."""


class OptionsError(InputError):
    """An option has an unknown name, a wrong type, or a value outside its range."""


class OutputError(WordbrushError, OSError):
    """A file could not be written (full disk, no permission); what stood there before still does."""


class MissingExtraError(WordbrushError, ImportError):
    """An optional dependency is missing; the message holds the `pip install` line that brings it."""


class NumericsError(WordbrushError, ArithmeticError):
    """Not-a-number or infinity was found where numbers belong; no picture is made of it."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'steps'?"`, or the list of what there is when nothing comes near."""
    names = sorted(known)
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.5):
        return f"; did you mean '{close[0]}'?"
    return f"; there is {', '.join(names)}" if names else "; there are none"
