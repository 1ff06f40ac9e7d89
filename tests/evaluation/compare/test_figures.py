"""The papers' comparisons as ways to edit."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from wordbrush import editing, inversion
from wordbrush.cli import main
from wordbrush.errors import OptionsError
from wordbrush.evaluation.compare.figures import FIGURES, figure
from wordbrush.evaluation.compare.request import Request
from wordbrush.images import load

TOLD: list[Any] = ["compare", "photo.png", "--source", "a cat", "--target", "a dog", "--out", "out"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_names_methods_that_are_there(name: str) -> None:
    pairs = figure(name).pairs
    assert all(before in inversion.METHODS and method in editing.METHODS for before, method in pairs)
    asked = Request(
        Image.new("RGB", (8, 8)),
        "a cat",
        "a dog",
        inversions=[before for before, _ in pairs],
        methods=[method for _, method in pairs],
        pairs=pairs,
    ).checked()
    assert set(asked.pairs) == set(pairs), "each method after its own inversion, and after no other"
    assert [*asked.methods] == [method for _, method in pairs], "in the paper's order"


def test_an_unknown_figure_names_the_nearest() -> None:
    with pytest.raises(OptionsError, match="null-text"):
        figure("null-txt")


def test_a_figure_takes_the_place_of_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("photo.png")
    assert main([*TOLD, "--figure", "null-text", "--method", "sdedit"]) == 2
    assert "got both" in capsys.readouterr().err


@pytest.mark.slow
def test_a_figure_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((128, 128), 50).convert("RGB").save("photo.png")
    few = ["--latent-steps", "2", "--layer-steps", "2", "--steps", "2"]
    assert main([*TOLD, "--figure", "prompt-to-prompt", *few]) == 0
    made = {path.name.split(".")[2] for path in Path("out").glob("*.straight.*.png")}
    assert made == {method.replace("_", "-") for _, method in FIGURES["prompt-to-prompt"].pairs}
    assert load("out/grid.png").width > 4 * 256
