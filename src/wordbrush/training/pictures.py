"""A folder of pictures to learn from: read, checked, and cut to what a network sees."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from wordbrush import images, reading
from wordbrush.concept import TrainingPicture
from wordbrush.errors import ImageError, PromptError
from wordbrush.inputs import sha256

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic"})
_ALIKE = 4.0  # grey levels between two thumbnails that look the same


@dataclass(frozen=True, eq=False)
class Pictures:
    """Training pictures, in the order of their names.

    images: upright, in RGB. captions: what a text file of the same name says of each, or "". notices: what a user
    should know before the work.
    """

    images: tuple[Image.Image, ...]
    records: tuple[TrainingPicture, ...]
    captions: tuple[str, ...]
    notices: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)


def read(
    folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]], size: tuple[int, int]
) -> Pictures:
    """The pictures of a folder, or those at several paths. size: height and width of what the model sees.

    `NAME.txt` beside a picture is its caption. Raises `ImageError` for a folder that will not do: none there, no
    pictures in it, or one that cannot be read.
    """
    paths = _paths(folder)
    found: list[Image.Image] = []
    notices: list[str] = []
    faults: list[str] = []
    for path in paths:
        try:
            image = images.load(path)
        except ImageError as error:
            faults.append(str(error))
            continue
        notices += [f"{path.name}: {said}" for said in image.info["notices"]]
        found.append(image)
    if faults:
        more = f" (and {len(faults) - 3} more)" if len(faults) > 3 else ""
        raise ImageError(
            f"expected pictures to learn from, got some that cannot be read: {'; '.join(faults[:3])}{more}"
        )
    notices += _doubts(found, [path.name for path in paths], size)
    records = tuple(TrainingPicture(name=path.name, sha256=sha256(path)) for path in paths)
    captions = tuple(_caption(path.with_suffix(".txt")) for path in paths)
    return Pictures(tuple(found), records, captions, tuple(notices))


def _paths(folder: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[Path]:
    if not isinstance(folder, str | os.PathLike):
        if not folder:
            raise ImageError("expected pictures to learn from, got none: 3 to 5 of the same thing are best")
        return [Path(each) for each in folder]
    root = Path(folder)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise ImageError(f"expected a folder of pictures, but there is none at {root}; check the path")
    paths = sorted(
        path
        for path in root.iterdir()
        if path.suffix.lower() in _SUFFIXES and path.is_file() and not path.name.startswith(".")
    )
    if not paths:
        raise ImageError(f"expected pictures in {root}, got none: put 3 to 5 pictures of the thing there")
    return paths


def _caption(path: Path) -> str:
    return " ".join(reading.text(path, PromptError).split()) if path.is_file() else ""


def _doubts(found: Sequence[Image.Image], names: Sequence[str], size: tuple[int, int]) -> list[str]:
    """What may spoil the result: too few pictures, small ones, and such as show the same."""
    notices: list[str] = []
    if len(found) == 1:
        notices.append(
            "one picture: its background is learned with the thing; 3 to 5 in different places are better"
        )
    least = min(size)
    small = [name for image, name in zip(found, names, strict=True) if min(image.size) < least // 2]
    if small:
        notices.append(
            f"{_list(small)}: smaller than half of the {least} px that the model sees, and will be blurred"
        )
    thumbnails = [np.asarray(image.convert("L").resize((16, 16)), dtype=np.float32) for image in found]
    same = [
        f"{names[i]} and {names[j]}"
        for i, j in combinations(range(len(found)), 2)
        if float(np.abs(thumbnails[i] - thumbnails[j]).mean()) < _ALIKE
    ]
    if same:
        notices.append(f"{_list(same)} look the same: they count twice, and add nothing")
    return notices


def _list(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
