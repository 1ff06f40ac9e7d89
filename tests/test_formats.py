import io
import json
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.JpegImagePlugin import get_sampling
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from profiles import cmyk, grey, wide
from wordbrush import files, formats, images, png, stamp, webp
from wordbrush.errors import ImageError, OutputError
from wordbrush.formats import SUFFIXES, encoded, own_suffix
from wordbrush.formats.metadata import resource, without_thumbnail
from wordbrush.picture import Picture

RECORD = {"command": "edit", "seed": 7}
LOSSLESS = (".png", ".tif", ".webp")
PROFILES = {"RGB": wide(), "L": grey(), "CMYK": cmyk()}
COLOURS = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "I;16": "L",
    "P": "RGB",
    "RGB": "RGB",
    "RGBA": "RGB",
    "CMYK": "CMYK",
}


def saved(image: Image.Image, format: str, **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def opened(content: bytes) -> Any:
    return Image.open(io.BytesIO(content))


def picture(content: bytes) -> Picture:
    return Picture(content, None, (0.0, 0.0, 1.0, 1.0))


def loaded(content: bytes) -> np.ndarray:
    return np.asarray(images.decode(content, "the file"), int)


def smooth(width: int, height: int, seed: int) -> Image.Image:
    """Something like a photograph: no noise, all hues."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (3, 4, 3), np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def in_mode(mode: str, width: int, height: int, seed: int) -> Image.Image:
    """Pixels of a mode, each of them random."""
    random = np.random.default_rng(seed)
    if mode == "I;16":
        return Image.fromarray(random.integers(0, 65536, (height, width), np.uint16))
    image = Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8))
    alpha = random.choice([0, 1, 128, 254, 255], (height, width)).astype(np.uint8)
    if mode == "CMYK":
        return Image.frombytes("CMYK", (width, height), random.bytes(width * height * 4))
    image = image.convert(mode.rstrip("A"))
    if mode.endswith("A"):
        image.putalpha(Image.fromarray(alpha))
    return image


@dataclass(frozen=True)
class File:
    """A picture file, and what it was made of."""

    content: bytes
    format: str
    mode: str
    profile: bytes | None


@st.composite
def files_of_pictures(draw: st.DrawFn, *formats: str) -> File:
    format = draw(st.sampled_from(formats or ("PNG", "TIFF", "WEBP", "JPEG", "BMP")))
    modes = {
        "PNG": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA"),
        "TIFF": ("1", "L", "LA", "I;16", "P", "RGB", "RGBA", "CMYK"),
        "WEBP": ("RGB", "RGBA"),
        "JPEG": ("L", "RGB", "CMYK"),
        "BMP": ("RGB",),
    }
    mode = draw(st.sampled_from(modes[format]))
    image = in_mode(mode, draw(st.integers(1, 24)), draw(st.integers(1, 24)), draw(st.integers(0, 99)))
    profile = draw(st.sampled_from([None, PROFILES[COLOURS[mode]], b"damaged", PROFILES["RGB"]]))
    exif = Image.Exif()
    exif[Base.Orientation] = draw(st.integers(1, 8))
    how: dict[str, Any] = {"icc_profile": profile, "exif": exif} if format != "BMP" else {}
    if format == "WEBP":
        how |= {"lossless": True, "exact": True}
    if format == "TIFF":
        how["compression"] = draw(st.sampled_from(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]))
    if format == "PNG" and mode in ("L", "I;16", "RGB") and draw(st.booleans()):
        first = np.asarray(image)[0, 0]
        how["transparency"] = int(first) if first.ndim == 0 else tuple(map(int, first))
    return File(saved(image, format, **how), format, mode, profile)


def edits(file: File, seed: int, *, neutral: bool = False) -> tuple[Image.Image, np.ndarray]:
    """An edit of a part of a picture in colours that any colour space has, and its share."""
    random = np.random.default_rng(seed)
    before = picture(file.content).image
    share = random.choice([0, 0, 0.3, 1], (before.height, before.width))
    painted = random.integers(64, 192, (*share.shape, 1 if neutral else 3)).repeat(3 if neutral else 1, -1)
    weight = share[..., None]
    blended = np.asarray(before) * (1 - weight) + painted * weight
    if neutral:
        blended = blended.mean(-1, keepdims=True).repeat(3, -1)
    edited = np.where(weight > 0, np.rint(blended), np.asarray(before)).astype(np.uint8)
    return Image.fromarray(edited), share


def own_pixels(content: bytes) -> Image.Image:
    """The decoded pixels of a file, upright."""
    return images.ImageOps.exif_transpose(images.whole(content, "the file")[0])


def as_numbers(image: Image.Image, mode: str) -> np.ndarray:
    """A file's own numbers in the mode of another: what that may change is said in the notices."""
    if image.mode.startswith("I") and mode != "I;16":
        image = images.eight_bit(image, 16)
    if mode == "LA" and image.mode != "LA":
        image = image.convert("RGBA")
    return np.asarray(image if image.mode.startswith("I") else image.convert(mode))


# Pixels ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(files_of_pictures(), st.sampled_from(LOSSLESS), st.booleans(), st.integers(0, 99))
def test_a_files_own_pixels_stay_bit_for_bit_where_nothing_was_edited(
    file: File, suffix: str, neutral: bool, seed: int
):
    edited, share = edits(file, seed, neutral=neutral)
    content, _ = encoded(picture(file.content), edited, share, suffix, RECORD)
    before, after = own_pixels(file.content), own_pixels(content)
    kept = share == 0
    assert (loaded(content)[kept] == np.asarray(picture(file.content).image)[kept]).all()
    if (after.info.get("icc_profile") or None) == (file.profile or None):
        mode = after.mode if not after.mode.startswith("I") else "I;16"
        assert (as_numbers(before, mode)[kept] == np.asarray(after)[kept]).all()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(files_of_pictures(), st.sampled_from(LOSSLESS), st.booleans(), st.integers(0, 99))
def test_an_edit_looks_as_it_did_whatever_the_files_mode_and_colours(
    file: File, suffix: str, neutral: bool, seed: int
):
    edited, share = edits(file, seed, neutral=neutral)
    content, notices = encoded(picture(file.content), edited, share, suffix, RECORD)
    painted = share > 0
    difference = np.abs(loaded(content) - np.asarray(edited))[painted]
    # 8 bits of another colour space are other steps, and a CMYK profile is a table.
    tolerance = 20 if file.mode == "CMYK" and opened(content).mode == "CMYK" and file.profile else 4
    if file.profile != PROFILES[COLOURS[file.mode]] or opened(content).info.get("icc_profile") is None:
        tolerance = 2
    assert not painted.any() or difference.max() <= tolerance, notices


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(files_of_pictures(), st.sampled_from(LOSSLESS), st.booleans())
def test_an_edit_of_nothing_is_the_same_picture(file: File, suffix: str, metadata: bool):
    whole = picture(file.content)
    nothing = np.zeros(whole.image.size[::-1])
    content, _ = encoded(
        whole, Image.new("RGB", whole.image.size), nothing, suffix, RECORD, metadata=metadata
    )
    assert (loaded(content) == loaded(file.content)).all()
    assert picture(content).orientation == picture(file.content).orientation


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(files_of_pictures("PNG", "TIFF", "WEBP"), st.integers(0, 99))
def test_a_lossless_file_keeps_its_mode_and_its_profile_if_it_can(file: File, seed: int):
    edited, share = edits(file, seed, neutral=True)
    if file.mode in ("1", "P"):
        share = np.zeros_like(share)
    suffix = own_suffix(picture(file.content))
    content, notices = encoded(picture(file.content), edited, share, suffix, None)
    after = opened(content)
    assert after.info.get("icc_profile") == file.profile
    clear = opened(file.content).has_transparency_data
    expected = {"P": "RGB", "L": "LA" if clear else "L"}.get(file.mode, file.mode)
    if file.mode == "RGB" and clear:
        expected = "RGBA"
    if file.format != "WEBP":
        assert after.mode == expected
    if expected == file.mode:
        assert notices == []
    assert after.format == file.format


def test_coloured_edits_of_grey_are_said_and_grey_ones_are_not():
    content = saved(in_mode("L", 8, 8, 0), "PNG")
    share = np.zeros((8, 8))
    share[2:5, 2:5] = 1
    for colour, mode, told in (
        ((90, 90, 91), "L", []),
        ((90, 90, 99), "RGB", ["it was grey and became RGB: the edit needs it"]),
    ):
        after, notices = encoded(picture(content), Image.new("RGB", (8, 8), colour), share, ".png", None)
        assert (opened(after).mode, notices) == (mode, told)


@pytest.mark.parametrize(("level", "mode"), [(0, "1"), (254, "1"), (100, "L")])
def test_black_and_white_stays_while_the_edit_is_black_and_white(level: int, mode: str):
    content = saved(in_mode("1", 9, 9, 0), "TIFF", compression="group4")
    after, _ = encoded(picture(content), Image.new("RGB", (9, 9), (level,) * 3), np.eye(9), ".tif", None)
    assert opened(after).mode == mode
    assert opened(after).info["compression"] == ("group4" if mode == "1" else "tiff_adobe_deflate")
    assert np.abs(loaded(after)[np.eye(9) > 0] - level).max() <= 1


def test_paint_over_nothing_is_as_opaque_as_the_edits_share():
    clear = Image.new("RGBA", (3, 1), (10, 20, 30, 0))
    share = np.array([[0, 0.5, 1]])
    content, _ = encoded(
        picture(saved(clear, "PNG")), Image.new("RGB", (3, 1), (200, 150, 228)), share, ".png", None
    )
    after = opened(content)
    assert after.getpixel((0, 0)) == (10, 20, 30, 0)
    assert [after.getpixel((x, 0))[3] for x in (1, 2)] == [128, 255]
    assert np.abs(loaded(content)[0, 1:] - (200, 150, 228)).max() <= 1


def test_a_darker_edit_than_the_alpha_allows_makes_it_more_opaque():
    half = Image.new("RGBA", (1, 1), (255, 255, 255, 10))
    black = Image.new("RGB", (1, 1))
    content, _ = encoded(picture(saved(half, "PNG")), black, np.full((1, 1), 0.1), ".png", None)
    assert opened(content).getpixel((0, 0)) == (0, 0, 0, 255)


def test_sixteen_bits_keep_their_transparent_value_and_paint_never_has_it():
    deep = Image.fromarray(np.array([[500, 257 * 90, 257 * 90, 65535]], np.uint16))
    content = saved(deep, "PNG", transparency=257 * 90)
    share = np.array([[1.0, 1, 0, 0]])
    after, notices = encoded(picture(content), Image.new("RGB", (4, 1), (90,) * 3), share, ".png", None)
    assert np.asarray(opened(after)).tolist() == [[257 * 90 ^ 1, 257 * 90 ^ 1, 257 * 90, 65535]]
    assert opened(after).info["transparency"] == 257 * 90
    assert loaded(after)[0, :, 0].tolist() == [90, 90, 255, 255] and notices == []


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".webp"])
def test_sixteen_bits_for_each_colour_become_eight_and_it_is_said(suffix: str):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + np.arange(12, dtype=">u2").tobytes()
    content = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    after, notices = encoded(picture(content), Image.new("RGB", (4, 1)), np.zeros((1, 4)), suffix, None)
    assert notices == ["its 16 bits for each colour became 8"]
    assert np.abs(loaded(after) - loaded(content)).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".jpg"])
