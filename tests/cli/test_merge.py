"""`wordbrush merge`, end to end, with what `docs/merging.md` says to type."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from guides import ROOT, commands
from teaching import customised
from wordbrush.cli import main
from wordbrush.concept import Concept
from wordbrush.concept.merging import world
from wordbrush.images import load
from wordbrush.model import Model

GUIDE = (ROOT / "docs" / "merging.md").read_text()
MERGE = ("merge", "my-cat.concept", "my-vase.concept", "--out", "both.concept")


@pytest.fixture
def model(
    tmp_path: Path,
    tiny: Callable[..., Model],
    saved: Callable[[Model, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    monkeypatch.chdir(tmp_path)
    for seed, noun in enumerate(("cat", "vase")):
        customised(tiny("sd1"), f"<my-{noun}>", noun, seed=seed).save(f"my-{noun}.concept")
    Path("captions.txt").write_text("\n".join(world()[:80]))
    return str(saved(tiny("sd1"), tmp_path / "model"))


def test_what_is_merged_is_said_and_how_to_use_it(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MERGE, "--captions", "captions.txt", "--model", model]) == 0
    first, words, other, use = capsys.readouterr().out.splitlines()
    assert first == "both.concept  photo of a <my-cat> cat and a <my-vase> vase"
    assert "up to" in words and "80 captions change by" in other and other.count("%") == 3
    assert main([*shlex.split(use)[1:], "--steps", "1"]) == 0
    assert load("both.png").size == (32, 32)


def test_as_json(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    targets = ("--target", "a <my-cat>", "--target", "a <my-vase>")
    Path("captions.txt").write_text("\n".join([*world()[:80], "a (cat:2)"]))
    assert main([*MERGE, *targets, "--captions", "captions.txt", "--model", model, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["targets"] == ["a <my-cat>", "a <my-vase>"] and said["captions"] == 80
    assert (said["rank"], said["width"]) == (23, 24) and said["error"] < 1e-4 < said["changed"] < min(
        said["alone"]
    )
    assert said["notices"] == ["1 of 81 captions are left out: the model cannot read them whole"]
    merged = Concept.load(said["out"])
    assert merged.options["merged"] == said["concepts"] and merged.prompt == said["prompt"]


@pytest.mark.slow
def test_the_guides_commands(model: str) -> None:
    for command in commands(GUIDE):
        more = [] if "--captions" in command or "merge" not in command else ["--captions", "captions.txt"]
        few = ["--steps", "1"] if "generate" in command else []
        tokens = [token for token in shlex.split(command)[1:] if "/" not in token and token != "--model"]
        assert main([*tokens, *more, *few, "--model", model]) == 0, command
    assert any("merge" in command for command in commands(GUIDE))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["my-cat.concept"], "the files of two concepts to merge, or of more, got 1"),
        ([], "got 0"),
        (["my-cat.concept", "my-vase.concept"], "give a text file with one a line (--captions)"),
        (["my-cat.concept", "my-cat.concept"], "two with '<my-cat>'"),
        (["my-cat.concept", "none.concept"], "there is no file none.concept"),
        (["my-cat.concept", "my-vase.concept", "--captions", "none.txt"], "cannot read none.txt"),
        (
            ["my-cat.concept", "my-vase.concept", "--captions", "few.txt"],
            "23 directions, got 6 from 1 captions",
        ),
        (["my-cat.concept", "my-vase.concept", "--out", "my-cat.concept"], "is an input"),
        (["my-cat.concept", "my-vase.concept", "--out", "x.png"], "end in .concept"),
        (["my-cat.concept", "my-vase.concept", "--target", "a cat"], "with those of 0"),
        (["my-vase.concept", "my-vase.concept", "--concept", "my-cat.concept"], "a model without concepts"),
    ],
)
def test_what_does_not_work_is_said(
    model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("few.txt").write_text("a cat on a beach\n")
    before = Path("my-cat.concept").read_bytes()
    more = [] if "--captions" in arguments or said.startswith("give a") else ["--captions", "captions.txt"]
    out = [] if "--out" in arguments else ["--out", "x.concept"]
    assert main(["merge", *arguments, *more, *out, "--model", model]) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("x.concept").exists() and Path("my-cat.concept").read_bytes() == before
