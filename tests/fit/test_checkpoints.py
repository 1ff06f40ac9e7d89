"""Checkpoints: whole or not there, whatever has happened to their files."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wordbrush.errors import OptionsError, OutputError
from wordbrush.fit import Checkpoints, State

RUN = {"method": "lora", "options": {"learning_rate": 0.1, "steps": 9}, "model": "abc"}


def state(step: int) -> State:
    own = torch.full((3,), float(step))
    return State(step, {"parameters": {"a.b": own}, "averages": {}}, {"scale": [2.0, step]})


def filled(folder: Path, steps: range = range(1, 4)) -> Checkpoints:
    checkpoints = Checkpoints(folder, RUN)
    for step in steps:
        checkpoints.save(state(step))
    return checkpoints


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def require(found: State | None, step: int) -> None:
    assert found is not None and found.step == step
    assert found.tensors["parameters"]["a.b"].tolist() == [step] * 3
    assert found.tensors["averages"] == {} and found.numbers == {"scale": [2.0, step]}


def test_the_last_two_are_kept(tmp_path: Path):
    for count in range(1, 6):
        checkpoints = filled(tmp_path / str(count), range(1, count + 1))
        kept = [f"step-{step:07d}" for step in range(max(1, count - 1), count + 1)]
        assert names(tmp_path / str(count)) == ["run.json", *kept]
        require(checkpoints.last(), count)
        assert checkpoints.ignored == []


def test_nothing_is_written_before_the_first(tmp_path: Path):
    assert Checkpoints(tmp_path / "new", RUN).last() is None
    assert not (tmp_path / "new").exists()


def test_the_manifest_is_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A process that ends at any change of the folder leaves a checkpoint or none."""
    filled(tmp_path / "whole")
    import os

    replace, at = os.replace, 0

    def stopping(source: Any, target: Any) -> None:
        nonlocal at
        if at == 0:
            raise KeyboardInterrupt
        at -= 1
        replace(source, target)

    for changes in range(4):
        folder = tmp_path / str(changes)
        shutil.copytree(tmp_path / "whole", folder)
        at = changes
        monkeypatch.setattr(os, "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            Checkpoints(folder, RUN).save(state(4))
        monkeypatch.setattr(os, "replace", replace)
        checkpoints = Checkpoints(folder, RUN)
        require(checkpoints.last(), 3)
        assert len(checkpoints.ignored) == (1 if changes else 0)
        checkpoints.save(state(4))
        require(checkpoints.last(), 4)
        assert names(folder) == ["run.json", "step-0000003", "step-0000004"]


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def turned(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 0x41
    path.write_bytes(content)


STATE, MANIFEST, NUMBERS = "parameters.safetensors", "manifest.json", "numbers.json"
FILES = (STATE, MANIFEST, NUMBERS)
DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"{n} cut at {s}": (lambda p, n=n, s=s: cut(p / n, s)) for n in FILES for s in (0, 0.3, 0.99)},
    **{f"{n} turned at {s}": (lambda p, n=n, s=s: turned(p / n, s)) for n in FILES for s in (0, 0.1, 0.5, 0.9)},
    "no state": lambda p: (p / STATE).unlink(),
    "no manifest": lambda p: (p / MANIFEST).unlink(),
    "nothing": lambda p: [each.unlink() for each in p.iterdir()],
    "another step's": lambda p: shutil.copy(p.parent / "step-0000002" / MANIFEST, p / MANIFEST),
    "another step's state": lambda p: shutil.copy(p.parent / "step-0000002" / STATE, p / STATE),
    "no names": lambda p: (p / MANIFEST).write_text("[1]"),
    "empty names": lambda p: (p / MANIFEST).write_text("{}"),
    "files of another kind": lambda p: (p / MANIFEST).write_text('{"step": 3, "files": 7}'),
    "files elsewhere": lambda p: (p / MANIFEST).write_text('{"step": 3, "files": {"../run.json": "0"}}'),
    "a folder for a state": lambda p: ((p / STATE).unlink(), (p / STATE).mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_one_is_passed_over_with_a_word(damage: str, tmp_path: Path):
    filled(tmp_path)
    DAMAGES[damage](tmp_path / "step-0000003")
    checkpoints = Checkpoints(tmp_path, RUN)
    require(checkpoints.last(), 2)
    assert len(checkpoints.ignored) == 1
    assert str(tmp_path / "step-0000003") + " is broken and was passed over (" in checkpoints.ignored[0]
    checkpoints.save(state(3))
    require(checkpoints.last(), 3)
    assert checkpoints.ignored == [] and names(tmp_path) == ["run.json", "step-0000002", "step-0000003"]


def test_cut_anywhere(tmp_path: Path):
    filled(tmp_path / "whole")
    chance = random.Random(0)
    for k in range(30):
        folder = tmp_path / str(k)
        shutil.copytree(tmp_path / "whole", folder)
        cut(folder / "step-0000003" / chance.choice(FILES), chance.random())
        require(Checkpoints(folder, RUN).last(), 2)


def test_broken_later_ones_do_not_push_out_whole_ones(tmp_path: Path):
    """Where a run goes on before broken checkpoints, those are removed, and not the new."""
    filled(tmp_path, range(1, 2))
    for step in (7, 8, 9):
        (tmp_path / f"step-{step:07d}").mkdir()
    checkpoints = Checkpoints(tmp_path, RUN)
    require(checkpoints.last(), 1)
    assert len(checkpoints.ignored) == 3
    for step in (2, 3):
        checkpoints.save(state(step))
        require(Checkpoints(tmp_path, RUN).last(), step)
    assert names(tmp_path) == ["run.json", "step-0000002", "step-0000003"]


def test_the_rest_of_an_older_one_is_removed(tmp_path: Path):
    """It is left where a kill came in the middle of the removal."""
    filled(tmp_path)
    rest = tmp_path / "step-0000001"
    rest.mkdir()
    (rest / "moments.safetensors").write_bytes(b"whatever")
    checkpoints = Checkpoints(tmp_path, RUN)
    require(checkpoints.last(), 3)
    assert checkpoints.ignored == [] and names(tmp_path) == ["run.json", "step-0000002", "step-0000003"]


def test_all_broken(tmp_path: Path):
    checkpoints = filled(tmp_path)
    for path in tmp_path.glob("step-*"):
        (path / MANIFEST).unlink()
    assert checkpoints.last() is None and len(checkpoints.ignored) == 2


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({**RUN, "options": {"learning_rate": 0.2, "steps": 9}}, "learning_rate: 0.1 then, 0.2 now"),
        ({**RUN, "options": {"steps": 9}}, "learning_rate: 0.1 then, null now"),
        ({**RUN, "method": "dreambooth", "model": "d"}, r'method: "lora" then, "dreambooth" now; model: '),
        ({**RUN, "pictures": ["x" * 90]}, r"pictures: null then, \[\"x{35}… now"),
    ],
)
def test_another_run_is_refused(other: dict[str, Any], said: str, tmp_path: Path):
    filled(tmp_path)
    with pytest.raises(OptionsError, match=rf"got another's \({said}"):
        Checkpoints(tmp_path, other)
    require(Checkpoints(tmp_path, RUN).last(), 3)


@pytest.mark.parametrize("content", [None, "", "[]", '{"method"'])
def test_of_an_unknown_run_is_refused(content: str | None, tmp_path: Path):
    filled(tmp_path)
    (tmp_path / "run.json").unlink()
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(OptionsError, match=r"run\.json"):
        Checkpoints(tmp_path, RUN)


def test_a_run_without_checkpoints_is_none(tmp_path: Path):
    (tmp_path / "run.json").write_text(json.dumps({**RUN, "method": "other"}))
    filled(tmp_path)
    require(Checkpoints(tmp_path, RUN).last(), 3)


def test_removed(tmp_path: Path):
    filled(tmp_path).remove()
    assert names(tmp_path) == []


def test_no_place_to_write(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        filled(tmp_path / "file")
