"""Attention for training: plain batched products that also return the word maps, and the loss on these maps.

The renderer knows which cells each thing covers, so each word's cross-attention map can be trained directly: a cell of
the cat should attend to "cat", a cell of the background to the place. This binds words to things much earlier than the
denoising loss alone would, and gives the sharp word maps that Prompt-to-Prompt needs. (The same idea for photographs
with segmentation: O. Avrahami et al., "Break-A-Scene", SIGGRAPH Asia 2023, eq. 3.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn import functional as F

# The share of a cell's attention that its words should get; above it the loss is zero and the rest stays free.
THING_GOAL, NOUN_GOAL, ADJECTIVE_GOAL, PLACE_GOAL = 0.7, 0.45, 0.1, 0.4
# The share of attention that the words of things may get where no thing is.
STRAY = 0.05
# The signal-to-noise ratio at which half of a cell's content is determined.
DECIDED = 0.1


class PlainAttention:
    """An attention processor. Cross-attention keeps `words`, the mean map over the first half of its heads.

    The other half stays free for whatever the denoising loss finds useful.
    """

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.words: Tensor | None = None  # [B, cells, tokens], float32, after a forward pass in training

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(x: Tensor) -> Tensor:
            split = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            return split.reshape(-1, *split.shape[2:])

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=attn.scale)
        with torch.autocast(q.device.type, enabled=False):
            probabilities = scores.softmax(-1)
        if self.keep and torch.is_grad_enabled():
            by_head = probabilities.unflatten(0, (-1, attn.heads))
            self.words = by_head[:, : (attn.heads + 1) // 2].float().mean(1)
        out = torch.bmm(probabilities, v).unflatten(0, (-1, attn.heads)).transpose(1, 2).flatten(2)
        return attn.to_out[0](out)


def install(unet: UNet2DConditionModel, keep: bool) -> list[PlainAttention]:
    """Replace every attention processor of `unet`; returns those of the cross-attention, which keep maps."""
    processors = {name: PlainAttention(keep and ".attn2." in name) for name in unet.attn_processors}
    unet.set_attn_processor(dict(processors))
    return [processor for processor in processors.values() if processor.keep]


@dataclass(frozen=True)
class Grounds:
    """What the words of a batch refer to.

    `things` and `nouns`: float [B, 3, tokens], 1 where a token belongs to the words (the noun) of thing k.
    `place`: float [B, tokens]. `coverage`: float [B, 3, 16, 16], the share of each cell that thing k covers.
    """

    things: Tensor
    nouns: Tensor
    place: Tensor
    coverage: Tensor


def _short_of(mass: Tensor, goal: float) -> Tensor:
    """−log of the mass where it is below its goal, from 0 at the goal."""
    return F.relu(math.log(goal) - (mass + 1e-4).log())


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean of `values` [..., cells] over the cells `where`; 0 where there are none."""
    return (values * where).sum(-1) / where.sum(-1).clamp(min=1)


def grounding_loss(maps: Iterable[Tensor], grounds: Grounds, snr: Tensor) -> Tensor:
    """The distance between the word maps and the cells of the things; 0 when every goal is met.

    `maps`: [B, cells, tokens] each. `snr`: [B], the signal-to-noise ratio of each sample; what noise hides
    cannot be located, so the loss fades with it. Things count equally, whatever their size.
    """
    certainty = snr / (snr + DECIDED)
    losses = []
    for words in maps:
        side = math.isqrt(words.shape[1])
        coverage = F.adaptive_avg_pool2d(grounds.coverage, side).flatten(2)
        mass = grounds.things @ words.transpose(1, 2)
        noun = grounds.nouns @ words.transpose(1, 2)
        place = (words @ grounds.place.unsqueeze(-1)).squeeze(-1)
        said = grounds.things.amax(-1)
        covered = (coverage > 0.5) * said.unsqueeze(-1)
        bare = (coverage.sum(1) < 0.05).float()
        inside = _mean(_short_of(mass, THING_GOAL) + _short_of(noun, NOUN_GOAL), covered)
        # Each adjective separately: the denoising loss teaches the maps of colours, but not those of sizes.
        where = covered / covered.sum(-1, keepdim=True).clamp(min=1)
        adjectives = grounds.things - grounds.nouns
        adjective = _short_of(words, ADJECTIVE_GOAL)
        inside = inside + torch.einsum("bct,bkt,bkc->bk", adjective, adjectives, where)
        per_sample = inside.sum(1) / said.sum(1).clamp(min=1)
        per_sample = per_sample + _mean(_short_of(place, PLACE_GOAL), bare) * grounds.place.amax(-1)
        per_sample = per_sample + 2 * _mean(F.relu(mass.sum(1) - STRAY), bare)
        losses.append((certainty * per_sample).mean())
    return torch.stack(losses).mean()
