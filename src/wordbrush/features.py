"""The one place where the UNet's residual blocks are opened. It keeps no state between calls.

A residual block adds to its input what its last convolution computes (`ResnetBlock2D`). As with attention
(`wordbrush.attention`), what changes that is an argument of each call to the model, and without one the block computes
what it always did, bit for bit. `install` puts one hook behind that convolution when a model is built, in every block
of the decoder.

diffusers hands arguments of a call down to its attention layers and not to its residual blocks. So the hook finds the
call's argument in a context variable, which is set while the network computes and no longer: a thread has its own, a
call within a call has its own, and no generator yields while it is set.
"""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

Features = Callable[[str, int, Tensor], Tensor]
"""What changes a residual block: from the block's name in the UNet, the sampler's step i and what the block adds to its
input, "rows c h w", to what it adds instead."""

_of_this_call: ContextVar[tuple[Features, int] | None] = ContextVar("features", default=None)


@dataclass(frozen=True)
class Block:
    """A residual block of the decoder and the transformer behind it, by their names in the UNet.

    self_attention: the transformer's layers of that kind.
    """

    name: str
    self_attention: tuple[str, ...]


def blocks(unet: Any) -> tuple[Block, ...]:
    """The decoder's residual blocks that a transformer follows, in the order in which they compute.

    Layers of different networks correspond by their place in this row: it begins at the decoder's coarsest attention
    and ends at the latents' own size. Stable Diffusion 1 and 2 have nine, SDXL six.
    """
    layers = {name.removesuffix(".processor") for name in unet.attn_processors}
    own = [name for name in sorted(layers) if not unet.get_submodule(name).is_cross_attention]
    found: list[Block] = []
    for i, up in enumerate(unet.up_blocks):
        for j in range(len(getattr(up, "attentions", ()))):
            inside = f"up_blocks.{i}.attentions.{j}."
            found.append(
                Block(f"up_blocks.{i}.resnets.{j}", tuple(name for name in own if name.startswith(inside)))
            )
    return tuple(found)


def install(unet: Any) -> None:
    """Put this module's hook into every residual block of a UNet's decoder; twice is as good as once."""
    for i, up in enumerate(unet.up_blocks):
        for j, block in enumerate(up.resnets):
            hooks = block.conv2._forward_hooks.values()
            if not any(isinstance(hook, _Hook) for hook in hooks):
                block.conv2.register_forward_hook(_Hook(f"up_blocks.{i}.resnets.{j}"))


@contextmanager
def during(features: Features | None, step: int) -> Generator[None]:
    """The features of the call of a network that is made meanwhile."""
    token = _of_this_call.set(None if features is None else (features, step))
    try:
        yield
    finally:
        _of_this_call.reset(token)


@dataclass(frozen=True)
class _Hook:
    """torch's forward hook behind a block's last convolution. name: the block's."""

    name: str

    def __call__(self, layer: Any, given: Any, output: Float[Tensor, "rows c h w"]) -> Tensor | None:
        now = _of_this_call.get()
        if now is None:
            return None  # the output as it is
        features, step = now
        return features(self.name, step, output)
