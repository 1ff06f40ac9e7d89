"""A new method is one file and one line: library, command line and listings know it from there."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import wordbrush
from wordbrush import editing, inversion, training
from wordbrush.cli import main
from wordbrush.errors import InputError, OptionsError
from wordbrush.images import load, read_provenance, to_image
from wordbrush.methods import FAMILIES, Method, key, typed
from wordbrush.model import Model
from wordbrush.picture import Picture
from wordbrush.request import EditRequest

Tiny = Callable[..., Model]
Saved = Callable[[Model, Path], Path]

EDITOR = '''
"""Throw-away: the source's trajectory, with every latent scaled."""

from pydantic import Field

from wordbrush.editing import Dial
from wordbrush.options import Options as BaseOptions
from wordbrush.progress import Progress
from wordbrush.result import Report, Result

NEEDS = frozenset({"source"})
STRENGTH = Dial(option="left", source=1.0, full=0.5)


class Options(BaseOptions):
    left: float = Field(0.5, ge=0, le=1, description="how much is left of the picture")


def plan(model, request):
    for target in request.targets:
        model.read(target)


def edit(model, request):
    source = request.started(model)
    yield Progress("scaling", 1, 1)
    report = Report(words=request.targets[0], edited_share=1.0, guidance_scale=1.0, unet_rows=0, seconds=0.0)
    path = source.trajectory * request.options.left
    return [Result(target, report, source, path, model) for target in request.targets]
'''

INVERSION = '''
"""Throw-away: one picture and one noise."""

import torch
from pydantic import Field

from wordbrush.options import InversionOptions
from wordbrush.progress import Progress
from wordbrush.source import Source
from wordbrush.states import StraightPath


class Options(InversionOptions):
    noise_seed: int = Field(0, ge=0, description="the noise")


