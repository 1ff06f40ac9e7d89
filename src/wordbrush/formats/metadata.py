"""What a picture's file says beside its pixels, without what shows the picture as it was before the edit."""

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

from PIL import Image
from PIL.ExifTags import IFD, Base
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

from wordbrush import png, stamp

XMP, IPTC, PHOTOSHOP, PROFILE = 700, 33723, 34377, 34675
APP13 = b"Photoshop 3.0\0"
# How a TIFF's pixels are stored, from the width to the YCbCr reference, beside those that say something of the picture.
STORAGE = {
    *(*range(254, 260), *range(262, 267), 273, *range(277, 282), 284, *range(288, 294), 297, 301),
    *(*range(317, 326), 330, *range(332, 343), 347, *range(512, 522), *range(529, 533)),
}
_STALE = {37724, 52545}  # Photoshop's layers, which it would show and not the edit; a signature of the file
_ELSEWHERE_IN_TIFF = {
    XMP,
    IPTC,
    PHOTOSHOP,
    PROFILE,
    stamp.TIFF_TAG,
    *map(int, (IFD.Exif, IFD.GPSInfo, IFD.Interop)),
}
_NOT_COPIED = STORAGE | _STALE | _ELSEWHERE_IN_TIFF
_SHOWN = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
TEXT = (b"tEXt", b"zTXt", b"iTXt")
_PNG_KEPT = (*_SHOWN, *TEXT, b"tIME")
# What else there is in a JPEG (other pictures, signatures, depth) belongs to the picture before the edit.
_KNOWN = {
    "APP0": b"",
    "APP1": (b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"),
    "APP2": b"ICC_PROFILE\0",
    "APP9": stamp.KEY.encode() + b"\0",
    "APP13": APP13,
    "APP14": b"Adobe",
    "COM": b"",
}
_RAW_EXIF = ("Raw profile type exif", "Raw profile type APP1")
_ELSEWHERE_IN_PNG = {name.encode() for name in (stamp.KEY, "XML:com.adobe.xmp", *_RAW_EXIF)}
_THUMBNAILS = (1033, 1036)  # among Photoshop's resources
_XMP_THUMBNAILS = re.compile(rb"<(xmp|xap):Thumbnails\b.*?</\1:Thumbnails\s*>", re.DOTALL)


@dataclass
class Metadata:
    """A file's metadata. exif: the block, which starts with its byte order; directory: a TIFF's own tags, in its place;
    photoshop: Photoshop's resources, IPTC among them; chunks: of a PNG."""

    exif: bytes = b""
    directory: ImageFileDirectory_v2 | None = None
    xmp: bytes = b""
    photoshop: bytes = b""
    dpi: tuple[float, float] | None = None
    comments: list[bytes] = field(default_factory=list[bytes])
    chunks: list[tuple[bytes, bytes]] = field(default_factory=list[tuple[bytes, bytes]])

    def only_shown(self) -> "Metadata":
        """What says how the pixels are shown, and nothing else."""
        return Metadata(chunks=[chunk for chunk in self.chunks if chunk[0] in _SHOWN])

    def without_colours(self) -> "Metadata":
        """Without what says how the file's own numbers are shown, where others take their place."""
        return replace(self, chunks=[chunk for chunk in self.chunks if chunk[0] not in _SHOWN])


def read(file: Image.Image, content: bytes, notices: list[str]) -> Metadata:
    """A file's metadata. file: opened from the content, not decoded. What is damaged is left out, and `notices` says
    so."""
    found = Metadata()

    def attempt(what: str, reader: Any, *args: Any) -> None:
        try:
            reader(found, *args)
        except Exception:  # Pillow raises nearly any exception for damaged bytes
            notices.append(f"its {what} could not be read and was left out")

    attempt("resolution", _resolution, file)
    attempt("XMP data", _xmp, file)
    if isinstance(file, TiffImageFile):
        attempt("TIFF data", _tiff, file)
    else:
        attempt("EXIF data", _exif, file)
    if isinstance(file, JpegImageFile):
        found.comments = [data for name, data in file.applist if name == "COM"]
        attempt("Photoshop data", _photoshop, b"".join(_of_app13(file)))
        if left := sorted({name for name, data in file.applist if not data.startswith(_KNOWN.get(name, ()))}):
            notices.append(f"its data in the segments {', '.join(left)} was left out")
    if isinstance(file, PngImageFile):
        found.chunks = [
            (kind, data)
            for kind, data, _ in png.chunks(content)
            if kind in _PNG_KEPT and not (kind in TEXT and _keyword(data) in _ELSEWHERE_IN_PNG)
        ]
    return found


def _keyword(text: bytes) -> bytes:
    return text.partition(b"\0")[0]


def _resolution(found: Metadata, file: Image.Image) -> None:
    x, y = (float(each) for each in file.info.get("dpi", (0, 0)))
    if 0 < x < 1e6 and 0 < y < 1e6:
        found.dpi = x, y


def _xmp(found: Metadata, file: Image.Image) -> None:
    xmp: object = file.info.get("xmp", b"")
    data = xmp.encode() if isinstance(xmp, str) else xmp
    if isinstance(data, bytes):
        data.decode()
        found.xmp = _XMP_THUMBNAILS.sub(b"", data).rstrip(b"\0")


def _exif(found: Metadata, file: Image.Image) -> None:
    block: bytes = file.info.get("exif", b"")
    if not block and any(name in file.info for name in _RAW_EXIF):
        block = file.getexif().tobytes()
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    found.exif = without_thumbnail(block) if block else b""


def _tiff(found: Metadata, file: TiffImageFile) -> None:
    found.directory = _copied(file.tag_v2, file.getexif())
    if PHOTOSHOP in file.tag_v2:
        _photoshop(found, _as_bytes(file.tag_v2[PHOTOSHOP]))
    # As bytes: some programs write 32-bit words, of which Pillow decodes the first.
    iptc: bytes = cast(Any, file.tag_v2)._tagdata.get(IPTC, b"")
    if iptc and not found.photoshop:
        found.photoshop = resource(1028, iptc)


def directory(metadata: Metadata) -> ImageFileDirectory_v2:
    """The tags of a TIFF that has this metadata; its strips come to it later."""
    tags = metadata.directory
    if tags is None and metadata.exif:
        exif = Image.Exif()
        exif.load(metadata.exif)
        source = ImageFileDirectory_v2(metadata.exif[:8])
        block = io.BytesIO(metadata.exif)
        block.seek(source.next)
        source.load(block)
        tags = _copied(source, exif)
    tags = tags or ImageFileDirectory_v2()
    if metadata.dpi:
        tags[296] = 2
        tags[282], tags[283] = metadata.dpi
    for tag, data, kind in ((XMP, metadata.xmp, 1), (PHOTOSHOP, metadata.photoshop, 1)):
        if data:
            tags.tagtype[tag] = kind
            tags[tag] = data
    return tags


def block(metadata: Metadata) -> bytes:
    """The EXIF block of a file that is no TIFF."""
    if metadata.directory is None:
        return metadata.exif
    tags = directory(Metadata(directory=metadata.directory))
    return b"II*\0\x08\0\0\0" + tags.tobytes(8)


def _copied(source: ImageFileDirectory_v2, exif: Image.Exif) -> ImageFileDirectory_v2:
    """What a directory says of the picture, with its EXIF and GPS data."""
    copy = ImageFileDirectory_v2()
    for tag in sorted({*source} - _NOT_COPIED):
        copy.tagtype[tag] = source.tagtype[tag]
        copy[tag] = _as_written(source[tag])
    for tag in (IFD.Exif, IFD.GPSInfo):
        if tag in source and (values := _entries(exif, tag)):
            copy.tagtype[tag] = 4
            copy[tag] = values
    return copy


def _entries(exif: Image.Exif, tag: int) -> dict[int, Any]:
    values = {each: _as_written(value) for each, value in exif.get_ifd(tag).items()}
    if IFD.Interop in values:
        if interop := exif.get_ifd(IFD.Interop):
            values[IFD.Interop] = {each: _as_written(value) for each, value in interop.items()}
        else:
            del values[IFD.Interop]
    return values


def _as_written(value: Any) -> Any:
    """Text as the bytes it was read from: Pillow reads Latin-1 and writes ASCII."""
    return value.encode("latin-1", "replace") if isinstance(value, str) and not value.isascii() else value


def _as_bytes(value: Any) -> bytes:
    return b"".join(cast(tuple[bytes, ...], value)) if isinstance(value, tuple) else value


def oriented(exif: bytes, orientation: int) -> bytes:
    """An EXIF block that says this orientation, the same one if it does."""
    tags = Image.Exif()
    tags.load(exif)
    if tags.get(Base.Orientation, 1) == orientation:
        return exif
    tags[Base.Orientation] = orientation
    return tags.tobytes()[6:]


def without_thumbnail(exif: bytes) -> bytes:
    """An EXIF block without the pictures in it; everything else stays where it was, since makers' notes point there.

    Raises `struct.error` for a block that ends too soon.
    """
    edited, order = bytearray(exif), "<" if exif.startswith(b"II") else ">"
    (first,) = struct.unpack_from(order + "I", edited, 4)
    link = _link(edited, order, first)
    if link + 4 > len(edited):
        return exif
    (second,) = struct.unpack_from(order + "I", edited, link)
    struct.pack_into(order + "I", edited, link, 0)
    end, seen = len(edited), {0, first}
    while second not in seen:
        seen.add(second)
        for start, length in _pictures(edited, order, second):
            stop = min(start + length, len(edited))
            edited[start:stop] = bytes(max(stop - start, 0))
            end = start if stop == end and start > link else end
        (second,) = struct.unpack_from(order + "I", edited, _link(edited, order, second))
    return bytes(edited[:end])


def _link(block: bytearray, order: str, start: int) -> int:
    """Where a directory says where the next one is."""
    (count,) = struct.unpack_from(order + "H", block, start)
    return start + 2 + 12 * count


def _pictures(block: bytearray, order: str, start: int) -> Iterator[tuple[int, int]]:
    """Starts and lengths of the pictures that a directory points to: a JPEG, or strips."""
    values: dict[int, tuple[int, ...]] = {}
    for place in range(start + 2, _link(block, order, start), 12):
        tag, kind, count = struct.unpack_from(order + "HHI", block, place)
        if tag in (273, 279, 513, 514) and kind in (3, 4) and count <= len(block):
            letter, size = ("H", 2) if kind == 3 else ("I", 4)
            if count * size > 4:
                (place,) = struct.unpack_from(order + "I", block, place + 8)
            else:
                place += 8
            values[tag] = struct.unpack_from(f"{order}{count}{letter}", block, place)
    for starts, lengths in ((273, 279), (513, 514)):
        yield from zip(values.get(starts, ()), values.get(lengths, ()), strict=False)


def _photoshop(found: Metadata, data: bytes) -> None:
    kept: list[bytes] = []
    position = 0
    while data.startswith(b"8BIM", position):
        code, name = struct.unpack_from(">HB", data, position + 4)
        start = position + 6 + (name + 2) // 2 * 2
        (length,) = struct.unpack_from(">I", data, start)
        stop = start + 4 + length + length % 2
        if code not in _THUMBNAILS:
            kept.append(data[position:stop])
        position = stop
    found.photoshop = b"".join(kept)


def resource(code: int, data: bytes) -> bytes:
    """One of Photoshop's resources."""
    return b"8BIM" + struct.pack(">HHI", code, 0, len(data)) + data + bytes(len(data) % 2)


def _of_app13(file: JpegImageFile) -> Iterator[bytes]:
    for name, data in file.applist:
        if name == "APP13" and data.startswith(APP13):
            yield data[len(APP13) :]
