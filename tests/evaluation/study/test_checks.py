"""Who paid attention, and what that decides."""

from wordbrush.evaluation.study.assignment import SAME, Trial
from wordbrush.evaluation.study.checks import attentive
from wordbrush.evaluation.study.design import QUESTIONS


def test_the_plain_answers():
    background, text, _ = QUESTIONS["rating"]
    same, other = Trial("i0", (SAME,), True), Trial("i0", (":other:i1",), True)
    assert [attentive("rating", background, same, str(i)) for i in range(1, 6)] == [False] * 3 + [True] * 2
    assert [attentive("rating", background, other, str(i)) for i in range(1, 6)] == [True] * 2 + [False] * 3
    assert attentive("rating", text, same, "1") is None
    assert attentive("rating", background, Trial("i0", ("m0",)), "1") is None
    both = Trial("i0", (":other:i1", SAME), True)
    subject = QUESTIONS["choice"][0]
    assert [attentive("choice", subject, both, each) for each in (SAME, ":other:i1", "undecided")] == [
        True,
        False,
        False,
    ]
    assert attentive("ranking", subject, both, ":same>:other:i1") is True
    assert attentive("ranking", subject, both, ":other:i1>:same") is False
