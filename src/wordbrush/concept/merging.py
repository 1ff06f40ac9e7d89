"""Several concepts as one, in closed form (Kumari et al. 2023, Custom Diffusion, section 3.3).

For each projection W₀ of the text to keys or values, the merged one is

    Ŵ = argmin_W ‖W·C_regᵀ − W₀·C_regᵀ‖²  such that  W·Cᵀ = V

The rows of C are the features of each concept's words in their prompts, and V is what the concept's own weights make of
them. The rows of C_reg are the features of captions that have nothing to do with them: all that cross-attention reads,
with the start token and the padding, and of the empty prompt as often, since guidance reads it in every step. So each
word keeps its meaning, and all else changes as little as that allows.

The paper's solution is Ŵ = W₀ + vᵀ·d, where d = C·(C_regᵀ·C_reg)⁻¹ and vᵀ = (V − W₀·Cᵀ)·(d·Cᵀ)⁻¹. The square of C_reg
would lose half of the digits. With C_reg = U·S·X and C seen by the captions, Y = C·Xᵀ·S⁻¹, the same is
Ŵ = W₀ + (V − W₀·Cᵀ)·B, where B = (Y⁺)ᵀ·S⁻¹·X: one B for all layers.

The change has the rank of C, so it is kept in low rank.
"""

import copy
import hashlib
import os
import re
import shlex
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from math import hypot
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wordbrush import reading
from wordbrush.concept.applied import Use, applied, doubts, joined
from wordbrush.concept.concept import Base, Concept
from wordbrush.concept.weights import Change, LowRank, added, svd
from wordbrush.errors import ConceptError, OptionsError, PromptError, short
from wordbrush.model import Model
from wordbrush.model.text import TextEncoder
from wordbrush.pocket import caption, sample
from wordbrush.progress import Progress
from wordbrush.words import Word, Words

WORLD = 400
"""Captions of the built-in world for the built-in model. Their features' smallest singular value is 4.2e-4 of the
largest; with four times as many it is 4.4e-4."""

_BUILT_IN = "pocket"
_LIMIT = 1e-5
"""What is smaller, relative to the largest of its kind, is taken to be 0: a text encoder in float32 knows no more."""

_BATCH = 32  # captions
_MERGED = re.compile(r"unet\.(.+\.)?attn2\.to_[kv]\.weight")
_ARTICLES = ("a", "an", "the", "my")


