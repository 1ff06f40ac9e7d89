"""The report of a study: the papers' tables, their intervals, and the agreement of raters."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wordbrush.errors import InputError
from wordbrush.evaluation.study.agreement import krippendorff_alpha, wilson
from wordbrush.evaluation.study.checks import inattentive
from wordbrush.evaluation.study.design import QUESTIONS, UNDECIDED, Kind, Study, Unit
from wordbrush.evaluation.study.store import Answer, Store

# Prompt-to-Prompt, Table 1: mean and standard deviation of the ratings, other pictures and other raters.
PROMPT_TO_PROMPT: Mapping[str, Mapping[str, tuple[float, float]]] = {
    "Prompt-to-Prompt": {"background": (4.64, 0.64), "text": (4.55, 0.71), "realism": (4.42, 0.82)},
    "fixed seed only": {"background": (3.38, 1.12), "text": (4.26, 1.03), "realism": (4.11, 0.93)},
    "Text2LIVE": {"background": (4.15, 1.09), "text": (2.89, 1.22), "realism": (2.36, 1.12)},
    "VQGAN+CLIP": {"background": (1.84, 1.11), "text": (2.46, 1.16), "realism": (1.32, 0.70)},
}
# DreamBooth, its user study: percent for DreamBooth, for Textual Inversion, and undecided.
DREAMBOOTH: Mapping[str, tuple[int, int, int]] = {"subject": (68, 22, 10), "prompt": (81, 12, 7)}


@dataclass(frozen=True)
class Share:
    """A count out of all, with Wilson's 95 % interval."""

    count: int
    of: int

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end, both in [0, 1]."""
        return wilson(self.count, self.of)

    def __str__(self) -> str:
        if not self.of:
            return "–"
        low, high = self.interval
        return f"{self.count / self.of:.0%} [{100 * low:.0f}, {100 * high:.0f}]".replace("%", " %")


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation (n − 1) of numbers; the deviation of one number is not defined."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± " + ("–" if self.std is None else f"{self.std:.2f}")


@dataclass(frozen=True)
class Rated:
    """A cell of the ratings: a method's score in a question."""

    question: str
    method: str
    score: Mean


@dataclass(frozen=True)
class Preferred:
    """A choice's row: two methods in a question; `shares` of the first, the second and undecided."""

    question: str
    methods: tuple[str, str]
    shares: tuple[Share, Share, Share]
    majority: tuple[Share, Share, Share]
    """The same over items, each counted once, for its raters' most frequent answer."""


@dataclass(frozen=True)
class Ranked:
    """A row of the rankings: a method's mean place, and its share of first places."""

    question: str
    method: str
    place: Mean
    first: Share


@dataclass(frozen=True)
class Report:
    """The whole report."""

    title: str
    kind: Kind
    questions: tuple[str, ...]
    raters: int
    finished: int
    inattentive: tuple[int, ...]
    """Raters who answered a check wrongly."""
    excluded: bool
    """Whether their answers are left out."""
    answers: int
    """Answers that count, without checks."""
    rows: tuple[Rated, ...] | tuple[Preferred, ...] | tuple[Ranked, ...]
    alpha: Mapping[str, float | None]
    """Krippendorff's alpha of each question."""


def report(study: Study, store: Store, *, keep_inattentive: bool = False) -> Report:
    """Summarise the stored answers, those of unfinished raters included. Raises `InputError`."""
    settings = study.settings
    trials, everything = store.trials(), store.answers()
    asked = {question.id for question in settings.questions}
    given = Counter(answer.rater for answer in everything if answer.question in asked)
    failed = inattentive(study, everything)
    judged = [
        answer
        for answer in everything
        if not answer.trial.is_check
        and answer.question in asked
        and (keep_inattentive or answer.rater not in failed)
    ]
    if not judged:
        left_out = " but inattentive raters'; keep them with --keep-inattentive" if failed else ""
        raise InputError(f"expected answers in {study.answers}, found none{left_out}")
    rows: dict[Kind, Callable[[Study, Sequence[Answer]], tuple[Rated | Preferred | Ranked, ...]]] = {
        "rating": _rated,
        "choice": _preferred,
        "ranking": _ranked,
    }
    return Report(
        title=settings.title,
        kind=settings.kind,
        questions=tuple(question.id for question in settings.questions),
        raters=len(trials),
        finished=sum(given[rater] == len(asked) * len(mine) for rater, mine in trials.items()),
        inattentive=tuple(sorted(failed)),
        excluded=not keep_inattentive,
        answers=len(judged),
        rows=rows[settings.kind](study, judged),  # type: ignore[arg-type]  # one kind, one class of rows
        alpha={
            question.id: _alpha(settings.kind, [each for each in judged if each.question == question.id])
            for question in settings.questions
        },
    )


def _mean(values: Sequence[int]) -> Mean:
    std = statistics.stdev(values) if len(values) > 1 else None
    return Mean(statistics.fmean(values), std, len(values))


def _rated(study: Study, answers: Sequence[Answer]) -> tuple[Rated, ...]:
    scores: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for answer in answers:
        scores[answer.question, answer.trial.shown[0]].append(int(answer.answer))
    return tuple(
        Rated(question.id, method, _mean(scores[question.id, method]))
        for question in study.settings.questions
        for method in study.settings.methods
        if scores[question.id, method]
    )


