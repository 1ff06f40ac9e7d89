"""An edited picture in the format of the file it came from, with that file's own pixels and metadata."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps
from PIL.ExifTags import Base
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, TiffImageFile

from wordbrush import images, stamp
from wordbrush.errors import ImageError, OutputError
from wordbrush.filenames import SUFFIXES
from wordbrush.files import Opened, atomic_write
from wordbrush.formats import metadata as described
from wordbrush.formats.metadata import Metadata
from wordbrush.formats.pixels import painted
from wordbrush.formats.writers import WRITERS, Original
from wordbrush.picture import Picture

_OWN = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif", "WEBP": ".webp"}

_BACK = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def own_suffix(picture: Picture) -> str:
    """The end of a file name in the picture's own format; ".png" for BMP, which has no place for a record."""
    with images.header(picture.content, picture.path or "the picture") as file:
        return _OWN.get(file.format or "", ".png")


def write(
    picture: Picture,
    edited: Image.Image,
    share: Float[np.ndarray, "h w"],
    path: str | os.PathLike[str],
    provenance: Mapping[str, Any] | str | None,
    opened: Opened = atomic_write,
    metadata: bool = True,
) -> list[str]:
    """Write what `encoded` gives, in the format that the path's end names; what to tell the user.

    opened: the function that an open `files.all_or_none` yields, to write the file together with others. Raises
    `OutputError`.
    """
    content, notices = encoded(picture, edited, share, Path(path).suffix, provenance, metadata=metadata)
    with opened(path) as file:
        file.write(content)
    return notices


def encoded(
    picture: Picture,
    edited: Image.Image,
    share: Float[np.ndarray, "h w"],
    suffix: str,
    provenance: Mapping[str, Any] | str | None,
    *,
    metadata: bool = True,
) -> tuple[bytes, list[str]]:
    """An edited picture as a file's bytes, and what to tell the user in sentences.

    edited: upright, sRGB, of the upright picture's size. share: of the same size, in [0, 1]: where it is 0, the file's
    own pixels stay, bit for bit unless the format loses some; elsewhere `edited` is taken as it is, at least as opaque
    as the share says. suffix: one of `SUFFIXES`. provenance: how the picture was made, for `images.read_provenance`.
    metadata: whether the file's own stay, such as a photograph's place; its colours and its orientation do anyway.

    Raises `OutputError` for another suffix, and for a picture or a record too large for the format; `ImageError` for
    another size.
    """
    if suffix.lower() not in SUFFIXES:
        raise OutputError(
            f"expected a file name that ends in {', '.join(SUFFIXES)}, got {suffix or 'none'}; choose one of them"
        )
    if not picture.image.size == edited.size == share.shape[::-1]:
        raise ImageError(
            f"expected an edit of {' × '.join(map(str, picture.image.size))} pixels, as the picture has, got "
            f"{' × '.join(map(str, edited.size))} and shares of {' × '.join(map(str, share.shape[::-1]))}"
        )
    with warnings.catch_warnings():  # of unusual metadata; what is damaged is left out
        warnings.simplefilter("ignore")
        return _encoded(picture, edited, share, SUFFIXES[suffix.lower()], provenance, metadata)


def _encoded(
    picture: Picture,
    edited: Image.Image,
    share: Float[np.ndarray, "h w"],
    format: str,
    provenance: Mapping[str, Any] | str | None,
    metadata: bool,
) -> tuple[bytes, list[str]]:
    notices = list[str]()
    text = provenance if isinstance(provenance, str | None) else stamp.as_text(provenance)
    upright, original, kept, told = _read(picture, notices)
    writer = WRITERS[format]
    pixels = painted(upright, picture.image, edited.convert("RGB"), share, writer.modes, writer.name, notices)
    if original.orientation in _BACK:
        pixels = replace(pixels, image=pixels.image.transpose(_BACK[original.orientation]))
    if original.format != format:
        original = replace(original, how={})
    if not pixels.own:
        kept = kept.without_colours()

    def attempt(metadata: Metadata) -> tuple[bytes, list[str]]:
        told: list[str] = []
        content = writer.write(pixels, original, metadata, text, told)
        _check(content, original.orientation)
        return content, [*notices, *told]

    if metadata:
        notices += told
        try:
            return attempt(kept)
        except OutputError:
            raise
        except Exception:  # encoders raise nearly any exception
            notices.append("its metadata could not be written and was left out")
    try:
        return attempt(kept.only_shown())
    except OutputError:
        raise
    except Exception as error:
        raise OutputError(
            f"cannot write this picture as {writer.name} ({error!s:.100}); choose another format"
        ) from error


def _check(content: bytes, orientation: int) -> None:
    """Raise for a file that is not read as it was meant, whatever its metadata are."""
    with images.header(content, "the file that was written") as file:
        if orientation != 1 and file.getexif().get(Base.Orientation) != orientation:
            raise ValueError("its orientation could not be written")


def _read(picture: Picture, notices: list[str]) -> tuple[Image.Image, Original, Metadata, list[str]]:
    """A file's pixels, decoded and upright; how it was written; its metadata, and what to say if they stay."""
    name = picture.path or "the picture"
    decoded, content = images.whole(picture.content, name)
    if content is not picture.content:
        notices.append("its text or EXIF data could not be read and was left out")
    frames = getattr(decoded, "n_frames", 1)
    if frames > 1:
        notices.append(f"only the first of its {frames} frames was written")
    if _deep(decoded, content):
        notices.append("its 16 bits for each colour became 8")
    upright = ImageOps.exif_transpose(decoded)
    with images.header(content, name) as file:
        # Text can follow a PNG's pixels, and a TIFF is turned when it is decoded.
        source = decoded if isinstance(decoded, PngImageFile) else file
        return upright, Original.of(source, content), described.read(source, content, told := []), told


def _deep(file: Image.Image, content: bytes) -> bool:
    """Whether Pillow reads a file's 16 bits as 8."""
    if isinstance(file, TiffImageFile):
        bits = max(file.tag_v2.get(BITSPERSAMPLE, (1,)))
    else:
        bits = content[24] if isinstance(file, PngImageFile) else 8
    return bits == 16 and not file.mode.startswith("I")
