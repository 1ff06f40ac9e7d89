"""A folder of pictures to learn from: read and checked, with what a user should know before the work."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from wordbrush import images, reading
from wordbrush.concept import TrainingPicture
from wordbrush.errors import ImageError, PromptError
from wordbrush.inputs import sha256

Folder = str | os.PathLike[str] | Sequence[str | os.PathLike[str] | Image.Image]
"""Where pictures are: a folder, or several files and PIL images; several folders are several things."""

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic"})
_CAPTION = 64 * 1024  # bytes of a caption's file
_LEAST = 8  # pixels of a side
_KEPT = (
    2048  # pixels of the shorter side: no model sees more, and a folder of photographs would fill the memory
)
_LONG = 2.0  # how much longer than the model's own a picture's aspect may be before that is said

# What two pictures are compared by: 16 × 16 colours. In none of them do copies at half the size or in JPEG quality 20
# differ by more than 15 levels; different scenes do by 39 and more (120 and 400 scenes of the built-in world).
_CELLS, _ALIKE = 16, 20.0
_ALIKE_SHARE = 0.25  # of the contrast: two pale pictures are not one picture


@dataclass(frozen=True, eq=False)
class Pictures:
    """Training pictures, in the order of their names.

    images: upright, in RGB. captions: what a text file of the same name says of each, or "". notices: what a user
    should know before the work. things: which thing each shows, by the number of its folder; none: all the same.
    """

    images: tuple[Image.Image, ...]
    records: tuple[TrainingPicture, ...]
    captions: tuple[str, ...]
    notices: tuple[str, ...] = ()
    things: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> list[str]:
        """The pictures' names."""
        return [record.name for record in self.records]

    @property
    def count_of_things(self) -> int:
        """How many things they show."""
        return 1 + max(self.things, default=0)

    def thing(self, picture: int) -> int:
        """The number of the thing that a picture shows, from 0."""
        return self.things[picture] if self.things else 0


def read(folder: Folder) -> Pictures:
    """The pictures of a folder, or several files and PIL images; those of several folders are of several things.

    `NAME.txt` beside a picture is its caption. Hidden files are no pictures. Raises `ImageError` for a folder that will
    not do: none there, no pictures in it, or some that cannot be read; `PromptError` for a caption that is no text.
    """
    if folders := _folders(folder):
        return _joined([read(each) for each in folders], [each.name or str(each) for each in folders])
    given, notices = _given(folder)
    found: list[Image.Image] = []
    records: list[TrainingPicture] = []
    captions: list[str] = []
    faults: list[str] = []
    said: dict[str, list[str]] = defaultdict(list)
    for number, each in enumerate(given, 1):
        name = f"picture {number}" if isinstance(each, Image.Image) else _name(Path(each))
        try:
            image = images.rgb(each) if isinstance(each, Image.Image) else images.load(each)
            if min(image.size) < _LEAST:
                raise ImageError(
                    f"{name}: expected at least {_LEAST} px on each side, got {image.width} × {image.height}"
                )
        except ImageError as error:
            faults.append(str(error))
            continue
        for notice in image.info["notices"]:
            said[notice].append(name)
        is_file = not isinstance(each, Image.Image)
        sha = sha256(each) if is_file else hashlib.sha256(image.tobytes()).hexdigest()
        records.append(TrainingPicture(name=name, sha256=sha))
        captions.append(_caption(Path(each), notices) if is_file else "")
        found.append(_smaller(image))
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise ImageError(
            f"expected pictures to learn from, got some that cannot be used: {'; '.join(faults[:3])}{more}; leave them "
            "out, or save them again"
        )
    notices += [f"{listed(names)}: {notice}" for notice, names in said.items()]
    if len(found) == 1:
        notices.append(
            "one picture: nothing tells the thing from its background, its pose and its light, and all of them are "
            "learned; 3 to 5 pictures in different places are better"
        )
    notices += _repeated(found, records)
    return Pictures(tuple(found), tuple(records), tuple(captions), tuple(notices))


def doubts(found: Pictures, size: tuple[int, int], crop: str) -> list[str]:
    """What may spoil the result on a model that sees this size, (height, width)."""
    height, width = size
    notices: list[str] = []
    if small := [
        name
        for image, name in zip(found.images, found.names, strict=True)
        if min(image.size) < min(size) // 2
    ]:
        notices.append(
            f"{listed(small)}: smaller than half of the {min(size)} px that the model sees, and will be blurred"
        )
    for image, name in zip(found.images, found.names, strict=True):
        aspect = image.width * height / (image.height * width)
        longer = max(aspect, 1 / aspect)
        if longer >= _LONG:
            what = {
                "random": f"each crop shows {1 / longer:.0%} of it, at another place",
                "center": f"the middle {1 / longer:.0%} of it are seen",
                "stretch": "it is stretched to what the model sees",
            }[crop]
            notices.append(
                f"{name}: {longer:.1f} times as {'wide' if aspect > 1 else 'high'} as needed: {what}"
            )
    return notices


