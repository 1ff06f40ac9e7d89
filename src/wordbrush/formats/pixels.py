"""A file's own pixels with an edit painted over them, in the file's mode and colour space where its format allows."""

import io
from dataclasses import dataclass
from typing import cast

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageCms

from wordbrush import images

NAMES = {
    "1": "black and white",
    "L": "grey",
    "LA": "grey with transparency",
    "I;16": "16-bit grey",
    "I;16A": "16-bit grey with a transparent value",
    "RGB": "RGB",
    "RGBA": "RGB with transparency",
    "CMYK": "CMYK",
}
_COLOURS = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "I;16": "L",
    "I;16A": "L",
    "RGB": "RGB",
    "RGBA": "RGB",
    "CMYK": "CMYK",
}
_NEXT = {"1": "L", "I;16": "L", "I;16A": "LA", "LA": "RGBA", "L": "RGB", "RGBA": "RGB", "CMYK": "RGB"}
_ALPHA = ("LA", "RGBA", "I;16A")
_NEARLY = 2  # levels by which the channels of a grey may differ


@dataclass(frozen=True)
class Pixels:
    """Pixels to write. profile: the ICC profile that shows them. own: whether unchanged pixels are the file's own
    numbers, so that all that says how to show those may stay. key: the grey of 16 bits that means "transparent"."""

    image: Image.Image
    profile: bytes | None
    own: bool
    key: int | None


def painted(
    upright: Image.Image,
    seen: Image.Image,
    edited: Image.Image,
    share: Float[np.ndarray, "h w"],
    holds: frozenset[str],
    format: str,
    notices: list[str],
) -> Pixels:
    """A file's pixels with the edit where its share is above 0.

    upright: the file's own, with its profile in `info`; seen: the same as 8-bit sRGB on white; holds: the modes that
    the format has; format: its name, for the sentences that `notices` gets.
    """
    own, before = _plain(upright, notices)
    changed = share > 0
    values = np.asarray(edited)[changed]
    profile: bytes | None = upright.info.get("icc_profile")
    shows, inverse = _spaces(profile, _COLOURS[before])
    clear = before in _ALPHA

    needed = _needed(before, values)
    if shows and inverse is None:  # nothing can be painted in its colour space
        needed = "RGBA" if clear else "RGB"
    mode = needed
    while mode not in holds:
        mode = _NEXT[mode]
    flattened = clear and mode not in _ALPHA
    same = _COLOURS[mode] == _COLOURS[before]
    if shows and (inverse is None or flattened or not same):
        notices.append("its colours were converted from its colour profile to sRGB")
    if flattened:
        notices.append(f"transparency was filled with white, since a {format} file has none")
    elif clear and upright.mode in ("1", "L", "RGB"):
        notices.append("its transparent colour became an alpha channel")
    if _opaque(mode) != _opaque(before):
        why = f"a {format} file has no other" if needed == before else "the edit needs it"
        notices.append(f"it was {NAMES[before]} and became {NAMES[mode]}: {why}")
    if flattened or before == "CMYK" != mode:
        base, kept = seen, False
    elif shows and (inverse is None or not same):
        base, kept = images.in_srgb(images.colours(_eight_bit(own)), profile, []), False
        if clear:
            base.putalpha(_eight_bit(own).getchannel("A"))
    else:
        base, kept = own if mode == before else _eight_bit(own).convert(mode), True
    key = own.info.get("transparency") if mode == "I;16A" else None
    image = _paint(base, changed, values, share[changed], inverse if kept and same else None, key)
    return Pixels(image, profile if kept and same else None, kept, key)


