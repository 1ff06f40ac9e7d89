"""`wordbrush train elite`: a masked picture to a concept, what is said, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from wordbrush import images
from wordbrush.cli import main
from wordbrush.concept import Concept
from wordbrush.model import Model
from wordbrush.pocket import Scene, Thing, render, segment
from wordbrush.training.elite.mappers import Mappers, Shape

Run = Callable[..., tuple[int, str, str]]
RIGHT = ("--picture", "my-cat.png", "--mask", "my-cat-mask.png", "--out", "my-cat.concept")


@pytest.fixture(scope="session")
def model(
    tmp_path_factory: pytest.TempPathFactory,
    tiny: Callable[..., Model],
    saved: Callable[[Model, Path], Path],
) -> tuple[Path, Path]:
    """The folders of a tiny model and of mappers for it."""
    folder = tmp_path_factory.mktemp("models")
    path = saved(tiny("sd1"), folder / "tiny")
    own = Mappers(Shape.of(Model.load(path), "pocket", (-1, 2, 1), (224, 96, 48), hidden=16, grid=8))
    own.save(folder / "mappers")
    return path, folder / "mappers"


@pytest.fixture
def run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """run(…) → exit code, stdout, stderr, in a folder with a picture and its mask, on the tiny model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wordbrush.cli.commands.elite._STEPS", 1)
    scene = Scene((Thing("cat", size="large"),), "beach")
    render(scene).save("my-cat.png")
    Image.fromarray(segment(scene) == 1).save("my-cat-mask.png")

    def run(*tokens: str, mappers: bool = True) -> tuple[int, str, str]:
        own = ("--mappers", str(model[1])) if mappers else ()
        code = main(["train", "elite", *tokens, "--model", str(model[0]), *own])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_a_word_is_made_and_what_it_draws_is_shown(run: Run, model: tuple[Path, Path]) -> None:
    code, out, err = run(*RIGHT, "--token", "<my-cat>")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "my-cat.concept  a photo of <my-cat>",
        "my-cat.sample.png  what it draws",
        f"wordbrush generate 'a photo of <my-cat>' --concept my-cat.concept --model {model[0]} --out my-cat.png",
    ]
    concept = Concept.load("my-cat.concept")
    assert concept.method == "elite" and list(concept.portraits) == ["<my-cat>"] and concept.preview
    assert [picture.name for picture in concept.pictures] == ["my-cat.png"]
    assert images.load("my-cat.sample.png").width > 3 * 32
    code, out, err = run(*RIGHT, "--json")
    told = json.loads(out)
    assert (code, told["command"], told["prompt"]) == (0, "train elite", "a photo of <my-thing>")
    assert told["sample"] == "my-cat.sample.png" and told["notices"] == []


def test_equal_pictures_make_equal_files(run: Run) -> None:
    kept: list[bytes] = []
    for _ in range(2):
        assert run(*RIGHT)[0] == 0
        kept.append(Path("my-cat.concept").read_bytes())
    assert kept[0] == kept[1]


def test_a_mask_of_everything_is_noted(run: Run) -> None:
    Image.new("L", (128, 128), 255).save("my-cat-mask.png")
    code, _, err = run(*RIGHT)
    assert code == 0 and "the mask covers the whole picture" in err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: Image.new("L", (64, 64), 255).save("my-cat-mask.png"), "a mask of the picture's size"),
        (lambda: Image.new("L", (128, 128), 0).save("my-cat-mask.png"), "one that is black"),
        (lambda: Path("my-cat-mask.png").unlink(), "my-cat-mask.png"),
        (lambda: Path("my-cat.png").write_text("no picture"), "my-cat.png"),
    ],
)
def test_what_does_not_fit_is_refused(run: Run, change: Callable[[], object], said: str) -> None:
    change()
    code, out, err = run(*RIGHT)
    assert (code, out) == (2, "") and said in err and not Path("my-cat.concept").exists()


def test_a_model_without_mappers_is_refused(run: Run) -> None:
    code, _, err = run(*RIGHT, mappers=False)
    assert code == 2 and "for pocket alone" in err and "--mappers" in err


def test_no_input_is_overwritten(run: Run) -> None:
    Path("my-cat.png").rename("my-cat.sample.png")
    code, _, err = run("--picture", "my-cat.sample.png", *RIGHT[2:])
    assert code == 2 and "is an input and would be overwritten" in err
