"""`wordbrush sweep`: a strip over the values of one option."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from wordbrush.cli import main
from wordbrush.images import load, read_provenance
from wordbrush.model import Model

CAT, DOG = "a cat on a beach", "a dog on a beach"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Callable[..., Model],
    saved: Callable[[Model, Path], Path],
) -> Run:
    folder = saved(tiny("sd1"), tmp_path_factory.mktemp("models") / "tiny")
    monkeypatch.chdir(tmp_path)
    noise = random.Random(0).randbytes(8 * 8 * 3)
    Image.frombytes("RGB", (8, 8), noise).resize((32, 32)).save("photo.png")

    def run(*tokens: str) -> tuple[int, str, str]:
        code = main([*tokens, "--model", str(folder)])
        out, err = capsys.readouterr()
        return code, out, err

    return run


SWEEP = ("sweep", "photo.png", "--source", CAT, "--target", DOG, "--steps", "2", "--out", "strip.png")


def test_a_strip_and_every_picture_of_it(run: Run) -> None:
    code, out, err = run(*SWEEP, "--option", "cross-replace-steps", "--values", "0, 0.5,1", "--keep", "kept/")
    assert code == 0, err
    assert out.startswith("strip.png  a [cat → dog] on a beach: cross-replace-steps = 0, ")
    assert load("strip.png").width > 4 * 256 > load("strip.png").height
    names = {path.name for path in Path("kept").iterdir()}
    assert names == {f"cross-replace-steps-{value}.png" for value in ("0", "0.5", "1")}
    made = read_provenance("kept/cross-replace-steps-0.5.png")
    assert made["options"] == {"cross_replace_steps": 0.5}
    assert main(["replay", "kept/cross-replace-steps-0.5.png"]) == 0


def test_strength_and_saved_sources(run: Run) -> None:
    assert run("invert", "photo.png", "--prompt", CAT, "--steps", "2", "--out", "cat.source")[0] == 0
    saved = ("sweep", "cat.source", "--target", DOG, "--out", "strip.png")
    code, out, err = run(*saved, "--option", "strength", "--json")
    assert code == 0, err
    edits = json.loads(out)["edits"]
    assert [edit["value"] for edit in edits] == [0, 0.25, 0.5, 0.75, 1] and not edits[0]["report"][
        "unet_rows"
    ]
    code, _, err = run(*saved, "--option", "steps")
    assert code == 2 and "expected a numeric option to sweep" in err


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--option", "reweight"), "one of blend-difference, "),
        (("--option", "noise-seed"), "got 'noise-seed'"),  # direct draws none
        (("--option", "strength", "--values", "0,much"), "got 'much'"),
        (("--option", "strength", "--values", ""), "'strength'"),
        (("--option", "strength", "--values", "0,2"), "less than or equal to 1, got '2'"),
        (("--option", "start", "--start", "0.5"), "start is swept"),
        (("--option", "start", "--values", "0.5", "--keep", " "), "expected --keep FOLDER/"),
        (("--option", "strength", "--start", "0.5"), "strength or start"),
    ],
)
def test_what_is_wrong_is_one_line_and_writes_nothing(run: Run, more: tuple[str, ...], said: str) -> None:
    code, out, err = run(*SWEEP, *more)
    assert (code, out) == (2, "") and said in err and len(err.strip().splitlines()) == 1
    assert {path.name for path in Path().iterdir()} == {"photo.png"}


def test_a_sweep_stays_inside_of_a_mask_and_drops_metadata(run: Run) -> None:
    exif = Image.Exif()
    exif[271] = "Camera"
    with Image.open("photo.png") as photo:
        photo.resize((64, 48)).save("photo.jpg", exif=exif, quality=95)
    mask = Image.new("L", (64, 48))
    mask.paste(255, (0, 0, 32, 48))
    mask.save("mask.png")
    sweep = ("sweep", "photo.jpg", *SWEEP[2:], "--option", "strength", "--values", "1", "--mask", "mask.png")
    code, _, err = run(*sweep, "--keep", "kept/", "--drop-metadata")
    assert code == 0, err
    before, after = (load(path).convert("RGB") for path in ("photo.jpg", "kept/strength-1.png"))
    right = (32, 0, 64, 48)
    assert before.crop(right).tobytes() == after.crop(right).tobytes() and before.tobytes() != after.tobytes()
    assert b"Camera" not in Path("kept/strength-1.png").read_bytes()
    assert main(["replay", "kept/strength-1.png"]) == 0
    code, _, err = run(*sweep[:-2], "--keep-words", "boat")
    assert code == 2 and "has no 'boat'" in err
