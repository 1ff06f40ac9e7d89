import io
import json
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageCms, ImageOps
from PIL.PngImagePlugin import PngInfo

from profiles import grey
from wordbrush import images
from wordbrush.errors import ImageError, NumericsError, OutputError
from wordbrush.images import Recorded, fit, load, read_provenance, rgb, save_png, to_image, to_tensor
from wordbrush.picture import Picture

# A folder per test function is enough for hypothesis: every example overwrites the file of the last one.
reuses_the_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def gradient(width: int = 12, height: int = 8) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(
        np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (width + height)], axis=-1).astype(
            np.uint8
        )
    )


def same(a: Image.Image, b: Image.Image, tolerance: int = 0) -> bool:
    return a.size == b.size and bool(np.abs(np.asarray(a, int) - np.asarray(b, int)).max() <= tolerance)


def saved(image: Image.Image, path: Path, **how: Any) -> Path:
    image.save(path, **how)
    return path


# Reading -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format", "how"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_every_lossless_format_is_read_exactly_whatever_its_name_says(
    tmp_path: Path, format: str, how: dict[str, Any]
):
    image = load(saved(gradient(), tmp_path / "picture.txt", format=format, **how))
    assert image.mode == "RGB" and same(image, gradient())
    assert image.info == {"notices": []}


def test_jpeg_is_read(tmp_path: Path):
    assert same(load(saved(gradient(64, 64), tmp_path / "a.jpg", quality=95)), gradient(64, 64), tolerance=12)


def test_formats_off_the_list_are_refused(tmp_path: Path):
    for format in ("GIF", "PPM", "ICO", "TGA"):
        with pytest.raises(ImageError, match="expected PNG, JPEG, WEBP, BMP or TIFF"):
            load(saved(gradient(), tmp_path / "picture.png", format=format))


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_modes_without_transparency_become_rgb(tmp_path: Path, mode: str):
    image = gradient().convert(mode)
    loaded = load(saved(image, tmp_path / "a.tiff"))
    assert loaded.mode == "RGB" and same(loaded, image.convert("RGB"))


def test_a_picture_in_memory_may_be_ycbcr():
    image = gradient().convert("YCbCr")
    assert same(rgb(image), image.convert("RGB"))


def test_a_cmyk_jpeg_is_read(tmp_path: Path):
    cmyk = gradient(64, 64).convert("CMYK")
    assert same(load(saved(cmyk, tmp_path / "a.jpg", quality=95)), gradient(64, 64), tolerance=12)


def test_transparency_is_composited_not_dropped(tmp_path: Path):
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    loaded = load(saved(image, tmp_path / "a.png"), background=(0, 0, 255))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 255), (255, 0, 0)]
    assert loaded.info["notices"] == ["transparency was filled with the colour (0, 0, 255)"]
    assert load(tmp_path / "a.png").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("mode", "fill", "transparency"),
    [("L", 7, 7), ("RGB", (9, 9, 9), (9, 9, 9)), ("P", 3, 3), ("P", 3, b"\xff\xff\xff\x00"), ("1", 0, 0)],
)
def test_a_transparent_colour_counts_as_transparency(tmp_path: Path, mode: str, fill: Any, transparency: Any):
    image = Image.new("L", (3, 3), fill).convert("P") if mode == "P" else Image.new(mode, (3, 3), fill)
    loaded = load(saved(image, tmp_path / "a.png", transparency=transparency), background=(0, 200, 0))
    assert loaded.getpixel((1, 1)) == (0, 200, 0)


def test_grey_with_alpha_is_composited(tmp_path: Path):
    loaded = load(saved(Image.new("LA", (2, 2), (0, 128)), tmp_path / "a.png"))
    assert same(loaded, Image.new("RGB", (2, 2), (127, 127, 127)), tolerance=1)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path):
    deep = Image.fromarray(np.array([[0, 257, 40000, 65535]], np.uint16))
    for name in ("a.png", "a.tiff"):
        loaded = load(saved(deep, tmp_path / name))
        assert np.asarray(loaded)[0, :, 0].tolist() == [0, 1, 156, 255]
        assert loaded.info["notices"] == ["16-bit pixels were scaled to 8 bits"]


