"""Convert a page's questions to groups of radio buttons, and the buttons chosen to answers.

A rating or a choice has one group per question; a ranking has one per question and picture. The page shows a letter for
each picture, in the order shown; an answer stores its name:

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
    """Radio buttons; one of them is chosen."""

    name: str
    legend: str
    options: tuple[Option, ...]
    low: str = ""
    high: str = ""


def letter(i: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    return (letter(i // 26 - 1) if i >= 26 else "") + ascii_uppercase[i % 26]


def groups(kind: Kind, question: Question, trial: Trial) -> tuple[Group, ...]:
    """The groups of radio buttons of a question."""
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
            ranks = tuple(Option(str(i), str(i)) for i in range(1, len(letters) + 1))
            return tuple(Group(f"{question.id}.{each}", f"Picture {each}", ranks) for each in letters)


def read(
    kind: Kind, questions: Sequence[Question], trial: Trial, form: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """The answers to all questions, or else the problems to show to the rater; one of the two is empty."""
    answers: dict[str, str] = {}
    problems: list[str] = []
    for question in questions:
        question_groups = groups(kind, question, trial)
        chosen = [form.get(group.name) for group in question_groups]
        if any(
            value not in {option.value for option in group.options}
            for value, group in zip(chosen, question_groups, strict=True)
        ):
            problems.append(f"Please answer: {question.text}")
            continue
        values = [value for value in chosen if value is not None]
        if kind == "ranking" and len(set(values)) < len(values):
            problems.append(f"Please give each picture its own place: {question.text}")
            continue
        answers[question.id] = _answer(kind, trial, values)
    return ({}, problems) if problems else (answers, [])


def _answer(kind: Kind, trial: Trial, values: Sequence[str]) -> str:
    match kind:
        case "rating":
            return values[0]
        case "choice":
            by_letter = {letter(i): shown for i, shown in enumerate(trial.shown)}
            return by_letter.get(values[0], UNDECIDED)
        case "ranking":
            return ">".join(shown for _, shown in sorted(zip(map(int, values), trial.shown, strict=True)))


def fill(kind: Kind, trial: Trial, answers: Mapping[str, str]) -> dict[str, str]:
    """The inverse of `read`: the form fields of these answers."""
    form: dict[str, str] = {}
    for question, answer in answers.items():
        match kind:
            case "rating":
                form[question] = answer
            case "choice":
                chosen = answer in trial.shown
                form[question] = letter(trial.shown.index(answer)) if chosen else UNDECIDED
            case "ranking":
                ranking = answer.split(">")
                for i, shown in enumerate(trial.shown):
                    form[f"{question}.{letter(i)}"] = str(ranking.index(shown) + 1)
    return form
