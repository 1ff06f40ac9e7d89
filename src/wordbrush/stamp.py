"""The record of how a picture was made, as text in the picture's file: where it stands in each format.

| PNG | a text chunk "wordbrush" |
| JPEG | APP9 segments, of "wordbrush" and a byte 0, the part's number from 1, the number of parts, and the part |
| WebP | a chunk "WBRU" after the others |
| TIFF | the private tag 65111, of "wordbrush", a byte 0 and the text |
"""

import json
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile, PngInfo
from PIL.TiffImagePlugin import TiffImageFile

from wordbrush import webp
from wordbrush.errors import OutputError

KEY = "wordbrush"
MOST = 1_000_000
"""Bytes of a record: Pillow reads hardly longer text from a PNG."""

TIFF_TAG = 65111
_MARK = KEY.encode() + b"\0"
_APP, _CHUNK = b"\xff\xe9", b"WBRU"
_SEGMENT = 65533 - len(_MARK) - 2


def as_text(provenance: Mapping[str, Any]) -> str:
    """A record as text: JSON of ASCII characters."""
    return json.dumps(dict(provenance), allow_nan=False)


def png(text: str | None) -> PngInfo:
    """The text chunks of a PNG: the record, or none. This and the others raise `OutputError` for a record too long."""
    chunks = PngInfo()
    if text is not None:
        chunks.add_text(KEY, _bytes(text).decode())
    return chunks


def jpeg(text: str) -> bytes:
    """The segments of a JPEG."""
    data = _bytes(text)
    parts = [data[start : start + _SEGMENT] for start in range(0, len(data), _SEGMENT)]
    return b"".join(
        segment(_APP, _MARK + bytes((number, len(parts))) + part) for number, part in enumerate(parts, 1)
    )


def tiff(text: str) -> bytes:
    """The value of the private tag of a TIFF."""
    return _MARK + _bytes(text)


def in_webp(content: bytes, width: int, height: int, text: str) -> bytes:
    """A WebP of this size with the record."""
    return webp.with_chunk(content, width, height, _CHUNK, _bytes(text))


def _bytes(text: str) -> bytes:
    data = text.encode()
    if len(data) > MOST:
        raise OutputError(
            f"expected a record of how the picture was made of at most {MOST:,} bytes, got {len(data):,}; "
            "save the picture without its record"
        )
    return data


def segment(marker: bytes, data: bytes) -> bytes:
    """One segment of a JPEG: at most 65,533 bytes. marker: its two bytes."""
    return marker + struct.pack(">H", 2 + len(data)) + data


def read(file: Image.Image, content: bytes) -> str | None:
    """The record in a picture file, opened from its content; None where there is none, or one too long or in pieces.

    May raise what Pillow raises for damaged bytes; a PNG's pixels are decoded, since text can follow them.
    """
    if isinstance(file, PngImageFile):
        return file.text.get(KEY)
    if isinstance(file, JpegImageFile):
        found = _of_segments([data for name, data in file.applist if name == "APP9"])
    elif isinstance(file, TiffImageFile):
        value: object = file.tag_v2.get(TIFF_TAG)
        found = value[len(_MARK) :] if isinstance(value, bytes) and value.startswith(_MARK) else None
    else:
        found = next((data for kind, data in webp.chunks(content) if kind == _CHUNK), None)
    return None if found is None or len(found) > MOST else found.decode()


def _of_segments(segments: list[bytes]) -> bytes | None:
    parts = [data[len(_MARK) :] for data in segments if data.startswith(_MARK)]
    whole = [bytes((number, len(parts))) for number in range(1, len(parts) + 1)]
    return b"".join(part[2:] for part in parts) if parts and [p[:2] for p in parts] == whole else None