def _plain(upright: Image.Image, notices: list[str]) -> tuple[Image.Image, str]:
    """The same pixels in one of the modes of `NAMES`, and its name: "I;16A" is what Pillow has no name for."""
    mode = upright.mode
    if mode in ("P", "PA"):
        notices.append("its palette became RGB, in the same colours")
    if mode.startswith("I"):
        grey = Image.fromarray(np.asarray(upright).astype(np.uint16))
        if not upright.has_transparency_data:
            return grey, "I;16"
        grey.info["transparency"] = upright.info["transparency"]
        return grey, "I;16A"
    if upright.has_transparency_data:
        own = upright.convert("RGBA")
        own = own.convert("LA") if images.colours(upright).mode == "L" else own
    else:
        own = upright if mode in NAMES else upright.convert("RGB")
    return own, own.mode


def _opaque(mode: str) -> str:
    return {"LA": "L", "RGBA": "RGB"}.get(mode, mode)


def _needed(mode: str, values: UInt8[np.ndarray, "n 3"]) -> str:
    """The mode that holds the edit beside the file's own pixels."""
    if _COLOURS[mode] != "L" or not len(values):
        return mode
    if int((values.max(1) - values.min(1)).max()) > _NEARLY:
        return "RGBA" if mode in _ALPHA else "RGB"
    middle = np.minimum(values, 255 - values).max()
    return "L" if mode == "1" and middle > _NEARLY else mode


def _spaces(profile: bytes | None, mode: str) -> tuple[bool, ImageCms.ImageCmsTransform | None]:
    """Whether a profile shows pixels of a mode, as `images.rgb` judges it, and the way from sRGB into it."""
    if not profile:
        return False, None
    try:
        embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        ImageCms.buildTransform(embedded, images.SRGB, mode, "RGB")
    except images.PROFILE_ERRORS:
        return False, None
    try:
        return True, ImageCms.buildTransform(images.SRGB, embedded, "RGB", mode)
    except images.PROFILE_ERRORS:
        return True, None


def _eight_bit(own: Image.Image) -> Image.Image:
    return images.eight_bit(own, 16) if own.mode == "I;16" else own


def _paint(
    base: Image.Image,
    changed: Bool[np.ndarray, "h w"],
    values: UInt8[np.ndarray, "n 3"],
    share: Float[np.ndarray, " n"],
    inverse: ImageCms.ImageCmsTransform | None,
    key: int | None,
) -> Image.Image:
    """The base with the changed pixels' values, sRGB on white, in its own mode and colour space."""
    if not len(values):
        return base
    pixels = np.array(base)
    if base.mode in _ALPHA:
        pixels[changed, -1], values = _off_white(values, pixels[changed, -1], share)
    row = Image.fromarray(values[None])
    shown = row.convert(_COLOURS[base.mode]) if inverse is None else ImageCms.applyTransform(row, inverse)
    numbers = np.asarray(cast(Image.Image, shown))[0]
    if base.mode == "I;16":
        numbers = numbers.astype(np.uint16) * 257
        numbers[numbers == key] ^= 1  # what was painted is not transparent
    elif base.mode == "1":
        numbers = numbers >= 128
    if base.mode in _ALPHA:
        pixels[changed, :-1] = numbers.reshape(len(values), -1)
    else:
        pixels[changed] = numbers
    return (
        Image.frombytes("CMYK", base.size, pixels.tobytes())
        if base.mode == "CMYK"
        else Image.fromarray(pixels)
    )


def _off_white(
    values: UInt8[np.ndarray, "n 3"], alpha: UInt8[np.ndarray, " n"], share: Float[np.ndarray, " n"]
) -> tuple[UInt8[np.ndarray, " n"], UInt8[np.ndarray, "n 3"]]:
    """Alpha and colours that give these values on white: at least as opaque as they were, as the edit's share, and as
    the darkest channel asks for."""
    opaque = np.maximum(np.maximum(alpha, 255 - values.min(1)), np.rint(255 * share).astype(np.uint8))
    darkness = (255 - values.astype(np.float32)) * 255 / np.maximum(opaque, 1)[:, None]
    return opaque, np.rint(255 - darkness).clip(0, 255).astype(np.uint8)
