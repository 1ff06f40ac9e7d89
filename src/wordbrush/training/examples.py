"""What a forward pass of a training sees: latents of crops, each encoded once, and draws that follow from the seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from PIL import Image, ImageOps
from torch import Tensor

from wordbrush.fit import Share, generator
from wordbrush.images import to_tensor
from wordbrush.model import Model

Crop = Literal["random", "center", "stretch"]

_BYTES = 2 * 1024**3  # of latents that are kept


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of noisy pictures: which picture each is of, its latents, their noise and timestep (on the CPU).

    beside: the picture in the right half of a row that shows two, or None. choices: a number in [0, 1) for each row, to
    choose one of many prompts by.
    """

    pictures: list[int]
    beside: list[int | None]
    choices: list[float]
    latents: Float[Tensor, "rows c h w"]
    noise: Float[Tensor, "rows c h w"]
    timesteps: Int[Tensor, " rows"]


@dataclass(eq=False)
class Examples:
    """Training pictures as a model's latents.

    crop: where what the model sees is cut from a picture that is scaled to cover it; stretch: nowhere, the whole is
    stretched to it. Crops move by whole latent pixels, so that a picture has few, each encoded once. flip: how often a
    picture is mirrored. stream: tells apart the draws of examples that are used together. things: which thing each
    picture shows. mixed: how often a row shows two of different things, the left half one and the right half the other.
    """

    model: Model
    images: Sequence[Image.Image]
    seed: int
    crop: Crop = "random"
    flip: float = 0.0
    stream: str = "pictures"
    things: Sequence[int] = ()
    mixed: float = 0.0
    _kept: dict[tuple[int | None, ...], Tensor] = field(default_factory=dict[tuple[int | None, ...], Tensor])

    def batch(self, number: int, count: int, share: Share) -> Batch:
        """The rows of forward pass `number` that are this process's, of `count`.

        A row is a pure function of the seed and of its place in the row of all rows: k passes of n rows see what one of
        k·n does, in however many processes. Pictures come in an order of their own in each round through all of them.
        """
        places = [number * count + row for row in share.rows(count)]
        pairs = [self._pictures(place) for place in places]
        steps = int(self.model.schedule_config.get("num_train_timesteps", 1000))
        height, width = (side // self.model.downscale for side in self.model.image_size)
        choices: list[float] = []
        latents: list[Tensor] = []
        noise: list[Tensor] = []
        timesteps: list[Tensor] = []
        for place, (picture, beside) in zip(places, pairs, strict=True):
            random = generator(self.seed, self.stream, place)
            down, across, mirror, choice = map(float, torch.rand(4, generator=random))
            choices.append(choice)
            latents.append(self._latents(picture, beside, down, across, mirror < self.flip))
            timesteps.append(torch.randint(steps, (1,), generator=random))
            noise.append(torch.randn(1, self.model.latent_channels, height, width, generator=random))
        seen = torch.cat(latents)
        pictures, besides = [one for one, _ in pairs], [other for _, other in pairs]
        return Batch(pictures, besides, choices, seen, torch.cat(noise).to(seen), torch.cat(timesteps))

    def _pictures(self, place: int) -> tuple[int, int | None]:
        """The picture at a place of the endless row of all rounds; or two of different things."""
        random = generator(self.seed, self.stream, "mixed", place)
        kinds = sorted(set(self.things))
        if len(kinds) > 1 and float(torch.rand(1, generator=random)) < self.mixed:
            one, other = (
                [k for k, thing in enumerate(self.things) if thing == kinds[int(chosen)]]
                for chosen in torch.randperm(len(kinds), generator=random)[:2]
            )
            left, right = (int(torch.randint(len(each), (1,), generator=random)) for each in (one, other))
            return one[left], other[right]
        turn, rest = divmod(place, len(self.images))
        order = torch.randperm(len(self.images), generator=generator(self.seed, self.stream, "round", turn))
        return int(order[rest]), None

    def _latents(
        self, picture: int, beside: int | None, down: float, across: float, mirrored: bool
    ) -> Float[Tensor, "1 c h w"]:
        """The latents of a crop, whose corner is at these shares of where it can be; or of two halves, which have no
        other side: left and right are told apart."""
        image, (height, width) = self.images[picture], self.model.image_size
        if beside is not None or self.crop == "stretch":
            scaled, top, left, mirrored = (width, height), 0, 0, mirrored and beside is None
        else:
            scale = max(width / image.width, height / image.height)
            scaled = max(width, round(image.width * scale)), max(height, round(image.height * scale))
            rests = scaled[1] - height, scaled[0] - width
            corners = zip(rests, (down, across), strict=True)
            top, left = (self._corner(rest, share) for rest, share in corners)
        key = picture, beside, top, left, mirrored
        if key not in self._kept:
            if beside is not None:
                image = self._halves(image, self.images[beside])
            cut = image.resize(scaled, Image.Resampling.BICUBIC).crop((left, top, left + width, top + height))
            pixels = to_tensor(cut).to(self.model.device)
            latents = self.model.encode_image(pixels.flip(-1) if mirrored else pixels)
            while self._kept and (len(self._kept) + 1) * latents.nbytes > _BYTES:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = latents
        return self._kept[key]

    def _halves(self, left: Image.Image, right: Image.Image) -> Image.Image:
        """Two pictures side by side, as large as the model sees: the middle of each, or all of it, stretched."""
        height, width = self.model.image_size
        both = Image.new("RGB", (width, height))
        for image, begin, end in ((left, 0, width // 2), (right, width // 2, width)):
            size = end - begin, height
            cut = image.resize if self.crop == "stretch" else partial(ImageOps.fit, image)
            both.paste(cut(size, Image.Resampling.BICUBIC), (begin, 0))
        return both

    def _corner(self, rest: int, share: float) -> int:
        """Where a crop begins that can move by `rest` pixels: in the middle, or steps of a latent pixel around it."""
        if self.crop == "center":
            return rest // 2
        steps, over = divmod(rest, self.model.downscale)
        return over // 2 + int(share * (steps + 1)) * self.model.downscale
