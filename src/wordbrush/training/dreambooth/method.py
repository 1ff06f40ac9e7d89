"""DreamBooth (Ruiz et al. 2023): the whole network learns what a rare word means, and keeps its class.

L = E ‖ε − ε_θ(z_t, t, c)‖² + λ E ‖ε′ − ε_θ(z′_t′, t′, c_pr)‖² (eq. 2, for a network that predicts the noise, w = 1):
pictures of the thing under a prompt with a rare word, and pictures that the frozen model made of the class, under the
class's prompt. Both are in one forward pass, with draws of their own; they do not pair up the same way each time.

The UNet learns, the text encoder if asked for, the autoencoder never.
"""

from collections.abc import Iterator

import torch
from torch import nn

from wordbrush.concept import Concept
from wordbrush.concept.weights import Change, Difference, Full
from wordbrush.model.sharing import shared
from wordbrush.training.dreambooth.options import Options
from wordbrush.training.prior import loss as loss
from wordbrush.training.task import Learned, Task, Trainee, learned_in


def attached(task: Task, options: Options) -> Trainee:
    """The model with weights of its own, in float32, which are the base's."""
    networks = dict(task.model.networks)
    parts = ["unet", *(part for part in networks if part != "unet" and options.train_text_encoder)]
    parameters: dict[str, nn.Parameter] = {}
    for part in parts:
        own = {name: weight.to(learned_in(weight), copy=True) for name, weight in _weights(networks[part])}
        networks[part] = shared(networks[part], own)
        parameters |= {f"{part}.{name}": own for name, own in networks[part].named_parameters()}
    rates = {name: options.text_learning_rate for name in parameters if not name.startswith("unet.")}
    learning = task.model.taught(networks, {}, words=options.prompt.split())
    return Trainee(learning, parameters, options.prompt, options.train_text_encoder, rates)


def export(trainee: Trainee, task: Task, options: Options, learned: Learned) -> Concept:
    """All weights that learned, or what was added to the base's."""
    weights: dict[str, Change] = {}
    for part, network in task.model.networks.items():
        for name, base in _weights(network):
            if (own := learned.get(f"{part}.{name}")) is not None:
                kept = Full(own) if options.keep == "full" else Difference(own - base.to(own))
                weights[f"{part}.{name}"] = kept
    return task.concept("dreambooth", options, options.prompt, weights=weights)


def _weights(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    return ((name, weight.detach()) for name, weight in network.named_parameters())
