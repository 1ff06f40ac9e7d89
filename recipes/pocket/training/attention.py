"""Attention for training: plain batched products that also show where each word looks, and the loss on it.

The renderer knows which cells every thing covers, so each word's cross-attention map can be taught directly: a
cell of the cat should look at "cat", a cell of the ground at the place. This binds words to things long before the
denoising loss alone would, and gives the sharp word maps that Prompt-to-Prompt edits with. (The same idea with
photographs and segmenters: O. Avrahami et al., "Break-A-Scene", SIGGRAPH Asia 2023, eq. 3.)
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

# How much of a cell's attention its words should get before the loss lets go. The rest stays free.
THING_GOAL, NOUN_GOAL, ADJECTIVE_GOAL, PLACE_GOAL = 0.7, 0.45, 0.1, 0.4
# How much attention the things' words may keep on ground that no thing covers.
STRAY = 0.05
# The noise level (signal to noise ratio) at which a cell's content is half decided.
DECIDED = 0.1


class PlainAttention:
    """An attention processor. Cross-attention keeps `words`, the mean map of the first half of its heads.

    Only half, so that the others stay free for what the denoising loss alone finds useful.
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
    """Give every attention of `unet` plain products; returns the cross-attention processors, which keep maps."""
    processors = {name: PlainAttention(keep and ".attn2." in name) for name in unet.attn_processors}
    unet.set_attn_processor(dict(processors))
    return [processor for processor in processors.values() if processor.keep]


@dataclass(frozen=True)
class Grounds:
    """What the words of a batch stand for.

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
    """How far the word maps are from where the words' things are; 0 when every goal is met.

    `maps`: [B, cells, tokens] each. `snr`: [B], the signal to noise ratio each sample was shown at; what noise
    still hides cannot be pointed at, so the loss fades with it. Things count equally, whatever their size.
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
        # Each adjective by itself: the denoising loss teaches a colour's map, but not that of a size.
        where = covered / covered.sum(-1, keepdim=True).clamp(min=1)
        adjectives = grounds.things - grounds.nouns
        adjective = _short_of(words, ADJECTIVE_GOAL)
        inside = inside + torch.einsum("bct,bkt,bkc->bk", adjective, adjectives, where)
        per_sample = inside.sum(1) / said.sum(1).clamp(min=1)
        per_sample = per_sample + _mean(_short_of(place, PLACE_GOAL), bare) * grounds.place.amax(-1)
        per_sample = per_sample + 2 * _mean(F.relu(mass.sum(1) - STRAY), bare)
        losses.append((certainty * per_sample).mean())
    return torch.stack(losses).mean()
