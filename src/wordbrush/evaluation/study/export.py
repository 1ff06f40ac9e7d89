"""Export answers as CSV or Parquet, one row per answer."""

import csv
import io
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from wordbrush.errors import OutputError
from wordbrush.evaluation.study.checks import passed
from wordbrush.evaluation.study.design import Study
from wordbrush.evaluation.study.store import Store
from wordbrush.extras import need
from wordbrush.files import atomic_write

COLUMNS = (
    "study",
    "kind",
    "rater",
    "page",
    "item",
    "prompt",
    "shown",
    "question",
    "answer",
    "is_check",
    "passed",
    "answered_at",
)


def rows(study: Study, store: Store) -> Iterator[dict[str, Any]]:
    """The current answers, including checks, by rater and page.

    shown: the pictures in the order shown, joined by "|". answer: a step of the scale, the method chosen or
    "undecided", or the methods from the first rank to the last, joined by ">". In a check, ":same" is the original
    itself and ":other:ITEM" another item's original. passed: whether the answer to a check is right.
    """
    for answer in store.answers():
        item = study.items.get(answer.trial.item)
        values = (
            study.settings.title,
            study.settings.kind,
            answer.rater,
            answer.page,
            answer.trial.item,
            item.prompt if item else "",
            "|".join(answer.trial.shown),
            answer.question,
            answer.answer,
            answer.trial.is_check,
            passed(study, answer),
            datetime.fromisoformat(answer.answered_at),
        )
        yield dict(zip(COLUMNS, values, strict=True))


def export(study: Study, store: Store, out: str | os.PathLike[str]) -> int:
    """Write the answers to a .csv or .parquet file; returns their number.

    Raises `OutputError` for another suffix or a file that cannot be written, `MissingExtraError` for Parquet without
    pyarrow.
    """
    answers = list(rows(study, store))
    match Path(out).suffix.lower():
        case ".csv":
            data = _csv(answers)
        case ".parquet":
            data = _parquet(answers)
        case _:
            raise OutputError(f"expected a file name that ends in .csv or .parquet, got {out}")
    with atomic_write(out) as file:
        file.write(data)
    return len(answers)


def _csv(answers: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in answers:
        writer.writerow(
            {**row, "answered_at": row["answered_at"].isoformat(timespec="milliseconds")}.values()
        )
    return text.getvalue().encode()


def _parquet(answers: list[dict[str, Any]]) -> bytes:
    with need("eval", "Parquet"):
        import pyarrow
        from pyarrow import parquet
    pa = cast(Any, pyarrow)
    types: dict[str, Any] = {
        "rater": pa.int32(),
        "page": pa.int32(),
        "is_check": pa.bool_(),
        "passed": pa.bool_(),
        "answered_at": pa.timestamp("ms", tz="UTC"),
    }
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    buffer = io.BytesIO()
    cast(Any, parquet).write_table(pa.Table.from_pylist(answers, schema=schema), buffer)
    return buffer.getvalue()