def _preferred(study: Study, answers: Sequence[Answer]) -> tuple[Preferred, ...]:
    votes: defaultdict[tuple[str, Unit], list[str]] = defaultdict(list)
    for answer in answers:
        votes[answer.question, answer.trial.unit].append(answer.answer)
    pairs = list(dict.fromkeys(pair for _, pair in study.units))
    rows: list[Preferred] = []
    for question in study.settings.questions:
        for pair in pairs:
            items = [
                each for (asked, (_, shown)), each in votes.items() if (asked, shown) == (question.id, pair)
            ]
            if items:
                first, second = (method for method in study.settings.methods if method in pair)
                outcomes = (first, second, UNDECIDED)
                single = Counter(vote for item in items for vote in item)
                won = Counter(majority(item) for item in items)
                rows.append(
                    Preferred(question.id, (first, second), _shares(single, outcomes), _shares(won, outcomes))
                )
    return tuple(rows)


def majority(votes: Sequence[str]) -> str:
    """The most frequent answer; undecided where there is none."""
    (first, most), *rest = Counter(votes).most_common(2)
    return UNDECIDED if rest and rest[0][1] == most else first


def _shares(counts: Counter[str], outcomes: tuple[str, str, str]) -> tuple[Share, Share, Share]:
    first, second, third = (Share(counts[outcome], counts.total()) for outcome in outcomes)
    return first, second, third


def _ranked(study: Study, answers: Sequence[Answer]) -> tuple[Ranked, ...]:
    places: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for answer in answers:
        for place, method in enumerate(answer.answer.split(">"), 1):
            places[answer.question, method].append(place)
    return tuple(
        Ranked(question.id, method, _mean(mine), Share(mine.count(1), len(mine)))
        for question in study.settings.questions
        for method in study.settings.methods
        if (mine := places[question.id, method])
    )


def _alpha(kind: Kind, answers: Sequence[Answer]) -> float | None:
    """For ratings over their values, for choices over the chosen method, for rankings over each picture's place."""
    judged: defaultdict[tuple[str, frozenset[str]], list[int | str]] = defaultdict(list)
    for answer in answers:
        match kind:
            case "rating":
                judged[answer.trial.unit].append(int(answer.answer))
            case "choice":
                judged[answer.trial.unit].append(answer.answer)
            case "ranking":
                for place, method in enumerate(answer.answer.split(">"), 1):
                    judged[answer.trial.item, frozenset({method})].append(place)
    return krippendorff_alpha(judged.values(), "nominal" if kind == "choice" else "ordinal")


# As text ---------------------------------------------------------------------------------------------------


def text(report: Report) -> str:
    """The report in Markdown."""
    failed = len(report.inattentive)
    left = f" ({'left out' if report.excluded else 'kept'})" if failed else ""
    lines = [
        f"# {report.title}",
        "",
        f"{_counted(report.answers, 'answer')} of {_counted(report.raters, 'rater')}: {report.finished} finished, "
        f"{failed} failed an attention check{left}.",
        "",
        *_tables(report),
        f"Krippendorff's alpha ({'nominal' if report.kind == 'choice' else 'ordinal'}): "
        + ", ".join(
            f"{question} " + ("not defined" if alpha is None else f"{alpha:.3f}")
            for question, alpha in report.alpha.items()
        )
        + ".",
    ]
    return "\n".join(lines)


def _tables(report: Report) -> list[str]:
    match report.kind:
        case "rating":
            return _ratings_table(report)
        case "choice":
            return _choices_table(report)
        case "ranking":
            return _rankings_table(report)


def _ratings_table(report: Report) -> list[str]:
    cells = {(row.method, row.question): row.score for row in report.rows if isinstance(row, Rated)}
    methods = list(dict.fromkeys(method for method, _ in cells))
    rows = [
        [method, *(str(cells.get((method, question), "–")) for question in report.questions)]
        for method in methods
    ]
    known = {question.id for question in QUESTIONS["rating"]}
    if known & set(report.questions):
        for method, scores in PROMPT_TO_PROMPT.items():
            paper = [scores.get(question) for question in report.questions]
            rows.append(
                [
                    f"*paper: {method}*",
                    *("–" if score is None else f"{score[0]:.2f} ± {score[1]:.2f}" for score in paper),
                ]
            )
    note = (
        "Mean ± standard deviation, 1 to 5. Rows marked “paper” are Table 1 of Prompt-to-Prompt: other pictures, "
        "other raters."
    )
    return [*_table(["method", *report.questions], rows), "", note, ""]


def _choices_table(report: Report) -> list[str]:
    rows: list[list[str]] = []
    for row in report.rows:
        if isinstance(row, Preferred):
            first, second = row.methods
            for what, shares in (("answers", row.shares), ("majority, by item", row.majority)):
                rows.append([row.question, f"{first} : {second}", what, *map(str, shares), str(shares[0].of)])
    for question, percent in DREAMBOOTH.items():
        if question in report.questions:
            shares = [f"{each} %" for each in percent]
            pair = "*DreamBooth : Textual Inversion*"
            rows.append([question, pair, "*paper: majority*", *shares, "600"])
    note = (
        "Shares with Wilson's 95 % interval. A majority is what more raters of an item said than anything else; "
        "without one the item is undecided. Rows marked “paper” are DreamBooth's: other pictures, other raters."
    )
    header = ["question", "first : second", "counted", "first", "second", "undecided", "n"]
    return [*_table(header, rows), "", note, ""]


def _rankings_table(report: Report) -> list[str]:
    rows = [
        [row.question, row.method, str(row.place), str(row.first), str(row.place.n)]
        for row in report.rows
        if isinstance(row, Ranked)
    ]
    note = "Places: mean ± standard deviation, 1 is best. First places with Wilson's 95 % interval."
    return [*_table(["question", "method", "place", "put first", "n"], rows), "", note, ""]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with aligned columns, for terminals."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(header), line(["-" * width for width in widths]), *map(line, rows)]


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")