def test_what_a_format_cannot_hold_is_said(suffix: str):
    size, nothing = (8, 8), np.zeros((8, 8))
    ink = saved(in_mode("CMYK", 8, 8, 0), "TIFF", icc_profile=cmyk())
    content, notices = encoded(picture(ink), Image.new("RGB", size), nothing, suffix, None)
    if suffix in (".tif", ".jpg"):
        assert notices == [] and opened(content).mode == "CMYK"
        assert opened(content).info["icc_profile"] == cmyk()
    else:
        assert notices == [
            "its colours were converted from its colour profile to sRGB",
            f"it was CMYK and became RGB: a {'WebP' if suffix == '.webp' else 'PNG'} file has no other",
        ]
        assert "icc_profile" not in opened(content).info
    clear = saved(in_mode("RGBA", 8, 8, 0), "PNG")
    content, notices = encoded(picture(clear), Image.new("RGB", size), nothing, suffix, None)
    told = ["transparency was filled with white, since a JPEG file has none"]
    assert notices == (told if suffix == ".jpg" else [])


def test_a_profile_that_only_shows_colours_gives_way_to_srgb():
    ink = saved(in_mode("CMYK", 8, 8, 0), "TIFF", icc_profile=cmyk(back=False))
    edited = Image.new("RGB", (8, 8), (200, 30, 60))
    content, notices = encoded(picture(ink), edited, np.eye(8), ".tif", None)
    assert notices[0] == "its colours were converted from its colour profile to sRGB"
    assert opened(content).mode == "RGB" and "icc_profile" not in opened(content).info
    assert (loaded(content)[np.eye(8) > 0] == (200, 30, 60)).all()
    assert (loaded(content) == loaded(ink))[np.eye(8) == 0].all()


