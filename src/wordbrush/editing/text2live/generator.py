"""The network that paints the layer of one picture."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_SLOPE = 0.2
_SKIPPED = 4  # channels that go across
_SMALLEST = 4  # pixels of the shorter side at the coarsest scale


class Generator(nn.Module):
    """From a picture to a layer: a U-Net of random weights, as deep as the picture allows, up to seven scales.

    So small a network draws smooth things before noise (Ulyanov et al. 2018, "Deep Image Prior"), which is what holds
    the layer to the picture's own shapes.
    """

    def __init__(self, channels: int, size: tuple[int, int], seed: int) -> None:
        super().__init__()
        scales = max(1, min(7, (min(size) // _SMALLEST).bit_length() - 1))
        with torch.random.fork_rng(devices=[]):  # whatever the caller draws is left alone
            torch.manual_seed(seed % 2**63)
            self.down = nn.ModuleList(
                nn.Sequential(*_layer(channels if scale else 3, channels, 2), *_layer(channels, channels, 1))
                for scale in range(scales)
            )
            self.across = nn.ModuleList(
                nn.Sequential(*_layer(channels if scale else 3, _SKIPPED, 1, 1)) for scale in range(scales)
            )
            self.up = nn.ModuleList(
                nn.Sequential(*_layer(channels + _SKIPPED, channels, 1), *_layer(channels, channels, 1, 1))
                for _ in range(scales)
            )
            self.out = nn.Conv2d(channels, 4, 1)
        self.requires_grad_(False)

    def forward(
        self, picture: Float[Tensor, "1 3 h w"]
    ) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "1 1 h w"]]:
        """The layer's colours in [−1, 1], and its opacity in [0, 1]."""
        x, skipped = picture, list[Tensor]()
        for down, across in zip(self.down, self.across, strict=True):
            skipped.append(across(x))
            x = down(x)
        for up in self.up:
            beside = skipped.pop()
            x = up(torch.cat([F.interpolate(x, beside.shape[-2:], mode="bilinear"), beside], 1))
        painted = self.out(x)
        return painted[:, :3].tanh(), painted[:, 3:].sigmoid()


def _layer(into: int, out: int, stride: int, kernel: int = 3) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(into, out, kernel, stride, kernel // 2, padding_mode="replicate")
    return convolution, nn.GroupNorm(1, out), nn.LeakyReLU(_SLOPE)
