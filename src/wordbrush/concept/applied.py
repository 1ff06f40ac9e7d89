"""A model with concepts: another value, which shares with its base every weight that no concept changes."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Likeness, liken
from wordbrush.concept.concept import ASSUMED, Concept, Placeholder
from wordbrush.concept.weights import Change, fitting, merged
from wordbrush.errors import ConceptError, short
from wordbrush.inputs import AppliedConcept
from wordbrush.model import Model
from wordbrush.model.sharing import shared, with_vectors
from wordbrush.options import ConceptOptions, parse


@dataclass(frozen=True, eq=False)
class Use:
    """A concept and how strongly it is applied: 0 is the base, 1 what was trained.

    Raises `OptionsError` for a strength that is not between −10 and 10.
    """

    concept: Concept
    strength: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "strength", parse(ConceptOptions, {"strength": self.strength}).strength)

    @property
    def record(self) -> AppliedConcept:
        """For the records of what is made with it."""
        file = self.concept.record
        return AppliedConcept(path=file.path, sha256=file.sha256, strength=self.strength)


def applied(model: Model, uses: Sequence[Use]) -> Model:
    """The base of a model with these concepts, their weights merged once: a picture costs what it costs without.

    Weights get the sum of what each concept adds, times its strength. A learned word's vectors go from what they were
    before training (strength 0) through what was learned (1) and beyond. The base is untouched and usable beside it.

    Raises `ConceptError` for concepts that do not fit the model by name and shape, that mean nothing on another base
    than their own, that share a word, or that are one. What only may not work is said by `doubts`.
    """
    _require_once(uses)
    for use in uses:
        require_base(model, use.concept)
    placeholders = joined(use.concept for use in uses)
    changes: dict[str, list[tuple[Change, float]]] = defaultdict(list)
    for use in uses:
        for name, change in use.concept.weights.items():
            changes[name].append((change, use.strength))
    networks = {
        part: network if own is None else own
        for part, network in model.base.networks.items()
        for own in [_changed(part, network, changes)]
    }
    if left := changes.keys():
        raise ConceptError(unplaced(model, sorted(left)))
    if portraits := [use for use in uses if use.strength and use.concept.portraits]:
        if unlike := model.base.denoiser.unlike:
            raise ConceptError(
                f"expected a model whose attention can be edited, where a likeness acts, got "
                f"{model.base.name}: {unlike}"
            )
        if networks["unet"] is model.base.networks["unet"]:
            networks["unet"] = shared(networks["unet"])
        _portrayed(networks["unet"], portraits)
    encoders = [part for part in networks if part != "unet"]
    strengths = {token: use.strength for use in uses for token in use.concept.placeholders}
    for i, part in enumerate(encoders) if placeholders else ():
        rows = [
            _vectors(token, own, i, strengths[token], len(encoders)) for token, own in placeholders.items()
        ]
        networks[part] = _learned(model, networks[part], i, torch.cat(rows))
    taught = model.taught(
        networks,
        {token: own.count for token, own in placeholders.items()},
        words=[word for use in uses for word in use.concept.words],
        concepts=[use.record for use in uses],
    )
    taught.uses = tuple(uses)
    return taught


def doubts(model: Model, concept: Concept) -> list[str]:
    """What to tell who applies a concept to this model: that it was trained on another, or that nobody knows; and what
    its file does not say and was assumed."""
    name = concept.file.path if concept.file is not None else concept.prompt
    assumed = [f"{name}: {concept.options[ASSUMED]}"] if ASSUMED in concept.options else []
    if not concept.base.hash:
        return [
            f"{name} does not say which model it was trained on: it may not work on {model.base.name}",
            *assumed,
        ]
    if concept.base.hash != model.base_hash:
        return [
            f"{name} was trained on {concept.base.name}, not on {model.base.name}: it may not work as it did",
            *assumed,
        ]
    return assumed


def _require_once(uses: Sequence[Use]) -> None:
    found: dict[str, Use] = {}
    for use in uses:
        if (same := found.setdefault(use.record.sha256, use)) is not use:
            raise ConceptError(
                f"expected each concept once, got {same.record} and {use.record}, which are equal: give it one strength"
            )


def require_base(model: Model, concept: Concept) -> None:
    """Raise `ConceptError` for a concept that means nothing on this model's base."""
    if concept.base.hash in ("", model.base_hash):
        return
    if any(change.own_base for change in concept.weights.values()):
        raise ConceptError(
            f"expected {concept.base.name} (base {concept.base.hash[:12]}…), from whose weights {concept!r} was "
            f"trained, got {model.base.name} (base {model.base_hash[:12]}…): such weights mean nothing on another model"
        )