@pytest.mark.parametrize(("format", "how"), [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_the_first_frame_is_written_and_it_is_said(format: str, how: dict[str, Any]):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "green", "blue")]
    content = saved(frames[0], format, save_all=True, append_images=frames[1:], **how)
    after, notices = encoded(
        picture(content), frames[1], np.zeros((4, 4)), own_suffix(picture(content)), RECORD
    )
    assert notices == ["only the first of its 3 frames was written"]
    assert getattr(opened(after), "n_frames", 1) == 1 and loaded(after)[0, 0].tolist() == [255, 0, 0]


# Each format's own way to write ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["L", "RGB", "CMYK"]),
    st.integers(40, 100),
    st.integers(0, 2),
    st.booleans(),
    st.integers(1, 8),
    st.integers(0, 9),
)
def test_a_jpeg_keeps_its_tables_and_hardly_changes(
    mode: str, quality: int, subsampling: int, progressive: bool, orientation: int, seed: int
):
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    image = smooth(70, 50, seed).convert(mode)
    content = saved(
        image, "JPEG", quality=quality, subsampling=subsampling, progressive=progressive, exif=exif
    )
    own = picture(content)
    edited, share = np.array(own.image), np.zeros(own.image.size[::-1])
    share[8:24, 8:24], edited[8:24, 8:24] = 1, 128
    after, notices = encoded(own, Image.fromarray(edited), share, ".jpg", RECORD)
    first, second = opened(content), opened(after)
    assert second.quantization == first.quantization and get_sampling(second) == get_sampling(first)
    assert bool(second.info.get("progressive")) == progressive
    far = np.ones_like(share, bool)
    far[:40, :40] = False  # a block of chroma holds 16 pixels, and a decoder smooths over its edges
    assert np.abs(loaded(after) - loaded(content))[far].mean() <= 2
    assert notices == [] and picture(after).orientation == orientation


