"""The log of a training: each step once, whatever happened, and TensorBoard's files as its reader reads them."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wordbrush.errors import MissingExtraError
from wordbrush.fit import Step
from wordbrush.fit.log import Log


def step(number: int, norm: float = 0.5) -> Step:
    return Step(number, 9, loss=1 / number, norm=norm, rate=1e-3, rows=4)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_each_step_is_there_once_after_a_kill(tmp_path: Path) -> None:
    with Log(tmp_path, 0) as log:
        for number in range(1, 6):
            log.add(step(number))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')  # a process was killed here
    with Log(tmp_path, 3) as log:
        log.add(step(4))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_a_norm_that_is_no_number_is_null(tmp_path: Path) -> None:
    with Log(tmp_path, 0) as log:
        log.add(step(1, norm=math.inf))
    (line,) = lines(tmp_path)
    assert line["norm"] is None and line["loss"] == 1


@pytest.mark.filterwarnings("ignore")  # TensorBoard's own
def test_tensorboard_reads_each_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with Log(tmp_path, 0, tensorboard=True) as log:
        for number in range(1, 5):
            log.add(step(number))
        log.show(4, Image.new("RGB", (8, 8), "red"))
    with Log(tmp_path, 2, tensorboard=True) as log:
        log.add(step(3, norm=math.nan))
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert [(each.step, each.value) for each in read.Scalars("loss")] == [
        (1, 1),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
    ]
    assert [each.step for each in read.Scalars("norm")] == [1, 2]


def test_without_tensorboard_the_message_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(MissingExtraError, match=r"wordbrush\[train\]"):
        Log(tmp_path, 0, tensorboard=True)
