"""Read and write pictures: files, PIL images, tensors in [-1, 1], and the provenance stored in a file.

Inside the package a picture is an 8-bit RGB `PIL.Image` or a float tensor `(…, 3, height, width)` in [-1, 1].
`rgb` converts every other kind.
"""

import io
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
from PIL.ExifTags import Base
from PIL.TiffImagePlugin import BITSPERSAMPLE, SAMPLEFORMAT, TiffImageFile
from torch import Tensor

from wordbrush import png, reading, stamp
from wordbrush.errors import ImageError, NumericsError, OutputError, short
from wordbrush.files import Opened, atomic_write

# Detected from the content, not from the file's name. Pillow has forty more formats; each is one more parser exposed to
# untrusted bytes.
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 40_000_000
MAX_BYTES = 1_000_000_000

WHITE = (255, 255, 255)

SRGB = cast(Any, ImageCms.createProfile("sRGB"))
PROFILE_ERRORS = (ImageCms.PyCMSError, OSError, TypeError, ValueError)
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
    return decode(content_of(path), os.fspath(path), background=background)


def content_of(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file that should be a picture. Raises `ImageError`."""
    if str(path).partition("://")[0] in ("http", "https", "ftp", "data"):
        raise ImageError(f"expected a picture file, got the address {short(str(path))}; download it first")
    if Path(path).is_dir():
        raise ImageError(f"expected a picture file, but {path} is a folder; choose a file in it")
    if not Path(path).is_file():  # reading a device or a pipe might never end
        raise ImageError(f"expected a picture file, but there is none at {path}; check the path")
    return reading.content(path, ImageError, most=MAX_BYTES)


@runtime_checkable
class Readable(Protocol):
    """A file object, opened for reading bytes."""

    def read(self, size: int = ..., /) -> Any:
        """At most `size` bytes."""
        ...


Rgb = Image.Image | NDArray[np.uint8]  # an array is [h, w, 3]

Pixels = Image.Image | str | os.PathLike[str] | Readable | Tensor | NDArray[Any]
"""What is taken as a picture: a PIL image; a picture file's path or file object; a tensor (3, height, width), or with
one more dimension of 1 before, of floats in [−1, 1]; an array (height, width), or with a last dimension of 1, 3 or 4,
of bytes or of floats in [0, 1]."""


def bytes_of(file: Readable) -> bytes:
    """What a file object holds, from where it stands. Raises `ImageError`."""
    try:
        content: object = file.read(MAX_BYTES)
    except (OSError, ValueError) as error:
        raise ImageError(f"the file object cannot be read ({error!s:.100}); check that it is open") from error
    if not isinstance(content, bytes):
        raise ImageError(
            f"expected a file object of bytes, got one of {type(content).__name__}; open it with 'rb'"
        )
    return content


def from_pixels(picture: object) -> Image.Image:
    """A PIL image as it is, or a tensor or an array as one; see `Pixels`. Raises `ImageError` for anything else."""
    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, Tensor):
        values = picture[0] if picture.ndim == 4 and len(picture) == 1 else picture
        if values.ndim != 3 or values.shape[0] != 3 or not values.is_floating_point():
            raise ImageError(
                "expected a tensor of floats (3, height, width) in [−1, 1], "
                f"got {str(picture.dtype).removeprefix('torch.')} {tuple(picture.shape)}"
            )
        low, high = float(values.amin()), float(values.amax())
        if not (low >= -1 and high <= 1):
            raise ImageError(f"expected a tensor in [−1, 1], got one in [{low:g}, {high:g}]")
        return to_image(values)
    if isinstance(picture, np.ndarray):
        return _from_array(cast(NDArray[Any], picture))
    hint = (
        "; pass the path of its file, or io.BytesIO of it" if isinstance(picture, bytes | bytearray) else ""
    )
    raise ImageError(
        "expected a picture (a PIL image, a file's path, a file object, an array or a tensor), "
        f"got {type(picture).__name__}{hint}"
    )


def _from_array(values: NDArray[Any]) -> Image.Image:
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if 0 in values.shape or not (values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))):
        raise ImageError(f"expected an array (height, width, 3), got one of shape {values.shape}")
    if values.dtype != np.uint8:
        low, high = float(values.min()), float(values.max())
        if not np.issubdtype(values.dtype, np.floating) or not (low >= 0 and high <= 1):
            raise ImageError(
                f"expected an array of uint8, or of floats in [0, 1], got {values.dtype} in [{low:g}, {high:g}]"
            )
        values = np.rint(values * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(values))


def decode(content: bytes, name: str, *, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """`load` for a file's bytes. name: the file's, for messages. Raises `ImageError`."""
    try:
        return _decoded(content, name, background)
    except ImageError:
        plain = png.without_metadata(content, stamp.KEY)
        if plain is None:
            raise
        image = _decoded(plain[0], name, background, profile=plain[1])
        image.info["notices"].insert(0, "its text or EXIF data could not be read and was ignored")
        return image


def header(content: bytes, name: str) -> Image.Image:
    """A picture file of which only the header and the metadata were read, without metadata that Pillow refuses.
    name: the file's, for messages. Raises `ImageError`."""
    return _without_refused(content, name, lambda file: None)[0]


def whole(content: bytes, name: str) -> tuple[Image.Image, bytes]:
    """A picture file, decoded in its own mode, and the file's bytes, both without metadata that Pillow refuses.
    name: the file's, for messages. Raises `ImageError`."""
    return _without_refused(content, name, lambda file: file.load())


def _without_refused(
    content: bytes, name: str, read: Callable[[Image.Image], object]
) -> tuple[Image.Image, bytes]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            file = _opened(content, name)
            file.getexif()
            read(file)
            return file, content
        except Exception:  # decoders raise nearly any exception for damaged bytes
            plain = png.without_metadata(content, stamp.KEY)
            if plain is None:
                raise
            file = _opened(plain[0], name)
            if plain[1] is not None:
                file.info["icc_profile"] = plain[1]
            read(file)
            return file, plain[0]


def _decoded(
    content: bytes, name: str, background: tuple[int, int, int], profile: bytes | None = None
) -> Image.Image:
    with _opened(content, name) as file:
        if profile is not None:
            file.info["icc_profile"] = profile
        try:
            with warnings.catch_warnings():  # of what follows the first frame
                warnings.simplefilter("ignore")
                frames = getattr(file, "n_frames", 1)
            image = rgb(file, background=background)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error
        except Exception as error:  # decoders raise nearly any exception for damaged bytes
            raise ImageError(
                f"{name} is damaged or cut short ({error!s:.100}); save it again from the original"
            ) from error
    if frames > 1:
        image.info["notices"].insert(0, f"the first of {frames} frames was used")
    return image


def _opened(content: bytes, name: str) -> Image.Image:
    """A picture of which only the header was read."""
    try:
        # Pillow warns of decompression bombs above 89 megapixels, and of unusual metadata; the limit here is stricter,
        # and invalid metadata is ignored.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            file = Image.open(io.BytesIO(content), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: {_too_large()}") from error
    except Exception as error:
        raise ImageError(
            f"{name} is not a picture that can be read; expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        ) from error
    if file.width * file.height > MAX_PIXELS:
        file.close()
        raise ImageError(f"{name}: {_too_large(f' of {file.width} × {file.height}')}")
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
        bits = _bits(image)
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):
            upright = eight_bit(upright, bits)
            notices.append("16-bit pixels were scaled to 8 bits")
        if upright.mode not in _EIGHT_BIT:
            raise ImageError(
                f"expected an 8- or 16-bit picture, got mode {upright.mode}; save it as 8-bit RGB"
            )
        profile: bytes | None = image.info.get("icc_profile")
        if upright.has_transparency_data:
            alpha = upright.convert("RGBA").getchannel("A")
            opaque = Image.new("RGB", upright.size, background)
            opaque.paste(in_srgb(colours(upright), profile, notices), mask=alpha)
            notices.append(f"transparency was filled with the colour {background}")
        else:
            opaque = in_srgb(colours(upright), profile, notices)
    # A new info: Pillow would write the old picture's text, profile and transparency into the new file.
    opaque.info = {"notices": notices}
    return opaque


def _bits(image: Image.Image) -> int:
    """Bits of a grey value of Pillow's modes "I", which has 32 and is also how some 16-bit files are opened."""
    if isinstance(image, TiffImageFile):
        unsigned = image.tag_v2.get(SAMPLEFORMAT, (1,)) in (1, (1,))
        return max(image.tag_v2.get(BITSPERSAMPLE, (1,))) if unsigned else 0
    return 16 if image.mode.startswith("I;16") else 32


def eight_bit(image: Image.Image, bits: int) -> Image.Image:
    """16-bit grey as 8-bit, "L" or, with a transparent value, "LA": 65535 / 257 = 255. Pillow's own conversion clips
    instead of scaling. Raises `ImageError` for other bits."""
    if bits != 16:
        raise ImageError(
            f"expected at most 16 bits per pixel without a sign, got {bits or 'signed'}; save it as 8-bit RGB"
        )
    values = np.asarray(image)
    grey = Image.fromarray(np.rint(values / 257).astype(np.uint8))
    key = image.info.get("transparency")  # the grey value that means "transparent"
    if isinstance(key, int):
        grey.putalpha(Image.fromarray(np.where(values == key, 0, 255).astype(np.uint8)))
    return grey


def colours(image: Image.Image) -> Image.Image:
    """An 8-bit picture without its transparency, in a mode that a colour profile can be for: L, RGB or CMYK."""
    if image.mode in ("1", "L", "LA"):
        return image.convert("L")
    if image.mode == "CMYK":
        return image
    return (image.convert("RGBA") if image.has_transparency_data else image).convert("RGB")


def in_srgb(image: Image.Image, profile: bytes | None, notices: list[str]) -> Image.Image:
    """What `colours` gives, as RGB in sRGB; `notices` gets a sentence for a profile that is not one for this mode."""
    if profile:
        try:
            embedded = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, embedded, SRGB, outputMode="RGB")
            assert converted is not None  # it is None only for in-place conversion
            return converted
        except PROFILE_ERRORS:
            notices.append("its colour profile could not be used and was ignored")
    return image.convert("RGB")