def invert(model, image, prompt, options):
    schedule, z_0 = model.schedule(options.steps), model.encode_image(image)
    noise = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(options.noise_seed)).to(z_0)
    yield Progress("drawing noise", 1, 1)
    return Source(
        prompt=prompt,
        states=StraightPath(z_0, noise, schedule.levels),
        null=model.encode_text([""]),
        schedule=schedule,
        guidance_scale=2.0,
        method="straightaway",
        model_hash=model.hash,
        options=options.given(),
    )
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two files, and the two lines."""
    (tmp_path / "throwaway_editor.py").write_text(EDITOR)
    (tmp_path / "throwaway_inversion.py").write_text(INVERSION)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(editing.METHODS, "fade", Method("throwaway_editor", "scales latents"))
    monkeypatch.setitem(inversion.METHODS, "straightaway", Method("throwaway_inversion", "one noise"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    to_image(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1).save(path)
    return path


@pytest.mark.usefixtures("added")
def test_the_library_runs_it(tiny: Tiny, photo: Path, tmp_path: Path) -> None:
    model = tiny("sd1")
    source = wordbrush.invert(
        model, photo, "a cat", method="straightaway", options={"steps": 3, "noise_seed": 4}
    )
    assert source.method == "straightaway" and source.options == {"steps": 3, "noise_seed": 4}
    result = wordbrush.edit(model, source, "a dog", method="fade", options={"left": 0.25})
    assert torch.equal(result.trajectory, source.trajectory * 0.25)
    # A source of this kind is edited by the methods that ship, and saved.
    source.save(tmp_path / "a.source")
    loaded = wordbrush.Source.load(tmp_path / "a.source", model)
    edits = [
        wordbrush.edit(model, each, "a dog", options={"local_blend": "off"}) for each in (source, loaded)
    ]
    assert torch.equal(edits[0].trajectory, edits[1].trajectory)
    with pytest.raises(OptionsError, match="'left'.*less than or equal to 1, got 2"):
        wordbrush.edit(model, source, "a dog", method="fade", options={"left": 2})
    assert wordbrush.editing_methods()["fade"] == "scales latents"
    # The dial that it declares is turned by the one slider of all methods.
    weak, whole, untold = (
        wordbrush.edit(model, source, "a dog", method="fade", strength=strength)
        for strength in (0.25, 1.0, None)
    )
    assert torch.equal(weak.trajectory, source.trajectory * 0.875) and weak.options == {"left": 0.875}
    assert torch.equal(whole.trajectory, untold.trajectory)
    with pytest.raises(OptionsError, match="strength or left, which says the same"):
        wordbrush.edit(model, source, "a dog", method="fade", options={"left": 1.0}, strength=1.0)


@pytest.mark.slow
@pytest.mark.usefixtures("added")
def test_the_command_line_has_its_flags_its_help_and_its_listing(
    tiny: Tiny, saved: Saved, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(saved(tiny("sd1"), tmp_path / "model"))
    asked = ["edit", str(photo), "--source", "a cat", "--target", "a dog", "--model", folder, "--json"]
    asked += ["--method", "fade", "--left", "0.25", "--inversion", "straightaway", "--noise-seed", "4"]
    assert main([*asked, "--steps", "2", "--out", str(tmp_path / "dog.png")]) == 0
    (output,) = json.loads(capsys.readouterr().out)["outputs"]
    assert output["report"]["words"] == "a dog" and load(tmp_path / "dog.png").size == (32, 32)
    assert main(["replay", str(tmp_path / "dog.png")]) == 0
    asked = [*asked[: asked.index("--left")], "--strength", "0", *asked[asked.index("--left") + 2 :]]
    assert main([*asked, "--steps", "2", "--out", str(tmp_path / "none.png")]) == 0
    assert read_provenance(tmp_path / "none.png")["options"] == {"left": 1.0}
    assert main(["replay", str(tmp_path / "none.png")]) == 0
    capsys.readouterr()
    assert main(["methods", "fade"]) == 0
    assert "--left X" in capsys.readouterr().out
    assert main(["edit", "--help", "--method", "fade"]) == 0
    assert "how much is left of the picture" in " ".join(capsys.readouterr().out.split())
    assert main(["edit", str(photo), "--target", "a dog", "--method", "fad", "--out", "x.png"]) == 2
    assert "did you mean 'fade'" in capsys.readouterr().err


def test_what_a_method_needs_and_what_it_does_not_read_is_checked(tiny: Tiny, photo: Path) -> None:
    picture = Picture.of(photo)
    request = EditRequest(("a dog",), None, prompt="a cat", picture=picture)
    request.check({"source", "picture"}, "sdedit")
    for needs, said in (
        ({"source", "picture", "mask"}, "sdedit needs a value for mask, got none"),
        ({"source"}, "sdedit does not read picture: leave it out"),
    ):
        with pytest.raises(InputError, match=said):
            request.check(needs, "sdedit")
    with pytest.raises(InputError, match="needs a value for source"):
        EditRequest(("a dog",), None).check({"source"}, "sdedit")
    with pytest.raises(InputError, match="expected a source to edit, got none"):
        request.started(tiny("sd1"))


def test_every_method_has_what_its_table_promises() -> None:
    for method in editing.METHODS.values():
        assert isinstance(method.load(), editing.EditingMethod)
    for method in inversion.METHODS.values():
        assert isinstance(method.load(), inversion.Inversion)


def test_options_are_an_ordinary_import_that_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from wordbrush import editing, inversion\n"
        "found = [m.options() for table in (editing.METHODS, inversion.METHODS) for m in table.values()]\n"
        "assert len(found) >= 5 and all(option.model_fields for option in found)\n"
        "assert 'torch' not in sys.modules, 'options pulled torch in'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["prompt_to_prompt", "direct", "a_b_c"])
def test_names_are_typed_with_dashes_and_known_with_underscores(name: str) -> None:
    assert "_" not in typed(name) and key(typed(name)) == key(name) == name


def test_the_listing_claims_no_more_than_was_seen(capsys: pytest.CaptureFixture[str]) -> None:
    """What is "measured" has a row on the page of its kind; every shape that is "run" is in the table-driven tests."""
    pages = Path(__file__).parent.parent / "docs" / "benchmarks"
    rows = {
        "editing": (pages / "editing.md").read_text(),
        "inversion": (pages / "editing.md").read_text() + (pages / "inversions.md").read_text(),
        "training": (pages / "subjects.md").read_text(),
    }
    for kind, table in {
        "editing": editing.METHODS,
        "inversion": inversion.METHODS,
        "training": {**training.METHODS, **training.AT_ONCE},
    }.items():
        for name, method in table.items():
            assert set(method.seen) == set(FAMILIES)
            lines = [line.split("|")[1:3] for line in rows[kind].splitlines() if line.startswith("|")]
            cells = {
                re.sub("[- ]", "_", cell.split(",")[0].strip().lower()) for line in lines for cell in line
            }
            has_row = name in cells
            assert (method.seen["pocket"] == "measured") == has_row, name
            assert "measured" not in [method.seen[shape] for shape in ("sd1", "sd2", "sdxl")], (
                "no weights are at hand"
            )
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^editing: +built-in +SD 1 +SD 2 \(v\) +SDXL$", out, re.MULTILINE)
    assert re.search(r"^  prompt-to-prompt +measured +run +run +run +cross", out, re.MULTILINE)
