"""The structure distance: how much the layout changed, whatever happened to colours and textures.

Tumanyan et al. 2022 (Splicing ViT Features), eq. 2 and 3: a picture's structure is the matrix of cosines between the
keys of all its parts, S_ij = cos(k_i, k_j), and the distance of two pictures is the mean squared difference of their
matrices. PIE-Bench prints it ×10³, with DINO's ViT-B/8 (`facebook/dino-vitb8`) and the keys of its last layer.

    structure_distances(load_encoder("facebook/dino-vitb8"), made, true)

Left open by the paper: whether the CLS token counts. The released code of both counts it, and so do we for a vision
transformer. On the pocket's encoder, which has no keys, the cells are its last feature map: a distance of the same
form on another scale, comparable with none that is published.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from wordbrush.backbones import Encoder
from wordbrush.errors import ImageError
from wordbrush.evaluation.metrics.pixels import Picture, array

_BATCH = 8  # pairs held at once: ViT-B/8 has 785 × 785 cosines a picture


def structure_distances(
    encoder: Encoder, made: Sequence[Picture], true: Sequence[Picture], *, values_0_to_255: bool = False
) -> list[float]:
    """The structure distance of each pair of pictures of equal size; 0 when equal, lower is nearer.

    values_0_to_255: normalise values of 0 to 255 where the network expects 0 to 1, as PIE-Bench's harness does;
    needed to meet its published numbers and for nothing else.
    Raises `ImageError` for lists of different length or a pair of different sizes.
    """
    if len(made) != len(true):
        raise ImageError(f"expected as many pictures as true ones, got {len(made)} and {len(true)}")
    sizes = [array(picture).shape for picture in made]
    for i, (size, other) in enumerate(zip(sizes, true, strict=True)):
        if array(other).shape != size:
            raise ImageError(f"expected the two pictures of pair {i} to be of equal size; resize one")
    distances = [0.0] * len(made)
    for size in dict.fromkeys(sizes):
        alike = [i for i, other in enumerate(sizes) if other == size]
        for first in range(0, len(alike), _BATCH):
            pairs = alike[first : first + _BATCH]
            pictures = [made[i] for i in pairs] + [true[i] for i in pairs]
            one, two = similarities(encoder.cells(pictures, values_0_to_255=values_0_to_255)).chunk(2)
            for i, distance in zip(pairs, (one - two).square().mean((1, 2)), strict=True):
                distances[i] = distance.item()
    return distances


def similarities(cells: Float[Tensor, "n cells d"]) -> Float[Tensor, "n cells cells"]:
    """The cosines between all parts of each picture."""
    unit = F.normalize(cells, dim=-1)
    return torch.einsum("nid,njd->nij", unit, unit)