# Tensors ----------------------------------------------------------------------------------------------------


def array(picture: Rgb) -> UInt8[np.ndarray, "h w 3"]:
    """The values of an RGB picture. Raises `ImageError` for any other kind: `rgb` converts."""
    if isinstance(picture, Image.Image):
        if picture.mode != "RGB":
            raise ImageError(f"expected an RGB picture, got mode {picture.mode}; convert it with images.rgb")
        return np.asarray(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ImageError(
            f"expected a picture as uint8 [h, w, 3], got {picture.dtype} {list(picture.shape)}; scale and round it"
        )
    return picture


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


class Recorded(Image.Image):
    """A picture with the record of how it was made in `info`, as JSON: saved as PNG, it takes the record along.

    What is made of it (a crop, another size) is a plain picture: its pixels are others.
    """

    def __init__(self, image: Image.Image, provenance: Mapping[str, Any]) -> None:
        super().__init__()
        self.__dict__.update(image.__dict__)
        self.info = {**image.info, stamp.KEY: stamp.as_text(provenance)}

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """As Pillow does it; a PNG gets the record, unless `pnginfo` is given."""
        by_name = str(fp).lower().endswith(".png") if isinstance(fp, str | Path) else False
        if (format or "").upper() == "PNG" or (format is None and by_name):
            params.setdefault("pnginfo", stamp.png(self.info.get(stamp.KEY)))
        super().save(fp, format, **params)


def save_png(
    image: Image.Image,
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | None = None,
    opened: Opened = atomic_write,
) -> None:
    """Write a PNG atomically, with its provenance as JSON in the text chunk "wordbrush".

    provenance: text, finite numbers, lists and mappings; by default the picture's own, if it is `Recorded`. opened: the
    function that an open `files.all_or_none` yields, to write the picture together with other files. Raises
    `OutputError` if the file cannot be written or its name does not end in .png.
    """
    if Path(path).suffix.lower() != ".png":
        raise OutputError(f"expected a file name that ends in .png, got {path}; pictures are written as PNG")
    own = image.info.get(stamp.KEY) if isinstance(image, Recorded) else None
    text = own if provenance is None else stamp.as_text(provenance)
    with opened(path) as file:
        image.save(file, format="PNG", pnginfo=stamp.png(text))


def read_provenance(picture: Image.Image | str | os.PathLike[str]) -> dict[str, Any]:
    """A picture's provenance, from a PNG, JPEG, WebP or TIFF file that this package wrote, or from a picture's `info`.

    Raises `ImageError` if there is none (another program made the file, or saved it again without the record), or if
    it is damaged or longer than `stamp.MOST`.
    """
    if isinstance(picture, Image.Image):
        name, text = "this picture", picture.info.get(stamp.KEY)
    else:
        name, content = os.fspath(picture), content_of(picture)
        try:
            text = _text(content, name)
        except ImageError:
            plain = png.without_metadata(content, stamp.KEY)
            if plain is None:
                raise
            text = _text(plain[0], name)
    if not isinstance(text, str):
        raise ImageError(f"{name} does not say how it was made; expected a picture written by wordbrush")
    try:
        provenance: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{name}: the record of how it was made is damaged ({error!s:.100})") from error
    if not isinstance(provenance, dict):
        raise ImageError(
            f"{name}: expected a JSON object that says how it was made, got {type(provenance).__name__}"
        )
    return cast(dict[str, Any], provenance)


def _text(content: bytes, name: str) -> str | None:
    with _opened(content, name) as file:
        try:
            return stamp.read(file, content)
        except Exception as error:  # text can follow the pixels, so they are decoded here
            raise ImageError(f"{name} is damaged or cut short ({error!s:.100})") from error
