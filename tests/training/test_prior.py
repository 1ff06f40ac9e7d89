"""Pictures of a class: made once by the frozen model, and never taken for those of another prompt or model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from training.helping import pictures
from wordbrush import provenance
from wordbrush.errors import ImageError, PromptError
from wordbrush.fit import Share
from wordbrush.images import load
from wordbrush.model import Model
from wordbrush.progress import Progress, drain
from wordbrush.training import prior
from wordbrush.training.options import ClassOptions
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


@pytest.mark.slow
def test_they_are_made_once(tiny: Tiny, tmp_path: Path) -> None:
    first, rows = made(tiny("sd1"), "a cat", tmp_path)
    again, none = made(tiny("sd1"), "a cat", tmp_path)
    assert again == first and rows > 0 and none == 0
    record = provenance.read_record(tmp_path / "class" / "00001.png")
    assert (record.source.prompt, record.source.options["seed"]) == ("a cat", 1)


@pytest.mark.slow
@pytest.mark.parametrize("other", ["prompt", "model", "seed"])
def test_they_are_never_those_of_another(other: str, tiny: Tiny, tmp_path: Path) -> None:
    made(tiny("sd1"), "a cat", tmp_path)
    model = tiny("sd2") if other == "model" else tiny("sd1")
    asked = (model, "a dog" if other == "prompt" else "a cat")
    found, rows = made(*asked, tmp_path, seed=9 if other == "seed" else 0)
    assert rows > 0 and found == made(*asked, None, seed=9 if other == "seed" else 0)[0]


@pytest.mark.slow
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


@pytest.mark.slow
def test_of_several_processes_the_first_writes(tiny: Tiny, tmp_path: Path) -> None:
    made(tiny("sd1"), "a cat", tmp_path, share=Share(1, 2))
    assert not (tmp_path / "class").exists()


# Pictures that are given -------------------------------------------------------------------------------------


class Told(ClassOptions):
    """Options with these classes."""

    classes: tuple[str, ...] = ()

    @property
    def class_prompts(self) -> tuple[str, ...]:
        return self.classes


def told(**given: Any) -> Told:
    return Told.model_validate(given)


def test_given_pictures_stand_for_made_ones(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under their captions, and else under the class's prompt."""
    monkeypatch.setattr("wordbrush.training.prior.class_pictures", None)
    folder = pictures(tmp_path / "cats", 2)
    (folder / "1.txt").write_text("two cats")
    options = told(class_folder=str(folder), classes=("a cat",))
    given = prior.given(options)
    found = drain(prior.prior_pictures(tiny("sd1"), options, given, tmp_path / "work"))
    assert given is not None and found == (list(given.images), ("a cat", "two cats"))
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("classes", [(), ("a cat", "a vase")])
def test_given_pictures_of_no_one_class_need_captions(classes: tuple[str, ...], tmp_path: Path) -> None:
    folder = pictures(tmp_path / "cats", 2)
    (folder / "1.txt").write_text("two cats")
    options = told(class_folder=str(folder), classes=classes)
    with pytest.raises(
        PromptError, match="expected a caption for each picture of .*cats, got none for 0.png: write"
    ):
        prior.given(options)
    (folder / "0.txt").write_text("one cat")
    found = prior.given(options)
    assert found is not None and found.captions == ("one cat", "two cats")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="expected a folder of pictures"):
        prior.given(told(class_folder=str(tmp_path / "none"), classes=("a cat",)))


@pytest.mark.slow
def test_each_class_has_pictures_of_its_own(tiny: Tiny, tmp_path: Path) -> None:
    """Two things of one class share them; a second class has a folder of its own."""
    options = told(class_pictures=1, classes=("a cat", "a dog", "a cat"))
    found = drain(prior.prior_pictures(tiny("sd1"), options, None, tmp_path))
    assert found is not None and found[1] == ("a cat", "a dog")
    made = [load(tmp_path / name / "00000.png").tobytes() for name in ("class", "class-2")]
    assert [image.tobytes() for image in found[0]] == made and made[0] != made[1]


def test_nothing_is_preserved_without_a_class_or_without_weight(tiny: Tiny, tmp_path: Path) -> None:
    for options in (told(), told(classes=("a cat",), prior_weight=0)):
        assert drain(prior.prior_pictures(tiny("sd1"), options, None, tmp_path)) is None
    assert not any(tmp_path.iterdir())
