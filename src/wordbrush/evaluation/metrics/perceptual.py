"""Distances between pictures as networks see them: LPIPS, and a plainer one on the encoder that ships.

    load_lpips("squeeze", "squeezenet1_1-b8a52dc0.pth").distances(made, true)
    PocketDistance(load_encoder()).distances(made, true, where=masks)

LPIPS (Zhang et al. 2018, eq. 1) is what papers print: PIE-Bench with SqueezeNet, DreamBooth's DIV and most others with
AlexNet. The feature maps of both pictures are brought to unit length at each place, subtracted, squared, weighted per
channel by heads that were fitted to what people say, averaged over the places and added up over the layers. It needs
the weights of an ImageNet network, which do not ship: torchvision's files, or any with their names of tensors. The
heads are in torchmetrics.

`PocketDistance` has no fitted weights and sees with another network. It is not LPIPS and is never called that.
"""

import importlib.resources
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float
from safetensors import torch as safetensors
from torch import Tensor, nn
from torch.nn import functional as F

from wordbrush.backbones import Encoder
from wordbrush.errors import ImageError, ModelError, short
from wordbrush.evaluation.metrics.pixels import Picture, array
from wordbrush.extras import need
from wordbrush.loading.machine import device_of

Net = Literal["alex", "vgg", "squeeze"]
Mask = Bool[np.ndarray, "_ _"] | None

_EPS = 1e-10
# ImageNet's mean and standard deviation for pictures in [−1, 1]: the published scaling layer.
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_SMALLEST = 32  # pixels a side: below this the deepest maps are empty
_BATCH_PIXELS = 25 * 128 * 128  # of each picture of the pairs that are held at once


class Lpips:
    """LPIPS: 0 when equal, and near 1 for pictures that have nothing in common. See `load_lpips`.

    name: "lpips-alex", "lpips-vgg" or "lpips-squeeze"; their numbers are on different scales.
    """

    def __init__(self, net: Net, features: nn.Sequential, heads: Sequence[Float[Tensor, " _"]]) -> None:
        self.name = f"lpips-{net}"
        self._taps = _TAPS[net]
        self._features = features
        self._heads = heads

    def distances(
        self, made: Sequence[Picture], true: Sequence[Picture], where: Sequence[Mask] | None = None
    ) -> list[float]:
        """LPIPS of each pair of pictures of equal size, at their own size.

        where: for each pair which pixels count; None: all. A masked distance is the average of the published
        spatial form, each layer's map brought to the picture's size bilinearly; features at a place also
        depend on its surroundings, so pixels outside the mask have some influence. Nan where nothing counts.
        Raises `ImageError` for lists or sizes that do not match, or a side below 32 pixels.
        """
        return _distances(self._maps, made, true, where)

    def _maps(self, made: Sequence[Picture], true: Sequence[Picture]) -> list[Float[Tensor, "_ _ _"]]:
        pairs = zip(self._layers(made), self._layers(true), self._heads, strict=True)
        return [((one - other).square() * head[:, None, None]).sum(1) for one, other, head in pairs]

    def _layers(self, pictures: Sequence[Picture]) -> list[Float[Tensor, "_ _ _ _"]]:
        device = self._heads[0].device
        values = torch.from_numpy(np.stack([array(picture) for picture in pictures])).to(device)
        x = values.permute(0, 3, 1, 2).to(self._heads[0].dtype) / 127.5 - 1
        shift, scale = (torch.tensor(each, device=device)[:, None, None] for each in (_SHIFT, _SCALE))
        x = (x - shift) / scale
        layers: list[Tensor] = []
        for i, layer in enumerate(self._features):
            x = layer(x)
            if i in self._taps:
                layers.append(_unit(x))
        return layers


@dataclass(frozen=True, eq=False)
class PocketDistance:
    """How far apart two pictures are for an encoder: 0 when equal, at most 4.

    At each place and stage of the network, |û − v̂|² of the two unit feature vectors (which is 2 − 2 cos), averaged over
    the places and then over the stages. No weights were fitted to people's answers: it ranks edits of one
    benchmark and can be compared with nothing else.
    """

    encoder: Encoder

    @property
    def name(self) -> str:
        return "pocket distance" if self.encoder.name == "pocket" else f"distance by {self.encoder.name}"

    def distances(
        self, made: Sequence[Picture], true: Sequence[Picture], where: Sequence[Mask] | None = None
    ) -> list[float]:
        """The distance of each pair of pictures of equal size.

        where: for each pair which pixels count; None: all. A masked distance averages each stage's map, brought
        to the picture's size bilinearly. Nan where nothing counts.
        Raises `ImageError` for lists or sizes that do not match, or a side below 32 pixels.
        """
        return _distances(self._maps, made, true, where)

    def _maps(self, made: Sequence[Picture], true: Sequence[Picture]) -> list[Float[Tensor, "_ _ _"]]:
        layers = self.encoder.layers([*made, *true])
        halves = [_unit(layer).chunk(2) for layer in layers]
        return [(one - other).square().sum(1) / len(layers) for one, other in halves]


