"""Distances between two sets of pictures: KID and FID, on the features of any of our networks.

    kid(load_encoder(), made, true)    # or a CLIP
    fid(load_clip("openai/clip-vit-large-patch14"), made, true)

The published numbers of both are on Inception's features. On others the formula is the same and the scale is not:
results name their features, and only results with the same features, sizes and, for KID, subset size compare.

Features here are unit vectors times √d, so that their entries are of order 1 as Inception's are: KID's kernel
(x·y / d + 1)³ then is (cos + 1)³.
"""

import warnings
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from wordbrush.backbones import BATCH, Clip, Encoder
from wordbrush.errors import InputError
from wordbrush.evaluation.metrics.pixels import Picture, array
from wordbrush.extras import need


@dataclass(frozen=True)
class Kid:
    """Kernel inception distance ×10³ over random subsets: `mean` ± `std`, with the settings needed to compare it."""

    mean: float
    std: float
    subset_size: int
    subsets: int
    made: int  # pictures
    true: int
    features: str

    def __str__(self) -> str:
        return (
            f"{self.mean:.2f} ± {self.std:.2f} (×10³, {self.subsets} subsets of {self.subset_size}, "
            f"features of {self.features})"
        )


@dataclass(frozen=True)
class Fid:
    """Fréchet inception distance, with the settings needed to compare it."""

    value: float
    made: int  # pictures
    true: int
    dimensions: int
    features: str

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.made} against {self.true} pictures, features of {self.features})"


def kid(
    network: Clip | Encoder,
    made: Sequence[Picture],
    true: Sequence[Picture],
    *,
    subset_size: int = 100,
    subsets: int = 100,
    seed: int = 0,
) -> Kid:
    """KID (Bińkowski et al. 2018): the unbiased squared MMD under the kernel (x·y / d + 1)³, ×10³. 0: no difference.

    Each of the subsets takes `subset_size` pictures of either set, drawn independently; std is over the subsets. Being
    unbiased it may be below 0, and it can be had from few pictures, where FID cannot. Custom Diffusion measures
    forgetting with it: 1,000 pictures made from 500 real ones' captions. It does not report the subset size (1,000 is
    usual, and impossible with 500 pictures).
    Raises `InputError` for fewer pictures than subset_size, `MissingExtraError` without torchmetrics.
    """
    if subset_size < 2 or subsets < 1:
        raise InputError(f"expected at least 1 subset of at least 2 pictures, got {subsets} of {subset_size}")
    for kind, pictures in (("made", made), ("true", true)):
        if len(pictures) < subset_size:
            raise InputError(
                f"KID takes subsets of {subset_size} pictures and there are {len(pictures)} {kind} ones: "
                f"give more, or set subset_size to at most {min(len(made), len(true))}"
            )
    with need("eval", "KID"), _quietly():
        from torchmetrics.image.kid import KernelInceptionDistance

        metric = KernelInceptionDistance(feature=_Features(network), subsets=subsets, subset_size=subset_size)
    _update(metric, made, true)
    with torch.random.fork_rng(devices=[]):  # torchmetrics draws the subsets from torch's own generator
        torch.default_generator.manual_seed(seed)
        mean, std = metric.compute()
    return Kid(1e3 * mean.item(), 1e3 * std.item(), subset_size, subsets, len(made), len(true), network.name)


def fid(network: Clip | Encoder, made: Sequence[Picture], true: Sequence[Picture]) -> Fid:
    """FID (Heusel et al. 2017): |μ₁ − μ₂|² + Tr(Σ₁ + Σ₂ − 2 √(Σ₁Σ₂)) of the two sets' features. 0: no difference.

    It falls with the number of pictures even where nothing else changes, and below a few per dimension the
    covariances have no full rank: compare equal numbers of pictures only, and use KID for small sets.
    Raises `InputError` for fewer than two pictures of either kind, `MissingExtraError` without torchmetrics.
    """
    if min(len(made), len(true)) < 2:
        raise InputError(
            f"FID needs at least 2 pictures of each kind, got {len(made)} made and {len(true)} true"
        )
    with need("eval", "FID"), _quietly():
        from torchmetrics.image.fid import FrechetInceptionDistance

        features = _Features(network)
        metric = FrechetInceptionDistance(feature=features)
    _update(metric, made, true)
    return Fid(metric.compute().item(), len(made), len(true), features.num_features, network.name)


class _Features(nn.Module):
    """A network as torchmetrics takes one: pictures as uint8 [n, 3, h, w] to features [n, num_features]."""

    def __init__(self, network: Clip | Encoder) -> None:
        super().__init__()
        self._network = network
        blank = Image.new("RGB", (64, 64))
        self.num_features = network.images([blank]).shape[1]

    def forward(self, pictures: Tensor) -> Tensor:
        arrays = pictures.permute(0, 2, 3, 1).numpy()
        return self._network.images(list(arrays)).double() * self.num_features**0.5


def _update(metric: Any, made: Sequence[Picture], true: Sequence[Picture]) -> None:
    """Give a metric both sets, batching pictures of one size."""
    for pictures, real in ((made, False), (true, True)):
        for _, alike in groupby(map(array, pictures), key=lambda each: each.shape):
            same = list(alike)
            for first in range(0, len(same), BATCH):
                batch = torch.from_numpy(np.stack(same[first : first + BATCH])).permute(0, 3, 1, 2)
                metric.update(batch, real=real)


@contextmanager
def _quietly() -> Generator[None]:
    """Suppress torchmetrics' warning that features are kept, which is intended here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield
