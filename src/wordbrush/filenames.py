"""Names of files and folders, from prompts and labels."""

import re
from collections.abc import Iterable, Sequence

SUFFIXES = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""The ends of picture files' names that can be written, and their formats."""

# How much of a text a file name keeps. A file system's limit is 255 bytes, most often, and names get endings.
_CHARACTERS, _BYTES = 80, 160


def words(text: str) -> str:
    """A text's words: letters and digits of any script, in lower case, joined by dashes."""
    return "-".join(re.findall(r"[^\W_]+", text.casefold()))


def slug(text: str) -> str:
    """A text as the name of a file, at most 80 characters and 160 bytes long; "picture" for a text without words."""
    name = words(text)[:_CHARACTERS].encode()[:_BYTES].decode(errors="ignore")
    return name.strip("-") or "picture"


def unique(texts: Sequence[str], taken: Iterable[str] = ()) -> list[str]:
    """A file name for each text; one that is taken gets a number: `a-dog`, `a-dog-2`."""
    used, names = set(taken), list[str]()
    for text in texts:
        name, number = slug(text), 1
        while (numbered := name if number == 1 else f"{name}-{number}") in used:
            number += 1
        used.add(numbered)
        names.append(numbered)
    return names
