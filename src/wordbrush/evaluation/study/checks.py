"""Attention checks: which answers are right, and which raters failed one."""

from collections.abc import Iterable

from wordbrush.evaluation.study.assignment import SAME, Trial
from wordbrush.evaluation.study.design import Kind, Question, Study
from wordbrush.evaluation.study.store import Answer


def attentive(kind: Kind, question: Question, trial: Trial, answer: str) -> bool | None:
    """Whether an answer to a check is right; None if the question has no known answer, or the page is no check.

    In a rating, 4 or 5 is right for the original itself, and 1 or 2 for an unrelated picture.
    """
    if not trial.is_check or question.about != "source":
        return None
    match kind:
        case "rating":
            return int(answer) >= 4 if trial.shown == (SAME,) else int(answer) <= 2
        case "choice":
            return answer == SAME
        case "ranking":
            return answer.split(">")[0] == SAME


def passed(study: Study, answer: Answer) -> bool | None:
    """`attentive` for a stored answer; None for a question that the study no longer has."""
    questions = {question.id: question for question in study.settings.questions}
    if answer.question not in questions:
        return None
    return attentive(study.settings.kind, questions[answer.question], answer.trial, answer.answer)


def inattentive(study: Study, answers: Iterable[Answer]) -> set[int]:
    """The numbers of the raters who failed a check."""
    return {answer.rater for answer in answers if passed(study, answer) is False}
