"""Learned words alone: textual inversion's embeddings, as diffusers, A1111 and the original repository keep them."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from wordbrush.concept.concept import Placeholder
from wordbrush.concept.exchange.foreign import Foreign, Taken, opened
from wordbrush.concept.exchange.places import Places
from wordbrush.errors import ConceptError, short

_SECOND = "_2"  # ends the name of the file for SDXL's second text encoder

# A key, and the text encoder; its group is the word. Bundled ones are inside of another file.
_KEYS: Mapping[str, int] = {
    r"(?:bundle_emb\.(?P<token>.+)\.)?string_to_param\.(?P<key>.+)": 0,
    r"(?:bundle_emb\.(?P<token>.+)\.)?emb_params": 0,
    r"(?:bundle_emb\.(?P<token>.+)\.)?clip_l": 0,
    r"(?:bundle_emb\.(?P<token>.+)\.)?clip_g": 1,
    r"modifier_token\.(?P<token>.+)": 0,
}


def take(file: Foreign, places: Places) -> Taken:
    """The words that a file teaches. One without a name of its own has that of the file, in angle brackets."""
    found: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for key in list(file.tensors):
        for pattern, encoder in _KEYS.items():
            if match := re.fullmatch(pattern, key):
                names = {name: each for name, each in match.groupdict().items() if each not in (None, "*")}
                token = names.get("token") or names.get("key") or named_after(file.path)
                found[token][encoder] = file.tensors.pop(key)
                break
    if not found and file.tensors and all(_is_word(key, own, places) for key, own in file.tensors.items()):
        second = len(places.encoders) > 1 and file.path.stem.endswith(_SECOND)
        for key in list(file.tensors):
            token = key if key != "*" else named_after(file.path)
            found[token][int(second)] = file.tensors.pop(key)
        if len(places.encoders) > 1:
            stem = file.path.stem.removesuffix(_SECOND) if second else file.path.stem + _SECOND
            other = file.path.with_stem(stem)
            if other.is_file():
                for token, own in opened(other).tensors.items():
                    found[token if token != "*" else named_after(file.path)][int(not second)] = own
    return Taken(vectors=found, method="textual_inversion" if found else "")


def placeholders(
    path: Path, vectors: Mapping[str, Mapping[int, Tensor]], places: Places
) -> dict[str, Placeholder]:
    """The words as values. Raises `ConceptError` for one that has no vectors for one of the text encoders, or vectors
    of another size than the encoder reads."""
    found: dict[str, Placeholder] = {}
    for token, own in vectors.items():
        expected = f"{path}: expected vectors of {short(token)}"
        if len(own) != len(places.encoders):
            raise ConceptError(
                f"{expected} for {len(places.encoders)} text encoders, as {places.name} has, got {len(own)}: it was "
                "learned on a model of another kind, or the file that belongs to it (learned_embeds_2) is not beside it"
            )
        each = [vector.reshape(-1, vector.shape[-1]) for _, vector in sorted(own.items()) if vector.ndim]
        widths = tuple(vector.shape[1] for vector in each)
        if widths != places.encoders or len({len(vector) for vector in each}) != 1 or not len(each[0]):
            raise ConceptError(
                f"{expected} of {' and '.join(map(str, places.encoders))} numbers, as {places.name} reads, got shapes "
                f"{', '.join(str(tuple(vector.shape)) for vector in own.values())}: it was learned on a model of "
                "another kind"
            )
        found[token] = Placeholder(tuple(each))
    return found


def named_after(path: Path) -> str:
    """The word of a file that does not say it: its name in angle brackets, as no word of any prompt is."""
    plain = re.sub(r"[<>\s]+", "-", path.stem).strip("-")
    return f"<{plain[:98] or 'word'}>"


def _is_word(key: str, own: Tensor, places: Places) -> bool:
    """Whether a key may be a word, and its tensor the word's vectors: in such files nothing else says so."""
    return (
        1 <= own.ndim <= 2
        and own.shape[-1] in places.encoders
        and (bool(re.fullmatch(r"<.+>", key)) or "." not in key)
    )
