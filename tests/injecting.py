"""MasaCtrl and Plug-and-Play the long way round: every attention map is built, row by row, in float64.

Written from the papers' equations. It shares nothing with `wordbrush.attention`, `features`, `denoise`, `schedule` or
the methods: a copy of the network with processors and layers of its own, its own loop and its own steps. The batch of a
step is [source, each branch of the guidance], for one target.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from wordbrush.model import Model
from wordbrush.source import Source

SOURCE = 0


@dataclass
class Run:
    """What the layers of a step are told and what they tell. edit: from a layer's name, whether it is a cross-attention
    and its q, k, v of each row to the attended values of each row, or None for its own. step: now."""

    edit: Callable[[str, int, Tensor, Tensor, Tensor], Tensor | None]
    feature: Callable[[str, int, Tensor], Tensor] = lambda name, step, added: added
    see: Callable[[str, int, Tensor], None] = lambda name, step, maps: None
    step: int = 0


@dataclass
class Explicit:
    """softmax(QKᵀ/√d) V with all of the map, as a processor of diffusers."""

    name: str
    run: Run

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (attn.heads, -1)).movedim(-2, 1)

        q, k, v = heads(attn.to_q(hidden_states)), heads(attn.to_k(context)), heads(attn.to_v(context))
        attended = None
        if encoder_hidden_states is None:
            attended = self.run.edit(self.name, self.run.step, q, k, v)
        else:
            self.run.see(self.name, self.run.step, weights(q, k))
        if attended is None:
            attended = weights(q, k) @ v
        return attn.to_out[0](attended.movedim(1, -2).flatten(-2))


class Opened(torch.nn.Module):
    """A residual block's last convolution, and what becomes of what it adds."""

    def __init__(self, convolution: torch.nn.Module, name: str, run: Run) -> None:
        super().__init__()
        self.convolution, self.name, self.run = convolution, name, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run.feature(self.name, self.run.step, self.convolution(x))


def weights(q: Tensor, k: Tensor, among: Tensor | None = None) -> Tensor:
    """The map, or the map over some of the keys (1) alone."""
    scores = torch.exp(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]))
    scores = scores if among is None else scores * among
    return scores / scores.sum(-1, keepdim=True)


def opened(model: Model, run: Run) -> Any:
    """A copy of the network whose layers are this module's."""
    unet = copy.deepcopy(model.denoiser.unet)
    for module in unet.modules():
        module._forward_hooks.clear()
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    unet.set_attn_processor({f"{name}.processor": Explicit(name, run) for name in names})
    for i, up in enumerate(unet.up_blocks):
        for j, block in enumerate(up.resnets):
            block.conv2 = Opened(block.conv2, f"up_blocks.{i}.resnets.{j}", run)
    return unet


@dataclass
class Branch:
    """A row of the guidance: its text, and how much of its noise counts, by the step."""

    prompt: str
    weight: Callable[[int], float]


@torch.no_grad()
def edited(model: Model, source: Source, branches: Sequence[Branch], run: Run) -> Tensor:
    """z_0 of the target, by DDIM's steps (Song et al. 2021, equation 12)."""
    unet, z = opened(model, run), source.trajectory[:1]
    text = model.encode_text([source.prompt, *(branch.prompt for branch in branches)])
    for i, (here, to) in enumerate(zip(source.schedule.levels, source.schedule.levels[1:], strict=False)):
        run.step = i
        rows = torch.cat([source.trajectory[i : i + 1], z.expand(len(branches), -1, -1, -1)])
        extra: dict[str, Any] = {}
        if text.pooled is not None:
            height, width = (side * model.downscale for side in z.shape[-2:])
            ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=z.dtype)
            extra["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": ids.expand(len(rows), -1)}
        said = unet(rows, here.t, encoder_hidden_states=text.hidden, **extra).sample
        eps = said if model.denoiser.prediction == "epsilon" else here.signal * said + here.sigma * rows
        guided = sum((branch.weight(i) * eps[1 + k : 2 + k] for k, branch in enumerate(branches)), 0 * z)
        z = to.signal * (z - here.sigma * guided) / here.signal + to.sigma * guided
    return z


@dataclass
class Maps:
    """The maps of words so far: averaged over heads, sites of one size, and steps. tokens: of each row."""

    tokens: Sequence[Sequence[int]]
    size: tuple[int, int]
    seen: list[Tensor] = field(default_factory=list[Tensor])

    def see(self, name: str, step: int, maps: Tensor) -> None:
        if maps.shape[-2] == math.prod(self.size):
            own = [
                row[..., list(tokens)].sum(-1) for row, tokens in zip(maps.mean(1), self.tokens, strict=True)
            ]
            self.seen.append(torch.stack(own))

    def stretched(self, row: int, positions: int) -> Tensor:
        """One row's map from 0 to 1, at a site with as many positions: here always of the maps' own size."""
        mean = torch.stack(self.seen).mean(0)[row]
        assert positions == len(mean)
        return (mean - mean.min()) / (mean.max() - mean.min())
