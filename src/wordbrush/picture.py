"""The picture that a source was made from, with its file's bytes."""

import hashlib
import io
import os
from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Float
from PIL import Image
from PIL.ExifTags import Base
from torch import Tensor

from wordbrush import images
from wordbrush.errors import ImageError
from wordbrush.framing import Box
from wordbrush.images import Pixels
from wordbrush.inputs import FileRecord


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture file's bytes, and the part of the picture that a model sees.

    content: the file, whole, so that its pixels, colour profile and other metadata can be given back bit for bit; a
    picture without a file is kept as PNG. path: the file's, as it was given, where there is one. box: left, top, right
    and bottom of what the model sees, in pixels of the upright picture.
    """

    content: bytes
    path: str | None
    box: Box

    @classmethod
    def of(cls, picture: Pixels) -> "Picture":
        """A picture or a picture file, seen whole. Raises `ImageError`."""
        path = None
        if isinstance(picture, str | os.PathLike):
            path, content = os.fspath(picture), images.content_of(picture)
            image = images.decode(content, path)
        elif isinstance(picture, images.Readable):
            content = images.bytes_of(picture)
            image = images.decode(content, "the file object")
        else:
            whole = images.from_pixels(picture)
            content, image = _as_png(whole), images.rgb(whole)
        return cls(content, path, (0.0, 0.0, float(image.width), float(image.height)))._decoded(image)

    def within(self, box: Box) -> "Picture":
        """The same picture, of which a model sees a part."""
        return replace(self, box=box)._decoded(self.image)

    def _decoded(self, image: Image.Image) -> "Picture":
        """The same; its file has just been decoded."""
        self.__dict__["image"] = image  # fills the cached property
        return self

    @property
    def record(self) -> FileRecord:
        """The file's path and hash."""
        return FileRecord(path=self.path, sha256=hashlib.sha256(self.content).hexdigest())

    @cached_property
    def image(self) -> Image.Image:
        """The whole picture as 8-bit RGB, upright, in sRGB; what was done to it is in `info["notices"]`."""
        return images.decode(self.content, self.name)

    @property
    def part(self) -> Image.Image:
        """The part of the picture that a model sees, at its own size."""
        left, top, right, bottom = map(round, self.box)
        return self.image.crop((left, top, right, bottom))

    @property
    def notices(self) -> list[str]:
        """What to say of a picture that a model sees a part of."""
        left, top, right, bottom = map(round, self.box)
        size, part = self.image.size, (right - left, bottom - top)
        if part == size:
            return []
        return [
            f"of {self.name} ({size[0]} × {size[1]}) the model sees {part[0]} × {part[1]} pixels at ({left}, {top}); "
            "the rest stays as it is"
        ]

    @property
    def profile(self) -> bytes | None:
        """The file's ICC colour profile."""
        return self._file().info.get("icc_profile")

    @property
    def orientation(self) -> int:
        """The file's EXIF orientation, 1 to 8; 1 is upright."""
        found = self._file().getexif().get(Base.Orientation)
        return found if isinstance(found, int) and 1 <= found <= 8 else 1

    def seen(self, height: int, width: int) -> Float[Tensor, "1 3 height width"]:
        """What a model sees at this size, in [−1, 1]; a box of another aspect is stretched, and so is the way back."""
        part = self.image.resize((width, height), Image.Resampling.LANCZOS, box=self.box)
        return images.to_tensor(part)

    def _file(self) -> Image.Image:
        return images.header(self.content, self.name)

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or "the picture"


def _as_png(image: Image.Image) -> bytes:
    """A PIL image as a file's bytes. Raises `ImageError` for one that is no 8- or 16-bit picture."""
    file = io.BytesIO()
    try:
        image.save(
            file, "PNG", compress_level=1, icc_profile=image.info.get("icc_profile"), exif=image.getexif()
        )
    except OSError:  # CMYK and other modes that PNG does not have
        try:
            images.rgb(image).save(file, "PNG")
        except OSError as error:
            raise ImageError(f"expected a picture, got one that cannot be saved ({error})") from error
    return file.getvalue()
