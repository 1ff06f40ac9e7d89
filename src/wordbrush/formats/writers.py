"""Pixels, metadata and the record of how a picture was made, as the bytes of a file: one writer for each format."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from PIL import Image
from PIL.ExifTags import Base
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from PIL.TiffImagePlugin import STRIPBYTECOUNTS, STRIPOFFSETS, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from wordbrush import stamp, webp
from wordbrush.formats import metadata as described
from wordbrush.formats.metadata import Metadata
from wordbrush.formats.pixels import Pixels

TURNED = range(2, 9)  # EXIF orientations of pictures that are not upright

_SEGMENT = 65533  # bytes of a JPEG's segment
_XMP_HEADER, _PROFILE_HEADER = 29, 14
_LOSSY = {"jpeg": "JPEG", "tiff_jpeg": "JPEG", "webp": "WebP"}  # compressions in TIFF
_LOSSLESS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate")
_BILEVEL = ("group3", "group4")


@dataclass(frozen=True)
class Original:
    """How a file was written. how: what Pillow's writer of the same format takes, by its names."""

    format: str
    orientation: int
    how: dict[str, Any]

    @classmethod
    def of(cls, file: Image.Image, content: bytes) -> "Original":
        """Of a file that was opened from its content; nothing is decoded."""
        how: dict[str, Any] = {}
        if isinstance(file, JpegImageFile):
            rgb = [layer[0] for layer in file.layer] == [*b"RGB"] or file.info.get("adobe_transform") == 0
            how = {
                "qtables": [table for _, table in sorted(file.quantization.items())],
                "subsampling": max(get_sampling(file), 0),
                "progressive": bool(file.info.get("progressive")),
                "keep_rgb": rgb and file.mode == "RGB",
            }
            if file.mode != "RGB":  # one table for all: the second would be the one for colour differences
                how["qtables"] = how["qtables"][:1]
        elif isinstance(file, TiffImageFile):
            how = {"compression": file.info.get("compression")}
        elif isinstance(file, WebPImageFile):
            how = {"lossless": webp.lossless(content)}
        orientation = file.getexif().get(Base.Orientation, 1)
        format = "JPEG" if isinstance(file, JpegImageFile) else file.format or ""
        return cls(format, orientation if orientation in TURNED else 1, how)


@dataclass(frozen=True)
class Writer:
    """A format. name: for messages. modes: what it holds. write: from the pixels, how a file of the same format was
    written, the metadata and the record; it adds sentences for the user to a list."""

    name: str
    modes: frozenset[str]
    write: Callable[[Pixels, Original, Metadata, str | None, list[str]], bytes]


def _exif(metadata: Metadata, original: Original) -> bytes:
    block = described.block(metadata)
    return block if original.orientation == 1 else described.oriented(block, original.orientation)


def _without_place(notices: list[str], format: str, **left: object) -> None:
    for what, data in left.items():
        if data:
            notices.append(f"its {what} has no place in a {format} file and was left out")


def _png(
    pixels: Pixels, original: Original, metadata: Metadata, record: str | None, notices: list[str]
) -> bytes:
    _without_place(notices, "PNG", **{"IPTC and Photoshop data": metadata.photoshop})
    info = stamp.png(record)
    for kind, data in metadata.chunks:
        info.add(kind, data)
    for comment in metadata.comments:
        info.add_text("Comment", _text(comment))
    if metadata.xmp:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
    return _saved(
        pixels.image,
        "PNG",
        pnginfo=info,
        icc_profile=pixels.profile,
        exif=_exif(metadata, original),
        dpi=metadata.dpi,
        transparency=pixels.key,
    )


def _jpeg(
    pixels: Pixels, original: Original, metadata: Metadata, record: str | None, notices: list[str]
) -> bytes:
    exif, xmp = _exif(metadata, original), metadata.xmp
    if len(exif) > _SEGMENT - 6:
        exif = described.oriented(b"", original.orientation)
        notices.append("its EXIF data is too long for a JPEG file and was left out")
    if len(xmp) > _SEGMENT - _XMP_HEADER:
        xmp = b""
        notices.append("its XMP data is too long for a JPEG file and was left out")
    if len(pixels.profile or b"") > 255 * (_SEGMENT - _PROFILE_HEADER):
        raise ValueError("its colour profile is too large")
    _without_place(notices, "JPEG", text=_texts(metadata))
    step = _SEGMENT - len(described.APP13)
    extra = b"".join(
        stamp.segment(b"\xff\xed", described.APP13 + metadata.photoshop[start : start + step])
        for start in range(0, len(metadata.photoshop), step)
    )
    extra += b"".join(stamp.segment(b"\xff\xfe", comment) for comment in metadata.comments)
    how: dict[str, Any] = {
        "exif": b"Exif\0\0" + exif if exif else b"",
        "xmp": xmp,
        "icc_profile": pixels.profile,
        "dpi": metadata.dpi or (0, 0),
        "extra": extra + (stamp.jpeg(record) if record is not None else b""),
        **(original.how or {"quality": 95, "subsampling": 0}),
    }
    try:
        return _saved(pixels.image, "JPEG", **how)
    except OSError:  # Pillow guesses how long a progressive file will be, too short for much detail
        return _saved(pixels.image, "JPEG", **{**how, "progressive": False})


