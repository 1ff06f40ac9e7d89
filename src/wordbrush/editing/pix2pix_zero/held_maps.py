"""Cross-attention guidance: how far maps are from the source's, and which way the latents lead back (Parmar et al.
2023, section 3.3).

Fused attention builds no maps, and this distance needs them: each is built where its layer attends, and its gradient
by the queries is taken there in closed form. So one layer's maps exist at a time, and what is kept for the backward
pass is as large as the queries.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Heads, Site
from wordbrush.attention_edit import AttentionEdit
from wordbrush.recording import Recording


class MapDistance(torch.autograd.Function):
    """‖M diag(a) − R‖², summed over positions and tokens and averaged over heads; M = softmax(QKᵀ/√d).

    With S = QKᵀ/√d and G = 2 (M diag(a) − R) diag(a) the gradient is ∂/∂S = M ∘ (G − Σ_tokens M ∘ G), and
    ∂/∂Q = ∂/∂S K/√d. The text is given, so nothing flows to the keys.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "n heads positions d"],
        key: Float[Tensor, "n heads tokens d"],
        reference: Float[Tensor, "n heads positions tokens"],
        held: Float[Tensor, "n 1 1 tokens"],
    ) -> Float[Tensor, " n"]:
        """The distance of each row."""
        own = maps(query, key)
        off = own * held - reference
        pull = 2 / query.shape[1] * off * held
        by_score = own * (pull - (own * pull).sum(-1, keepdim=True))
        wide = key.to(own)
        ctx.save_for_backward((by_score @ wide / math.sqrt(key.shape[-1])).to(query.dtype))
        return off.square().sum((2, 3)).mean(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient by the queries."""
        (by_query,) = ctx.saved_tensors
        return grads[0].to(by_query)[:, None, None, None] * by_query, None, None, None


def maps(
    query: Float[Tensor, "n heads positions d"], key: Float[Tensor, "n heads tokens d"]
) -> Float[Tensor, "n heads positions tokens"]:
    """Explicit maps, in single precision at least."""
    wide = torch.promote_types(query.dtype, torch.float32)
    scores = query.to(wide) @ key.to(wide).transpose(-1, -2)
    return (scores / math.sqrt(query.shape[-1])).softmax(-1)


@dataclass
class HeldMaps:
    """An `Attend` that changes nothing and adds up how far each row's cross-attention maps are from the source's.

    edits: for each row, which of its tokens are held to which of the source's: ‖M diag(1 − B) − M_source A‖².
    recording: the source's queries and keys in this step. distance: of each row, all layers so far.
    """

    edits: Sequence[AttentionEdit]
    recording: Recording
    distance: Tensor | None = field(init=False, default=None)

    def __call__(self, site: Site, step: int, heads: Heads) -> Float[Tensor, "n heads positions d"]:
        """The layer's own attention."""
        query, key = heads.query(), heads.key()
        if site.is_cross:
            with torch.no_grad():
                of_source = maps(*self.recording.heads(site, step, query))
                pairs = [edit.at(step) for edit in self.edits]
                reference = torch.stack([of_source[0] @ a.to(of_source) for a, _ in pairs])
                held = torch.stack([1 - b.to(of_source) for _, b in pairs])[:, None, None]
            own = cast(Tensor, MapDistance.apply(query, key, reference, held))
            self.distance = own if self.distance is None else self.distance + own
        return heads.attend(query, key, heads.value())
