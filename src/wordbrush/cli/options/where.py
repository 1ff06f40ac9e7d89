"""The flags that say where an edit may change the picture."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter

if TYPE_CHECKING:
    from wordbrush.masks import Where

_GROUP = Group("Where", sort_key=5)

Mask = Annotated[
    Path | None,
    Parameter(
        help="a picture: white where it may change, black where it may not; of the picture's aspect, at any size",
        group=_GROUP,
    ),
]
MaskWords = Annotated[
    list[str] | None,
    Parameter(
        help="words of the source's prompt: only where they are may the picture change; `wordbrush mask` shows where "
        "that is",
        group=_GROUP,
    ),
]
KeepWords = Annotated[
    list[str] | None,
    Parameter(help="words of the source's prompt: where they are, nothing may change", group=_GROUP),
]


@Parameter(name="*")
@dataclass(frozen=True)
class Masking:
    """Where an edit may change the picture."""

    mask: Mask = None
    mask_words: MaskWords = None
    keep_words: KeepWords = None

    def read(self) -> "Where":
        """What was said, with the mask's file read. Raises `ImageError`."""
        from wordbrush import masks

        return masks.read(self.mask, self.mask_words, self.keep_words)


ANYWHERE = Masking()