def load_lpips(
    net: Net, backbone: str | Path, heads: str | Path | None = None, device: str | None = None
) -> Lpips:
    """LPIPS on the weights of an ImageNet network.

    backbone: a .pth or .safetensors file with torchvision's names ("features.0.weight"…): alexnet-owt-7be5be79.pth,
    vgg16-397923af.pth or squeezenet1_1-b8a52dc0.pth. heads: the linear weights ("lin0.model.1.weight"…); by default
    version 0.1's, out of torchmetrics. device: by default the accelerator if there is one.
    Raises `ModelError` for a file that is not there or not this, `MissingExtraError` without torchmetrics.
    """
    on = device_of(device)
    features = _NETWORKS[net]()
    loaded = _tensors(Path(backbone), _FILES[net])
    named = {name.removeprefix("features."): value for name, value in loaded.items()}
    wanted = features.state_dict()
    for name, value in wanted.items():
        if name not in named or named[name].shape != value.shape:
            raise ModelError(
                f"{backbone}: expected torchvision's weights of {_FILES[net]}, with features.{name} of shape "
                f"{list(value.shape)}, got {list(named[name].shape) if name in named else 'no such tensor'}"
            )
    features.load_state_dict({name: named[name] for name in wanted})
    if heads is None:
        with need("eval", "LPIPS"):
            folder = importlib.resources.files("torchmetrics")
        with importlib.resources.as_file(
            folder / "functional" / "image" / "lpips_models" / f"{net}.pth"
        ) as path:
            fitted = _tensors(path, f"the heads of {net}")
    else:
        fitted = _tensors(Path(heads), f"the heads of {net}")
    names = [f"lin{i}.model.1.weight" for i in range(len(_TAPS[net]))]
    if any(name not in fitted for name in names):
        raise ModelError(
            f"{heads}: expected {len(names)} heads of {net}, {names[0]} and on, got {list(fitted)}"
        )
    features.requires_grad_(False).eval().to(on)
    return Lpips(net, features, [fitted[name].float().flatten().to(on) for name in names])


def _unit(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    return x / (x.square().sum(1, keepdim=True).sqrt() + _EPS)


@torch.no_grad()
def _distances(
    maps: Callable[[Sequence[Picture], Sequence[Picture]], list[Float[Tensor, "_ _ _"]]],
    made: Sequence[Picture],
    true: Sequence[Picture],
    where: Sequence[Mask] | None,
) -> list[float]:
    """The sum over the layers of each map's average, pairs of one size together."""
    masks = [None] * len(made) if where is None else where
    if not len(made) == len(true) == len(masks):
        raise ImageError(
            f"expected as many pictures as true ones and masks, got {len(made)}, {len(true)} and {len(masks)}"
        )
    sizes = [_checked(*each) for each in zip(made, true, masks, strict=True)]
    distances = [0.0] * len(made)
    for size in dict.fromkeys(sizes):
        alike = [i for i, other in enumerate(sizes) if other == size]
        at_once = max(1, _BATCH_PIXELS // (size[0] * size[1]))
        for first in range(0, len(alike), at_once):
            pairs = alike[first : first + at_once]
            for layer in maps([made[i] for i in pairs], [true[i] for i in pairs]):
                for i, each in zip(pairs, layer, strict=True):
                    distances[i] += _average(each, masks[i])
    return distances


def _average(layer: Float[Tensor, "h w"], mask: Mask) -> float:
    if mask is None:
        return layer.mean().item()
    full = F.interpolate(layer[None, None], mask.shape, mode="bilinear", align_corners=False)[0, 0]
    return full[torch.tensor(mask, device=full.device)].mean().item()  # of nothing: nan


def _checked(made: Picture, true: Picture, mask: Mask) -> tuple[int, int]:
    """The pair's height and width."""
    height, width, _ = array(made).shape
    if array(true).shape != (height, width, 3) or (mask is not None and mask.shape != (height, width)):
        raise ImageError(
            f"expected a picture, its true one and its mask of equal size, one is {width} × {height}"
        )
    if min(height, width) < _SMALLEST:
        raise ImageError(f"expected pictures of at least {_SMALLEST} pixels a side, got {width} × {height}")
    return height, width


def _tensors(path: Path, what: str) -> dict[str, Tensor]:
    """The tensors in a .safetensors or .pth file; a pickle with anything else in it is refused."""
    if not path.is_file():
        raise ModelError(f"expected a file with the weights of {what}, but there is none at {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.load(path.read_bytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles that it then refuses
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise ModelError(f"{path} is damaged, or a pickle with more than tensors; fetch it again") from error
    except Exception as error:  # reading a damaged archive can raise nearly any exception
        raise ModelError(
            f"{path}: cannot be read ({str(error).partition(chr(10))[0]:.200}); fetch it again"
        ) from error
    named = cast(dict[str, object], content) if isinstance(content, dict) else {}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ModelError(
            f"{path}: expected names and tensors, the weights of {what}, got {short(cast(object, content))}"
        )
    return tensors


class _Fire(nn.Module):
    """SqueezeNet's block (Iandola et al. 2016): squeeze, then 1 × 1 and 3 × 3 side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x).relu(), self.expand3x3(x).relu()], 1)


def _alex() -> nn.Sequential:
    """AlexNet's convolutions (Krizhevsky 2014), numbered as in torchvision."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _vgg() -> nn.Sequential:
    """VGG-16's convolutions (Simonyan & Zisserman 2015), numbered as in torchvision."""
    layers: list[nn.Module] = []
    channels = 3
    for block, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
        if block:
            layers.append(nn.MaxPool2d(2, 2))
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)


def _squeeze() -> nn.Sequential:
    """SqueezeNet 1.1's convolutions, numbered as in torchvision."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(64, 16, 64),
        _Fire(128, 16, 64),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(128, 32, 128),
        _Fire(256, 32, 128),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _Fire(256, 48, 192),
        _Fire(384, 48, 192),
        _Fire(384, 64, 256),
        _Fire(512, 64, 256),
    )


_NETWORKS: dict[Net, Callable[[], nn.Sequential]] = {"alex": _alex, "vgg": _vgg, "squeeze": _squeeze}
# The layers whose outputs are compared.
_TAPS: dict[Net, tuple[int, ...]] = {
    "alex": (1, 4, 7, 9, 11),
    "vgg": (3, 8, 15, 22, 29),
    "squeeze": (1, 4, 7, 9, 10, 11, 12),
}
_FILES: dict[Net, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