def _webp(
    pixels: Pixels, original: Original, metadata: Metadata, record: str | None, notices: list[str]
) -> bytes:
    left = {"text": _texts(metadata), "comment": metadata.comments}
    _without_place(notices, "WebP", **{"IPTC and Photoshop data": metadata.photoshop, **left})
    lossless = original.how.get("lossless", True)
    content = _saved(
        pixels.image,
        "WEBP",
        icc_profile=pixels.profile,
        exif=_exif(metadata, original),
        xmp=metadata.xmp,
        lossless=lossless,
        quality=50
        if lossless
        else 95,  # of lossless pixels, how hard to try: more takes long and gains nothing
        exact=True,  # the colours of transparent pixels stay
    )
    return content if record is None else stamp.in_webp(content, *pixels.image.size, record)


def _tiff(
    pixels: Pixels, original: Original, metadata: Metadata, record: str | None, notices: list[str]
) -> bytes:
    _without_place(notices, "TIFF", text=_texts(metadata), comment=metadata.comments)
    compression = original.how.get("compression")
    if compression in _LOSSY:
        notices.append(f"its {_LOSSY[compression]} compression became a lossless one")
    if compression not in (*_LOSSLESS, *(_BILEVEL if pixels.image.mode == "1" else ())):
        compression = "tiff_adobe_deflate"
    smoother = compression in ("tiff_lzw", "tiff_adobe_deflate") and pixels.image.mode != "1"
    plain = _saved(pixels.image, "TIFF", compression=compression, tiffinfo={317: 2} if smoother else {})
    # Pillow compresses with libtiff, which knows only some tags: so the strips that it wrote get another directory.
    tags = described.directory(metadata)
    with Image.open(io.BytesIO(plain), formats=["TIFF"]) as file:
        assert isinstance(file, TiffImageFile)
        stored = file.tag_v2
        for tag in stored:
            if tag in described.STORAGE:
                tags.tagtype[tag] = stored.tagtype[tag]
                tags[tag] = stored[tag]
    strips = [
        plain[start : start + length]
        for start, length in zip(stored[STRIPOFFSETS], stored[STRIPBYTECOUNTS], strict=True)
    ]
    tags.tagtype[STRIPOFFSETS] = 4
    tags[STRIPOFFSETS] = tuple(accumulate(map(len, strips[:-1]), initial=0))
    if original.orientation != 1:
        tags[Base.Orientation] = original.orientation
    for tag, data in ((described.PROFILE, pixels.profile), (stamp.TIFF_TAG, record and stamp.tiff(record))):
        if data:
            tags.tagtype[tag] = 7
            tags[tag] = data
    content = io.BytesIO()
    tags.save(content)
    content.write(b"".join(strips))
    return content.getvalue()


def _texts(metadata: Metadata) -> list[bytes]:
    return [data for kind, data in metadata.chunks if kind in described.TEXT]


def _text(comment: bytes) -> str:
    comment = comment.rstrip(b"\0").replace(b"\0", b" ")
    try:
        return comment.decode()
    except UnicodeDecodeError:
        return comment.decode("latin-1")


def _saved(image: Image.Image, format: str, **how: Any) -> bytes:
    content = io.BytesIO()
    # The image's own `info` may hold what Pillow would write, too.
    bare = image.copy()
    bare.info = {}
    bare.save(content, format, **{name: value for name, value in how.items() if value is not None})
    return content.getvalue()


WRITERS = {
    "PNG": Writer("PNG", frozenset(("1", "L", "LA", "I;16", "I;16A", "RGB", "RGBA")), _png),
    "JPEG": Writer("JPEG", frozenset(("L", "RGB", "CMYK")), _jpeg),
    "TIFF": Writer("TIFF", frozenset(("1", "L", "LA", "I;16", "RGB", "RGBA", "CMYK")), _tiff),
    "WEBP": Writer("WebP", frozenset(("RGB", "RGBA")), _webp),
}
