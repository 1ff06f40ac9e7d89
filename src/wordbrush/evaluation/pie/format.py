"""PIE-Bench's folder (Ju et al. 2024, "PnP Inversion"): reading it, and writing the built-in world in its form.

    DIR/mapping_file.json        id → the captions, the kind of edit, the words to blend by, the mask
    DIR/annotation_images/…      the pictures, under each entry's `image_path`

The changed words of a caption are in [brackets]; `blended_word` is "source-word target-word" or empty; a mask is
a flat list of starts and lengths over the picture read row by row, 1 where the edit may change it. The released
pictures are 512 × 512; here a mask has the size of its picture.
"""

import difflib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Bool
from PIL import Image

from wordbrush import images
from wordbrush.errors import ImageError, InputError, OptionsError, nearest, short
from wordbrush.evaluation.bench import cases
from wordbrush.files import atomic_write, inside
from wordbrush.reading import json_file

TYPES = {
    "0": "random",
    "1": "change object",
    "2": "add object",
    "3": "delete object",
    "4": "change content",
    "5": "change pose",
    "6": "change colour",
    "7": "change material",
    "8": "change background",
    "9": "change style",
}
MAPPING, PICTURES = "mapping_file.json", "annotation_images"
_MOST = 256 * 1024**2  # bytes of a mapping: the masks are in it
_TEXTS = (
    "image_path",
    "original_prompt",
    "editing_prompt",
    "editing_instruction",
    "editing_type_id",
    "blended_word",
)
_OUR_KINDS = {
    "change object": "1",
    "add object": "2",
    "delete object": "3",
    "change colour": "6",
    "change place": "8",
    "change style": "9",
}


@dataclass(frozen=True, eq=False)
class PieCase:
    """One entry of the mapping.

    image_path: its picture's path below `annotation_images`. original_prompt, editing_prompt: with their brackets.
    blended_words: the word to blend by in the source and in the target, or none. mask: True where the edit may change
    the picture, as annotated, without the border that the released code adds. content: the picture, or the file to
    read it from.
    """

    name: str
    image_path: str
    original_prompt: str
    editing_prompt: str
    instruction: str
    type_id: str
    blended_words: tuple[str, str] | None
    mask: Bool[np.ndarray, "h w"]
    content: Image.Image | Path

    @property
    def source_prompt(self) -> str:
        """The source's caption, without brackets."""
        return _without_brackets(self.original_prompt)

    @property
    def target_prompt(self) -> str:
        """The target's caption, without brackets."""
        return _without_brackets(self.editing_prompt)

    @property
    def type(self) -> str:
        """The kind of edit in words."""
        return TYPES[self.type_id]

    @property
    def picture(self) -> Image.Image:
        """The picture to edit, RGB. Raises `ImageError` if its file cannot be read."""
        return images.load(self.content) if isinstance(self.content, Path) else self.content


def read(folder: Path, *, cut_masks: bool = False) -> list[PieCase]:
    """The cases of a folder, in its order; pictures are opened only for their size.

    cut_masks: let a mask's run that leaves the picture end with it, as the released code does; an error otherwise.
    Raises `ImageError` for a missing picture, `InputError` for a mapping that is missing or malformed, naming the
    entry and what is wrong with it.
    """
    path = folder / MAPPING
    if not path.exists():
        raise InputError(f"expected PIE-Bench's folder, but there is no {path}; check the path")
    mapping: object = json_file(path, InputError, most=_MOST)
    if not isinstance(mapping, dict) or not mapping:
        raise InputError(f"{path}: expected a mapping from ids to entries, with at least one")
    entries = cast(dict[str, object], mapping)
    return [_case(folder, name, entry, cut_masks) for name, entry in entries.items()]


def write(folder: Path, written: Sequence[PieCase]) -> None:
    """Write cases in PIE-Bench's form: the mapping last, so that it never names pictures that are not there.

    Raises `InputError` for two cases of one name or picture path and for a mask of another size than its picture,
    `OutputError` if a file cannot be written.
    """
    for key in ("name", "image_path"):
        values: list[str] = [getattr(case, key) for case in written]
        if repeated := {value for value in values if values.count(value) > 1}:
            raise InputError(f"expected each case to have its own {key}, got {min(repeated)} more than once")
    for case in written:
        picture = case.picture
        if case.mask.shape != (picture.height, picture.width):
            raise InputError(
                f"case {case.name}: expected a mask of the picture's size {picture.width} × {picture.height}, "
                f"got {case.mask.shape[1]} × {case.mask.shape[0]}"
            )
        images.save_png(picture, inside(folder / PICTURES, case.image_path, "image_path"))
    mapping = {
        case.name: {
            "image_path": case.image_path,
            "original_prompt": case.original_prompt,
            "editing_prompt": case.editing_prompt,
            "editing_instruction": case.instruction,
            "editing_type_id": case.type_id,
            "blended_word": " ".join(case.blended_words or ()),
            "mask": encode(case.mask),
        }
        for case in written
    }
    with atomic_write(folder / MAPPING) as file:
        file.write(json.dumps(mapping, indent=1, ensure_ascii=False).encode())


def from_pocket(count: int, seed: int) -> list[PieCase]:
    """Cases of the built-in world (`cases.split`) in PIE-Bench's form; those that change nothing are left out.

    Size, light and two changes at once have no type there and count as "random". Words to blend by are given where
    one word was swapped for another, as in the published annotations; for a colour it is the thing that has it.
    """
    converted: list[PieCase] = []
    for case in cases.split(seed, count):
        if case.kind == "nothing changed":
            continue
        type_id = _OUR_KINDS.get(case.kind, "0")
        before, after = _bracketed(case.source_prompt, case.target_prompt)
        converted.append(
            PieCase(
                name=case.name,
                image_path=f"{type_id}_{TYPES[type_id].replace(' ', '_')}/{case.name}.png",
                original_prompt=before,
                editing_prompt=after,
                instruction=f"make it {case.target_prompt}",
                type_id=type_id,
                blended_words=_blended_words(case),
                mask=case.mask,
                content=case.picture,
            )
        )
    return converted