def test_a_transparent_grey_value_of_sixteen_bits_counts(tmp_path: Path):
    deep = Image.fromarray(np.array([[500, 65535]], np.uint16))
    loaded = load(saved(deep, tmp_path / "a.png", transparency=500), background=(0, 200, 0))
    assert [loaded.getpixel((x, 0)) for x in (0, 1)] == [(0, 200, 0), (255, 255, 255)]


@pytest.mark.parametrize(
    "array",
    [
        np.full((2, 2), 70000, np.int32),
        np.full((2, 2), 200, np.int32),  # 32 bits, of which few are used: black, if it were read as 16
        np.full((2, 2), -5, np.int16),
        np.full((2, 2), 5, np.int16),
        np.ones((2, 2), np.float32),
    ],
)
def test_depths_without_a_white_are_refused(tmp_path: Path, array: np.ndarray[Any, Any]):
    with pytest.raises(ImageError, match="save it as 8-bit RGB"):
        load(saved(Image.fromarray(array), tmp_path / "a.tiff"))


def test_lab_is_refused(tmp_path: Path):
    with pytest.raises(ImageError, match="got mode LAB; save it as 8-bit RGB"):
        load(saved(Image.new("LAB", (2, 2)), tmp_path / "a.tiff"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.tiff", "a.webp"])
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int, name: str):
    exif = Image.Exif()
    exif[0x0112] = orientation
    reference = gradient()
    reference.getexif()[0x0112] = orientation
    upright = ImageOps.exif_transpose(reference)
    how = {"lossless": True} if name.endswith("webp") else {}
    loaded = load(saved(gradient(), tmp_path / name, exif=exif, **how))
    assert same(loaded, upright)
    assert len(loaded.info["notices"]) == (orientation != 1)
    # Saved again it must not turn a second time.
    save_png(loaded, tmp_path / "again.png")
    assert same(load(tmp_path / "again.png"), upright)


def test_exif_orientation_of_sixteen_bit_grey_is_applied(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    loaded = load(saved(Image.fromarray(np.zeros((2, 5), np.uint16)), tmp_path / "a.png", exif=exif))
    assert loaded.size == (2, 5)


def test_the_first_frame_of_an_animation_is_taken_and_said(tmp_path: Path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    for name in ("a.png", "a.webp", "a.tiff"):
        how = {"lossless": True} if name.endswith("webp") else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **how)
        loaded = load(tmp_path / name)
        assert loaded.getpixel((0, 0)) == (255, 0, 0)
        assert loaded.info["notices"][0] == "the first of 3 frames was used"


def profile_with_another_red() -> bytes:
    """A profile is a table of numbers: sRGB's with another red."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    place = profile.index(b"rXYZ", 132)
    offset = struct.unpack(">I", profile[place + 4 : place + 8])[0]
    profile[offset + 8 : offset + 12] = struct.pack(">i", int(0.30 * 65536))
    return bytes(profile)


def test_a_colour_profile_is_converted_to_srgb(tmp_path: Path):
    red = Image.new("RGB", (2, 2), (200, 30, 30))
    shifted = load(saved(red, tmp_path / "a.png", icc_profile=profile_with_another_red()))
    assert shifted.getpixel((0, 0)) != (200, 30, 30)
    assert "icc_profile" not in shifted.info
    plain = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert same(load(saved(red, tmp_path / "b.png", icc_profile=plain)), red, tolerance=1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16"])
def test_a_profile_for_grey_shows_every_grey(tmp_path: Path, mode: str):
    level = {"1": 255, "LA": (100, 255), "I;16": 100 * 257}.get(mode, 100)
    image = Image.new(mode, (2, 2), level)
    if mode == "I;16":
        image = Image.fromarray(np.full((2, 2), level, np.uint16))
    loaded = load(saved(image, tmp_path / "a.png", icc_profile=grey()))
    value = 255 if mode == "1" else 118  # (100 / 255)^1.8 is 18.5 % of the light
    assert all(abs(channel - value) <= 1 for channel in loaded.getpixel((0, 0)))
    assert not any("profile" in notice for notice in loaded.info["notices"])


def test_nothing_is_warned_of_frames_that_are_not_used(tmp_path: Path):
    how: dict[str, Any] = {"save_all": True, "append_images": [gradient()], "dpi": (72, 72)}
    content = bytearray(saved(gradient(), tmp_path / "a.tif", **how).read_bytes())
    place = content.rindex(struct.pack("<HHI", 282, 5, 1))  # the second frame's resolution
    struct.pack_into("<I", content, place + 8, len(content) - 3)
    (tmp_path / "a.tif").write_bytes(content)
    assert load(tmp_path / "a.tif").info["notices"] == ["the first of 2 frames was used"]


def test_a_broken_colour_profile_is_ignored_and_said(tmp_path: Path):
    loaded = load(saved(gradient(), tmp_path / "a.png", icc_profile=b"no profile"))
    assert same(loaded, gradient())
    assert loaded.info["notices"] == ["its colour profile could not be used and was ignored"]


def test_a_missing_file_and_a_folder_are_clear_errors(tmp_path: Path):
    with pytest.raises(ImageError, match="there is none at .*check the path"):
        load(tmp_path / "none.png")
    with pytest.raises(ImageError, match="is a folder; choose a file in it"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"just text", b"\x89PNG\r\n\x1a\n"])
def test_a_file_that_is_no_picture_is_a_clear_error(tmp_path: Path, content: bytes):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(ImageError, match="is not a picture that can be read"):
        load(tmp_path / "a.png")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_a_truncated_file_is_a_clear_error(tmp_path: Path, format: str):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    whole = saved(noise, tmp_path / "a", format=format).read_bytes()
    (tmp_path / "a").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError):
        load(tmp_path / "a")


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and brings next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [6325, 9400, 12000, 20000, 2**30])
def test_bombs_are_refused_from_their_header(tmp_path: Path, side: int):
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    for reader in (load, read_provenance):
        with pytest.raises(ImageError, match="expected at most 40 megapixels"):
            reader(tmp_path / "bomb.png")


def with_chunk(kind: bytes, data: bytes, *, at_the_end: bool = False) -> bytes:
    """A PNG with one more chunk."""
    buffer = io.BytesIO()
    gradient(24, 16).save(buffer, "PNG")
    content, chunk = buffer.getvalue(), struct.pack(">I", len(data)) + kind + data
    chunk += struct.pack(">I", zlib.crc32(kind + data))
    place = len(content) - 12 if at_the_end else 33
    return content[:place] + chunk + content[place:]


LARGE = zlib.compress(b"a" * 2_000_000)


@pytest.mark.parametrize(
    "content",
    [
        with_chunk(b"zTXt", b"k\0\0" + LARGE),
        with_chunk(b"iTXt", b"k\0\1\0\0\0" + LARGE, at_the_end=True),
        with_chunk(b"eXIf", b"\xff\xd8garbage"),
        with_chunk(b"iCCP", b"k\0\0" + LARGE),
    ],
)
def test_a_png_is_read_whatever_its_metadata(content: bytes, tmp_path: Path):
    (tmp_path / "a.png").write_bytes(content)
    image = load(tmp_path / "a.png")
    assert same(image, gradient(24, 16))
    kept = Picture.of(tmp_path / "a.png")
    assert kept.orientation == 1 and same(kept.image, gradient(24, 16))
    assert image.info["notices"][0] == "its text or EXIF data could not be read and was ignored"


def test_a_large_colour_profile_is_used(tmp_path: Path):
    swapped = saved(gradient(24, 16), tmp_path / "b.png", icc_profile=profile_with_another_red())
    large = profile_with_another_red() + bytes(2_000_000)
    (tmp_path / "a.png").write_bytes(with_chunk(b"iCCP", b"k\0\0" + zlib.compress(large)))
    assert same(load(tmp_path / "a.png"), load(swapped))
    assert Picture.of(tmp_path / "a.png").profile == large
    assert not same(load(swapped), gradient(24, 16))


def test_a_record_is_read_beside_text_that_is_not(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(with_chunk(b"zTXt", b"k\0\0" + LARGE))
    text = json.dumps({"command": "generate"}).encode()
    both = with_chunk(b"tEXt", b"wordbrush\0" + text)
    (tmp_path / "b.png").write_bytes(both[:33] + with_chunk(b"zTXt", b"k\0\0" + LARGE)[33:-12] + both[33:])
    with pytest.raises(ImageError, match="does not say how it was made"):
        read_provenance(tmp_path / "a.png")
    assert read_provenance(tmp_path / "b.png") == {"command": "generate"}


def test_a_picture_takes_its_record_along(tmp_path: Path):
    image = Recorded(gradient(24, 16), {"command": "generate"})
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b", format="png")
    save_png(image, tmp_path / "c.png")
    image.save(tmp_path / "d.jpg")
    for name in ("a.png", "b", "c.png"):
        assert read_provenance(tmp_path / name) == {"command": "generate"}
        assert same(load(tmp_path / name), gradient(24, 16))
    assert read_provenance(image) == {"command": "generate"}
    image.resize((12, 8)).save(tmp_path / "small.png")
    with pytest.raises(ImageError, match="does not say how it was made"):
        read_provenance(tmp_path / "small.png")


def pictures_in_every_format() -> list[bytes]:
    files: list[bytes] = []
    for format, how in [
        ("PNG", {}), ("PNG", {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0"}), ("JPEG", {}), ("BMP", {}),
        ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {}), ("WEBP", {"lossless": True}),
    ]:  # fmt: skip
        buffer = io.BytesIO()
        gradient(24, 16).save(buffer, format=format, **how)
        files.append(buffer.getvalue())
    return files


@settings(reuses_the_folder, max_examples=400, deadline=None)
@given(st.sampled_from(pictures_in_every_format()), st.data())
def test_damaged_files_load_or_are_refused_as_pictures(tmp_path: Path, content: bytes, data: st.DataObject):
    damaged = bytearray(content)
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=8)
    ):
        damaged[place] = byte
    (tmp_path / "a").write_bytes(damaged[: data.draw(st.integers(0, len(content)))])
    try:
        image = load(tmp_path / "a")
    except ImageError as error:
        assert str(tmp_path / "a") in str(error)
    else:
        assert image.mode == "RGB" and image.width * image.height <= images.MAX_PIXELS
    with pytest.raises(ImageError):
        read_provenance(tmp_path / "a")


@pytest.mark.slow
def test_many_randomly_damaged_files_load_or_are_refused_as_pictures(tmp_path: Path):
    random = np.random.default_rng(0)
    originals = pictures_in_every_format()
    for i in range(20_000):
        damaged = bytearray(originals[i % len(originals)])
        for place in random.integers(0, len(damaged), random.integers(1, 12)):
            damaged[place] = random.integers(256)
        (tmp_path / "a").write_bytes(damaged)
        try:
            assert load(tmp_path / "a").mode == "RGB"
        except ImageError:
            pass


# Tensors -----------------------------------------------------------------------------------------------

pixels = arrays.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)))


@given(pixels)
def test_a_picture_survives_the_trip_through_a_tensor(array: np.ndarray[Any, Any]):
    image = Image.fromarray(array)
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, image.height, image.width)
    assert tensor.dtype == torch.float32 and tensor.abs().max() <= 1
    assert same(to_image(tensor[0]), image)
    assert same(to_image(tensor[0].double()), image)


def test_black_and_white_are_minus_one_and_one():
    tensor = to_tensor(Image.fromarray(np.array([[[0, 0, 0], [255, 255, 255]]], np.uint8)))
    assert tensor[0, :, 0, 0].tolist() == [-1, -1, -1] and tensor[0, :, 0, 1].tolist() == [1, 1, 1]


def test_pictures_opened_elsewhere_follow_the_same_rules(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for image in (gradient(), Image.new("RGBA", (2, 3), (255, 0, 0, 0))):
        with Image.open(saved(image, tmp_path / "a.png", exif=exif)) as opened:
            assert torch.equal(to_tensor(opened), to_tensor(load(tmp_path / "a.png")))


def test_values_outside_are_clamped():
    assert same(to_image(torch.full((3, 2, 2), 9.0)), Image.new("RGB", (2, 2), "white"))
    assert same(to_image(torch.full((3, 2, 2), -9.0)), Image.new("RGB", (2, 2), "black"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_never_becomes_a_picture(value: float):
    bad = torch.zeros(3, 4, 4)
    bad[1, 2, 3] = value
    with pytest.raises(NumericsError):
        to_image(bad)


sides = st.integers(1, 40)


@given(sides, sides, sides, sides)
def test_fit_gives_exactly_the_size(width: int, height: int, new_width: int, new_height: int):
    assert fit(gradient(width, height), new_width, new_height).size == (new_width, new_height)


def test_fit_keeps_a_picture_of_that_size_and_cuts_both_sides_equally():
    assert same(fit(gradient(), 12, 8), gradient())
    assert same(fit(gradient(), 4, 8), gradient().crop((4, 0, 8, 8)))


@pytest.mark.parametrize("size", [(0, 4), (4, -1)])
def test_fit_refuses_sizes_that_are_none(size: tuple[int, int]):
    with pytest.raises(ImageError, match="at least 1 × 1"):
        fit(gradient(), *size)


# Writing -----------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)


@settings(reuses_the_folder, deadline=None)
@given(pixels, st.dictionaries(st.text(), json_values, max_size=4))
def test_pixels_and_provenance_survive_the_trip_through_a_file(
    tmp_path: Path, array: np.ndarray[Any, Any], provenance: dict[str, Any]
):
    save_png(Image.fromarray(array), tmp_path / "a.png", provenance)
    assert same(load(tmp_path / "a.png"), Image.fromarray(array))
    assert read_provenance(tmp_path / "a.png") == provenance


def test_nothing_of_the_read_picture_but_its_pixels_is_written(tmp_path: Path):
    text = PngInfo()
    text.add_text("secret", "GPS")
    save_png(load(saved(gradient(), tmp_path / "a.png", pnginfo=text)), tmp_path / "b.png", {"seed": 1})
    with Image.open(tmp_path / "b.png") as image:
        assert image.info == {"wordbrush": json.dumps({"seed": 1})}


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path):
    save_png(gradient(), tmp_path / "a.png", {"seed": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_png(Image.new("RGB", (4, 4)), tmp_path / "a.png", {"guidance_scale": math.nan})
    assert read_provenance(tmp_path / "a.png") == {"seed": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_only_names_that_end_in_png_are_written(tmp_path: Path):
    with pytest.raises(OutputError, match=r"ends in \.png"):
        save_png(gradient(), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_pictures_that_do_not_say_how_they_were_made_are_clear_errors(tmp_path: Path):
    silent = [saved(gradient(), tmp_path / "a.jpg")]
    save_png(gradient(), tmp_path / "b.png")
    silent.append(tmp_path / "b.png")
    for path in silent:
        with pytest.raises(ImageError, match="does not say how it was made"):
            read_provenance(path)


@pytest.mark.parametrize("text", ["{", "[1, 2]", '"words"', "[" * 100_000])
def test_damaged_provenance_is_a_clear_error(tmp_path: Path, text: str):
    info = PngInfo()
    info.add_text("wordbrush", text)
    with pytest.raises(ImageError, match="how it was made"):
        read_provenance(saved(gradient(), tmp_path / "a.png", pnginfo=info))


def test_provenance_behind_the_pixels_is_found(tmp_path: Path):
    info = PngInfo()
    info.add_itxt("wordbrush", '{"seed": 7}', zip=True)
    content = saved(gradient(), tmp_path / "a.png", pnginfo=info).read_bytes()
    start = content.index(b"iTXt") - 4
    end = start + 12 + struct.unpack(">I", content[start : start + 4])[0]
    tail = content.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(
        content[:start] + content[end:tail] + content[start:end] + content[tail:]
    )
    assert read_provenance(tmp_path / "a.png") == {"seed": 7}
