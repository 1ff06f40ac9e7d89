"""Cones (Liu et al. 2023), experimental: which entries of the network, set to 0, make it draw the thing.

The keys and values of the UNet's cross-attention are W ⊙ M, with a mask M that is 1 at first. M descends DreamBooth's
loss, so its gradient is W ⊙ G, with that of the weight, G. What it has brought below a threshold is shut, at most a
share of all: the concept is where these entries are, and nothing else. Things are put together by shutting all that any
of them shuts.

This is written from the abstract and from what others say of the paper; docs/methods/cones.md says what is not known.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wordbrush.concept import Concept
from wordbrush.concept.weights import Change, Shut
from wordbrush.model.sharing import shared
from wordbrush.training.cones.options import Options
from wordbrush.training.prior import loss as loss
from wordbrush.training.task import Learned, Task, Trainee, learned_in


class Masked(nn.Module):
    """A linear layer and a mask over its weight, which shuts nothing at first."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        ones = torch.ones_like(layer.weight, dtype=learned_in(layer.weight))
        self.mask = nn.Parameter(ones, requires_grad=False)
        self.eval()

    @property
    def out_features(self) -> int:
        """The layer's outputs: attention reads it."""
        return self.layer.out_features

    def forward(self, given: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """(W ⊙ M) x + b; the product is rounded to the weight's type once."""
        weight = (self.layer.weight * self.mask).to(self.layer.weight.dtype)
        return F.linear(given, weight, self.layer.bias)


def attached(task: Task, options: Options) -> Trainee:
    """The model with masks that shut nothing."""
    networks = dict(task.model.networks)
    networks["unet"] = shared(networks["unet"])
    parameters: dict[str, nn.Parameter] = {}
    for name, layer in list(_layers(networks["unet"])):
        masked = Masked(layer)
        owner, _, own = name.rpartition(".")
        setattr(networks["unet"].get_submodule(owner), own, masked)
        parameters[f"unet.{name}.weight"] = masked.mask
    learning = task.model.taught(networks, {}, words=options.prompt.split())
    return Trainee(learning, parameters, options.prompt)


def export(trainee: Trainee, task: Task, options: Options, learned: Learned) -> Concept:
    """What is shut."""
    cut = _cut(learned, options)
    weights: dict[str, Change] = {}
    for name, mask in learned.items():
        indices = (mask.flatten() < cut).nonzero().flatten().int()
        if len(indices):
            weights[name] = Shut(indices)
    return task.concept("cones", options, options.prompt, weights=weights)


def _cut(learned: Learned, options: Options) -> float:
    """Below which a mask's entries are shut: the threshold, or less where more would be below it than may be."""
    entries = torch.cat([mask.flatten() for mask in learned.values()])
    few = int(options.limit * len(entries))
    lowest = entries.kthvalue(few + 1).values if few < len(entries) else torch.inf
    return min(options.threshold, float(lowest))


def _layers(unet: Any) -> Iterator[tuple[str, nn.Linear]]:
    """The keys and values of the cross-attention, by name."""
    for name, layer in unet.named_modules():
        if isinstance(layer, nn.Linear) and name.endswith((".attn2.to_k", ".attn2.to_v")):
            yield name, layer
