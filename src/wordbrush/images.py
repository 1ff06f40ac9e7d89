"""Read and write pictures: files, PIL images, tensors in [-1, 1], and the provenance stored in a PNG.

Inside the package a picture is an 8-bit RGB `PIL.Image` or a float tensor `(…, 3, height, width)` in [-1, 1].
`rgb` converts every other kind.
"""

import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps
from PIL.ExifTags import Base
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor

from wordbrush.errors import ImageError, NumericsError, OutputError
from wordbrush.files import Opened, atomic_write

# Decided by content, never by the file's name. Pillow knows forty more formats; each is a parser that
# strangers' bytes would reach.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 40_000_000

WHITE = (255, 255, 255)
PROVENANCE_KEY = "wordbrush"

_SRGB = cast(Any, ImageCms.createProfile("sRGB"))
_EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}


# Reading ----------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], *, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Read a picture file as 8-bit RGB, upright.

    PNG, JPEG, WebP, BMP and TIFF are read, by content. Of an animation the first frame is taken; the rest is
    `rgb`'s. What was done to the picture on the way stands, in sentences, in `image.info["notices"]`.

    Raises `ImageError` if the file is missing, is no such picture, is truncated or damaged, or has more than
    40 megapixels (found out from its header, before anything is decoded).

        image = load("photo.jpg")
        for notice in image.info["notices"]:
            print(notice)
    """
    file = _open(path)
    try:
        frames = getattr(file, "n_frames", 1)
        image = rgb(file, background=background)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error
    except Exception as error:  # decoders meet damaged bytes with nearly any exception
        raise ImageError(
            f"{path} is damaged or cut short ({error}); save it anew from its original"
        ) from error
    finally:
        file.close()
    if frames > 1:
        image.info["notices"].insert(0, f"the first of {frames} frames was taken")
    return image


def _open(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture file and read its header only."""
    if Path(path).is_dir():
        raise ImageError(f"expected a picture file, and {path} is a folder; name a file in it")
    if not Path(path).is_file():  # a device or a pipe would never end
        raise ImageError(f"expected a picture file, but there is none at {path}; check the path")
    try:
        # Pillow warns of bombs above 89 megapixels and of odd metadata; ours is the stricter limit, and
        # metadata that cannot be understood is ignored.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: {_too_large()}") from error
    except PermissionError as error:
        raise ImageError(f"{path} may not be read; check its permissions") from error
    except Exception as error:
        raise ImageError(
            f"{path} is not a picture that can be read; expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        ) from error
    if file.width * file.height > MAX_PIXELS:
        file.close()
        raise ImageError(f"{path}: {_too_large(f' of {file.width} × {file.height}')}")
    return file


def _too_large(size: str = "") -> str:
    return f"expected at most {MAX_PIXELS // 10**6} megapixels, got a picture{size}; make it smaller first"


def rgb(image: Image.Image, *, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Any PIL image as 8-bit RGB, upright, with what was done in `info["notices"]`.

    - EXIF orientation is applied.
    - Transparency (alpha channel, transparent palette entry or colour) is composited on `background`.
    - 16-bit grey is scaled by 1/257, so that white stays white.
    - An embedded colour profile, CMYK's too, is converted to sRGB; without one, CMYK is converted plainly.
    - Grey, palette, black-and-white and YCbCr become RGB.

    Raises `ImageError` for anything else: 32-bit and floating-point pictures do not say what white is, LAB
    and HSV ones come from programs that can save RGB.
    """
    notices: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Asked before decoding, which turns TIFFs and forgets the tag. 1 is upright.
        if image.getexif().get(Base.Orientation) in range(2, 9):
            notices.append("it was turned upright, as its EXIF orientation says")
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            upright = _eight_bit(upright)
            notices.append("16 bits a pixel were scaled to 8")
        if upright.mode not in _EIGHT_BIT:
            raise ImageError(
                f"expected an 8- or 16-bit picture, got mode {upright.mode}; save it as 8-bit RGB"
            )
        if upright.has_transparency_data:
            with_alpha = upright.convert("RGBA")
            opaque = Image.new("RGB", upright.size, background)
            opaque.paste(_srgb(with_alpha.convert("RGB"), upright, notices), mask=with_alpha.getchannel("A"))
            notices.append(f"transparency was filled with the colour {background}")
        else:
            opaque = _srgb(upright.convert("RGB") if upright.mode == "P" else upright, upright, notices)
    # A fresh info: Pillow would carry text, profile and transparency of the old picture into the new file.
    opaque.info = {"notices": notices}
    return opaque


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit: 65535 / 257 = 255. Pillow's own conversion clips instead of scaling."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("expected at most 16 bits a pixel, got 32; save it as 8-bit RGB")
    grey = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    key = image.info.get("transparency")  # the grey value that stands for "nothing here"
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _srgb(image: Image.Image, original: Image.Image, notices: list[str]) -> Image.Image:
    if profile := original.info.get("icc_profile"):
        try:
            own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, own, _SRGB, outputMode="RGB")
            assert converted is not None  # it is only None in place
            return converted
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            notices.append("its colour profile could not be used and was ignored")
    return image.convert("RGB")


# Tensors ----------------------------------------------------------------------------------------------------


def to_tensor(image: Image.Image) -> Float[Tensor, "1 3 h w"]:
    """A picture as float32 in [-1, 1], value = byte / 127.5 − 1; `rgb` is applied first."""
    pixels = torch.from_numpy(np.array(rgb(image), dtype=np.float32))
    return pixels.permute(2, 0, 1)[None].contiguous() / 127.5 - 1


def to_image(pixels: Float[Tensor, "3 h w"]) -> Image.Image:
    """A tensor in [-1, 1] as a picture; values outside are clamped, the rest rounded to the nearest byte.

    `to_image(to_tensor(image)[0])` is `image`. Raises `NumericsError` for not-a-number and infinity.
    """
    pixels = pixels.detach().float().cpu()
    if not pixels.isfinite().all():
        raise NumericsError(
            "expected a picture, got not-a-number or infinity in its pixels; "
            "lower the guidance scale or compute in float32"
        )
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture at exactly `width` × `height` pixels, not stretched: what is too long for the new aspect
    ratio is cut off equally on both sides, the rest is resampled (Lanczos).

    Raises `ImageError` if a side is smaller than one pixel.
    """
    if width < 1 or height < 1:
        raise ImageError(f"expected a size of at least 1 × 1 pixels, got {width} × {height}")
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


# Writing ----------------------------------------------------------------------------------------------------


def save_png(
    image: Image.Image,
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
    opened: Opened = atomic_write,
) -> None:
    """Write a PNG, whole or not at all, with how it was made as JSON in its text chunk "wordbrush".

    `provenance` holds what JSON can: text, finite numbers, lists, mappings. `opened` is what an open
    `files.all_or_none` gives, where the picture is one of several. Raises `OutputError` if the file cannot be
    written or its name does not end in .png.
    """
    if Path(path).suffix.lower() != ".png":
        raise OutputError(f"expected a file name that ends in .png, got {path}; pictures are written as PNG")
    text = PngInfo()
    if provenance is not None:
        text.add_text(PROVENANCE_KEY, json.dumps(dict(provenance), allow_nan=False))
    with opened(path) as file:
        image.save(file, format="PNG", pnginfo=text)


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """How a picture was made, as `save_png` wrote it.

    Raises `ImageError` if the file is no PNG or says nothing (another program made it, or saved it anew and
    dropped the text).
    """
    with _open(path) as file:
        try:
            text = file.text.get(PROVENANCE_KEY) if isinstance(file, PngImageFile) else None
        except Exception as error:  # text may stand behind the pixels, so damaged pixels surface here
            raise ImageError(f"{path} is damaged or cut short ({error})") from error
    if text is None:
        raise ImageError(f"{path} does not say how it was made; expected a PNG written by wordbrush")
    try:
        provenance: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{path}: what it says of how it was made is damaged ({error})") from error
    if not isinstance(provenance, dict):
        raise ImageError(f"{path}: expected a mapping of how it was made, got {type(provenance).__name__}")
    return cast(dict[str, Any], provenance)
