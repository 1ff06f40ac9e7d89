"""The report and the export: what was answered, counted by hand."""

import csv
import json
import statistics
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from wordbrush.errors import InputError, OutputError
from wordbrush.evaluation.study.agreement import krippendorff_alpha, wilson
from wordbrush.evaluation.study.assignment import SAME, Trial
from wordbrush.evaluation.study.design import Study
from wordbrush.evaluation.study.export import export, rows
from wordbrush.evaluation.study.plot import bars
from wordbrush.evaluation.study.report import Mean, Preferred, Ranked, Rated, Share, majority, report, text
from wordbrush.evaluation.study.store import Store

Make = Callable[..., Study]
Given = list[tuple[Trial, dict[str, str]]]


@pytest.fixture
def answered() -> Iterator[Callable[..., Store]]:
    """answered(study, [(trial, {question: answer}), …], …) → a store: one list for each rater."""
    opened: list[Store] = []

    def answered(study: Study, *raters: Given) -> Store:
        store = Store(study.answers, study.settings.kind)
        opened.append(store)
        for i, mine in enumerate(raters):
            trials = [trial for trial, _ in mine]
            rater = store.admit(f"key {i}", lambda number, taken, trials=trials: trials)
            assert rater is not None
            for page, (_, answers) in enumerate(mine, 1):
                if answers:
                    store.record(rater.number, page, answers)
        return store

    yield answered
    for store in opened:
        store.close()


def rated(item: int, method: str, background: int, text: int, realism: int) -> tuple[Trial, dict[str, str]]:
    answers = {"background": str(background), "text": str(text), "realism": str(realism)}
    return Trial(f"item-{item}", (method,)), answers


A, B, C = "prompt-to-prompt", "text2live", "vqgan-clip"
RATINGS = (
    [rated(0, A, 5, 4, 5), rated(1, A, 4, 4, 3), rated(0, B, 2, 3, 1)],
    [rated(0, A, 5, 5, 4), rated(1, B, 1, 2, 2), rated(0, B, 2, 2, 1)],
)


def test_ratings(make: Make, answered: Callable[..., Store]):
    study = make("rating")
    found = report(study, answered(study, *RATINGS))
    scores = {(row.question, row.method): row.score for row in found.rows if isinstance(row, Rated)}
    assert scores["background", A] == Mean(14 / 3, statistics.stdev([5, 4, 5]), 3)
    assert scores["text", B] == Mean(7 / 3, statistics.stdev([3, 2, 2]), 3)
    assert ("background", C) not in scores
    assert (found.raters, found.finished, found.answers, found.inattentive) == (2, 2, 18, ())
    # Two raters judged item 0: A with 5 and 5, B with 2 and 2; the rest was judged once and says nothing.
    assert found.alpha["background"] == pytest.approx(1)
    assert found.alpha["text"] == krippendorff_alpha([[4, 5], [3, 2]], "ordinal")
    shown = text(found)
    assert "| prompt-to-prompt" in shown
    assert "4.67 ± 0.58" in shown
    assert "| *paper: Prompt-to-Prompt* | 4.64 ± 0.64 | 4.55 ± 0.71 | 4.42 ± 0.82 |" in shown
    assert "| *paper: VQGAN+CLIP*       | 1.84 ± 1.11 | 2.46 ± 1.16 | 1.32 ± 0.70 |" in shown


def test_the_last_answer_counts(make: Make, answered: Callable[..., Store]):
    study = make("rating")
    store = answered(study, [rated(0, A, 1, 1, 1)])
    store.record(1, 1, {"background": "5"})
    (row, *_) = report(study, store).rows
    assert isinstance(row, Rated)
    assert (row.score.mean, row.score.std, str(row.score)) == (5, None, "5.00 ± –")


def test_inattentive_raters_are_left_out_unless_kept(make: Make, answered: Callable[..., Store]):
    study = make("rating")
    failed = (Trial("item-3", (SAME,), True), {"background": "1", "text": "1", "realism": "1"})
    passed = (Trial("item-3", (SAME,), True), {"background": "5", "text": "1", "realism": "1"})
    store = answered(study, [*RATINGS[0], passed], [*RATINGS[1], failed])
    found = report(study, store)
    assert (found.inattentive, found.excluded, found.answers) == ((2,), True, 9)
    assert "1 failed an attention check (left out)" in text(found)
    kept = report(study, store, keep_inattentive=True)
    assert (kept.inattentive, kept.excluded, kept.answers) == ((2,), False, 18)
    assert "(kept)" in text(kept)
    assert [row["passed"] for row in rows(study, store) if row["is_check"]] == [
        True,
        None,
        None,
        False,
        None,
        None,
    ]


def test_when_all_were_inattentive(make: Make, answered: Callable[..., Store]):
    study = make("rating")
    failed = (Trial("item-3", (SAME,), True), {"background": "1"})
    with pytest.raises(InputError, match="none but inattentive raters'; keep them with --keep-inattentive"):
        report(study, answered(study, [RATINGS[0][0], failed]))


def test_no_answers_yet(make: Make, answered: Callable[..., Store]):
    study = make("rating")
    with pytest.raises(InputError, match="expected answers in .*, found none$"):
        report(study, answered(study, [(Trial("item-0", (A,)), {})]))


def preferred(item: int, shown: tuple[str, str], subject: str) -> tuple[Trial, dict[str, str]]:
    return Trial(f"item-{item}", shown), {"subject": subject}


