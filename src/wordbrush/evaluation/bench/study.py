"""The bench's edits as a study that asks people, in the form of Prompt-to-Prompt's Table 1."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from wordbrush.errors import OutputError
from wordbrush.evaluation.bench.cases import UNCHANGED
from wordbrush.evaluation.bench.run import Bench
from wordbrush.evaluation.contender import Contender
from wordbrush.evaluation.study.design import NewItem, Settings, Study, write_study
from wordbrush.methods import typed
from wordbrush.options import parse

_TITLE = "How good are these edits?"
_INSTRUCTIONS = (
    "You see a picture, and what a computer made of it when it was asked for another one. Please say how much of the "
    "first is kept, whether the second shows what the words say, and how good it looks."
)


def check(folder: Path) -> None:
    """Raise `OutputError` if there is a study already, before the work."""
    if (folder / "study.toml").exists():
        raise OutputError(f"{folder} already contains a study: choose another folder")


def write(bench: Bench, contenders: Sequence[Contender], folder: Path) -> Study:
    """Write a study of every edit of a run that changes something: ratings from 1 to 5 of what is kept, what the words
    say, and how it looks.

    The pictures are the model's renderings: pasting would show the file's own pixels beside them. Raises `OutputError`
    if the folder has a study already.
    """
    names = _names(contenders)
    told = {
        "title": _TITLE,
        "kind": "rating",
        "instructions": _INSTRUCTIONS,
        "methods": tuple(names.values()),
    }
    return write_study(folder, parse(Settings, told), _items(bench, names))


def _names(contenders: Sequence[Contender]) -> Mapping[str, str]:
    """What the study calls the edits of each label: the method, where that says which."""
    methods = [typed(each.method) for each in contenders]
    return {
        each.label: method if methods.count(method) == 1 else each.label
        for each, method in zip(contenders, methods, strict=True)
    }


def _items(bench: Bench, names: Mapping[str, str]) -> Iterator[NewItem]:
    for case in bench.cases:
        if case.kind != UNCHANGED:
            made = {name: bench.picture(label, case) for label, name in names.items()}
            yield NewItem(case.name, case.target_prompt, made, source=case.picture)
