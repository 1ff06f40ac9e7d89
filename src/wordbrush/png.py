"""The chunks of a PNG file: a picture whose metadata Pillow refuses is read without it."""

import struct
import zlib
from collections.abc import Iterator

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_METADATA = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP"}
_LARGEST_PROFILE = 64 * 1024 * 1024
_LARGEST_TEXT = 1024 * 1024  # Pillow's limit


def without_metadata(content: bytes, kept: str) -> tuple[bytes, bytes | None] | None:
    """A PNG's bytes without text, EXIF and colour profile, and the profile; None for bytes that are no PNG.

    kept: the keyword of the text that stays, if it is short. The profile is unpacked here: Pillow reads none above
    1 MB.
    """
    if not content.startswith(_SIGNATURE):
        return None
    parts, profile = [_SIGNATURE], None
    for kind, data, whole in chunks(content):
        if kind == b"iCCP":
            profile = _profile(data)
        own = kind == b"tEXt" and len(data) < _LARGEST_TEXT and data.startswith(kept.encode() + b"\0")
        if own or kind not in _METADATA:
            parts.append(whole)
    return b"".join(parts), profile


def chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """The name, the content and all bytes of each chunk; nothing for bytes that are no PNG."""
    position = len(_SIGNATURE)
    while content.startswith(_SIGNATURE) and position + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        kind, stop = content[position + 4 : position + 8], position + 12 + length
        yield kind, content[position + 8 : stop - 4], content[position:stop]
        position = stop


def _profile(data: bytes) -> bytes | None:
    """The colour profile in an iCCP chunk; None if it is damaged or without end."""
    _, _, packed = data.partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        found = unpacking.decompress(packed[1:], _LARGEST_PROFILE)
    except zlib.error:
        return None
    return found if unpacking.eof else None
