"""Who paid attention: what is said of the pages that check it."""

from collections.abc import Iterable

from wordbrush.evaluation.study.assignment import SAME, Trial
from wordbrush.evaluation.study.design import Kind, Question, Study
from wordbrush.evaluation.study.store import Answer


def attentive(kind: Kind, question: Question, trial: Trial, answer: str) -> bool | None:
    """Whether an answer to a check is the plain one; None where nothing is plain.

    Of a rating, the original itself keeps the original well (4 or 5) and an unrelated picture does not (1 or 2).
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
    """Whether an answer to a check is the plain one; None where nothing is plain."""
    questions = {question.id: question for question in study.settings.questions}
    if answer.question not in questions:
        return None
    return attentive(study.settings.kind, questions[answer.question], answer.trial, answer.answer)


def inattentive(study: Study, answers: Iterable[Answer]) -> set[int]:
    """The raters who answered a check wrongly."""
    return {answer.rater for answer in answers if passed(study, answer) is False}
