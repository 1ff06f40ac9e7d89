"""The chunks of a WebP file: whether its pixels are lossless, and a chunk of one's own after the others."""

import struct
from collections.abc import Iterator

_FRAME_HEADER = 16  # bytes before the chunks of an animation's frame
_ALPHA = 0x10


def chunks(content: bytes, position: int = 12) -> Iterator[tuple[bytes, bytes]]:
    """The names and contents of a file's chunks; nothing for bytes that are no WebP, and none that is cut short."""
    if not (content.startswith(b"RIFF") and content[8:12] == b"WEBP"):
        return
    while position + 8 <= len(content):
        kind, length = struct.unpack_from("<4sI", content, position)
        data = content[position + 8 : position + 8 + length]
        if len(data) < length:
            return
        if kind == b"ANMF":
            yield from chunks(content, position + 8 + _FRAME_HEADER)
            return
        yield kind, data
        position += 8 + length + length % 2


def lossless(content: bytes) -> bool:
    """Whether the pixels of a WebP, of an animation's first frame, were written without loss."""
    return next((kind == b"VP8L" for kind, _ in chunks(content) if kind in (b"VP8L", b"VP8 ")), False)


def with_chunk(content: bytes, width: int, height: int, kind: bytes, data: bytes) -> bytes:
    """A WebP of one frame with one more chunk, after the others as the format asks; width, height: the picture's.

    Only a file that starts with a VP8X chunk may hold other chunks than its pixels, so it gets one if it has none.
    """
    existing = list(chunks(content))
    if existing[0][0] != b"VP8X":
        pixels = existing[0][1]
        flags = _ALPHA if existing[0][0] == b"VP8L" and pixels[4] & 0x10 else 0
        sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
        existing.insert(0, (b"VP8X", struct.pack("<I", flags) + sides))
    body = b"".join(
        struct.pack("<4sI", name, len(each)) + each + bytes(len(each) % 2)
        for name, each in (*existing, (kind, data))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body