@pytest.mark.parametrize("how", [{"keep_rgb": True}, {"progressive": True, "subsampling": 0}])
def test_a_jpeg_in_rgb_and_a_progressive_one_with_much_detail_are_written(how: dict[str, Any]):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8))
    content = saved(smooth(400, 400, 0), "JPEG", quality=100, **how)
    after, _ = encoded(picture(content), noise, np.ones((400, 400)), ".jpg", None)
    assert [layer[0] for layer in opened(after).layer] == [layer[0] for layer in opened(content).layer]
    assert np.abs(loaded(after) - np.asarray(noise)).mean() < 1


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"])
def test_a_tiff_keeps_its_compression_unless_that_is_lossy(compression: str):
    content = saved(smooth(40, 30, 0), "TIFF", compression=compression)
    after, notices = encoded(picture(content), Image.new("RGB", (40, 30)), np.zeros((30, 40)), ".tiff", None)
    lossy = compression == "jpeg"
    assert opened(after).info["compression"] == ("tiff_adobe_deflate" if lossy else compression)
    assert notices == (["its JPEG compression became a lossless one"] if lossy else [])
    assert (loaded(after) == loaded(content)).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("animated", [False, True])
def test_a_webp_is_lossless_if_the_file_was(mode: str, animated: bool):
    image = in_mode(mode, 16, 16, 0)
    for lossless in (True, False):
        frames = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_90)]}
        content = saved(image, "WEBP", lossless=lossless, **(frames if animated else {}))
        after, _ = encoded(picture(content), picture(content).image, np.zeros((16, 16)), ".webp", RECORD)
        assert webp.lossless(content) == webp.lossless(after) == lossless
    after, _ = encoded(picture(saved(image, "PNG")), image.convert("RGB"), np.zeros((16, 16)), ".webp", None)
    assert webp.lossless(after)


def test_a_big_endian_tiff_keeps_its_sixteen_bits():
    deep = (np.arange(600).reshape(20, 30) * 100).astype(">u2")
    content = saved(Image.frombytes("I;16B", (30, 20), deep.tobytes()), "TIFF")
    assert content.startswith(b"MM") and opened(content).mode == "I;16B"
    after, notices = encoded(picture(content), Image.new("RGB", (30, 20)), np.eye(20, 30), ".tif", RECORD)
    kept = np.eye(20, 30) == 0
    assert notices == [] and (np.asarray(opened(after))[kept] == deep[kept]).all()


def test_a_jpeg_of_several_pictures_becomes_one_of_the_first():
    first, second = smooth(40, 30, 0), smooth(40, 30, 1)
    content = saved(first, "MPO", save_all=True, append_images=[second], quality=90)
    assert opened(content).format == "MPO" and own_suffix(picture(content)) == ".jpg"
    after, notices = encoded(picture(content), first, np.zeros((30, 40)), ".jpg", RECORD)
    assert notices[0] == "only the first of its 2 frames was written"
    assert opened(after).format == "JPEG" and opened(after).quantization == opened(content).quantization


