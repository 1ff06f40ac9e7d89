"""Pictures of a class: made once by the frozen model, and never taken for those of another prompt or model."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from wordbrush import provenance
from wordbrush.fit import Share
from wordbrush.model import Model
from wordbrush.progress import Progress, drain
from wordbrush.training.prior import class_pictures

Tiny = Callable[..., Model]


def made(model: Model, prompt: str, work: Path | None, *, seed: int = 0, share: Share | None = None):
    """The pictures' bytes, and the rows that the UNet computed for them."""
    rows: list[int] = []

    def count(progress: Progress) -> None:
        rows.append(progress.rows)

    given = {} if share is None else {"share": share}
    found = drain(class_pictures(model, prompt, 2, seed, work and work / "class", **given), count)
    return [picture.tobytes() for picture in found], sum(rows)


def test_they_are_made_once(tiny: Tiny, tmp_path: Path) -> None:
    first, rows = made(tiny("sd1"), "a cat", tmp_path)
    again, none = made(tiny("sd1"), "a cat", tmp_path)
    assert again == first and rows > 0 and none == 0
    record = provenance.read_record(tmp_path / "class" / "00001.png")
    assert (record.source.prompt, record.source.options["seed"]) == ("a cat", 1)


@pytest.mark.parametrize("other", ["prompt", "model", "seed"])
def test_they_are_never_those_of_another(other: str, tiny: Tiny, tmp_path: Path) -> None:
    made(tiny("sd1"), "a cat", tmp_path)
    model = tiny("sd2") if other == "model" else tiny("sd1")
    asked = (model, "a dog" if other == "prompt" else "a cat")
    found, rows = made(*asked, tmp_path, seed=9 if other == "seed" else 0)
    assert rows > 0 and found == made(*asked, None, seed=9 if other == "seed" else 0)[0]


@pytest.mark.parametrize("damage", ["cut", "painted over", "no picture"])
def test_what_is_damaged_is_made_again(damage: str, tiny: Tiny, tmp_path: Path) -> None:
    first, _ = made(tiny("sd1"), "a cat", tmp_path)
    path = tmp_path / "class" / "00000.png"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif damage == "no picture":
        path.write_bytes(b"no picture")
    else:
        Image.new("RGB", (32, 32), "red").save(path)
    again, rows = made(tiny("sd1"), "a cat", tmp_path)
    assert again == first and rows > 0


def test_of_several_processes_the_first_writes(tiny: Tiny, tmp_path: Path) -> None:
    made(tiny("sd1"), "a cat", tmp_path, share=Share(1, 2))
    assert not (tmp_path / "class").exists()