def write_pocket(folder: Path, count: int) -> None:
    """Write cases of the built-in world to a folder, unless they are there already; a stopped writing goes on.

    Raises `OptionsError` if the folder holds anything else.
    """
    wanted = from_pocket(count, seed=0)
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set[str]()
    if present <= {PICTURES}:
        write(folder, wanted)
    elif MAPPING not in present or [case.name for case in read(folder)] != [case.name for case in wanted]:
        raise OptionsError(
            f"{folder} is there already, and holds something else: leave --from-pocket out, or name a new folder"
        )


# Masks ------------------------------------------------------------------------------------------------------


def encode(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """A mask as starts and lengths of its runs, row by row."""
    steps = np.diff(mask.ravel().astype(np.int8), prepend=0, append=0)
    starts, stops = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return np.stack([starts, stops - starts], axis=1).ravel().tolist()


def decode(
    runs: Sequence[int], height: int, width: int, *, cut: bool = False
) -> Bool[np.ndarray, "{height} {width}"]:
    """The mask of these runs; the inverse of `encode`.

    cut: let a run that leaves the canvas end there. Raises `InputError` for anything but a list of runs, and for a
    run beyond the canvas.
    """
    if len(runs) % 2:
        raise InputError(f"expected pairs of a start and a length, got {len(runs)} numbers")
    flat = np.zeros(height * width, dtype=bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        if start < 0 or length < 0:
            raise InputError(f"expected starts and lengths of 0 or more, got a run of {length} from {start}")
        if start + length > flat.size and not cut:
            raise InputError(
                f"a run of {length} from {start} leaves the canvas of {width} × {height} = {flat.size} pixels; "
                "cut_masks lets it end there, as the released code does"
            )
        flat[start : start + length] = True
    return flat.reshape(height, width)


# One entry --------------------------------------------------------------------------------------------------


def _case(folder: Path, name: str, given: object, cut_masks: bool) -> PieCase:
    where = f"{folder / MAPPING}, entry {name if len(name) <= 60 else short(name)}"
    if not isinstance(given, dict):
        raise InputError(f"{where}: expected keys and values, got {short(given)}")
    entry = cast(dict[str, Any], given)
    for key in (*_TEXTS, "mask"):
        if key not in entry:
            raise InputError(f"{where}: expected '{key}'{nearest(key, entry)}")
    for key in _TEXTS:
        if not isinstance(entry[key], str):
            raise InputError(f"{where}: expected '{key}' to be text, got {short(entry[key])}")
    if entry["editing_type_id"] not in TYPES:
        raise InputError(
            f'{where}: expected an editing_type_id of "0" to "9", got {short(entry["editing_type_id"])}'
        )
    words = entry["blended_word"].split()
    if len(words) == 1:
        raise InputError(
            f"{where}: expected blended_word to be empty or two words, the source's and the target's, got "
            f"{short(words[0])}"
        )
    try:
        path = inside(folder / PICTURES, entry["image_path"], "image_path")
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    width, height = _size(path, where)
    runs = cast(list[int], entry["mask"])
    if not isinstance(entry["mask"], list) or any(type(number) is not int for number in runs):
        raise InputError(f"{where}: expected the mask to be a list of whole numbers, got {short(runs)}")
    try:
        mask = decode(runs, height, width, cut=cut_masks)
    except InputError as error:
        raise InputError(f"{where}: its mask is malformed: {error}") from error
    return PieCase(
        name=name,
        image_path=entry["image_path"],
        original_prompt=entry["original_prompt"],
        editing_prompt=entry["editing_prompt"],
        instruction=entry["editing_instruction"],
        type_id=entry["editing_type_id"],
        blended_words=(words[0], words[1]) if words else None,
        mask=mask,
        content=path,
    )


def _size(path: Path, where: str) -> tuple[int, int]:
    if not path.is_file():  # opening a pipe would wait for ever
        raise ImageError(f"{where}: expected its picture at {path}, and there is none")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes that are refused below, and of unusual metadata
            with Image.open(path, formats=images.FORMATS) as file:
                width, height = file.size
    except Exception as error:  # decoders raise nearly any exception for damaged bytes
        raise ImageError(f"{where}: {path} is not a readable picture ({error})") from error
    if width * height > images.MAX_PIXELS:  # its mask would fill the memory
        raise ImageError(
            f"{where}: expected a picture of at most {images.MAX_PIXELS // 10**6} megapixels, got {width} × {height}"
        )
    return width, height


def _without_brackets(prompt: str) -> str:
    return prompt.replace("[", "").replace("]", "")


def _bracketed(source: str, target: str) -> tuple[str, str]:
    """Both captions, with brackets around what differs."""
    before, after = source.split(), target.split()
    marked: tuple[list[str], list[str]] = [], []
    for kind, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        for words, parts in ((before[a:b], marked[0]), (after[c:d], marked[1])):
            if words:
                parts.append(" ".join(words) if kind == "equal" else f"[{' '.join(words)}]")
    return " ".join(marked[0]), " ".join(marked[1])


def _blended_words(case: cases.Case) -> tuple[str, str] | None:
    if case.kind not in ("change object", "change colour"):
        return None
    for before, after in zip(case.source.things, case.target.things, strict=True):
        if before != after and " " not in before.name + after.name:
            are_named = before.name in case.source_prompt.split() and after.name in case.target_prompt.split()
            return (before.name, after.name) if are_named else None
    return None
