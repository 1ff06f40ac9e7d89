"""What is filled in becomes answers, and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wordbrush.evaluation.study.assignment import Trial
from wordbrush.evaluation.study.design import QUESTIONS
from wordbrush.evaluation.study.forms import fill, groups, letter, read

PAIR = Trial("i0", ("sdedit", "imagic"))
SET = Trial("i0", ("c", "a", "b"))


def test_letters():
    assert [letter(i) for i in (0, 25, 26, 27, 51, 52, 701, 702)] == "A Z AA AB AZ BA ZZ AAA".split()


def test_a_choice_names_the_picture_and_not_the_side():
    questions = QUESTIONS["choice"]
    answers, problems = read("choice", questions, PAIR, {"subject": "B", "prompt": "undecided"})
    assert (answers, problems) == ({"subject": "imagic", "prompt": "undecided"}, [])
    flipped = Trial("i0", ("imagic", "sdedit"))
    assert read("choice", questions, flipped, {"subject": "A", "prompt": "A"})[0] == {
        "subject": "imagic",
        "prompt": "imagic",
    }


def test_a_ranking_puts_the_best_first():
    question = QUESTIONS["ranking"][:1]
    filled = {"subject.A": "2", "subject.B": "3", "subject.C": "1"}
    assert read("ranking", question, SET, filled) == ({"subject": "b>c>a"}, [])


@pytest.mark.parametrize(
    ("kind", "trial", "filled"),
    [
        ("rating", Trial("i0", ("a",)), {}),
        ("rating", Trial("i0", ("a",)), {"background": "6"}),
        ("rating", Trial("i0", ("a",)), {"background": "٣"}),
        ("choice", PAIR, {"subject": "C"}),
        ("choice", PAIR, {"subject": "sdedit"}),
        ("ranking", SET, {"subject.A": "1", "subject.B": "2"}),
        ("ranking", SET, {"subject.A": "1", "subject.B": "2", "subject.C": "2"}),
        ("ranking", SET, {"subject.A": "0", "subject.B": "1", "subject.C": "2"}),
    ],
)
def test_what_is_not_an_answer_is_asked_for_again(kind: Any, trial: Trial, filled: dict[str, str]):
    answers, problems = read(kind, QUESTIONS[kind][:1], trial, filled)
    assert answers == {}
    assert len(problems) == 1
    assert QUESTIONS[kind][0].text in problems[0]


def test_nothing_is_kept_of_a_page_that_is_half_filled():
    answers, problems = read(
        "rating", QUESTIONS["rating"], Trial("i0", ("a",)), {"text": "4", "realism": "1"}
    )
    assert (answers, len(problems)) == ({}, 1)


@given(data=st.data(), kind=st.sampled_from(["rating", "choice", "ranking"]), n=st.integers(2, 30))
def test_there_and_back(data: st.DataObject, kind: Any, n: int):
    names = tuple(f"m{i}" for i in range(n if kind == "ranking" else 2 if kind == "choice" else 1))
    trial, questions = Trial("i0", names), QUESTIONS[kind]
    filled: dict[str, str] = {}
    for question in questions:
        asked = groups(kind, question, trial)
        values = [option.value for option in asked[0].options]
        chosen = data.draw(st.permutations(values))
        filled |= {group.name: value for group, value in zip(asked, chosen, strict=False)}
    answers, problems = read(kind, questions, trial, filled)
    assert problems == []
    assert fill(kind, trial, answers) == filled
