"""One table in two notations."""

import csv
import io

from wordbrush.evaluation.results.statistics import Interval
from wordbrush.evaluation.results.tables import Column, comma_separated, markdown

COLUMNS = [
    Column("method", "method"),
    Column("success", "success, %", 0, 100.0, "high"),
    Column("mse", "MSE", 1),
]
ROWS = [
    {"method": "a|b", "success": Interval(0.5, 0.4, 0.7, 8), "mse": 1.25},
    {"method": "c", "success": Interval(float("nan"), float("nan"), float("nan"), 0), "mse": None},
]


def test_markdown_shows_intervals_arrows_and_dashes() -> None:
    assert markdown(ROWS, COLUMNS) == (
        "| method | success, % ↑ | MSE |\n| --- | ---: | ---: |\n| a\\|b | 50 ± 15 | 1.2 |\n| c | – | – |\n"
    )


def test_csv_has_the_interval_in_four_columns() -> None:
    first, second = csv.DictReader(io.StringIO(comma_separated(ROWS, COLUMNS)))
    assert first["method"] == "a|b" and float(first["mse"]) == 1.25
    values = [float(first[key]) for key in ("success", "success_low", "success_high", "success_count")]
    assert values == [50.0, 40.0, 70.0, 8.0]
    assert (second["success"], second["success_low"], second["success_count"], second["mse"]) == (
        "",
        "",
        "0",
        "",
    )