def test_choices(make: Make, answered: Callable[..., Store]):
    study = make("choice", questions=["subject"], methods=(A, B))
    votes = [[A, A, B], [A, "undecided", "undecided"], [B, A, "undecided"], [A, A, A]]  # by item
    raters = [
        [preferred(item, (A, B) if rater % 2 else (B, A), mine[rater]) for item, mine in enumerate(votes)]
        for rater in range(3)
    ]
    found = report(study, answered(study, *raters))
    (row,) = found.rows
    assert isinstance(row, Preferred)
    assert (row.question, row.methods) == ("subject", (A, B))
    assert row.shares == (Share(7, 12), Share(2, 12), Share(3, 12))
    assert row.majority == (Share(2, 4), Share(0, 4), Share(2, 4))  # item 2 has none: undecided
    assert row.shares[0].interval == wilson(7, 12)
    assert found.alpha["subject"] == krippendorff_alpha(votes, "nominal")
    shown = text(found)
    low, high = wilson(7, 12)
    assert f"58 % [{100 * low:.0f}, {100 * high:.0f}]" in shown
    assert "*paper: majority*" in shown
    assert "| 68 %" in shown
    assert "81 %" not in shown  # of a question that was not asked


def test_a_choice_without_a_vote_for_a_pair_has_no_row(make: Make, answered: Callable[..., Store]):
    study = make("choice", questions=["subject"])
    found = report(study, answered(study, [preferred(0, (C, A), C)]))
    (row,) = found.rows
    assert isinstance(row, Preferred)
    assert (row.methods, row.shares[1].count) == ((A, C), 1)
    assert found.alpha == {"subject": None}
    assert "subject not defined" in text(found)


@given(st.lists(st.sampled_from(["a", "b", "undecided"]), min_size=1, max_size=9))
def test_majority(votes: list[str]):
    most = max(votes.count(each) for each in votes)
    winners = {each for each in votes if votes.count(each) == most}
    assert majority(votes) == (winners.pop() if len(winners) == 1 else "undecided")


def test_rankings(make: Make, answered: Callable[..., Store]):
    study = make("ranking", questions=["subject"])
    orders = [(A, B, C), (B, A, C), (A, C, B)]
    given = [[(Trial("item-0", (C, B, A)), {"subject": ">".join(order)})] for order in orders]
    found = report(study, answered(study, *given))
    places = {row.method: row for row in found.rows if isinstance(row, Ranked)}
    assert places[A].place == Mean(4 / 3, statistics.stdev([1, 2, 1]), 3)
    assert places[B].place.mean == 2
    assert [places[method].first for method in (A, B, C)] == [Share(2, 3), Share(1, 3), Share(0, 3)]
    assert found.alpha["subject"] == krippendorff_alpha([[1, 2, 1], [2, 1, 3], [3, 3, 2]], "ordinal")
    assert "1.33 ± 0.58" in text(found)


@pytest.mark.parametrize("kind", ["rating", "choice", "ranking"])
def test_bars(make: Make, answered: Callable[..., Store], tmp_path: Path, kind: str):
    study = (
        make(kind, questions=None if kind == "rating" else ["subject"]) if kind != "rating" else make(kind)
    )
    given: dict[str, Any] = {
        "rating": RATINGS[0],
        "choice": [preferred(0, (A, B), A), preferred(1, (A, C), "undecided")],
        "ranking": [(Trial("item-0", (A, B, C)), {"subject": f"{A}>{C}>{B}"})],
    }
    found = report(study, answered(study, given[kind]))
    figure = bars(found)
    drawn = [
        patch.get_width() if kind == "choice" else patch.get_height() for patch in figure.axes[0].patches
    ]
    expected = {
        "rating": [3.5, 3.0, 3.0, 1.0, 2.0, 0.0],  # means less 1: method by method
        "choice": [100, 0, 0, 0, 100, 0],
        "ranking": [1, 3, 2],
    }
    assert drawn == pytest.approx(expected[kind])
    figure.savefig(tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as image:
        assert image.width > 600


def test_csv_and_parquet_say_the_same(make: Make, answered: Callable[..., Store], tmp_path: Path):
    study = make("rating")
    passed = (Trial("item-3", (SAME,), True), {"background": "5", "text": "1", "realism": "1"})
    store = answered(study, [*RATINGS[0], passed], RATINGS[1])
    assert export(study, store, tmp_path / "a.csv") == export(study, store, tmp_path / "a.parquet") == 21
    table = parquet.read_table(tmp_path / "a.parquet").to_pylist()
    with open(tmp_path / "a.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(table) == len(lines) == 21
    first = {**table[0], "answered_at": None}
    assert first == {
        "study": "Which edit?",
        "kind": "rating",
        "rater": 1,
        "page": 1,
        "item": "item-0",
        "prompt": "a tiger number 0 <b>next</b> to a mirror",
        "shown": A,
        "question": "background",
        "answer": "5",
        "is_check": False,
        "passed": None,
        "answered_at": None,
    }
    for row, line in zip(table, lines, strict=True):
        assert row.pop("answered_at") == datetime.fromisoformat(line.pop("answered_at"))
        assert {name: "" if value is None else str(value) for name, value in row.items()} == line
    assert {row["passed"] for row in table if row["is_check"] and row["question"] == "background"} == {True}


def test_another_suffix_is_refused(make: Make, answered: Callable[..., Store], tmp_path: Path):
    study = make("rating")
    with pytest.raises(OutputError, match=r"ends in \.csv or \.parquet"):
        export(study, answered(study, RATINGS[0]), tmp_path / "a.xlsx")
    assert not (tmp_path / "a.xlsx").exists()


def test_the_report_is_json(make: Make, answered: Callable[..., Store]):
    from dataclasses import asdict

    study = make("rating")
    found = asdict(report(study, answered(study, *RATINGS)))
    assert json.loads(json.dumps(found))["alpha"]["background"] == pytest.approx(1)