def joined(concepts: Iterable[Concept]) -> dict[str, Placeholder]:
    """The learned words of all concepts. Raises `ConceptError` for a word of two."""
    found: dict[str, Placeholder] = {}
    for concept in concepts:
        for token, own in concept.placeholders.items():
            if token.casefold() in {known.casefold() for known in found}:
                raise ConceptError(
                    f"expected concepts with words of their own, got two with {short(token)}: rename one "
                    "(wordbrush convert --token)"
                )
            found[token] = own
    return found


def _changed(part: str, network: Any, changes: dict[str, list[tuple[Change, float]]]) -> Any | None:
    """The network with its changed weights, which are taken out of `changes`; None if it has none."""
    own: dict[str, Tensor] = {}
    for name, weight in network.named_parameters():
        if (found := changes.pop(f"{part}.{name}", None)) is not None:
            with fitting(f"{part}.{name}"):
                own[name] = merged(weight.detach(), found)
    return shared(network, own) if own else None


def _portrayed(unet: Any, uses: Sequence[Use]) -> None:
    """Give a UNet's layers what the concepts' words bring to them."""
    likenesses: dict[str, list[Likeness]] = defaultdict(list)
    for use in uses:
        for token, portrait in use.concept.portraits.items():
            for name, own in portrait.likenesses(token, use.strength, unet).items():
                likenesses[name].append(own)
    liken(unet, likenesses)


def unplaced(model: Model, names: Sequence[str]) -> str:
    """What to say of changes of weights that a model does not have."""
    listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    return (
        f"expected changes of weights that {model.base.name} has, got {listed}: "
        "the concept belongs to a model of another kind"
    )


def _vectors(
    token: str, placeholder: Placeholder, encoder: int, strength: float, encoders: int
) -> Float[Tensor, "n d"]:
    """A word's vectors for one encoder at a strength. Raises `ConceptError`."""
    if len(placeholder.vectors) != encoders:
        raise ConceptError(
            f"expected vectors of {short(token)} for {encoders} text encoder{'s'[: encoders - 1]}, as this model has, "
            f"got those for {len(placeholder.vectors)}: it was learned on a model of another kind"
        )
    learned = placeholder.vectors[encoder].float()
    if strength == 1:
        return learned
    if placeholder.initial is None:
        raise ConceptError(
            f"expected strength 1 for {short(token)}, got {strength:g}: its file does not say what it was before "
            "training; say it once (wordbrush convert --init WORD)"
        )
    initial = placeholder.initial[encoder].float()
    return initial if strength == 0 else initial + strength * (learned - initial)


def _learned(model: Model, encoder: Any, number: int, vectors: Float[Tensor, "n d"]) -> Any:
    table = encoder.get_input_embeddings().weight
    if vectors.shape[1] != table.shape[1]:
        raise ConceptError(
            f"expected vectors of {table.shape[1]} numbers, as text encoder {number + 1} of {model.base.name} reads, "
            f"got {vectors.shape[1]}: the word was learned on a model of another kind"
        )
    return with_vectors(encoder, vectors.to(table), model.text.tokenizers[number].eos_token_id)
