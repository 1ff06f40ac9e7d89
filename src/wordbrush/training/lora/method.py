"""LoRA (Hu et al. 2021): each weight learns a change of low rank, W + (α / r) · up · down (eq. 3), and stays itself.

`up` starts at 0, so the model is the base at first. `down` starts normal with deviation 1 / r, as diffusers' scripts
have it. The loss is DreamBooth's: with a class prompt, the class is preserved. In the text encoder, if it learns, the
projections of its attention do.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wordbrush.concept import Concept
from wordbrush.concept.weights import Change, LowRank
from wordbrush.fit import generator
from wordbrush.model.sharing import shared
from wordbrush.training.lora.options import Options
from wordbrush.training.prior import loss as loss
from wordbrush.training.task import Learned, Task, Trainee, learned_in

_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")


class Adapted(nn.Module):
    """A linear layer or a convolution, and a change of low rank beside it."""

    def __init__(self, layer: Any, rank: int, scale: float, random: torch.Generator) -> None:
        super().__init__()
        self.layer, self.scale = layer, scale
        outputs, inputs, *kernel = layer.weight.shape
        device, dtype = layer.weight.device, learned_in(layer.weight)
        down = torch.randn(rank, inputs, *kernel, generator=random) / rank
        self.down = nn.Parameter(down.to(device, dtype), requires_grad=False)
        up = torch.zeros(outputs, rank, *[1] * len(kernel), device=device, dtype=dtype)
        self.up = nn.Parameter(up, requires_grad=False)
        self.eval()

    @property
    def out_features(self) -> int:
        """The layer's outputs: attention reads it."""
        return self.layer.out_features

    def forward(self, given: Float[Tensor, "..."], *scale: float) -> Float[Tensor, "..."]:
        """layer(x) + scale · up · down · x."""
        if isinstance(self.layer, nn.Linear):
            change = F.linear(F.linear(given, self.down), self.up)
        else:
            narrow = F.conv2d(
                given, self.down, None, self.layer.stride, self.layer.padding, self.layer.dilation
            )
            change = F.conv2d(narrow, self.up)
        return self.layer(given) + self.scale * change


def attached(task: Task, options: Options) -> Trainee:
    """The model with changes of low rank, which are 0."""
    networks = dict(task.model.networks)
    parts = ["unet", *(part for part in networks if part != "unet" and options.train_text_encoder)]
    random = generator(options.seed, "down")
    parameters: dict[str, nn.Parameter] = {}
    for part in parts:
        networks[part] = shared(networks[part])
        for name, layer in list(_layers(part, networks[part], options)):
            adapted = Adapted(layer, options.rank, _alpha(options) / options.rank, random)
            owner, _, own = name.rpartition(".")
            setattr(networks[part].get_submodule(owner), own, adapted)
            parameters |= {f"{part}.{name}.down": adapted.down, f"{part}.{name}.up": adapted.up}
    learning = task.model.taught(networks, {}, words=options.prompt.split())
    return Trainee(learning, parameters, options.prompt, options.train_text_encoder)


def export(trainee: Trainee, task: Task, options: Options, learned: Learned) -> Concept:
    """The changes, with their alpha."""
    weights: dict[str, Change] = {}
    for name in learned:
        layer, _, kind = name.rpartition(".")
        if kind == "down":
            alpha = torch.tensor(_alpha(options))
            weights[f"{layer}.weight"] = LowRank(learned[name], learned[f"{layer}.up"], alpha)
    return task.concept("lora", options, options.prompt, weights=weights)


def _alpha(options: Options) -> float:
    return float(options.rank if options.alpha is None else options.alpha)


def _layers(part: str, network: nn.Module, options: Options) -> Iterator[tuple[str, Any]]:
    """The layers of a network that learn, by name."""
    for name, layer in cast("Iterator[tuple[str, Any]]", network.named_modules()):
        if not isinstance(layer, nn.Linear | nn.Conv2d):
            continue
        is_projection = name.endswith(_PROJECTIONS)
        match options.layers if part == "unet" else "attention":
            case "attention":
                chosen = is_projection
            case "cross-attention":
                chosen = is_projection and ".attn2." in name
            case "all":
                chosen = not isinstance(layer, nn.Conv2d) or layer.groups == 1
        if chosen:
            yield name, layer
