"""A file's own pixels with an edit painted over them: in the file's mode and colour space, where the format has them."""

import io
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageCms

from wordbrush import images

GREY = {"1", "L", "LA", "I;16"}
NAMES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I;16": "16-bit grey",
    "RGB": "RGB",
    "RGBA": "RGB with transparency",
    "CMYK": "CMYK",
}
_NEARLY = 2  # levels by which a grey's channels may differ


@dataclass(frozen=True)
class Pixels:
    """Pixels to write, and what shows them. profile: the ICC profile that they need. own: whether their colours are
    the file's own numbers, so that whatever else says how to show those may stay. key: the grey value that is
    transparent, of 16-bit pixels."""

    image: Image.Image
    profile: bytes | None
    own: bool
    key: int | None = None


def painted(
    upright: Image.Image,
    seen: Image.Image,
    edited: Image.Image,
    share: Float[np.ndarray, "h w"],
    holds: set[str],
    format: str,
    notices: list[str],
) -> Pixels:
    """A file's pixels with the edit where its share is above 0.

    upright: the file's own, decoded, with its profile in `info`; seen: the same as 8-bit sRGB on white; holds: the modes
    that the format has; format: its name, for the sentences that `notices` gets.
    """
    own, key = plain(upright, notices)
    changed = share > 0
    values = np.asarray(edited)[changed]
    needed = _with_colours(own.mode, values)
    if needed != own.mode:
        notices.append(f"it was {NAMES[own.mode]} and became {NAMES[needed]}, which the edit needs")
    mode = _held(needed, holds)
    if mode != needed:
        notices.append(f"it became {NAMES[mode]}: a {format} file cannot hold {NAMES[needed]}")

    stored: bytes | None = upright.info.get("icc_profile")
    profile = _usable(stored, own.mode)
    if profile and stored and not _invertible(profile, _colours(mode)):
        profile, convert = None, True
    else:
        convert = False
    lost = _has_alpha(own.mode, key) and mode not in ("LA", "RGBA", "I;16")
    if convert or lost or _colours(mode) != _colours(own.mode):
        base = seen.convert(mode) if lost or own.mode == "CMYK" else _shown(own, upright, mode)
        if _usable(stored, own.mode):
            notices.append("its colours were converted to sRGB, without its colour profile")
        stored, profile, same = None, None, False
    else:
        base, same = _as(own, mode), True
    return Pixels(_paint(base, changed, values, share, profile, key), stored, same, key if mode == "I;16" else None)