def test_a_palette_with_transparency_becomes_rgb_with_it():
    image = smooth(20, 12, 0).convert("P")
    image.putalpha(128)
    content = saved(image, "TIFF")
    assert opened(content).mode == "PA"
    for suffix in LOSSLESS:
        after, _ = encoded(picture(content), Image.new("RGB", (20, 12)), np.zeros((12, 20)), suffix, None)
        assert opened(after).mode == "RGBA" and (loaded(after) == loaded(content)).all()


def test_the_files_own_suffix_is_known():
    image = Image.new("RGB", (2, 2))
    found = {format: own_suffix(picture(saved(image, format))) for format in images.FORMATS}
    assert found == {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "BMP": ".png", "TIFF": ".tif"}


@pytest.mark.parametrize("suffix", ["", ".bmp", ".gif", "png"])
def test_another_suffix_is_refused(suffix: str):
    whole = picture(saved(Image.new("RGB", (2, 2)), "PNG"))
    with pytest.raises(OutputError, match=r"ends in \.png, \.jpg, \.jpeg, \.tif, \.tiff, \.webp, got"):
        encoded(whole, whole.image, np.zeros((2, 2)), suffix, None)


def test_another_size_is_refused():
    whole = picture(saved(Image.new("RGB", (4, 2)), "PNG"))
    for size, share in (((2, 4), (2, 4)), ((4, 2), (4, 2))):
        with pytest.raises(ImageError, match="expected an edit of 4 × 2 pixels"):
            encoded(whole, Image.new("RGB", size), np.zeros(share), ".png", None)


def test_a_picture_too_large_for_a_format_is_refused():
    whole = picture(saved(Image.new("RGB", (16384, 1)), "PNG"))
    with pytest.raises(OutputError, match="cannot write this picture as WebP.*choose another format"):
        encoded(whole, whole.image, np.zeros((1, 16384)), ".webp", None)


# Metadata ----------------------------------------------------------------------------------------------

XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><dc:creator>Zo\xc3\xab</dc:creator>%s</x:xmpmeta>'
OLD = b"<xmp:Thumbnails><rdf:Alt>c3RhbGU=</rdf:Alt></xmp:Thumbnails>"
IPTC = resource(1028, b"\x1c\x02\x78\0\x07caption")


def thumbnail(*, big: bool = False) -> bytes:
    """An EXIF block with a place, a maker's note and an old thumbnail."""
    exif = Image.Exif()
    exif.endian = ">" if big else "<"
    exif[Base.Orientation], exif[Base.Make] = 6, "Camera"
    exif[IFD.Exif] = {36867: "2020:02:02 02:02:02", 37500: b"maker's note", 33434: (1, 30)}
    exif[IFD.GPSInfo] = {1: "N", 2: (52.0, 30.0, 1.5)}
    block = bytearray(exif.tobytes()[6:])
    order = ">" if big else "<"
    (first,) = struct.unpack_from(order + "I", block, 4)
    (count,) = struct.unpack_from(order + "H", block, first)
    struct.pack_into(order + "I", block, first + 2 + 12 * count, len(block))
    jpeg = saved(Image.new("RGB", (8, 8), "red"), "JPEG")
    start = len(block) + 2 + 3 * 12 + 4
    block += struct.pack(order + "H", 3)
    block += struct.pack(order + ("HHIHH" if big else "HHIHH"), 259, 3, 1, 6, 0)
    block += struct.pack(order + "HHIIHHIII", 513, 4, 1, start, 514, 4, 1, len(jpeg), 0)
    return bytes(block) + jpeg


def full(format: str) -> bytes:
    """A file with all metadata that its format has."""
    exif, image = b"Exif\0\0" + thumbnail(), smooth(20, 12, 0)
    xmp = XMP % OLD
    if format == "PNG":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        info.add_text("Title", "Zoë")
        info.add_text("Comment", "hello", zip=True)
        info.add_text("wordbrush", json.dumps({"old": True}))
        info.add(b"gAMA", struct.pack(">I", 45455))
        info.add(b"tIME", struct.pack(">HBBBBB", 2020, 2, 2, 2, 2, 2))
        return saved(image, "PNG", exif=exif, pnginfo=info, dpi=(300, 200), icc_profile=wide())
    if format == "WEBP":
        content = saved(image, "WEBP", lossless=True, exif=exif, xmp=xmp, icc_profile=wide())
        return stamp.in_webp(content, 20, 12, json.dumps({"old": True}))
    photoshop = resource(1036, b"stale") + IPTC + resource(1033, b"stale") + resource(1005, bytes(16))
    if format == "JPEG":
        extra = stamp.segment(b"\xff\xed", b"Photoshop 3.0\0" + photoshop) + stamp.jpeg('{"old": true}')
        return saved(
            image,
            "JPEG",
            exif=exif,
            xmp=xmp,
            icc_profile=wide(),
            extra=extra,
            dpi=(300, 200),
            comment=b"hello",
        )
    tags = ImageFileDirectory_v2()
    tags[270], tags[274], tags[305], tags[315] = "A “picture”".encode(), 6, "Camera", "Zoë"
    tags.tagtype[33550], tags[33550] = 12, (1.5, 2.5, 0.0)  # GeoTIFF
    tags.tagtype[700], tags[700] = 1, xmp
    tags.tagtype[34377], tags[34377] = 7, photoshop
    tags.tagtype[37724], tags[37724] = 7, b"stale layers"
    tags.tagtype[stamp.TIFF_TAG], tags[stamp.TIFF_TAG] = 7, stamp.tiff('{"old": true}')
    source = Image.Exif()
    source.load(exif)
    for tag in (IFD.Exif, IFD.GPSInfo):
        tags[tag] = source.get_ifd(tag)
    return saved(image, "TIFF", tiffinfo=tags, dpi=(300, 200), icc_profile=wide())


