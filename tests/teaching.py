"""Concepts made up for tests: random vectors and weights, as training would leave them."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from wordbrush.concept import Base, Concept, Placeholder
from wordbrush.concept.weights import Change, Difference, Full, LowRank, Shut
from wordbrush.model import Model

KEY, VALUE = ".to_k.weight", ".to_v.weight"


def word(model: Model, initial: str = "cat", vectors: int = 1, seed: int = 0) -> Placeholder:
    """A learned word that was `initial`, repeated, before training."""
    generator = torch.Generator().manual_seed(seed)
    before: list[Tensor] = []
    after: list[Tensor] = []
    for number, encoder in enumerate(model.text.encoders):
        ids = model.text.tokenizers[number](initial, add_special_tokens=False).input_ids
        assert len(ids) == 1, "a word of one token"
        table = encoder.get_input_embeddings().weight.float()
        before.append(table[ids].repeat(vectors, 1))
        after.append(before[-1] + torch.randn(vectors, table.shape[1], generator=generator) * table.std())
    return Placeholder(tuple(after), tuple(before))


def attended(model: Model, end: str = KEY) -> dict[str, Tensor]:
    """The weights of the UNet's cross-attention, by the names that concepts use."""
    parameters = model.base.networks["unet"].named_parameters()
    return {
        f"unet.{name}": own.detach() for name, own in parameters if ".attn2." in name and name.endswith(end)
    }


def low_rank(weight: Tensor, rank: int = 2, seed: int = 0, alpha: float = 1.0) -> LowRank:
    """A change of a linear layer's weight in low rank."""
    generator = torch.Generator().manual_seed(seed)
    out, inner = weight.shape
    return LowRank(
        torch.randn(rank, inner, generator=generator) * 0.1,
        torch.randn(out, rank, generator=generator) * 0.1,
        torch.tensor(alpha),
    )


def changes(model: Model, kind: type = LowRank, end: str = KEY, seed: int = 0) -> dict[str, Change]:
    """Changes of the cross-attention's keys, of a kind."""
    found: dict[str, Change] = {}
    for number, (name, weight) in enumerate(attended(model, end).items()):
        change = low_rank(weight.float(), seed=100 * seed + number)
        difference = change.delta(weight)
        kinds = {
            LowRank: change,
            Difference: Difference(difference),
            Full: Full(weight.float() + difference),
            Shut: Shut((difference.flatten() < 0).nonzero().flatten().int()),
        }
        found[name] = kinds[kind]
    return found


def concept(
    model: Model,
    tokens: Sequence[str] = ("<my-cat>",),
    *,
    weights: type | None = None,
    vectors: int = 1,
    initial: str = "cat",
    seed: int = 0,
    end: str = KEY,
) -> Concept:
    """A concept of these words, and of weights of a kind."""
    return Concept(
        method="textual_inversion" if weights is None else "dreambooth",
        prompt=" ".join(["a photo of", *tokens]) if tokens else "a photo of a sks cat",
        base=Base(name=model.name, hash=model.base_hash),
        placeholders={
            token: word(model, initial, vectors, seed + number) for number, token in enumerate(tokens)
        },
        weights={} if weights is None else changes(model, weights, end, seed),
        options={"steps": 10},
        seed=seed,
    )


def customised(
    model: Model, token: str = "<my-cat>", noun: str = "cat", *, kind: type = Full, seed: int = 0
) -> Concept:
    """A concept as Custom Diffusion leaves it: a word, and the keys and values of cross-attention."""
    own = concept(model, (token,), initial=noun, seed=seed)
    weights = {**changes(model, kind, KEY, seed), **changes(model, kind, VALUE, seed + 1000)}
    return replace(own, method="custom_diffusion", prompt=f"photo of a {token} {noun}", weights=weights)
