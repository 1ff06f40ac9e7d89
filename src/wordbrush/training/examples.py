"""What a forward pass of a training sees: latents of crops, each encoded once, and draws that follow from the seed."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from wordbrush.fit import Share, generator
from wordbrush.images import to_tensor
from wordbrush.model import Model

Crop = Literal["random", "center", "stretch"]

_BYTES = 2 * 1024**3  # of latents that are kept


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of noisy pictures: which picture each is of, its latents, their noise and timestep."""

    pictures: list[int]
    latents: Float[Tensor, "rows c h w"]
    noise: Float[Tensor, "rows c h w"]
    timesteps: Int[Tensor, " rows"]


@dataclass(eq=False)
class Examples:
    """Training pictures as a model's latents.

    crop: where what the model sees is cut from a picture that is scaled to cover it; stretch: nowhere, the whole is
    stretched to it. Crops move by whole latent pixels, so that a picture has few, each encoded once. flip: how often a
    picture is mirrored. stream: tells apart the draws of examples that are used together.
    """

    model: Model
    images: Sequence[Image.Image]
    seed: int
    crop: Crop = "random"
    flip: float = 0.0
    stream: int = 0
    _kept: "OrderedDict[tuple[int, int, int, bool], Tensor]" = field(
        default_factory=OrderedDict[tuple[int, int, int, bool], Tensor]
    )

    def batch(self, number: int, count: int, share: Share) -> Batch:
        """The rows of forward pass `number` that are this process's, of `count`: a pure function of the seed.

        Pictures come in an order of their own in each round through all of them.
        """
        random = generator(self.seed, self.stream, number)
        model, total = self.model, int(self.model.schedule_config.get("num_train_timesteps", 1000))
        indices = [self._index(number * count + row) for row in range(count)]
        where = torch.rand(count, 3, generator=random)
        timesteps = torch.randint(0, total, (count,), generator=random)
        height, width = (side // model.downscale for side in model.image_size)
        noise = torch.randn(count, model.latent_channels, height, width, generator=random)
        rows = range(count)[share.rows(count)]
        crops: list[list[float]] = where.tolist()
        latents = torch.cat([self._latents(indices[row], *crops[row]) for row in rows])
        own = share.rows(count)
        return Batch(
            [indices[row] for row in rows], latents, noise[own].to(latents), timesteps[own].to(latents.device)
        )

    def _index(self, position: int) -> int:
        """The picture at a position of the endless row of all rounds."""
        turn, place = divmod(position, len(self.images))
        order = torch.randperm(len(self.images), generator=generator(self.seed, self.stream, turn, 0))
        return int(order[place])

    def _latents(self, index: int, down: float, across: float, mirror: float) -> Float[Tensor, "1 c h w"]:
        """The latents of a crop, whose corner is at these shares of where it can be."""
        image, (height, width) = self.images[index], self.model.image_size
        if self.crop == "stretch":
            scaled, top, left = (width, height), 0, 0
        else:
            scale = max(width / image.width, height / image.height)
            scaled = max(width, round(image.width * scale)), max(height, round(image.height * scale))
            rests = scaled[1] - height, scaled[0] - width
            top, left = (
                self._corner(rest, 0.5 if self.crop == "center" else share)
                for rest, share in zip(rests, (down, across), strict=True)
            )
        key = index, top, left, mirror < self.flip
        if key not in self._kept:
            cut = image.resize(scaled, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
            pixels = to_tensor(cut).to(self.model.device)
            self._kept[key] = self.model.encode_image(pixels.flip(-1) if key[3] else pixels).float()
            while len(self._kept) > 1 and sum(each.nbytes for each in self._kept.values()) > _BYTES:
                self._kept.popitem(last=False)
        return self._kept[key]

    def _corner(self, rest: int, share: float) -> int:
        """Where a crop begins that can move by `rest` pixels, in whole latent pixels."""
        steps = rest // self.model.downscale
        return min(steps, int(share * (steps + 1))) * self.model.downscale if steps else rest // 2
