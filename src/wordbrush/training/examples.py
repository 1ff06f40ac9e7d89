"""What a forward pass of a training sees: latents of crops, each encoded once, and draws that follow from the seed."""

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
    """Rows of noisy pictures: which picture each is of, its latents, their noise and timestep (on the CPU).

    choices: a number in [0, 1) for each row, to choose one of many prompts by.
    """

    pictures: list[int]
    choices: list[float]
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
    stream: str = "pictures"
    _kept: dict[tuple[int, int, int, bool], Tensor] = field(
        default_factory=dict[tuple[int, int, int, bool], Tensor]
    )

    def batch(self, number: int, count: int, share: Share) -> Batch:
        """The rows of forward pass `number` that are this process's, of `count`.

        A row is a pure function of the seed and of its place in the row of all rows: k passes of n rows see what one of
        k·n does, in however many processes. Pictures come in an order of their own in each round through all of them.
        """
        places = [number * count + row for row in share.rows(count)]
        pictures = [self._picture(place) for place in places]
        steps = int(self.model.schedule_config.get("num_train_timesteps", 1000))
        height, width = (side // self.model.downscale for side in self.model.image_size)
        choices: list[float] = []
        latents: list[Tensor] = []
        noise: list[Tensor] = []
        timesteps: list[Tensor] = []
        for place, picture in zip(places, pictures, strict=True):
            random = generator(self.seed, self.stream, place)
            down, across, mirror, choice = map(float, torch.rand(4, generator=random))
            choices.append(choice)
            latents.append(self._latents(picture, down, across, mirror < self.flip))
            timesteps.append(torch.randint(steps, (1,), generator=random))
            noise.append(torch.randn(1, self.model.latent_channels, height, width, generator=random))
        seen = torch.cat(latents)
        return Batch(pictures, choices, seen, torch.cat(noise).to(seen), torch.cat(timesteps))

    def _picture(self, place: int) -> int:
        """The picture at a place of the endless row of all rounds."""
        turn, rest = divmod(place, len(self.images))
        order = torch.randperm(len(self.images), generator=generator(self.seed, self.stream, "round", turn))
        return int(order[rest])

    def _latents(self, picture: int, down: float, across: float, mirrored: bool) -> Float[Tensor, "1 c h w"]:
        """The latents of a crop, whose corner is at these shares of where it can be."""
        image, (height, width) = self.images[picture], self.model.image_size
        if self.crop == "stretch":
            scaled, top, left = (width, height), 0, 0
        else:
            scale = max(width / image.width, height / image.height)
            scaled = max(width, round(image.width * scale)), max(height, round(image.height * scale))
            rests = scaled[1] - height, scaled[0] - width
            corners = zip(rests, (down, across), strict=True)
            top, left = (self._corner(rest, share) for rest, share in corners)
        key = picture, top, left, mirrored
        if key not in self._kept:
            cut = image.resize(scaled, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
            pixels = to_tensor(cut).to(self.model.device)
            latents = self.model.encode_image(pixels.flip(-1) if mirrored else pixels)
            while self._kept and (len(self._kept) + 1) * latents.nbytes > _BYTES:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = latents
        return self._kept[key]

    def _corner(self, rest: int, share: float) -> int:
        """Where a crop begins that can move by `rest` pixels: in the middle, or steps of a latent pixel around it."""
        if self.crop == "center":
            return rest // 2
        steps, over = divmod(rest, self.model.downscale)
        return over // 2 + int(share * (steps + 1)) * self.model.downscale