def painted(content: bytes, suffix: str, **how: Any) -> tuple[bytes, list[str]]:
    whole = picture(content)
    edited, share = np.array(whole.image), np.zeros(whole.image.size[::-1])
    share[:4, :4], edited[:4, :4] = 1, 100
    return encoded(whole, Image.fromarray(edited), share, suffix, RECORD, **how)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_metadata_go_from_each_format_to_each(format: str, suffix: str, tmp_path: Path):
    content = full(format)
    after, notices = painted(content, suffix)
    file = opened(after)
    file.load()
    exif = images.header(after, "the file").getexif()
    assert exif[Base.Orientation] == 6 and picture(after).profile == wide()
    assert exif[Base.Make] == "Camera" if format != "TIFF" else exif[Base.Software] == "Camera"
    assert exif.get_ifd(IFD.Exif)[36867] == "2020:02:02 02:02:02"
    assert exif.get_ifd(IFD.Exif)[37500] == b"maker's note"
    assert exif.get_ifd(IFD.GPSInfo)[2] == (52.0, 30.0, 1.5)
    assert not exif.get_ifd(IFD.IFD1)
    xmp = file.info["xmp"]
    assert (xmp if isinstance(xmp, bytes) else xmp.encode()) == XMP % b""
    if format != "WEBP" and suffix != ".webp":
        assert tuple(map(round, map(float, file.info["dpi"]))) == (300, 200)
    (tmp_path / "a").write_bytes(after)
    assert images.read_provenance(tmp_path / "a") == RECORD
    assert b"stale" not in after and b"c3RhbGU" not in after and b'"old"' not in after
    if format in ("JPEG", "TIFF"):
        kept = IPTC + resource(1005, bytes(16))
        if suffix == ".jpg":
            assert b"Photoshop 3.0\0" + kept in [data for name, data in file.applist if name == "APP13"]
        elif suffix == ".tif":
            assert file.tag_v2[34377] == kept
        else:
            assert any("IPTC and Photoshop data has no place" in notice for notice in notices)
    if format == "JPEG" and suffix == ".jpg":
        assert ("COM", b"hello") in file.applist
    if format == "JPEG" and suffix == ".png":
        assert file.text["Comment"] == "hello"
    if format == "PNG":
        if suffix == ".png":
            assert (file.text["Title"], file.text["Comment"]) == ("Zoë", "hello")
            assert {b"gAMA", b"tIME"} <= {kind for kind, _, _ in png.chunks(after)}
        else:
            assert any("its text has no place" in notice for notice in notices)
    if format == "TIFF" and suffix == ".tif":
        assert file.tag_v2[33550] == (1.5, 2.5, 0.0)
        assert file.tag_v2[315].encode("latin-1") == opened(content).tag_v2[315].encode("latin-1")
        assert file.tag_v2[270].encode("latin-1").decode() == "A “picture”"


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".webp"])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_without_metadata_only_what_shows_the_pixels_and_our_record_are_kept(
    format: str, suffix: str, tmp_path: Path
):
    after, _ = painted(full(format), suffix, metadata=False)
    exif = images.header(after, "the file").getexif()
    assert picture(after).orientation == 6 and picture(after).profile == wide()
    assert not exif.get_ifd(IFD.GPSInfo) and Base.Make not in exif and 305 not in exif
    for secret in (b"Camera", b"Zo\xc3\xab", b"hello", b"2020", b"caption", b"maker"):
        assert secret not in after
    (tmp_path / "a").write_bytes(after)
    assert images.read_provenance(tmp_path / "a") == RECORD