def listed(names: Sequence[str]) -> str:
    """The first four names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _folders(folder: Folder) -> list[Path]:
    """The folders, where several are given. Raises `ImageError` for folders among files."""
    if isinstance(folder, str | os.PathLike):
        return []
    found = [Path(each) for each in folder if not isinstance(each, Image.Image) and Path(each).is_dir()]
    if found and len(found) < len(folder):
        raise ImageError(
            f"expected folders, one for each thing, or pictures of one thing, got both: {found[0]} is a folder"
        )
    return found


def _joined(found: Sequence[Pictures], names: Sequence[str]) -> Pictures:
    """The pictures of several things, by the names of their folders."""
    if len(found) == 1:
        return found[0]
    if len(set(names)) < len(names):
        names = [f"{number}: {name}" for number, name in enumerate(names, 1)]
    records = [
        record.model_copy(update={"name": f"{name}/{record.name}"})
        for name, each in zip(names, found, strict=True)
        for record in each.records
    ]
    return Pictures(
        tuple(image for each in found for image in each.images),
        tuple(records),
        tuple(caption for each in found for caption in each.captions),
        tuple(
            f"{name}: {notice}" for name, each in zip(names, found, strict=True) for notice in each.notices
        ),
        tuple(number for number, each in enumerate(found) for _ in each.images),
    )


def _given(folder: Folder) -> tuple[Sequence[str | os.PathLike[str] | Image.Image], list[str]]:
    """What to read, and what to say of what is beside it."""
    if not isinstance(folder, str | os.PathLike):
        if not folder:
            raise ImageError("expected pictures to learn from, got none: 3 to 5 of the same thing are best")
        return folder, []
    root = Path(folder)
    if root.is_file():
        return [root], []
    if not root.is_dir():
        raise ImageError(f"expected a folder of pictures, but there is none at {root}; check the path")
    try:
        entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ImageError(f"cannot read the folder {root}: {error.strerror}; check its permissions") from error
    paths = [path for path in entries if _is_picture(path) and not path.is_dir()]
    inside = [_name(path) for path in entries if path.is_dir() and _has_pictures(path)]
    captions = {path.with_suffix(".txt") for path in paths}
    others = [
        _name(path) for path in entries if not path.is_dir() and path not in captions and path not in paths
    ]
    if not paths:
        where = f": there are some in {listed(inside)}" if inside else ""
        raise ImageError(
            f"expected pictures in {root}, got none{where}; put 3 to 5 pictures of the thing there, as PNG or JPEG"
        )
    notices: list[str] = []
    if inside:
        notices.append(f"pictures in {listed(inside)} are not used: only those in the folder itself are")
    if others:
        notices.append(f"{listed(others)}: neither a picture nor the caption of one, and not used")
    return paths, notices


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in _SUFFIXES


def _has_pictures(folder: Path) -> bool:
    try:
        return any(map(_is_picture, folder.iterdir()))
    except OSError:
        return False


def _name(path: Path) -> str:
    """A file's name as text, whatever its bytes are."""
    return os.fsencode(path.name).decode(errors="replace")


def _caption(path: Path, notices: list[str]) -> str:
    """What the text beside a picture says. Raises `PromptError` for what is no text, or too long for a caption."""
    text = path.with_suffix(".txt")
    if not os.path.lexists(text) or text == path:
        return ""
    caption = " ".join(reading.text(text, PromptError, most=_CAPTION).split())
    if not caption:
        notices.append(f"{_name(text)} is empty: its picture has no caption of its own")
    return caption


def _smaller(image: Image.Image) -> Image.Image:
    """A picture no larger than any model needs."""
    side = min(image.size)
    if side <= _KEPT:
        return image
    size = round(image.width * _KEPT / side), round(image.height * _KEPT / side)
    return image.resize(size, Image.Resampling.LANCZOS)


def _repeated(found: Sequence[Image.Image], records: Sequence[TrainingPicture]) -> Iterator[str]:
    """What to say of pictures that come more than once: as files, or by their looks."""
    thumbnails = [_thumbnail(image) for image in found]
    mirrored = [_thumbnail(ImageOps.mirror(image)) for image in found]
    same: list[str] = []
    alike: list[str] = []
    for (i, first), (j, second) in combinations(enumerate(records), 2):
        pair = f"{first.name} and {second.name}"
        if first.sha256 == second.sha256:
            same.append(pair)
        elif _look_alike(thumbnails[i], thumbnails[j]):
            alike.append(pair)
        elif _look_alike(thumbnails[i], mirrored[j]):
            alike.append(f"{pair} (mirrored)")
    if same:
        yield f"{listed(same)} are the same file: it counts twice, and adds nothing"
    if alike:
        yield f"{listed(alike)} look the same: they count twice, and add nothing"


def _thumbnail(image: Image.Image) -> Float[np.ndarray, "16 16 3"]:
    # A box is the mean of what it covers, whatever the picture's size.
    return np.asarray(image.resize((_CELLS, _CELLS), Image.Resampling.BOX), dtype=np.float32)


def _look_alike(first: Float[np.ndarray, "16 16 3"], second: Float[np.ndarray, "16 16 3"]) -> bool:
    apart = np.abs(first - second).mean(-1)
    contrast = float(first.std((0, 1)).mean())
    return float(apart.max()) < _ALIKE and float(np.sqrt(np.square(apart).mean())) <= _ALIKE_SHARE * contrast
