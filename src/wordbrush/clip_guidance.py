"""What methods that follow a CLIP have in common: which one it is, and what it is shown of a picture.

A CLIP that sees a picture as it is can be satisfied by pixels that no one else sees anything in. So it is shown many
views of it, each turned, moved, cut and tilted at random, and the mean of what it says of them is differentiated. The
views are drawn with torch alone.

Networks that methods read judge none of what they make (`methods.Method.reads`).
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from wordbrush.backbones import Clip, load_clip
from wordbrush.errors import ModelError
from wordbrush.model import Model

POCKET = "pocket"


def guide(model: Model, name: str) -> Clip:
    """The CLIP that a method follows: the named one, or that of the model's own world.

    name: "pocket", a hub id or a folder; "" for the model's own, which only the built-in one has.
    Raises `ModelError`, also for a model without a CLIP of its own where none is named.
    """
    if not name and model.name != POCKET:
        raise ModelError(
            f"expected the name of a CLIP, which this method follows, got none, and {model.name} has none of its own: "
            "name one with --guide-clip openai/clip-vit-base-patch32 (guide_clip)"
        )
    return _loaded(name or POCKET, str(model.device))


@lru_cache(maxsize=1)
def _loaded(name: str, device: str) -> Clip:
    return load_clip(name, device)


@dataclass(frozen=True)
class Views:
    """How views of a picture differ, each drawn evenly up to its bound.

    smallest: the side of the smallest part that is seen, as a share of the picture's shorter side. shift: by how much a
    view may leave the picture, in halves of the shorter side. turn: degrees. tilt: how much nearer one side may be than
    the other; 0: not at all. mirrored: whether every other view is, by chance.
    """

    smallest: float = 1.0
    shift: float = 0.0
    turn: float = 0.0
    tilt: float = 0.0
    mirrored: bool = False

    def grids(
        self, count: int, picture: tuple[int, int], size: tuple[int, int], random: torch.Generator
    ) -> Float[Tensor, "count high wide 2"]:
        """Where each view looks in a picture of that height and width, as `F.grid_sample` reads it.

        random: a generator on the CPU, so that a seed means the same views on every device.
        """
        drawn = torch.rand(count, 9, generator=random, dtype=torch.float64)
        side = self.smallest + (1 - self.smallest) * drawn[:, 0]
        sign = 2 * drawn[:, 1:8] - 1
        # In halves of the view's shorter side the picture reaches from −1 to 1, or further along its longer side.
        height, width = picture
        reach = torch.tensor([width, height], dtype=torch.float64) / min(picture)
        view = torch.tensor([size[1], size[0]], dtype=torch.float64) / min(size)
        room = (reach - side[:, None] * view).clamp(min=0)
        centre = sign[:, 0:2] * room + self.shift * sign[:, 2:4]
        angle = math.radians(self.turn) * sign[:, 4]
        cosine, sine = angle.cos(), angle.sin()
        flip = torch.where(drawn[:, 8] < 0.5, -1.0, 1.0) if self.mirrored else torch.ones(count)
        x, y = _centres(size[1]) * view[0], _centres(size[0]) * view[1]
        across, down = x[None, None, :] * flip[:, None, None], y[None, :, None]
        depth = 1 + self.tilt * (sign[:, 5, None, None] * across + sign[:, 6, None, None] * down) / 2
        turned = torch.stack(
            [
                cosine[:, None, None] * across - sine[:, None, None] * down,
                sine[:, None, None] * across + cosine[:, None, None] * down,
            ],
            -1,
        )
        places = centre[:, None, None] + side[:, None, None, None] * turned / depth[..., None]
        return (places / reach).float()


def _centres(pixels: int) -> Float[Tensor, " pixels"]:
    """The middles of so many pixels between −1 and 1."""
    return (2 * torch.arange(pixels, dtype=torch.float64) + 1) / pixels - 1


def looked_at(
    pictures: Float[Tensor, "n c height width"], grids: Float[Tensor, "views high wide 2"]
) -> Float[Tensor, "n*views c high wide"]:
    """Each picture in each of the views, picture by picture; what is beyond its edge is its edge."""
    n, views = len(pictures), len(grids)
    own = grids.to(pictures).repeat(n, 1, 1, 1)
    repeated = pictures.repeat_interleave(views, 0)
    return F.grid_sample(repeated, own, mode="bilinear", padding_mode="border", align_corners=False)


def whole(pictures: Float[Tensor, "n 3 height width"], size: int) -> Float[Tensor, "n 3 size size"]:
    """All of each picture, squeezed to a square."""
    return F.interpolate(pictures, (size, size), mode="bilinear", antialias=True)


def cosine_distance(one: Float[Tensor, "n d"], other: Float[Tensor, "_ d"]) -> Float[Tensor, " n"]:
    """1 − cos of unit vectors; `other` may be one for all."""
    return 1 - (one * other).sum(-1)


def spherical_distance(one: Float[Tensor, "n d"], other: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """2 arcsin²(‖a − b‖ / 2) of unit vectors: half of the square of the angle between them."""
    chord = (one - other).square().sum(-1).sqrt()
    return 2 * (chord / 2).arcsin().square()
