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

# Detected from the content, not from the file's name. Pillow has forty more formats; each is one more parser exposed to
# untrusted bytes.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 40_000_000

WHITE = (255, 255, 255)
PROVENANCE_KEY = "wordbrush"

_SRGB = cast(Any, ImageCms.createProfile("sRGB"))
_EIGHT_BIT = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}


# Reading ----------------------------------------------------------------------------------------------------


def load(path: str | os.PathLike[str], *, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """Read a picture file as 8-bit RGB, upright.

    PNG, JPEG, WebP, BMP and TIFF are read; the format is detected from the content. An animation gives its first frame.
    `rgb` converts the pixels. `image.info["notices"]` lists, in sentences, what was changed.

    Raises `ImageError` if the file is missing, is not such a picture, is truncated or damaged, or has more than
    40 megapixels (checked in its header, before anything is decoded).

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
    except Exception as error:  # decoders raise nearly any exception for damaged bytes
        raise ImageError(
            f"{path} is damaged or cut short ({error}); save it again from the original"
        ) from error
    finally:
        file.close()
    if frames > 1:
        image.info["notices"].insert(0, f"the first of {frames} frames was used")
    return image


def _open(path: str | os.PathLike[str]) -> Image.Image:
    """Open a picture file and read its header only."""
    if Path(path).is_dir():
        raise ImageError(f"expected a picture file, but {path} is a folder; choose a file in it")
    if not Path(path).is_file():  # reading a device or a pipe might never end
        raise ImageError(f"expected a picture file, but there is none at {path}; check the path")
    try:
        # Pillow warns of decompression bombs above 89 megapixels, and of unusual metadata; the limit here is stricter,
        # and invalid metadata is ignored.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{path}: {_too_large()}") from error
    except PermissionError as error:
        raise ImageError(f"no permission to read {path}; check the file's permissions") from error
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
    """Any PIL image as 8-bit RGB, upright; `info["notices"]` lists what was changed.

    - EXIF orientation is applied.
    - Transparency (alpha channel, transparent palette entry or colour) is composited on `background`.
    - 16-bit grey is scaled by 1/257, which keeps white white.
    - An embedded colour profile, CMYK's too, is converted to sRGB; CMYK without one is converted by Pillow's formula.
    - Grey, palette, black-and-white and YCbCr become RGB.

    Raises `ImageError` for anything else: 32-bit and floating-point pictures do not define white, and programs that
    save LAB or HSV can also save RGB.
    """
    notices: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Read before decoding, which rotates TIFFs and removes the tag. 1 is upright.
        if image.getexif().get(Base.Orientation) in range(2, 9):
            notices.append("it was rotated upright, according to its EXIF orientation")
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            upright = _eight_bit(upright)
            notices.append("16-bit pixels were scaled to 8 bits")
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
    # A new info: Pillow would write the old picture's text, profile and transparency into the new file.
    opaque.info = {"notices": notices}
    return opaque


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit: 65535 / 257 = 255. Pillow's own conversion clips instead of scaling."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError("expected at most 16 bits per pixel, got 32; save it as 8-bit RGB")
    grey = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    key = image.info.get("transparency")  # the grey value that means "transparent"
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def _srgb(image: Image.Image, original: Image.Image, notices: list[str]) -> Image.Image:
    if profile := original.info.get("icc_profile"):
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, embedded, _SRGB, outputMode="RGB")
            assert converted is not None  # it is None only for in-place conversion
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
    """A tensor in [-1, 1] as a picture; values outside are clamped, others rounded to the nearest byte.

    `to_image(to_tensor(image)[0])` is `image`. Raises `NumericsError` for NaN and infinity.
    """
    pixels = pixels.detach().float().cpu()
    if not pixels.isfinite().all():
        raise NumericsError(
            "expected a picture, got NaN or infinity in its pixels; "
            "lower the guidance scale or compute in float32"
        )
    levels = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """The picture at exactly `width` × `height` pixels, not stretched: it is cropped around its centre to the new
    aspect ratio, then resampled (Lanczos).

    Raises `ImageError` if a side is smaller than one pixel.
    """
    if width < 1 or height < 1:
        raise ImageError(f"expected a size of at least 1 × 1 pixels, got {width} × {height}")
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def crop_notices(name: object, image: Image.Image, width: int, height: int) -> list[str]:
    """What to tell the user if `fit` cuts something off; name: the picture's, for the sentence."""
    if image.width * height == image.height * width:
        return []
    size = f"{image.width} × {image.height}"
    return [f"{name} ({size}) was cropped around its middle to fit {width} × {height}"]


# Writing ----------------------------------------------------------------------------------------------------


def save_png(
    image: Image.Image,
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
    opened: Opened = atomic_write,
) -> None:
    """Write a PNG atomically, with its provenance as JSON in the text chunk "wordbrush".

    provenance: text, finite numbers, lists and mappings. opened: the function that an open `files.all_or_none` yields,
    to write the picture together with other files. Raises `OutputError` if the file cannot be written or its name does
    not end in .png.
    """
    if Path(path).suffix.lower() != ".png":
        raise OutputError(f"expected a file name that ends in .png, got {path}; pictures are written as PNG")
    text = PngInfo()
    if provenance is not None:
        text.add_text(PROVENANCE_KEY, json.dumps(dict(provenance), allow_nan=False))
    with opened(path) as file:
        image.save(file, format="PNG", pnginfo=text)


def read_provenance(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A picture's provenance, as `save_png` wrote it.

    Raises `ImageError` if the file is not a PNG or has no provenance (another program made it, or saved it again
    without the text).
    """
    with _open(path) as file:
        try:
            text = file.text.get(PROVENANCE_KEY) if isinstance(file, PngImageFile) else None
        except Exception as error:  # text can follow the pixels, so they are decoded here
            raise ImageError(f"{path} is damaged or cut short ({error})") from error
    if text is None:
        raise ImageError(f"{path} does not say how it was made; expected a PNG written by wordbrush")
    try:
        provenance: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{path}: the record of how it was made is damaged ({error})") from error
    if not isinstance(provenance, dict):
        raise ImageError(
            f"{path}: expected a JSON object that says how it was made, got {type(provenance).__name__}"
        )
    return cast(dict[str, Any], provenance)
