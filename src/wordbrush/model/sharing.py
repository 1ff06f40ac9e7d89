"""Models that share their weights: a network with some of its own, and everything else another one's."""

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def shared(network: M, weights: Mapping[str, Tensor] | None = None) -> M:
    """A network whose weights are the very tensors of `network`, but for those given by name.

    A weight or a module that is replaced in one of the two is replaced there alone.
    """
    kept = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
    copied = copy.deepcopy(network, kept)
    for name, weight in (weights or {}).items():
        owner, _, own = name.rpartition(".")
        setattr(copied.get_submodule(owner), own, nn.Parameter(weight, requires_grad=False))
    return copied


class PlaceholderEmbedding(nn.Module):
    """A text encoder's token embedding, and behind it the vectors of learned words.

    The table itself is the encoder's own, shared with every other model: what trains the vectors moves no other row.
    known: vectors of words that were learned before, which come first.
    """

    def __init__(
        self,
        table: Float[Tensor, "rows d"],
        vectors: Float[Tensor, "n d"],
        known: Float[Tensor, "k d"] | None = None,
    ) -> None:
        super().__init__()
        self.weight = table if isinstance(table, nn.Parameter) else nn.Parameter(table, requires_grad=False)
        self.known = None if known is None else nn.Parameter(known, requires_grad=False)
        self.vectors = nn.Parameter(vectors, requires_grad=False)

    @property
    def num_embeddings(self) -> int:
        """Rows of the table and vectors of learned words."""
        return self.weight.shape[0] + self.learned.shape[0]

    @property
    def learned(self) -> Float[Tensor, "n d"]:
        """The vectors of all learned words."""
        return self.vectors if self.known is None else torch.cat([self.known, self.vectors])

    def forward(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d"]:
        """The row of each token."""
        rows = self.weight.shape[0]
        is_learned = ids >= rows
        known = F.embedding(ids.masked_fill(is_learned, 0), self.weight)
        learned = F.embedding((ids - rows).clamp(min=0), self.learned)
        return torch.where(is_learned[..., None], learned.to(known.dtype), known)


def with_vectors(encoder: M, vectors: Float[Tensor, "n d"], end: int) -> M:
    """A text encoder that has vectors for learned words behind its table, and behind those that it has already; it
    shares all its weights.

    end: the id of the tokenizer's end token. CLIP pools the text there; old configs say 2, for which transformers takes
    the largest id of the prompt, and that would be a learned word's.
    """
    network: Any = shared(encoder)
    table = network.get_input_embeddings()
    known = table.learned.detach() if isinstance(table, PlaceholderEmbedding) else None
    network.set_input_embeddings(PlaceholderEmbedding(table.weight, vectors, known))
    for module in network.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = end
    return network
