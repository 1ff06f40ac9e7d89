"""Folders of pictures to learn from: what is read, what is refused, and what is said before the work."""

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from wordbrush.errors import ImageError, PromptError
from wordbrush.pocket import Scene, Thing, render
from wordbrush.pocket.vocabulary import LIGHTS, PLACES
from wordbrush.training import pictures
from wordbrush.training.pictures import doubts, read

CAT = Scene((Thing("cat", "orange", x=0.4),), "beach")
SCENES = (CAT, replace(CAT, place="forest"), replace(CAT, place="street"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good pictures of one thing."""
    path = tmp_path / "my-cat"
    path.mkdir()
    for number, scene in enumerate(SCENES):
        render(scene).save(path / f"{number}.png")
    return path


def test_good_pictures_come_in_order_and_nothing_is_said(folder: Path) -> None:
    found = read(folder)
    assert len(found) == 3 and found.names == ["0.png", "1.png", "2.png"]
    assert found.notices == () and found.captions == ("", "", "")
    for image, record, scene in zip(found.images, found.records, SCENES, strict=True):
        assert image.tobytes() == render(scene).tobytes()
        assert record.sha256 == hashlib.sha256((folder / record.name).read_bytes()).hexdigest()
    assert doubts(found, (128, 128), "random") == []


def test_paths_and_pictures_in_memory(folder: Path) -> None:
    found = read([folder / "1.png", str(folder / "0.png"), render(CAT).convert("RGBA")])
    assert found.names == ["1.png", "0.png", "picture 3"]
    assert found.records[2].sha256 == hashlib.sha256(render(CAT).tobytes()).hexdigest()
    assert "0.png and picture 3 look the same" in found.notices[-1]
    assert read(folder / "0.png").names == ["0.png"]


# What will not do --------------------------------------------------------------------------------------------


def nothing(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def nested(folder: Path) -> None:
    (folder / "more").mkdir()
    for path in [*folder.glob("*.png")]:
        path.rename(folder / "more" / path.name)


def only_hidden(folder: Path) -> None:
    nothing(folder)
    (folder / ".cat.png").write_bytes(b"")


REFUSED: dict[str, tuple[Callable[[Path], object], str]] = {
    "nothing": (nothing, "expected pictures in .*, got none"),
    "all in another folder": (nested, "there are some in more"),
    "hidden files alone": (only_hidden, "got none"),
    "no picture": (lambda f: (f / "a.png").write_text("a cat"), "a.png is not a picture"),
    "cut short": (lambda f: (f / "a.png").write_bytes((f / "0.png").read_bytes()[:900]), "damaged or cut"),
    "empty": (lambda f: (f / "a.jpg").write_bytes(b""), "a.jpg is not a picture"),
    "a link to nothing": (lambda f: (f / "a.png").symlink_to("none.png"), "there is none at .*a.png"),
    "a pipe": (lambda f: os.mkfifo(f / "a.png"), "there is none at .*a.png"),
    "a format that is not read": (lambda f: (f / "a.heic").write_bytes(b"\0\0\0\x18ftypheic"), "a.heic"),
    "1 × 1 pixel": (lambda f: Image.new("RGB", (1, 1)).save(f / "a.png"), "at least 8 px .*, got 1 × 1"),
    "a line": (lambda f: Image.new("RGB", (500, 3)).save(f / "a.png"), "got 500 × 3"),
    "too large": (lambda f: Image.new("1", (8000, 5001)).save(f / "a.png"), "at most 40 megapixels"),
    "32 bits": (lambda f: Image.new("F", (64, 64)).save(f / "a.tif"), "8- or 16-bit"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_will_not_do(folder: Path, name: str) -> None:
    spoil, said = REFUSED[name]
    spoil(folder)
    with pytest.raises(ImageError, match=said):
        read(folder)


def test_no_folder_and_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="expected a folder of pictures, but there is none"):
        read(tmp_path / "none")
    with pytest.raises(ImageError, match="got none"):
        read([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_without_permission(folder: Path) -> None:
    folder.chmod(0)
    try:
        with pytest.raises(ImageError, match="Permission denied"):
            read(folder)
    finally:
        folder.chmod(0o700)


def test_all_faults_are_told_at_once(folder: Path) -> None:
    for k in range(5):
        (folder / f"bad-{k}.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"bad-0.*bad-1.*bad-2.*and 2 more") as error:
        read(folder)
    assert "\n" not in str(error.value)


# What is said ------------------------------------------------------------------------------------------------


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def sideways(folder: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        render(replace(CAT, place="meadow")).rotate(90).save(folder / name, exif=exif(6), quality=95)


def transparent(folder: Path) -> None:
    image = render(replace(CAT, place="meadow"))
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(folder / "a.png")


def sixteen(folder: Path) -> None:
    values = np.linspace(0, 65535, 128 * 128).reshape(128, 128).astype(np.uint16)
    Image.fromarray(values).save(folder / "a.png")


def several_frames(folder: Path) -> None:
    first, second = (render(replace(CAT, place="meadow", place_seed=k)) for k in (1, 2))
    first.save(folder / "a.tif", save_all=True, append_images=[second])


def others(folder: Path) -> None:
    for name in ("notes.md", "none.txt", ".hidden", ".DS_Store"):
        (folder / name).write_text("text")
    (folder / ".hidden.png").write_bytes(b"no picture")
    (folder / "more").mkdir()
    render(replace(CAT, place="meadow")).save(folder / "more" / "a.png")
    (folder / "empty").mkdir()


SAID: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "sideways": (sideways, ("a.jpg, b.jpg: it was rotated upright", "a.jpg and b.jpg are the same file")),
    "transparent": (transparent, ("a.png: transparency was filled with the colour (255, 255, 255)",)),
    "16 bits": (sixteen, ("a.png: 16-bit pixels were scaled",)),
    "several frames": (several_frames, ("a.tif: the first of 2 frames was used",)),
    "others": (others, ("pictures in more are not used", "none.txt, notes.md: neither a picture nor")),
    "CMYK": (lambda f: render(replace(CAT, place="meadow")).convert("CMYK").save(f / "a.jpg"), ()),
    "a link": (lambda f: (f / "a.png").symlink_to("0.png"), ("0.png and a.png are the same file",)),
    "a name in two lines": (
        lambda f: render(replace(CAT, place="meadow")).save(f / "a\nb.png"),
        (),
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_what_is_said_of_a_folder(folder: Path, name: str) -> None:
    spoil, said = SAID[name]
    spoil(folder)
    found = read(folder)
    assert len(found) >= 3 and all(image.mode == "RGB" for image in found.images)
    assert len(found.notices) == len(said), found.notices
    assert all(notice.startswith(each) for notice, each in zip(found.notices, said, strict=True))
    assert "hidden" not in " ".join(found.notices)


def test_a_sideways_picture_is_learned_upright(folder: Path) -> None:
    upright = render(CAT).crop((0, 0, 128, 96))
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "0.png", exif=exif(6))
    image = read(folder).images[0]
    assert image.size == (128, 96) and image.tobytes() == upright.tobytes()


def test_a_name_that_is_no_text(folder: Path) -> None:
    (folder / "0.png").rename(os.fsdecode(os.fsencode(folder) + b"/\xff.png"))
    name = read(folder).names[-1]
    assert name == "\ufffd.png" and name.encode()


def test_one_picture_loses_more(folder: Path) -> None:
    (notice,) = read(folder / "0.png").notices
    assert "nothing tells the thing from its background" in notice


def test_small_pictures_and_long_ones() -> None:
    images = tuple(Image.new("RGB", size) for size in ((60, 200), (400, 100), (100, 199), (500, 300)))
    small = read([render(CAT)])
    found = replace(
        small,
        images=images,
        records=tuple(small.records[0].model_copy(update={"name": f"{k}.png"}) for k in range(4)),
    )
    random, center, stretch = (doubts(found, (128, 128), crop) for crop in ("random", "center", "stretch"))
    assert (
        random[0]
        == center[0]
        == "0.png: smaller than half of the 128 px that the model sees, and will be blurred"
    )
    assert random[1:] == [
        "0.png: 3.3 times as high as needed: each crop shows 30% of it, at another place",
        "1.png: 4.0 times as wide as needed: each crop shows 25% of it, at another place",
    ]
    assert center[2].endswith("the middle 25% of it are seen") and stretch[2].endswith("what the model sees")
    assert (
        len(doubts(found, (100, 300), "random")) == 2
    )  # of a model that sees wide pictures, only high ones are long


def test_a_huge_picture_does_not_fill_the_memory(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((4000, 3000)).save(tmp_path / "a.jpg")
    (image,) = read(tmp_path).images
    assert image.size == (2731, 2048)


# Captions ----------------------------------------------------------------------------------------------------


def test_captions_stand_beside_their_pictures(folder: Path) -> None:
    (folder / "0.txt").write_bytes("\ufeffa sks cat\r\n  on a beach\n".encode())
    (folder / "2.txt").write_text(" \n")
    found = read(folder)
    assert found.captions == ("a sks cat on a beach", "", "")
    assert found.notices == ("2.txt is empty: its picture has no caption of its own",)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("k\xe4tzchen".encode("latin-1"), "expected UTF-8"),
        (b"a cat\0", "a byte 0"),
        (b"a cat " * 20_000, "0.txt: expected at most"),
    ],
)
def test_a_caption_that_is_none(folder: Path, content: bytes, said: str) -> None:
    (folder / "0.txt").write_bytes(content)
    with pytest.raises(PromptError, match=said):
        read(folder)


def test_a_caption_that_leads_nowhere_is_told(folder: Path) -> None:
    (folder / "0.txt").symlink_to("none")
    with pytest.raises(PromptError, match=r"cannot read .*0\.txt"):
        read(folder)


# Pictures that come twice ------------------------------------------------------------------------------------


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    content = io.BytesIO()
    image.save(content, "JPEG", quality=quality)
    return Image.open(content).convert("RGB")


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": lambda image: jpeg(image, 20),
    "half": lambda image: image.resize((64, 64)),
    "double": lambda image: image.resize((256, 256)),
    "half, compressed": lambda image: jpeg(image.resize((64, 64)), 60),
    "another aspect": lambda image: image.resize((128, 96)),
    "a little lighter": lambda image: Image.eval(image, lambda value: min(255, value + 8)),
    "mirrored": ImageOps.mirror,
    "mirrored, compressed": lambda image: jpeg(ImageOps.mirror(image), 40),
}


@pytest.mark.parametrize("name", COPIES)
@pytest.mark.parametrize("scene", range(3))
def test_copies_are_found(name: str, scene: int) -> None:
    image = render(SCENES[scene])
    said = read([image, COPIES[name](image)]).notices
    assert len(said) == 1 and "look the same" in said[0]
    assert ("(mirrored)" in said[0]) == name.startswith("mirrored")


def test_the_same_pixels_are_the_same_file(folder: Path) -> None:
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    assert read(folder).notices == (
        "1.png and copy.png are the same file: it counts twice, and adds nothing",
    )


def test_one_thing_before_other_backgrounds_is_no_copy() -> None:
    seeds = {
        place: range(1 if place.endswith("background") else 3) for place in PLACES
    }  # of plain ones all are alike
    places = [render(replace(CAT, place=place, place_seed=k)) for place in PLACES for k in seeds[place]]
    assert len(places) > 30 and read(places).notices == ()


def test_other_light_another_thing_another_place_of_it_are_no_copies() -> None:
    others = [
        *(replace(CAT, light=light) for light in LIGHTS),
        *(replace(CAT, things=(replace(CAT.things[0], **change),)) for change in CHANGES),
    ]
    images = [render(scene) for scene in others]
    assert all(first.tobytes() != second.tobytes() for first, second in combinations(images, 2))
    assert not any("look the same" in notice for notice in read(images).notices)


CHANGES: tuple[dict[str, object], ...] = (
    {"name": "dog"},
    {"name": "fox"},
    {"colour": "blue"},
    {"colour": None},
    {"x": 0.6},
    {"x": 0.5},
    {"y": 0.7},
    {"size": "small"},
)


def test_flat_pictures_are_not_all_one() -> None:
    greys = [Image.new("RGB", (64, 64), (level,) * 3) for level in (100, 110)]
    assert read(greys).notices == ()


def test_names_are_listed_up_to_four() -> None:
    assert pictures.listed(["a"]) == "a"
    assert pictures.listed(list("abcdef")) == "a, b, c, d and 2 more"


# Several folders ---------------------------------------------------------------------------------------------


def two(root: Path, *names: str) -> list[Path]:
    """Folders of these names, with two pictures and with one."""
    folders = [root / name for name in names]
    for folder, scenes in zip(folders, (SCENES[:2], SCENES[2:]), strict=True):
        folder.mkdir(parents=True)
        for number, scene in enumerate(scenes):
            render(scene).save(folder / f"{number}.png")
    return folders


def test_several_folders_are_several_things(tmp_path: Path) -> None:
    cat, vase = two(tmp_path, "my-cat", "my-vase")
    (vase / "0.txt").write_text("a vase")
    found = read([cat, str(vase)])
    assert found.names == ["my-cat/0.png", "my-cat/1.png", "my-vase/0.png"]
    assert found.things == (0, 0, 1) and found.count_of_things == 2
    assert [found.thing(k) for k in range(3)] == [0, 0, 1]
    assert found.captions == ("", "", "a vase")
    assert [image.tobytes() for image in found.images] == [render(scene).tobytes() for scene in SCENES]
    assert [record.sha256 for record in found.records][2] == hashlib.sha256(
        (vase / "0.png").read_bytes()
    ).hexdigest()
    (notice,) = found.notices
    assert notice.startswith("my-vase: one picture")


def test_one_folder_is_one_thing_however_it_is_given(folder: Path) -> None:
    for given in (folder, [folder]):
        found = read(given)
        assert found.names == ["0.png", "1.png", "2.png"] and found.things == ()
        assert found.count_of_things == 1 and found.thing(2) == 0


def test_folders_of_one_name_are_told_apart(tmp_path: Path) -> None:
    found = read(two(tmp_path, "a/cat", "b/cat"))
    assert found.names == ["1: cat/0.png", "1: cat/1.png", "2: cat/0.png"] and found.count_of_things == 2
    assert found.notices[0].startswith("2: cat: one picture")


def test_folders_and_files_together_are_refused(tmp_path: Path) -> None:
    cat, vase = two(tmp_path, "my-cat", "my-vase")
    for given in ([cat, vase / "0.png"], [cat, render(CAT)]):
        with pytest.raises(
            ImageError, match="expected folders, one for each thing, or pictures of one thing, got both"
        ):
            read(given)


def test_a_fault_in_one_of_several_folders_is_told(tmp_path: Path) -> None:
    cat, vase = two(tmp_path, "my-cat", "my-vase")
    (vase / "0.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="my-vase/0.png is not a picture"):
        read([cat, vase])
