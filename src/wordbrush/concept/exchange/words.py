"""Learned words alone: textual inversion's embeddings, as diffusers, A1111 and the original repository keep them."""

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from wordbrush.concept.concept import Concept, Placeholder
from wordbrush.concept.exchange.foreign import Foreign, Taken, content, opened
from wordbrush.concept.exchange.places import Places
from wordbrush.errors import ConceptError, short
from wordbrush.model import Model

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
        if key.startswith("string_to_token."):  # the id of a word of the tokenizer that stood for it
            file.tensors.pop(key)
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


def renamed(concept: Concept, token: str) -> Concept:
    """The concept with another name for its word. Raises `ConceptError` unless it has one word."""
    if len(concept.placeholders) != 1:
        raise ConceptError(
            f"expected a concept of one word to call it {short(token)}, got {len(concept.placeholders)} words"
            f"{': ' + ', '.join(map(short, concept.placeholders)) if concept.placeholders else ''}"
        )
    if len(token) > 100 or token.split() != [token] or not any(each.isalnum() for each in token):
        raise ConceptError(
            f"expected one word of at most 100 letters for the concept, such as '<my-cat>', got {short(token)}"
        )
    ((old, own),) = concept.placeholders.items()
    return replace(
        concept,
        placeholders={token: own},
        portraits={token: concept.portraits[old]} if old in concept.portraits else {},
        prompt=concept.prompt.replace(old, token),
        file=None,
    )


def initialised(concept: Concept, word: str, model: Model) -> Concept:
    """The concept whose words were this one before training, as diffusers begins: its tokens' vectors, one each if
    there are as many, else their mean. Raises `ConceptError` for a concept without words, or a word without tokens."""
    if not concept.placeholders:
        raise ConceptError(
            f"expected a concept with words, which were {short(word)} before training, got none"
        )
    base = model.base.text
    rows: list[Tensor] = []
    for encoder, tokenizer in zip(base.encoders, base.tokenizers, strict=True):
        ids = tokenizer(word, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ConceptError(f"expected a word that the model's tokenizer reads, got {short(word)}")
        table = encoder.get_input_embeddings().weight.detach()
        rows.append(table[torch.tensor(ids, device=table.device)].float().cpu())
    before = {
        token: replace(
            own,
            initial=tuple(
                each if len(each) == own.count else each.mean(0).expand(own.count, -1) for each in rows
            ),
        )
        for token, own in concept.placeholders.items()
    }
    return replace(concept, placeholders=before, file=None)


def learned_embeds(words: Mapping[str, Placeholder], path: Path, places: Places) -> dict[Path, bytes]:
    """diffusers' files of words: one for each word and text encoder, with the word as the key."""
    return {
        file.with_stem(file.stem + _SECOND) if number else file: content({token: vectors})
        for token, file in _named(words, path).items()
        for number, vectors in enumerate(words[token].vectors)
    }


def automatic(words: Mapping[str, Placeholder], path: Path, places: Places) -> dict[Path, bytes]:
    """A1111's files of words, which are called what the file is called: one for each word."""
    return {
        file: content(
            dict(zip(("clip_l", "clip_g"), words[token].vectors, strict=True))
            if len(words[token].vectors) == 2
            else {"emb_params": words[token].vectors[0]}
        )
        for token, file in _named(words, path).items()
    }


def bracketed(words: Mapping[str, Placeholder], path: Path, places: Places) -> dict[Path, bytes]:
    """The files of words that diffusers' script for Custom Diffusion writes beside weights, "<new1>.safetensors".

    Raises `ConceptError` for words of two text encoders.
    """
    for token, own in words.items():
        if len(own.vectors) > 1:
            raise ConceptError(
                f"expected words of one text encoder, which --to custom-diffusion holds, got {short(token)} of "
                f"{len(own.vectors)}: use --to wordbrush"
            )
    return {
        path.with_name(f"{in_brackets(token)}.safetensors"): content(
            {token: own.vectors[0][0] if own.count == 1 else own.vectors[0]}
        )
        for token, own in words.items()
    }


def _named(words: Mapping[str, Placeholder], path: Path) -> dict[str, Path]:
    """A file for each word: `path` if there is one word, else files beside it that are called after the words."""
    return {token: path if len(words) == 1 else beside(path.parent, token) for token in words}


def beside(folder: Path, token: str) -> Path:
    """The file of a word in a folder, called after it."""
    return folder / f"{_safe(token).strip('<>') or 'word'}.safetensors"


def in_brackets(token: str) -> str:
    """What the file of a word is called beside weights, by which it is found there."""
    return f"<{_safe(token).strip('<>') or 'word'}>"


def _safe(token: str) -> str:
    return re.sub(r"[/\\\0]+", "-", token)