@pytest.mark.parametrize("big", [False, True])
def test_a_thumbnail_goes_and_nothing_else_moves(big: bool):
    before = thumbnail(big=big)
    after = without_thumbnail(before)
    assert b"\xff\xd8\xff" in before and b"\xff\xd8\xff" not in after
    differing = [place for place in range(len(after)) if before[place] != after[place]]
    assert len(differing) <= 4  # the link to it
    assert without_thumbnail(after) == after


def test_exif_of_imagemagick_in_a_png_goes_to_its_own_chunk_without_its_thumbnail():
    info = PngInfo()
    block = b"Exif\0\0" + thumbnail()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    after, _ = painted(saved(smooth(20, 12, 0), "PNG", pnginfo=info), ".png")
    kinds = [kind for kind, _, _ in png.chunks(after)]
    assert b"eXIf" in kinds and b"zTXt" not in kinds
    assert picture(after).orientation == 6 and b"\xff\xd8\xff" not in after


def test_what_else_a_jpeg_has_is_left_out_and_said():
    other = stamp.segment(b"\xff\xe2", b"MPF\0other picture") + stamp.segment(b"\xff\xeb", b"JP signature")
    content = saved(smooth(20, 12, 0), "JPEG", extra=other)
    after, notices = painted(content, ".jpg")
    assert notices == ["its data in the segments APP11, APP2 was left out"]
    assert b"other picture" not in after and b"signature" not in after
    assert painted(content, ".jpg", metadata=False)[1] == []
    assert painted(full("JPEG"), ".jpg")[1] == []


def test_an_orientation_in_xmp_alone_stays():
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    content = saved(smooth(20, 12, 0), "PNG", pnginfo=info)
    assert picture(content).orientation == 6
    for suffix, metadata in ((suffix, metadata) for suffix in SUFFIXES for metadata in (True, False)):
        after, _ = painted(content, suffix, metadata=metadata)
        assert picture(after).orientation == 6


def test_iptc_alone_in_a_tiff_is_kept():
    tags = ImageFileDirectory_v2()
    tags.tagtype[33723], tags[33723] = 7, b"\x1c\x02\x78\0\x03cap"
    content = saved(smooth(20, 12, 0), "TIFF", tiffinfo=tags)
    entry, words = (struct.pack("<HHI", 33723, *kind) for kind in ((7, 8), (4, 2)))
    assert entry in content
    after, _ = painted(content.replace(entry, words), ".jpg")
    assert opened(after).info["photoshop"][1028] == b"\x1c\x02\x78\0\x03cap"


def test_metadata_too_long_for_a_jpeg_is_left_out_and_said():
    exif = Image.Exif()
    exif[Base.Orientation], exif[Base.Make] = 6, "x" * 70_000
    content = saved(smooth(20, 12, 0), "WEBP", lossless=True, exif=exif, xmp=b"<x/>" * 20_000)
    after, notices = painted(content, ".jpg")
    assert notices == [
        "its EXIF data is too long for a JPEG file and was left out",
        "its XMP data is too long for a JPEG file and was left out",
    ]
    assert picture(after).orientation == 6 and "xmp" not in opened(after).info


def test_a_png_whose_metadata_is_refused_is_written_without_it():
    content = saved(smooth(20, 12, 0), "PNG")
    data = b"k\0\0" + zlib.compress(b"a" * 2_000_000)
    chunk = struct.pack(">I", len(data)) + b"zTXt" + data + struct.pack(">I", zlib.crc32(b"zTXt" + data))
    after, notices = painted(content[:33] + chunk + content[33:], ".png")
    assert notices == ["its text or EXIF data could not be read and was left out"]
    assert b"zTXt" not in after


def test_damaged_exif_is_left_out_and_said():
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x112, 3, 1, 6, 9999)
    content = saved(smooth(20, 12, 0), "JPEG", exif=exif)
    for suffix in (".jpg", ".png", ".tif", ".webp"):
        after, notices = painted(content, suffix)
        assert "its EXIF data could not be read and was left out" in notices
        assert picture(after).orientation == 6


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([full(format) for format in ("PNG", "JPEG", "TIFF", "WEBP")]), st.data())
def test_damaged_metadata_never_stops_the_writing(content: bytes, data: st.DataObject):
    damaged = bytearray(content)
    places = st.lists(st.tuples(st.integers(8, len(content) - 1), st.integers(0, 255)), max_size=12)
    for place, byte in data.draw(places):
        damaged[place] = byte
    if content.startswith(b"\x89PNG"):  # right sums, so that the damage is read
        parts = [
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
            for kind, body, whole in png.chunks(bytes(damaged))
            if len(whole) == len(body) + 12
        ]
        damaged = bytearray(damaged[:8] + b"".join(parts))
    whole = picture(bytes(damaged))
    try:
        size = whole.image.size
    except ImageError:
        return
    if max(size) > 4000:
        return
    for suffix, metadata in (
        (".png", True),
        (".jpg", True),
        (".tif", True),
        (".webp", True),
        (".jpg", False),
    ):
        after, _ = encoded(whole, whole.image, np.zeros(size[::-1]), suffix, RECORD, metadata=metadata)
        assert images.decode(after, "the file").size == size


