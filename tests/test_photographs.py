"""The guide for photographs does what it says: every command of `docs/photographs.md` is run, on a tiny random model.

The page has no `--steps`; here each command takes two. What is checked does not depend on the model.
"""

import io
import re
import shutil
from collections.abc import Callable
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image, ImageDraw
from PIL.ExifTags import IFD, Base
from safetensors.torch import save_file  # pyright: ignore[reportUnknownVariableType]

import original
import profiles
from guides import ROOT, blocks, commands, run
from wordbrush.images import load, read_provenance
from wordbrush.model import Model

pytestmark = pytest.mark.slow

GUIDE = (ROOT / "docs" / "photographs.md").read_text()
COMMANDS = commands(GUIDE)
JOBS = blocks(GUIDE, "json")[0]
SAID = blocks(GUIDE, "")
SIZE, LARGE = (480, 320), (4000, 3000)
Box = tuple[int, int, int, int]
CAT, LAMP = (100, 80, 220, 200), (2000, 1000, 2300, 1300)


def scene(size: tuple[int, int]) -> Image.Image:
    """Something like a photograph: slow colours, and grain."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    slow = [120 + 80 * np.sin(x / 37), 110 + 60 * np.cos(y / 29), 90 + 50 * np.sin((x + y) / 53)]
    grain = np.random.default_rng(0).normal(0, 6, (size[1], size[0], 1))
    return Image.fromarray((np.stack(slow, -1) + grain).clip(0, 255).astype(np.uint8))


def save_photo(path: Path, upright: Image.Image, orientation: int) -> None:
    """As cameras do: stored as the sensor was held, with an orientation, a profile and the place."""
    stored = upright.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else upright
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Make] = orientation, "Camera"
    exif[IFD.GPSInfo] = {1: "N", 2: (48.0, 51.0, 30.0), 3: "E", 4: (2.0, 17.0, 40.0)}
    stored.save(path, quality=92, exif=exif, icc_profile=profiles.wide())


def save_mask(path: Path, size: tuple[int, int], box: Box) -> None:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse(box, fill=255)
    mask.save(path)


@dataclass(frozen=True)
class Done:
    """The guide, done: its folder, and what each command printed."""

    folder: Path
    said: dict[str, str]

    def said_of(self, out: str) -> str:
        (said,) = (said for command, said in self.said.items() if f"--out {out}" in command)
        return said


@pytest.fixture(scope="module")
def done(
    tiny: Callable[..., Model],
    saved: Callable[[Model, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Done:
    folder = tmp_path_factory.mktemp("photographs")
    model = tiny("sd1")
    saved(model, folder / "sd15")
    for copy in ("stable-diffusion-v1-5/stable-diffusion-v1-5", "models/v1-5-pruned-emaonly"):
        shutil.copytree(folder / "sd15", folder / copy)  # the second has the configs of the single file
    parts = original.model(model.denoiser.unet, model.autoencoder.vae, list(model.text.encoders))
    save_file(
        {name: weight.contiguous() for name, weight in parts.items()},
        folder / "models" / "v1-5-pruned-emaonly.safetensors",
    )
    save_photo(folder / "photo.jpg", scene(SIZE), 6)
    save_photo(folder / "large.jpg", scene(LARGE), 1)
    save_mask(folder / "mask.png", SIZE, CAT)
    save_mask(folder / "lamp-mask.png", LARGE, LAMP)
    (folder / "photos.jsonl").write_text(JOBS.replace('"verb"', '"steps": 2, "verb"'))
    said: dict[str, str] = {}
    with chdir(folder):
        for command in COMMANDS:
            takes_steps = not re.match(r"wordbrush (replay|batch)|.* cat\.source", command)
            with redirect_stdout(io.StringIO()) as printed, redirect_stderr(printed):
                code = run(command, *(("--steps", "2") if takes_steps else ()))
            said[command] = printed.getvalue()
            assert code == 0, f"{command}\n{said[command]}"
    return Done(folder, said)


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    """The largest difference of each pixel, in grey levels."""
    return np.abs(np.asarray(before, dtype=int) - np.asarray(after, dtype=int)).max(-1)


def inside(mask: Path, size: tuple[int, int]) -> np.ndarray:
    with Image.open(mask) as given:
        return np.asarray(given.resize(size)) > 0


def place_of(path: Path) -> object:
    with Image.open(path) as picture:
        return picture.getexif().get_ifd(IFD.GPSInfo).get(2)


def test_the_examples_are_what_the_commands_print(done: Done) -> None:
    read, window = SAID
    assert read in done.said_of("tiger.jpg")
    assert window in done.said_of("clock.jpg")


@pytest.mark.parametrize(
    "name", ["tiger.jpg", "weaker.jpg", "masked.png", "third.jpg", "rock.jpg", "public.jpg"]
)
def test_a_photograph_keeps_its_size_its_profile_and_its_orientation(name: str, done: Done) -> None:
    with Image.open(done.folder / "photo.jpg") as photo, Image.open(done.folder / name) as edited:
        assert edited.format == ("PNG" if name.endswith(".png") else "JPEG")
        assert edited.size == photo.size == SIZE[::-1]
        assert edited.info["icc_profile"] == photo.info["icc_profile"] == profiles.wide()
        assert edited.getexif()[Base.Orientation] == 6
    assert load(done.folder / name).size == SIZE
    assert changed(load(done.folder / "photo.jpg"), load(done.folder / name)).any()


def test_the_place_stays_unless_it_is_dropped(done: Done) -> None:
    place = place_of(done.folder / "photo.jpg")
    assert place is not None
    for name in ("tiger.jpg", "masked.png", "tries/a-fox-on-a-sofa.png"):
        assert place_of(done.folder / name) == place
    for name in (
        "public.jpg",
        "strip.png",
        "cat-mask.png",
        "cat-mask.sheet.png",
        "heat.png",
        "tries/sheet.png",
    ):
        assert place_of(done.folder / name) is None
    dropped = (done.folder / "public.jpg").read_bytes()
    assert b"Camera" not in dropped and b"photo.jpg" in dropped
    assert place_of(done.folder / "strip" / "strength-1.png") == place


def test_outside_of_a_mask_pixels_stay(done: Done) -> None:
    difference = changed(load(done.folder / "photo.jpg"), load(done.folder / "masked.png"))
    where = inside(done.folder / "mask.png", SIZE)
    assert not difference[~where].any() and difference[where].max() > 20


def test_of_a_large_photograph_a_window_is_edited(done: Done) -> None:
    with Image.open(done.folder / "large.jpg") as before, Image.open(done.folder / "clock.jpg") as after:
        assert before.size == after.size == LARGE
        difference = changed(before, after)
    assert difference[inside(done.folder / "lamp-mask.png", LARGE)].max() > 20
    left, top, right, bottom = LAMP
    # Compression reaches to the end of its blocks.
    difference[top - 16 : bottom + 17, left - 16 : right + 17] = 0
    assert difference.max() <= 3 and (difference > 0).mean() < 0.05


def test_strength_0_is_the_photograph(done: Done) -> None:
    photo = load(done.folder / "photo.jpg")
    assert not changed(photo, load(done.folder / "strip" / "strength-0.png")).any()


def test_masks_of_words_are_as_large_as_the_photograph(done: Done) -> None:
    mask = load(done.folder / "cat-mask.png")
    assert mask.size == SIZE
    for name in ("by-words.jpg", "at-the-cat.jpg", "not-the-sofa.jpg"):
        assert load(done.folder / name).size == SIZE


def test_many_photographs(done: Done) -> None:
    assert "2 done, 0 failed" in done.said["wordbrush batch photos.jsonl --model sd15 --out edited/ --sheet"]
    assert {path.suffix for path in (done.folder / "edited").glob("0*/*")} == {".jpg"}
    (clock,) = (done.folder / "edited").glob("0002*.jpg")
    assert place_of(clock) is None and load(clock).size == LARGE


def test_pictures_are_made_again(done: Done) -> None:
    assert "tiger.jpg  every pixel is the same" in done.said["wordbrush replay tiger.jpg"]
    assert "every pixel is the same" in done.said_of("again.png")
    difference = changed(load(done.folder / "again.png"), load(done.folder / "masked.png"))
    assert not difference[~inside(done.folder / "mask.png", SIZE)].any()
    assert np.quantile(difference, 0.99) <= 2  # a profile has other steps


def test_a_file_is_the_model_of_the_folder(done: Done) -> None:
    """Made by the hub id's folder as a JPEG, and by the single file as a PNG."""
    records = [read_provenance(done.folder / name) for name in ("tiger.jpg", "tiger.png")]
    assert records[0]["pixels"] == records[1]["pixels"]


