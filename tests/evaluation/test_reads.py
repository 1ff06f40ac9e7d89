"""No score comes from a network that an editing method has read: in every protocol's rows, tables and verdicts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

from wordbrush import editing, training
from wordbrush.backbones import load_clip
from wordbrush.errors import OptionsError
from wordbrush.evaluation.bench.cases import split
from wordbrush.evaluation.bench.report import means, tables
from wordbrush.evaluation.bench.run import Bench
from wordbrush.evaluation.bench.scores import columns
from wordbrush.evaluation.compare.request import Request
from wordbrush.evaluation.compare.run import compare
from wordbrush.evaluation.contender import Contender
from wordbrush.evaluation.directional.run import sweeps
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.pie import report as pie_report
from wordbrush.evaluation.pie.format import from_pocket
from wordbrush.evaluation.pie.options import Options
from wordbrush.evaluation.pie.run import PieBench
from wordbrush.evaluation.results.tables import MARKED
from wordbrush.model import Model
from wordbrush.progress import drain

Tiny = Callable[..., Model]
FAST = {"steps": 2}
READER, OTHER = Contender("sdedit", "direct", {}, FAST), Contender("prompt_to_prompt", "direct", {}, FAST)
BY_CLIP = [key for key, column in columns("").items() if column.judge == "clip"]


@pytest.fixture(autouse=True)
def sdedit_reads_a_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    table = cast(dict[str, Any], editing.METHODS)
    monkeypatch.setitem(table, "sdedit", replace(table["sdedit"], reads=frozenset({"clip"})))


def section(text: str, title: str) -> list[list[str]]:
    """The table's lines below a heading, without the heading's own."""
    after = text.split(f"## {title}", 1)[1].split("\n## ", 1)[0]
    return [line.strip("| ").split(" | ") for line in after.splitlines() if line.startswith("| ")][1:]


def test_the_line_of_a_method_says_what_it_has_read() -> None:
    reading = {name for name, each in editing.METHODS.items() if each.reads}
    assert reading == {"sdedit", "blended_diffusion", "vqgan_clip", "text2live"}
    assert all(each.reads <= {"clip"} for each in editing.METHODS.values()), "the reader judges all edits"
    every = {**training.METHODS, **training.AT_ONCE}
    assert {name: each.reads for name, each in every.items()} == training.READS
    assert READER.reads == {"clip"} and OTHER.reads == frozenset()


@pytest.mark.slow
def test_the_bench_has_no_score_by_it(tmp_path: Path, tiny: Tiny) -> None:
    assert BY_CLIP == ["clip", "clip_region", "directional"]
    bench = Bench(tiny("sd1"), split(5, 3), Judges.load(reader=True), tmp_path, 5)
    rows = drain(bench.run([READER, OTHER]))
    for row in rows:
        has_read = "sdedit" in row["method"]
        assert row["reads"] == (["clip"] if has_read else [])
        assert (row["clip"] is None) == has_read and row["success"] is not None
    text = tables(bench, rows, "the command")
    lines = {line[0]: line for line in section(text, "By CLIP and by the encoder")}
    for label in (READER.label, f"{READER.label}, pasted"):
        assert lines[label][1:4] == [MARKED] * 3 and MARKED not in lines[label][4]
    assert MARKED not in "".join(lines[OTHER.label])
    assert f"{MARKED}: {READER.label}, {READER.label}, pasted read that judge" in text
    best = {line[0]: line[1] for line in section(text, "Which scores can be gamed?")}
    assert all("sdedit" not in best[columns("")[key].heading] for key in BY_CLIP)
    found = means(rows)
    assert all(found[READER.label][key] is None for key in BY_CLIP)
    assert found[READER.label]["success"] is not None and found[OTHER.label]["clip"] is not None
    alone = tables(bench, [row for row in rows if "prompt" not in row["method"]], "the command")
    judged = {line[0] for line in section(alone, "Which scores can be gamed?")}
    assert not judged & {columns("")[key].heading for key in BY_CLIP}


@pytest.mark.slow
def test_pie_bench_has_no_score_by_it(tmp_path: Path, tiny: Tiny) -> None:
    cases = [
        replace(
            case,
            content=case.picture.resize((32, 32)),
            mask=np.asarray(Image.fromarray(case.mask).resize((32, 32), Image.Resampling.NEAREST)),
        )
        for case in from_pocket(2, seed=1)
    ]
    bench = PieBench(cases, Judges.load(), Options(), tmp_path)
    runs = {"a reader": READER, "another": OTHER}
    rows = drain(bench.run(tiny("sd1"), runs))
    for row in rows["a reader"]:
        assert row["clip_whole"] is None and row["clip_edited"] is None and row["structure"] is not None
    assert all(row["clip_whole"] is not None for row in rows["another"])
    report = pie_report.Report(bench.rows(), cases, bench.judges, bench.options, "honest")
    lines = {
        line[0]: line[-2:]
        for line in (
            row.strip("| ").split(" | ") for row in report.summary().splitlines() if row.startswith("| ")
        )
    }
    assert lines["a reader"] == [MARKED, MARKED] and MARKED not in lines["another"]
    assert f"{MARKED}: a reader read that judge" in report.summary()


@pytest.mark.slow
def test_a_comparison_has_no_score_by_it(tiny: Tiny) -> None:
    request = Request(
        Image.new("RGB", (32, 32), (90, 120, 60)),
        "a cat on a beach",
        ("a dog on a beach",),
        methods={"sdedit": {}, "prompt_to_prompt": {}},
        inversions={"direct": FAST},
    )
    comparison = drain(compare(tiny("sd1"), request, clip=load_clip()))
    by_method = {row["method"]: row for row in comparison.rows()}
    assert by_method["sdedit"]["clip"] == MARKED and isinstance(by_method["prompt-to-prompt"]["clip"], float)
    assert "clip" not in comparison.cells[0].scores and "clip" in comparison.cells[1].scores
    assert f"{MARKED}: sdedit read that judge" in comparison.table()
    unjudged = drain(compare(tiny("sd1"), request))
    assert all("clip" not in row for row in unjudged.rows()) and MARKED not in unjudged.table()


def test_directional_similarity_refuses_what_follows_a_clip() -> None:
    assert sweeps([OTHER], "self_replace_steps", ("0.2",))
    with pytest.raises(OptionsError, match="blended-diffusion read a CLIP while editing"):
        sweeps([Contender("blended_diffusion", "straight")], "start", ("0.5",))