# The record --------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(list(SUFFIXES)),
    st.sampled_from(["L", "RGB", "RGBA"]),
    st.dictionaries(st.text(max_size=8), st.text(max_size=40) | st.integers(-9, 9), max_size=4),
    st.integers(0, 200_000),
)
def test_a_record_is_read_back_from_every_format(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, mode: str, record: dict[str, Any], length: int
):
    path = tmp_path_factory.getbasetemp() / f"record{suffix}"
    record = {**record, "long": "x" * length}
    whole = picture(saved(in_mode(mode, 5, 3, 0), "PNG"))
    formats.write(whole, whole.image, np.zeros((3, 5)), path, record)
    assert images.read_provenance(path) == record
    formats.write(picture(path.read_bytes()), whole.image, np.zeros((3, 5)), path, {"newer": 1})
    assert images.read_provenance(path) == {"newer": 1}
    formats.write(picture(path.read_bytes()), whole.image, np.zeros((3, 5)), path, None)
    with pytest.raises(ImageError, match="does not say how it was made"):
        images.read_provenance(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_record_too_long_is_refused_and_nothing_is_written(suffix: str, tmp_path: Path):
    whole = picture(saved(Image.new("RGB", (4, 4)), "PNG"))
    with pytest.raises(OutputError, match="expected a record of how the picture was made of at most"):
        formats.write(whole, whole.image, np.zeros((4, 4)), tmp_path / f"a{suffix}", {"long": "x" * 10**6})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("text", ["{", "[1]", "é" * 9, ""])
def test_a_damaged_record_is_a_clear_error(suffix: str, text: str, tmp_path: Path):
    whole = picture(saved(Image.new("RGB", (4, 4)), "PNG"))
    formats.write(whole, whole.image, np.zeros((4, 4)), tmp_path / f"a{suffix}", text)
    with pytest.raises(ImageError, match="how it was made"):
        images.read_provenance(tmp_path / f"a{suffix}")


def test_parts_of_a_record_out_of_order_and_other_bytes_are_no_record(tmp_path: Path):
    whole = picture(saved(Image.new("RGB", (4, 4)), "JPEG"))
    content, _ = encoded(whole, whole.image, np.zeros((4, 4)), ".jpg", {"long": "x" * 100_000})
    mark = b"wordbrush\0\2\2"
    (tmp_path / "a.jpg").write_bytes(content.replace(mark, b"wordbrush\0\3\2"))
    with pytest.raises(ImageError, match="does not say how it was made"):
        images.read_provenance(tmp_path / "a.jpg")
    content, _ = encoded(whole, whole.image, np.zeros((4, 4)), ".webp", RECORD)
    (tmp_path / "a.webp").write_bytes(content.replace(b'{"command"', b'\xff"command"'))
    with pytest.raises(ImageError, match="damaged"):
        images.read_provenance(tmp_path / "a.webp")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("how", [{}, {"lossless": True}, {"lossless": True, "xmp": b"<x/>"}])
def test_a_webp_with_a_record_is_as_the_format_asks(mode: str, how: dict[str, Any]):
    content = saved(in_mode(mode, 7, 5, 0), "WEBP", **how)
    after = stamp.in_webp(content, 7, 5, "{}")
    assert struct.unpack_from("<I", after, 4)[0] == len(after) - 8
    chunks = list(webp.chunks(after))
    assert chunks[0][0] == b"VP8X" and chunks[-1] == (b"WBRU", b"{}")
    header = chunks[0][1]
    assert bool(header[0] & 0x10) == (mode == "RGBA")
    assert [int.from_bytes(header[start : start + 3], "little") + 1 for start in (4, 7)] == [7, 5]
    assert opened(after).mode == mode and (loaded(after) == loaded(content)).all()


def test_a_picture_is_written_together_with_other_files(tmp_path: Path):
    whole = picture(saved(Image.new("RGB", (4, 4)), "PNG"))
    with pytest.raises(RuntimeError), files.all_or_none() as opening:
        formats.write(whole, whole.image, np.zeros((4, 4)), tmp_path / "a.png", RECORD, opening)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