@dataclass(frozen=True, eq=False)
class Merged:
    """A merged concept, and what it is worth.

    targets: the prompts in which the words keep their meaning. captions: how many were read. rank, width: how many
    directions their words' features have, and how many numbers. error: how far the words' keys and values are from what
    each concept makes of them, relative to these, in the worst layer. changed: how far those of all that is read of the
    captions are from the base's, relative to these, all layers together. alone: the same by each concept alone.
    """

    concept: Concept
    targets: tuple[str, ...]
    captions: int
    rank: int
    width: int
    error: float
    changed: float
    alone: tuple[float, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Spanned:
    """What the features of many texts have in common: their singular values, and the directions."""

    values: Float[Tensor, " rank"]
    directions: Float[Tensor, "rank width"]

    @classmethod
    def of(cls, features: Float[Tensor, "n width"]) -> "Spanned":
        """Of the features of all the texts, or of the triangle that is left of them: QR keeps both."""
        _, values, directions = svd(features)
        kept = values > _LIMIT * values[0]
        return cls(values[kept], directions[kept])

    def seen(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n rank"]:
        """Rows in these directions, in units of how common each is."""
        return rows @ self.directions.T / self.values

    def dual(self, rows: Float[Tensor, "n width"]) -> Float[Tensor, "n width"]:
        """B with B·Cᵀ = I for the rows C, and of all of them the one that these texts see least of. So W₀ + D·B is, as
        these texts see it, the nearest to W₀ of all W with W·Cᵀ = W₀·Cᵀ + D."""
        q, r = _qr(self.seen(rows).T)
        return cast(Tensor, torch.linalg.solve_triangular(r, q.T / self.values @ self.directions, upper=True))

    def size(self, weight: Float[Tensor, "out width"]) -> float:
        """The length of what a weight makes of all the texts: ‖W·C_regᵀ‖."""
        return _length(weight @ self.directions.T * self.values)


def merge(
    model: Model,
    concepts: Sequence[Concept],
    captions: Sequence[str] | None = None,
    targets: Sequence[str] = (),
) -> Generator[Progress, None, Merged]:
    """Merge concepts that learned words, and keys and values of cross-attention, into one.

    captions: texts that shall stay as they are; by default, for the built-in model alone, those of its own world.
    targets: the prompts in which the words shall mean what they do in their concepts; by default each concept's own
    prompt, and the same from its first learned word on. Of a target counts what stands from its learned word on, with
    the end token. What is the same in several concepts' targets is no one's, and left to the captions.

    Raises `ConceptError` for concepts that cannot be merged so: of another model, with other weights changed, without
    words, with one word, or with words that cannot be told apart; `OptionsError` for captions that do not span the
    text space, and where there are none; `PromptError` for targets.
    """
    if model.base is not model:
        raise OptionsError(
            "expected a model without concepts to merge some for, got one with some: give the one that they were "
            "applied to"
        )
    model = model.with_chunks(1)
    notices = [doubt for each in concepts for doubt in _doubted(model, each)]
    if not any(each.weights for each in concepts):
        raise ConceptError(
            "expected concepts that change weights, got words alone: apply them beside one another, which changes none"
        )
    placeholders = joined(concepts)
    texts = _texts(model, captions)
    learned = applied(model, [Use(replace(each, weights={})) for each in concepts])
    own = _targets(learned, concepts, targets)
    encoder = _wide(learned.text)
    rows = _told_apart(encoder, concepts, own)
    prompts = tuple(prompt for each in own for prompt in each)
    read = list(_read(encoder, texts))
    if len(read) < len(texts):
        notices.append(
            f"{len(texts) - len(read)} of {len(texts)} captions are left out: the model cannot read them whole"
        )
    together = torch.cat(rows)
    words, spanned = yield from _spanned(encoder, read, together.shape[1])
    _require_spanned(model, words, together, len(read))
    _require_independent(spanned, together, prompts)
    weights, error, changed, alone = yield from _weights(model, concepts, spanned, rows)
    concept = Concept(
        method="merged",
        prompt=_prompt(learned, concepts),
        base=Base(name=model.name, hash=model.base_hash),
        placeholders=placeholders,
        weights=weights,
        options={
            "merged": [_name(each) for each in concepts],
            "sha256": [each.record.sha256 for each in concepts],
            "targets": list(prompts),
            "captions": len(read),
            "captions_sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
        },
        pictures=tuple(picture for each in concepts for picture in each.pictures),
        previews=tuple(preview for each in concepts for preview in each.previews),
    )
    rank, width = words.directions.shape
    return Merged(concept, prompts, len(read), rank, width, error, changed, alone, tuple(notices))


def captions_in(path: str | os.PathLike[str]) -> list[str]:
    """The captions in a text file, one a line. Raises `OptionsError`."""
    return reading.text(path, OptionsError).splitlines()


def world() -> list[str]:
    """Captions of the built-in world, as the built-in model was trained on."""
    return [caption(sample(number)) for number in range(WORLD)]


# What is merged ---------------------------------------------------------------------------------------------


def _doubted(model: Model, concept: Concept) -> list[str]:
    """What to say of a concept. Raises `ConceptError` for one that cannot be merged for this model."""
    if concept.base.hash not in ("", model.base_hash):
        raise ConceptError(
            f"expected concepts of {model.name} (base {model.base_hash[:12]}…) to merge, got {_name(concept)} of "
            f"{concept.base.name} (base {concept.base.hash[:12]}…): give the model of all of them (--model)"
        )
    if not concept.placeholders:
        raise ConceptError(
            f"expected concepts with learned words to merge, got {_name(concept)} without any: apply it beside the "
            "others, which adds the changes up"
        )
    if concept.portraits:
        raise ConceptError(
            f"expected concepts of words and weights to merge, got {_name(concept)}, whose word brings a likeness of "
            "its thing: apply it beside the others"
        )
    known = {name for name in model.weights if _MERGED.fullmatch(name)}
    if others := sorted(concept.weights.keys() - known):
        raise ConceptError(
            "expected changes of the keys and values of this model's cross-attention alone, as Custom Diffusion "
            f"learns them, got {_name(concept)} with {others[0]}{f' and {len(others) - 1} more' * bool(others[1:])}: "
            "apply the concepts beside one another, which adds the changes up"
        )
    return doubts(model, concept)


def _name(concept: Concept) -> str:
    """What a concept's file is called, wherever it is."""
    path = None if concept.file is None else concept.file.path
    return concept.prompt if path is None else Path(path).name


def _texts(model: Model, captions: Sequence[str] | None) -> list[str]:
    """The captions, without empty ones. Raises `OptionsError` if there are none."""
    if captions is None and model.name == _BUILT_IN:
        return world()
    if texts := [text for each in captions or () if (text := each.strip())]:
        return texts
    raise OptionsError(
        f"expected captions of many different pictures, which shall mean to {model.name} what they did, got none: "
        "give a text file with one a line (--captions), such as those of COCO or LAION; for the built-in model alone "
        "there are some here"
    )


def _targets(learned: Model, concepts: Sequence[Concept], given: Sequence[str]) -> list[list[str]]:
    """The prompts of each concept. Raises `PromptError`, and `ConceptError` for a learned word that is in none."""
    found: list[list[str]] = [[] for _ in concepts]
    for prompt in given:
        owners = [
            prompts
            for prompts, each in zip(found, concepts, strict=True)
            if _own_words(learned.read(prompt), each)
        ]
        if len(owners) != 1:
            raise PromptError(
                f"expected targets with learned words of one concept each, got {short(prompt)} with those of "
                f"{len(owners)}: write one for each concept (--target)"
            )
        owners[0].append(prompt)
    for prompts, concept in zip(found, concepts, strict=True):
        read = learned.read(concept.prompt)
        if not given and (words := _own_words(read, concept)):
            prompts += [_from(read, words[0]), concept.prompt]
        known = {word.key for prompt in prompts for word in _own_words(learned.read(prompt), concept)}
        if missing := [token for token in concept.placeholders if Word(token, 0, 0).key not in known]:
            raise ConceptError(
                f"expected a target for each learned word, got none with {short(missing[0])} of {_name(concept)}: give "
                f"prompts with every word (--target {shlex.quote(f'{missing[0]} …')})"
            )
    return [list(dict.fromkeys(prompts)) for prompts in found]


def _own_words(read: Words, concept: Concept) -> list[Word]:
    """The words of a prompt that a concept teaches."""
    keys = {Word(token, 0, 0).key for token in concept.placeholders}
    return [word for word in read.words if word.is_learned and word.key in keys]


def _from(read: Words, first: Word) -> str:
    """A prompt from one of its words on."""
    return " ".join(word.text for word in read.words if word.start >= first.start)


def _prompt(learned: Model, concepts: Sequence[Concept]) -> str:
    """A prompt to use the merged concept in: "photo of a <my-cat> cat and a <my-vase> vase"."""
    found: list[str] = []
    for concept in concepts:
        read = learned.read(concept.prompt)
        firsts = [at for at, word in enumerate(read.words) if word in _own_words(read, concept)][:1]
        if not found or not firsts:
            found.append(concept.prompt)
        else:
            before = firsts[0] - 1
            has_article = before >= 0 and read.words[before].key in _ARTICLES
            found.append(_from(read, read.words[before if has_article else firsts[0]]))
    return " and ".join(found)


# Their features ---------------------------------------------------------------------------------------------


def _wide(text: TextEncoder) -> TextEncoder:
    """The same in float32 at least: half types would lose what tells words apart."""
    encoders = [
        each if each.dtype.itemsize >= 4 else copy.deepcopy(each).to(torch.float32) for each in text.encoders
    ]
    return replace(text, encoders=encoders)


def _features(encoder: TextEncoder, prompts: Sequence[str]) -> Float[Tensor, "n tokens width"]:
    """All that cross-attention reads of the prompts, in float64."""
    with torch.no_grad():
        return encoder.encode(prompts).hidden.cpu().double()


def _told_apart(
    encoder: TextEncoder, concepts: Sequence[Concept], targets: Sequence[Sequence[str]]
) -> list[Float[Tensor, "n width"]]:
    """The rows of each concept that no other one has, each once. Raises `ConceptError` for learned words that are the
    same to the model."""
    found: list[Tensor] = []
    firsts: list[Tensor] = []
    for concept, prompts in zip(concepts, targets, strict=True):
        own: list[Tensor] = []
        for prompt in prompts:
            read = encoder.read(prompt)
            (rows,) = _features(encoder, [prompt])
            own.append(rows[_own_words(read, concept)[0].start : read.chunks[0].stop + 1])
        found.append(torch.cat(own))
        firsts.append(torch.cat([torch.arange(len(rows)) == 0 for rows in own]))
    kept: list[Tensor] = []
    for i, rows in enumerate(found):
        is_kept = ~_same(rows, rows).tril(-1).any(1)
        for j, others in enumerate(found):
            is_shared = _same(rows, others).any(1)
            if i != j and bool((is_shared & firsts[i]).any()):
                one, two = (short(next(iter(concepts[k].placeholders))) for k in (i, j))
                raise ConceptError(
                    f"expected words that differ, got {one} and {two}, which are the same to the model: no weights can "
                    "make of them what each concept does; train one again from another initial word"
                )
            is_kept &= ~is_shared if i != j else True
        kept.append(rows[is_kept])
    return kept


def _same(one: Float[Tensor, "n width"], two: Float[Tensor, "m width"]) -> Tensor:
    """Which rows have one direction: what is linear cannot tell them apart."""
    return (
        torch.cdist(F.normalize(one), F.normalize(two), compute_mode="donot_use_mm_for_euclid_dist") < _LIMIT
    )


def _read(encoder: TextEncoder, texts: Sequence[str]) -> Iterator[Words]:
    """The captions that can be read: people's captions are now and then too long, or have another tool's syntax."""
    for text in texts:
        try:
            yield encoder.read(text)
        except PromptError:
            continue


def _spanned(
    encoder: TextEncoder, captions: Sequence[Words], width: int
) -> Generator[Progress, None, tuple[Spanned, Spanned]]:
    """What the captions' words span, with their end tokens; and all that is read of them and of the empty prompt, as
    often. Memory does not grow with them."""
    words = torch.zeros(1, width, dtype=torch.float64)
    (empty,) = _features(encoder, [""])
    beside = empty * len(captions) ** 0.5
    for first in range(0, len(captions), _BATCH):
        batch = captions[first : first + _BATCH]
        spoken = [slice(read.chunks[0].start, read.chunks[0].stop + 1) for read in batch]
        rows = _features(encoder, [read.prompt for read in batch])
        is_spoken = torch.zeros(rows.shape[:2], dtype=torch.bool)
        for own, where in zip(is_spoken, spoken, strict=True):
            own[where] = True
        words = _qr(torch.cat([words, rows[is_spoken]]))[1]
        beside = _qr(torch.cat([beside, rows[~is_spoken]]))[1]
        yield Progress("reading captions", min(first + _BATCH, len(captions)), len(captions))
    return Spanned.of(words), Spanned.of(torch.cat([words, beside]))


def _require_spanned(model: Model, words: Spanned, rows: Float[Tensor, "n width"], captions: int) -> None:
    """Raise `OptionsError` for captions whose words do not span the text space: where none looks, nothing says what
    the weights should be."""
    rank, width = words.directions.shape
    # A single encoder's features come out of a LayerNorm: they lie in a plane, which may go through 0. SDXL's do not.
    needed = width - (len(model.text.encoders) == 1)
    beside = rows - rows @ words.directions.T @ words.directions
    is_within = bool((beside.square().sum(1) <= (10 * _LIMIT) ** 2 * rows.square().sum(1)).all())
    if rank < needed or not is_within:
        raise OptionsError(
            f"expected captions whose words span the text space of {model.name}, {max(needed, rank + 1)} directions, "
            f"got {rank} from {captions} captions: give more of them, and more varied ones (--captions)"
        )


def _require_independent(spanned: Spanned, rows: Float[Tensor, "n width"], targets: Sequence[str]) -> None:
    """Raise `ConceptError` for rows that depend on one another: then some of their keys and values follow from the
    others', and cannot be chosen."""
    values = svd(F.normalize(spanned.seen(rows)))[1]
    found = int((values > _LIMIT * values[0]).sum())
    if found < len(rows):
        raise ConceptError(
            f"expected targets whose {len(rows)} tokens are independent of one another, got {found} directions from "
            f"{', '.join(map(short, targets))}: leave out targets, or give others (--target)"
        )


# The solution -----------------------------------------------------------------------------------------------


def _weights(
    model: Model, concepts: Sequence[Concept], spanned: Spanned, rows: Sequence[Float[Tensor, "_ width"]]
) -> Generator[Progress, None, tuple[dict[str, Change], float, float, tuple[float, ...]]]:
    """The changes of the merged concept; and `Merged`'s error, changed and alone."""
    together = torch.cat(list(rows))
    basis, mixed = _qr(spanned.dual(together).T)
    known = model.weights
    names = sorted({name for each in concepts for name in each.weights})
    weights: dict[str, Change] = {}
    errors = [0.0]
    lengths: list[list[float]] = []
    for number, name in enumerate(names, 1):
        dtype, weight = torch.promote_types(known[name].dtype, torch.float32), known[name].cpu().double()
        changes = [
            added(name, each.weights[name], weight) if name in each.weights else torch.zeros_like(weight)
            for each in concepts
        ]
        wanted = torch.cat([own @ change.T for own, change in zip(rows, changes, strict=True)]).T
        narrow = LowRank.nearest(wanted @ mixed.T, len(together))
        kept = replace(narrow, down=(narrow.down @ basis.T).to(dtype), up=narrow.up.to(dtype))
        if bool(wanted.any()):
            weights[name] = kept
        found = kept.delta(weight)
        errors.append(_length(found @ together.T - wanted) / _length(weight @ together.T + wanted))
        lengths.append([spanned.size(each) for each in (weight, found, *changes)])
        yield Progress("merging", number, len(names))
    base, changed, *alone = (hypot(*each) for each in zip(*lengths, strict=True))
    return weights, max(errors), changed / base, tuple(each / base for each in alone)


def _qr(matrix: Float[Tensor, "m n"]) -> tuple[Tensor, Tensor]:
    return cast(tuple[Tensor, Tensor], torch.linalg.qr(matrix))


def _length(matrix: Tensor) -> float:
    return float(matrix.square().sum().sqrt())