EDIT = 'wordbrush edit photo.jpg --model sd15 --source "a cat on a sofa" --target "a tiger on a sofa" --out no.png'


@pytest.mark.parametrize(
    ("command", "symptom"),
    [
        (EDIT.replace("sd15", "models/v1-5.safetensors"), "expected a model's file"),
        (EDIT.replace("sd15", "somebody/model"), "the hub could not be reached"),
        (f"{EDIT} --mask turned.png", "a mask of the picture's aspect"),
        (f"{EDIT} --mask black.png", "got one that is black"),
        (f"{EDIT} --mask layer.png", "transparent pixels"),
        (f"{EDIT} --mask-words dog", "has no 'dog'"),
        (f"{EDIT} --noise-seed 3", "is an option of --inversion straight"),
        ('wordbrush edit cat.source --target "a dog" --out no.png', "made with another model or dtype"),
        (
            'wordbrush edit lamp.source --model sd15 --target "a clock on a wall" --mask corner.png --out no.png',
            "expected white in what the model sees",
        ),
    ],
)
def test_what_goes_wrong_is_in_the_table(
    command: str,
    symptom: str,
    done: Done,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(done.folder)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    save_mask(Path("turned.png"), (SIZE[1], SIZE[0]), CAT)
    save_mask(Path("corner.png"), LARGE, (0, 0, 300, 300))
    Image.new("L", SIZE).save("black.png")
    Image.new("RGBA", SIZE).save("layer.png")
    if "lamp.source" in command:
        lamp = 'wordbrush invert large.jpg --model sd15 --prompt "a lamp on a wall" --mask lamp-mask.png --steps 2'
        assert run(f"{lamp} --out lamp.source") == 0
    assert run(command) == 2
    assert symptom in capsys.readouterr().err and not Path("no.png").exists()
    assert f'"{symptom}"' in GUIDE.partition("| symptom |")[2]


def unreachable(*_: object, **__: object) -> str:
    raise LocalEntryNotFoundError("no network")
