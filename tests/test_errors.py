import inspect
import re

import pytest

from wordbrush import errors

KINDS = [
    kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == errors.__name__
]


def test_the_tree_in_the_docstring_is_the_tree():
    assert errors.__doc__ is not None
    assert set(re.findall(r"\w+Error", errors.__doc__)) - {"ValueError", "OSError", "ImportError"} == {
        kind.__name__ for kind in KINDS
    } | {"ArithmeticError"}


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_a_wordbrush_error_and_keeps_its_message(kind: type[Exception]):
    assert issubclass(kind, errors.WordbrushError)
    assert str(kind("expected a, got b; do c")) == "expected a, got b; do c"


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.PromptError, ValueError),
        (errors.ImageError, ValueError),
        (errors.ModelError, ValueError),
        (errors.SourceError, ValueError),
        (errors.OptionsError, ValueError),
        (errors.OutputError, OSError),
        (errors.MissingExtraError, ImportError),
        (errors.NumericsError, ArithmeticError),
    ],
)
def test_callers_who_know_only_the_builtins_catch_them(kind: type[Exception], builtin: type[Exception]):
    assert issubclass(kind, builtin)
