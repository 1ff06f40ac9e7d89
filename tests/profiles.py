"""ICC profiles made from numbers: a wide RGB one, a grey one, and a CMYK one of tables."""

import struct
from functools import cache

import numpy as np
from PIL import ImageCms

D50 = (0.9642, 1.0, 0.8249)
TO_XYZ = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])  # sRGB, D50


def _fixed(*values: float) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


@cache
def wide() -> bytes:
    """sRGB's profile with the primaries of Display P3."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    primaries = {
        b"rXYZ": (0.5151, 0.2412, -0.0011),
        b"gXYZ": (0.2920, 0.6922, 0.0419),
        b"bXYZ": (0.1571, 0.0666, 0.7841),
    }
    for name, values in primaries.items():
        place = profile.index(name, 132)
        (offset,) = struct.unpack_from(">I", profile, place + 4)
        profile[offset + 8 : offset + 20] = _fixed(*values)
    return bytes(profile)


def _profile(kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes]) -> bytes:
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50),
        **tags,
    }
    table, body, offset = b"", b"", 132 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    header = bytearray(128)
    header[8:12], header[12:16], header[16:20], header[20:24] = b"\x02\x10\0\0", kind, space, connection
    header[36:40], header[68:80] = b"acsp", _fixed(*D50)
    header[0:4] = struct.pack(">I", offset + len(body))
    return bytes(header) + struct.pack(">I", len(tags)) + table + body


@cache
def grey() -> bytes:
    """Grey with a gamma of 1.8."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(1.8 * 256))
    return _profile(b"mntr", b"GRAY", b"XYZ ", {b"kTRC": curve})


def _lab(rgb: np.ndarray) -> np.ndarray:
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    f = linear @ TO_XYZ.T / D50
    f = np.where(f > 0.008856, np.cbrt(f), 7.787 * f + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def _rgb(lab: np.ndarray) -> np.ndarray:
    y = (lab[..., 0] + 16) / 116
    f = np.stack([y + lab[..., 1] / 500, y, y - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, (f - 16 / 116) / 7.787) * D50
    linear = (xyz @ np.linalg.inv(TO_XYZ).T).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).clip(0, 1)


def _table(grid: int, inputs: int, outputs: np.ndarray) -> bytes:
    ramp = struct.pack(">2H", 0, 65535)
    values = outputs.reshape(-1, outputs.shape[-1]).round().clip(0, 65535).astype(">u2").tobytes()
    sides = bytes((inputs, outputs.shape[-1], grid, 0))
    return (
        b"mft2" + bytes(4) + sides + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1) + struct.pack(">2H", 2, 2)
        + ramp * inputs + values + ramp * outputs.shape[-1]
    )  # fmt: skip


@cache
def cmyk(*, back: bool = True) -> bytes:
    """CMYK whose inks take light away as a screen's lamps add it: C = 1 − R, and black is a factor. back: whether it
    also says which inks a colour needs."""
    ink = np.stack(np.meshgrid(*[np.linspace(0, 1, 9)] * 4, indexing="ij"), -1)
    lab = _lab((1 - ink[..., :3]) * (1 - ink[..., 3:]))
    forward = np.stack([lab[..., 0] * 652.8, (lab[..., 1] + 128) * 256, (lab[..., 2] + 128) * 256], -1)
    steps = np.linspace(0, 65535, 33)
    coded = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1)
    lab = np.stack([coded[..., 0] / 652.8, coded[..., 1] / 256 - 128, coded[..., 2] / 256 - 128], -1)
    inks = np.concatenate([1 - _rgb(lab), np.zeros((33, 33, 33, 1))], -1) * 65535
    tags = {b"A2B0": _table(9, 4, forward), **({b"B2A0": _table(33, 3, inks)} if back else {})}
    return _profile(b"prtr", b"CMYK", b"Lab ", tags)
