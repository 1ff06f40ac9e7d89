"""SVDiff (Han et al. 2023): each weight keeps its singular vectors, and learns by how much its singular values shift.

W = U · diag(σ) · Vᵀ, with W as the matrix "out in·k·k", becomes W' = U · diag(relu(σ + δ)) · Vᵀ (eq. 2). δ starts at 0.
The loss is DreamBooth's: with a class prompt, the class is preserved. Of several things, pictures of two are also seen
side by side (Cut-Mix), and each word may be held to its own half (Unmix, `training.unmix`). Biases and tables of words
stay as they are, and a norm's scales have one value, their length, as in svdiff-pytorch.

Nothing here builds W'. A layer that learns computes U (relu(σ + δ) ⊙ (Vᵀ x)), of which autograd has the gradient by δ
without the weight's, Σ (Uᵀ g) ⊙ (Vᵀ x), for no more than the product itself: both factors are there. With r = min(out,
in·k·k) a pass costs 1 + r / max(out, in·k·k) of a layer's, and so does its gradient; building W' costs r
multiplications for each weight, both ways, however small the batch.

Without gradients a layer computes W x + U ((relu(σ + δ) − σ) ⊙ (Vᵀ x)), as the file is applied: at δ = 0 it is the base
bit for bit, which U · diag(σ) · Vᵀ is up to rounding only.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from wordbrush.concept import Concept
from wordbrush.concept.weights import Spectral, spectrum
from wordbrush.model.sharing import shared
from wordbrush.training import prior
from wordbrush.training.svdiff.options import Options
from wordbrush.training.task import Learned, Loss, Task, Trainee


class _Shifted(nn.Module):
    """A layer whose weight learns shifts of its singular values."""

    u: Tensor
    values: Tensor
    v: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        for name, factor in zip(("u", "values", "v"), spectrum(layer.weight), strict=True):
            # As a convolution wants them: it would copy others in every pass.
            self.register_buffer(name, factor.contiguous(), persistent=False)
        self.shift = nn.Parameter(torch.zeros_like(self.values), requires_grad=False)
        self.eval()

    @property
    def shifted(self) -> Float[Tensor, " r"]:
        """relu(σ + δ)."""
        return (self.values + self.shift).relu()


class Linear(_Shifted):
    """A linear layer."""

    @property
    def out_features(self) -> int:
        """The layer's outputs: attention reads it."""
        return self.layer.out_features

    def forward(self, given: Float[Tensor, "*rows in"], *scale: float) -> Float[Tensor, "*rows out"]:
        """W' x."""
        narrow = F.linear(given, self.v)
        if torch.is_grad_enabled():
            return F.linear(narrow * self.shifted, self.u, self.layer.bias)
        return self.layer(given) + F.linear(narrow * (self.shifted - self.values), self.u)


class Convolution(_Shifted):
    """A convolution: rows of Vᵀ as kernels, and U as a matrix over channels."""

    def forward(self, given: Float[Tensor, "b in h w"], *scale: float) -> Float[Tensor, "b out h2 w2"]:
        """W' x."""
        layer = self.layer
        kernels = self.v.view(-1, *layer.weight.shape[1:])
        narrow = F.conv2d(given, kernels, None, layer.stride, layer.padding, layer.dilation)
        if torch.is_grad_enabled():
            return self._across(narrow * self.shifted[:, None, None], layer.bias)
        return layer(given) + self._across(narrow * (self.shifted - self.values)[:, None, None])

    def _across(
        self, narrow: Float[Tensor, "b r h w"], bias: Tensor | None = None
    ) -> Float[Tensor, "b out h w"]:
        # Not as a convolution of 1 × 1, which would keep what it was given for a gradient that nobody asks for.
        u, flat = self.u.expand(len(narrow), -1, -1), narrow.flatten(2)
        out = torch.bmm(u, flat) if bias is None else torch.baddbmm(bias[:, None], u, flat)
        return out.view(*out.shape[:2], *narrow.shape[2:])


class Norm(_Shifted):
    """A group or layer norm, whose scales are one row."""

    def forward(self, given: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The norm with the scales w + u · (relu(σ + δ) − σ) · v."""
        layer = self.layer
        scales = layer.weight + (self.u * (self.shifted - self.values) @ self.v)[0]
        if isinstance(layer, nn.GroupNorm):
            return F.group_norm(given, layer.num_groups, scales, layer.bias, layer.eps)
        return F.layer_norm(given, layer.normalized_shape, scales, layer.bias, layer.eps)


def attached(task: Task, options: Options) -> Trainee:
    """The model with shifts, which are 0."""
    networks = dict(task.model.networks)
    parts = ["unet", *(part for part in networks if part != "unet" and options.train_text_encoder)]
    parameters: dict[str, nn.Parameter] = {}
    rates: dict[str, float] = {}
    for part in parts:
        networks[part] = shared(networks[part])
        for name, layer, kind in list(layers(networks[part])):
            if (
                part == "unet"
                and options.layers != "all"
                and not name.endswith((".attn2.to_k", ".attn2.to_v"))
            ):
                continue
            owner, _, own = name.rpartition(".")
            replaced = kind(layer)
            setattr(networks[part].get_submodule(owner), own, replaced)
            parameters[f"{part}.{name}"] = replaced.shift
            if kind is Norm:
                rates[f"{part}.{name}"] = options.norm_learning_rate
    prompt = " and ".join(options.prompts)
    learning = task.model.taught(networks, {}, words=prompt.split())
    return Trainee(learning, parameters, prompt, options.train_text_encoder, rates)


def loss(trainee: Trainee, task: Task, options: Options, number: int) -> Loss:
    """The loss of a forward pass: of pictures of one thing and of two, and of their classes in the same pass."""
    return prior.loss(trainee, task, options, number, options.side_by_side, options.unmix)


def export(trainee: Trainee, task: Task, options: Options, learned: Learned) -> Concept:
    """The shifts."""
    weights = {f"{name}.weight": Spectral(shift) for name, shift in learned.items()}
    return task.concept("svdiff", options, trainee.prompt, weights=weights)


def layers(network: nn.Module) -> Iterator[tuple[str, Any, type[_Shifted]]]:
    """The layers of a network whose weights can learn, by name, and what each becomes."""
    for name, layer in cast("Iterator[tuple[str, Any]]", network.named_modules()):
        match layer:
            case nn.Linear():
                yield name, layer, Linear
            case nn.Conv2d() if layer.groups == 1:
                yield name, layer, Convolution
            case nn.GroupNorm() | nn.LayerNorm() if list(layer.parameters()):
                yield name, layer, Norm
            case _:
                pass
