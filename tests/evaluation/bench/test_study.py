"""The bench's edits as a study."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wordbrush.cli import main
from wordbrush.errors import OutputError
from wordbrush.evaluation.bench import study
from wordbrush.evaluation.bench.cases import UNCHANGED, split
from wordbrush.evaluation.bench.run import Bench
from wordbrush.evaluation.contender import Contender
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.images import load
from wordbrush.model import Model
from wordbrush.progress import drain
from wordbrush.provenance import pixel_hash

STEPS = {"steps": 2}
WAYS = [Contender(method, "direct", {}, STEPS) for method in ("prompt_to_prompt", "sdedit")]


@pytest.mark.slow
def test_a_study_shows_every_edit_that_changes_something(tmp_path: Path, tiny: Callable[..., Model]) -> None:
    bench = Bench(tiny("sd1"), split(5, 10), Judges.load(reader=True), tmp_path / "bench", 5)
    drain(bench.run(WAYS))
    made = study.write(bench, WAYS, tmp_path / "study")
    changing = [case for case in bench.cases if case.kind != UNCHANGED]
    assert made.settings.methods == ("prompt-to-prompt", "sdedit") and made.settings.kind == "rating"
    assert {item.name: item.prompt for item in made.items.values()} == {
        case.name: case.target_prompt for case in changing
    }
    for case in changing:
        shown = made.items[case.name].pictures
        for way in WAYS:
            name = way.method.replace("_", "-")
            assert pixel_hash(load(shown[name])) == pixel_hash(bench.picture(way.label, case))
    with pytest.raises(OutputError, match="already contains a study"):
        study.check(tmp_path / "study")
    two = [*WAYS[:1], replace(WAYS[0], inversion="ddim")]
    assert list(study._names(two).values()) == [way.label for way in two]  # pyright: ignore[reportPrivateUsage]


def test_a_study_that_is_there_is_not_touched_and_said_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "study.toml").write_text("mine")
    told: list[Any] = ["evaluate", "bench", "--count", "1", "--method", "sdedit", "--inversion", "straight"]
    assert main([*told, "--out", str(tmp_path / "bench"), "--study", str(tmp_path)]) == 2
    assert "already contains a study" in capsys.readouterr().err
    assert (tmp_path / "study.toml").read_text() == "mine"
