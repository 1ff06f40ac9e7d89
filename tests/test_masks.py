"""Where an edit may change a picture: masks from files, masks from words, and what stays."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

import wordbrush
from wordbrush import images, masks
from wordbrush.cli import main
from wordbrush.errors import ImageError, PromptError
from wordbrush.evaluation.bench.cases import case
from wordbrush.masks import Mask, Where
from wordbrush.model import Model
from wordbrush.pocket import render, segment

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"


@pytest.fixture(scope="module")
def pocket() -> Model:
    return Model.load("pocket")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def rectangle(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    mask = Image.new("L", (width, height))
    mask.paste(255, box)
    return mask


def differing(one: Image.Image, other: Image.Image) -> np.ndarray:
    return (np.asarray(one.convert("RGB")) != np.asarray(other.convert("RGB"))).any(-1)


# Masks from pixels ------------------------------------------------------------------------------------------


def test_a_mask_may_be_any_picture() -> None:
    box = rectangle(8, 6, (2, 1, 5, 4))
    expected = np.asarray(box)
    for given in (box, box.convert("RGB"), expected > 0, expected / 255.0):
        assert (Mask.of(given).shares == expected).all()
    soft = Image.fromarray(np.tile(np.arange(0, 256, 32, dtype=np.uint8), (6, 1)))
    assert Mask.of(soft).shares[0].tolist() == [0, 32, 64, 96, 128, 160, 192, 224]


def test_what_a_jpeg_makes_of_black_and_white_is_black_and_white(tmp_path: Path) -> None:
    rectangle(64, 64, (16, 16, 48, 48)).save(tmp_path / "mask.jpg", quality=90)
    shares = Mask.of(tmp_path / "mask.jpg").shares
    assert set(np.unique(shares[:8])) == {0} and set(np.unique(shares[24:40, 24:40])) == {255}


@pytest.mark.parametrize("size", [(40, 30), (80, 60), (400, 300), (41, 30)])
def test_a_mask_has_its_pictures_aspect_at_any_size(size: tuple[int, int]) -> None:
    width, height = size
    half = rectangle(width, height, (0, 0, width // 2, height))
    shares = Mask.of(half).at(80, 60)
    assert shares.shape == (60, 80) and set(np.unique(shares)) == {0, 255}
    assert shares[:, :38].all() and not shares[:, 42:].any()


def test_bad_masks_say_what_to_do(tiny: Tiny) -> None:
    model = tiny("sd1")
    asked = {"prompt": CAT, "options": {}, "inversion_options": {"steps": 2}}
    with pytest.raises(ImageError, match="expected a mask of the picture's aspect .40 × 30., got 30 × 40"):
        wordbrush.edit(model, noise(40, 30), DOG, mask=rectangle(30, 40, (0, 0, 9, 9)), **asked)
    with pytest.raises(ImageError, match="white where the picture may change, got one that is black"):
        wordbrush.edit(model, noise(40, 30), DOG, mask=Image.new("L", (40, 30)), **asked)
    with pytest.raises(ImageError, match="there is none at nowhere.png"):
        wordbrush.edit(model, noise(40, 30), DOG, mask="nowhere.png", **asked)
    with pytest.raises(PromptError, match="has no 'dog'; there is a, cat, on, beach"):
        wordbrush.edit(model, noise(40, 30), DOG, mask_words="dog", **asked)
    with pytest.raises(PromptError, match="has no 'tree'"):
        wordbrush.edit(model, noise(40, 30), DOG, keep_words=["cat", "tree"], **asked)


@pytest.mark.parametrize("alpha", [0, 254])
def test_a_mask_with_transparent_pixels_could_mean_either(alpha: int) -> None:
    layer = Image.new("RGBA", (4, 4), "white")
    layer.putpixel((0, 0), (255, 255, 255, alpha))
    with pytest.raises(
        ImageError, match="transparent pixels, which could mean either: the picture; put black"
    ):
        Mask.of(layer)


def test_an_alpha_channel_that_is_opaque_says_nothing() -> None:
    layer = Image.new("RGBA", (4, 4), "black")
    layer.putpixel((0, 0), (255, 255, 255, 255))
    assert Mask.of(layer).shares.sum() == 255


def test_a_mask_outside_of_what_the_model_sees_is_refused(tiny: Tiny) -> None:
    """A source that was made for one mask, edited with another."""
    model = tiny("sd1")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    left, right = np.zeros((200, 200), bool), np.zeros((200, 200), bool)
    left[:20, :20], right[-20:, -20:] = True, True
    source = wordbrush.invert(model, picture, "a cat", options={"steps": 1}, mask=left)
    said = r"expected white in what the model sees of the picture, 40 × 40 pixels at \(0, 0\), got a mask that is black"
    with pytest.raises(ImageError, match=said):
        wordbrush.edit(model, source, "a dog", mask=right)
    assert wordbrush.edit(model, source, "a dog", mask=left).image.size == (200, 200)


# Edits inside of a mask -------------------------------------------------------------------------------------


@pytest.mark.parametrize("inversion", ["straight", "direct", "null_text", "edict", "edit_friendly"])
@pytest.mark.parametrize("method", ["prompt_to_prompt", "mask_based"])
def test_outside_of_a_mask_every_pixel_is_the_files(inversion: str, method: str, tiny: Tiny) -> None:
    picture, mask = noise(60, 48), rectangle(60, 48, (10, 10, 40, 30))
    options = {"steps": 3} | ({"inner_steps": 1} if inversion == "null_text" else {})
    given = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0, "local_blend": "off"}
    (result,) = wordbrush.edit(
        tiny("sd1"),
        picture,
        [DOG],
        prompt=CAT,
        inversion=inversion,
        inversion_options=options,
        method=method,
        options=given if method == "prompt_to_prompt" else {"mask_threshold": 0.0},
        mask=mask,
    )
    assert result.image.size == (60, 48) and result.rendering.size != (60, 48)
    changed, outside = differing(result.image, picture), np.asarray(mask) == 0
    assert changed[~outside].any() and not changed[outside].any()
    # The loop put the source back there, too: what is drawn inside fits to it.
    source, end = result.source, result.trajectory[-1:]
    free = torch.nn.functional.adaptive_max_pool2d(
        masks.seen(np.asarray(mask), source, result.model), end.shape[-2:]
    )
    kept = (free <= 0.02).expand_as(end)
    assert kept.any() and torch.equal(end[kept], source.z_0[kept])


def test_a_source_that_was_generated_keeps_its_rendering_outside(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = wordbrush.from_seed(model, CAT, steps=2)
    mask = rectangle(32, 32, (8, 8, 24, 24))
    result = wordbrush.edit(model, source, DOG, options={"local_blend": "off"}, mask=mask)
    assert not differing(result.image, source.image(model))[np.asarray(mask) == 0].any()
    assert (
        wordbrush.edit(model, source, DOG).image.tobytes()
        == wordbrush.edit(model, source, DOG).rendering.tobytes()
    )


def test_words_and_masks_together_allow_what_all_of_them_allow(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = wordbrush.invert(model, noise(32, 32), "a cat next to a dog", options={"steps": 2})
    cat = Where(words=("cat",)).shares(model, source)
    rest = Where(keep=("cat",)).shares(model, source)
    assert cat is not None and rest is not None and cat.any() and rest.any()
    mask = Mask.of(rectangle(32, 32, (0, 0, 16, 32)))
    both = Where(mask, ("cat",)).shares(model, source)
    assert both is not None and (both == np.minimum(cat, mask.shares)).all()
    nothing = Mask.of(Image.fromarray(np.where(cat == 0, np.uint8(255), np.uint8(0))))
    with pytest.raises(ImageError, match="nothing is left that may change"):
        Where(nothing, ("cat",)).shares(model, source)
    assert Where().shares(model, source) is None


@pytest.mark.slow
def test_a_mask_from_words_is_where_they_are(pocket: Model) -> None:
    """Against the rendered truth: intersection over union, and nothing of the thing left out."""
    for kind in ("change object", "delete object"):
        one = case(1_000_000 + (kind == "delete object"), kind)
        source = wordbrush.invert(pocket, one.picture, one.source_prompt)
        for i, thing in enumerate(one.source.things):
            found = masks.word_shares(pocket, source, thing.name, 0) > 127
            truth = segment(one.source) == 1 + i
            assert (found & truth).sum() / (found | truth).sum() > 0.7
            grown = masks.word_shares(pocket, source, thing.name, 4) > 127
            assert (grown & truth).sum() > 0.95 * truth.sum() and grown.sum() > found.sum()


@pytest.mark.slow
def test_words_to_keep_keep_their_thing(pocket: Model) -> None:
    one = case(1_000_001, "change light")
    thing = one.source.things[0].name
    source, kept = wordbrush.invert(pocket, one.picture, one.source_prompt), segment(one.source) == 1
    free, held = (
        wordbrush.edit(pocket, source, one.target_prompt, keep_words=words) for words in (None, thing)
    )
    before, after = (differing(result.image, one.picture) for result in (free, held))
    # A thin part, such as a balloon's string, is less than a map can hold.
    assert before[kept].mean() > 0.8 and after[kept].mean() < 0.2 and after[~kept].mean() > 0.5


def test_a_small_mask_in_a_large_picture_is_edited_in_a_window(pocket: Model) -> None:
    one = case(1_000_000, "change colour")
    picture = render(one.source, 640)
    rows, columns = (np.flatnonzero((segment(one.source, 640) == 1).any(axis)) for axis in (1, 0))
    top, left = int(rows[0]), int(columns[0])
    mask = rectangle(640, 640, (left, top, left + 60, top + 60))
    result = wordbrush.edit(pocket, picture, one.target_prompt, prompt=one.source_prompt, mask=mask)
    own = result.source.picture
    assert own is not None and result.image.size == (640, 640) and result.rendering.size == (128, 128)
    x, y, right, bottom = own.box
    assert (right - x, bottom - y) == (128, 128) and x <= left <= right and y <= top <= bottom
    changed = differing(result.image, picture)
    assert changed.any() and not changed[np.asarray(mask) == 0].any()
    assert "the model sees 128 × 128 pixels" in own.notices[0]


# Records and commands ---------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    render(case(1_000_000, "change colour").source).save("photo.png")
    rectangle(64, 64, (16, 16, 48, 48)).save("mask.png")
    return tmp_path


@pytest.mark.slow
def test_an_edit_with_masks_is_replayed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = case(1_000_000, "change colour")
    thing = one.source.things[0].name
    asked = [
        "edit",
        "photo.png",
        "--source",
        one.source_prompt,
        "--target",
        one.target_prompt,
        "--steps",
        "2",
    ]
    assert main() in (0, 2)
    assert main([*asked, "--mask", "mask.png", "--mask-words", thing, "--out", "masked.png"]) == 0
    record = images.read_provenance("masked.png")
    assert record["mask"]["path"] == "mask.png" and record["mask_words"] == [thing] and record["is_pasted"]
    capsys.readouterr()
    assert main(["replay", "masked.png"]) == 0
    assert "every pixel is the same" in capsys.readouterr().out
    Image.open("mask.png").transpose(Image.Transpose.ROTATE_90).crop((0, 0, 60, 64)).resize((64, 64)).save(
        "mask.png"
    )
    assert main(["replay", "masked.png"]) == 2
    assert "mask.png has changed since" in capsys.readouterr().err


def test_the_command_writes_a_mask_to_correct(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = case(1_000_000, "change colour")
    thing = one.source.things[0].name
    asked = ["mask", "photo.png", "--prompt", one.source_prompt, "--steps", "4"]
    assert main([*asked, "--mask-words", thing, "--out", "found.png", "--sheet", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["words"] == [thing] and 0.02 < told["free"] < 0.9 and Path("found.sheet.png").is_file()
    shares = np.asarray(Image.open("found.png"))
    truth = segment(one.source) == 1
    assert shares.shape == (128, 128) and ((shares > 127) & truth).sum() > 0.8 * truth.sum()
    assert main([*asked, "--out", "none.png"]) == 2
    assert "expected words to make a mask from" in capsys.readouterr().err
    assert main([*asked, "--mask-words", "unicorn", "--out", "none.png"]) == 2
    assert "has no 'unicorn'" in capsys.readouterr().err and not Path("none.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("way", ["mask", "words"])
def test_a_chain_of_edits_leaves_what_a_mask_keeps(way: str, pocket: Model) -> None:
    """Ten edits, there and back again: what no edit named is in the tenth picture the first's, bit for bit."""
    one = case(1_000_000, "change object")
    prompts, picture = (one.source_prompt, one.target_prompt), one.picture
    words = [scene.things[0].name for scene in (one.source, one.target)]
    for k in range(10):
        where = {"mask": one.mask} if way == "mask" else {"mask_words": words[k % 2]}
        result = wordbrush.edit(pocket, picture, prompts[(k + 1) % 2], prompt=prompts[k % 2], **where)
        picture = result.image
    # Words find their thing to a latent pixel or so, and the new one has another outline.
    grown = Image.fromarray(one.mask).convert("L").filter(ImageFilter.MaxFilter(33))
    unnamed = ~one.mask if way == "mask" else np.asarray(grown) == 0
    assert unnamed.mean() > 0.2 and not differing(picture, one.picture)[unnamed].any()
    assert differing(picture, one.picture)[one.mask].any()


def test_what_is_no_word_is_refused() -> None:
    with pytest.raises(PromptError, match="expected a word of the source's prompt, or a list of them"):
        masks.read(None, 3, None)
