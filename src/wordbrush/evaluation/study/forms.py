"""What a page asks, as groups of radio buttons, and what was filled in, as answers.

A rating has a group for each question, a choice too; a ranking has one for each question and picture. On the page a
picture is a letter, in the order shown; in an answer it is its name:

    rating   "4"                a step of the scale
    choice   "sdedit"           the picture chosen, or "undecided"
    ranking  "sdedit>imagic"    all pictures, the best first
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from wordbrush.evaluation.study.assignment import Trial
from wordbrush.evaluation.study.design import SCALE, UNDECIDED, Kind, Question


@dataclass(frozen=True)
class Option:
    """A radio button."""

    value: str
    label: str


@dataclass(frozen=True)
class Group:
    """Radio buttons of which one is to be chosen."""

    name: str
    legend: str
    options: tuple[Option, ...]
    low: str = ""
    high: str = ""


def letter(i: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    return (letter(i // 26 - 1) if i >= 26 else "") + ascii_uppercase[i % 26]


def groups(kind: Kind, question: Question, trial: Trial) -> tuple[Group, ...]:
    """The radio buttons of a question; those of several groups stand under the question's text."""
    letters = [letter(i) for i in range(len(trial.shown))]
    match kind:
        case "rating":
            steps = tuple(Option(str(step), str(step)) for step in SCALE)
            return (Group(question.id, question.text, steps, question.low, question.high),)
        case "choice":
            pictures = tuple(Option(each, f"Picture {each}") for each in letters)
            neither = Option(UNDECIDED, "Cannot determine / both equally")
            return (Group(question.id, question.text, (*pictures, neither)),)
        case "ranking":
            places = tuple(Option(str(i), str(i)) for i in range(1, len(letters) + 1))
            return tuple(Group(f"{question.id}.{each}", f"Picture {each}", places) for each in letters)


def read(
    kind: Kind, questions: Sequence[Question], trial: Trial, filled: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """The answers to all questions, and what is still to be done, in sentences; there is only one or the other."""
    answers: dict[str, str] = {}
    problems: list[str] = []
    for question in questions:
        asked = groups(kind, question, trial)
        chosen = [filled.get(group.name) for group in asked]
        if any(
            value not in {option.value for option in group.options}
            for value, group in zip(chosen, asked, strict=True)
        ):
            problems.append(f"Please answer: {question.text}")
            continue
        values = [value for value in chosen if value is not None]
        if kind == "ranking" and len(set(values)) < len(values):
            problems.append(f"Please give each picture a place of its own: {question.text}")
            continue
        answers[question.id] = _answer(kind, trial, values)
    return ({}, problems) if problems else (answers, [])


def _answer(kind: Kind, trial: Trial, values: Sequence[str]) -> str:
    match kind:
        case "rating":
            return values[0]
        case "choice":
            named = {letter(i): shown for i, shown in enumerate(trial.shown)}
            return named.get(values[0], UNDECIDED)
        case "ranking":
            return ">".join(shown for _, shown in sorted(zip(map(int, values), trial.shown, strict=True)))


def fill(kind: Kind, trial: Trial, answers: Mapping[str, str]) -> dict[str, str]:
    """The other way round: the buttons that stand for these answers."""
    filled: dict[str, str] = {}
    for question, answer in answers.items():
        match kind:
            case "rating":
                filled[question] = answer
            case "choice":
                chosen = answer in trial.shown
                filled[question] = letter(trial.shown.index(answer)) if chosen else UNDECIDED
            case "ranking":
                places = answer.split(">")
                for i, shown in enumerate(trial.shown):
                    filled[f"{question}.{letter(i)}"] = str(places.index(shown) + 1)
    return filled
