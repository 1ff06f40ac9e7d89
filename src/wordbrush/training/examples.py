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

_SIZES = 36  # in which a picture is seen: each is encoded once
_NEAR, _FAR = (1.2, 1.4), (0.4, 1.0)
_SMALL = 0.6  # from here on down it is said
_SAID_NEAR, _SAID_SMALL = ("zoomed in ", "close up "), ("a far away ", "very small ")
PREFIXES = (*_SAID_NEAR, *_SAID_SMALL)
"""What may be said of a picture's size before its prompt."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows of noisy pictures: which picture each is of, its latents, their noise and timestep (on the CPU).

    beside: the picture in the right half of a row that shows two, or None. choices: a number in [0, 1) for each row, to
    choose one of many prompts by. prefixes: what to say of each row's size before its prompt. masks: 1 where the
    picture is, 0 where there is none; None: everywhere.
    """

    pictures: list[int]
    beside: list[int | None]
    choices: list[float]
    latents: Float[Tensor, "rows c h w"]
    noise: Float[Tensor, "rows c h w"]
    timesteps: Int[Tensor, " rows"]
    prefixes: list[str] = field(default_factory=list[str])
    masks: Float[Tensor, "rows 1 h w"] | None = None


@dataclass(frozen=True)
class View:
    """A part of a picture on a canvas, in pixels: the size that the picture is scaled to, (width, height), the part's
    box in it, and the part's corner on the canvas."""

    scaled: tuple[int, int]
    box: tuple[int, int, int, int]
    corner: tuple[int, int]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the part."""
        left, top, right, bottom = self.box
        return right - left, bottom - top


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
    _kept: dict[tuple[int, int | None, View, bool], Tensor] = field(
        default_factory=dict[tuple[int, int | None, View, bool], Tensor]
    )

    def batch(self, number: int, count: int, share: Share, *, sizes: bool = False) -> Batch:
        """The rows of forward pass `number` that are this process's, of `count`.

        A row is a pure function of the seed and of its place in the row of all rows: k passes of n rows see what one of
        k·n does, in however many processes. Pictures come in an order of their own in each round through all of them.
        sizes: each row shows its picture in another size (see `_sized`).
        """
        places = [number * count + row for row in share.rows(count)]
        pairs = [self._pictures(place) for place in places]
        steps = int(self.model.schedule_config.get("num_train_timesteps", 1000))
        height, width = self._canvas
        choices: list[float] = []
        prefixes: list[str] = []
        masks: list[Tensor] = []
        latents: list[Tensor] = []
        noise: list[Tensor] = []
        timesteps: list[Tensor] = []
        for place, (picture, beside) in zip(places, pairs, strict=True):
            random = generator(self.seed, self.stream, place)
            down, across, mirror, choice = map(float, torch.rand(4, generator=random))
            if sizes and beside is None:
                view, prefix = self._sized(picture, place)
            else:
                view, prefix = self._view(self._size(picture, beside), down, across), ""
            choices.append(choice)
            prefixes.append(prefix)
            mirrored = mirror < self.flip and beside is None  # of two, left and right are told apart
            if sizes:
                masks.append(self._mask(view, mirrored))
            latents.append(self._latents(picture, beside, view, mirrored))
            timesteps.append(torch.randint(steps, (1,), generator=random))
            noise.append(torch.randn(1, self.model.latent_channels, height, width, generator=random))
        seen = torch.cat(latents)
        return Batch(
            [picture for picture, _ in pairs],
            [beside for _, beside in pairs],
            choices,
            seen,
            torch.cat(noise).to(seen),
            torch.cat(timesteps),
            prefixes,
            torch.cat(masks).to(seen) if sizes else None,
        )

    def _pictures(self, place: int) -> tuple[int, int | None]:
        """The picture at a place of the endless row of all rounds; or two of different things."""
        kinds = sorted(set(self.things))
        if self.mixed and len(kinds) > 1:
            random = generator(self.seed, self.stream, "mixed", place)
            if float(torch.rand(1, generator=random)) < self.mixed:
                one, other = (
                    [k for k, thing in enumerate(self.things) if thing == kinds[int(chosen)]]
                    for chosen in torch.randperm(len(kinds), generator=random)[:2]
                )
                left, right = (int(torch.randint(len(each), (1,), generator=random)) for each in (one, other))
                return one[left], other[right]
        turn, rest = divmod(place, len(self.images))
        order = torch.randperm(len(self.images), generator=generator(self.seed, self.stream, "round", turn))
        return int(order[rest]), None

    @property
    def _canvas(self) -> tuple[int, int]:
        """Height and width in latent pixels."""
        height, width = (side // self.model.downscale for side in self.model.image_size)
        return height, width

    def _sized(self, picture: int, place: int) -> tuple[View, str]:
        """One of the sizes of a picture, and what is said of it (Kumari et al. 2023).

        A third are 1.2 to 1.4 times as large as the canvas, and a part is seen; the others 0.4 to 1 times, in whole
        latent pixels, anywhere on a grey canvas.
        """
        number = int(torch.randint(_SIZES, (1,), generator=generator(self.seed, self.stream, "size", place)))
        random = generator(self.seed, self.stream, "sized", picture, number)
        size, choice, *shares = map(float, torch.rand(6, generator=random))
        is_near = number < _SIZES // 3
        least, most = _NEAR if is_near else _FAR
        scale = least + size * (most - least)
        said = _SAID_NEAR if is_near else _SAID_SMALL if scale < _SMALL else ("", "")
        return self._view(self._size(picture), *shares, scale=scale), said[int(choice * 2)]

    def _view(
        self,
        size: tuple[int, int],
        down: float,
        across: float,
        top: float = 0,
        left: float = 0,
        *,
        scale: float = 1,
    ) -> View:
        """The part of a picture of this size, (width, height), whose corner is at these shares, `down` and `across`, of
        where it can be, and which is at the shares `top` and `left` of where it can be on the canvas. scale: the
        picture's size beside the canvas's.
        """
        cell = self.model.downscale
        cells = [min(side, max(3, round(side * scale))) for side in self._canvas]  # 3: a rim around something
        height, width = (each * cell for each in cells)
        wide, high = (max(round(side * max(scale, 1)), side) for side in (width, height))
        if self.crop != "stretch":
            cover = max(wide / size[0], high / size[1])
            wide, high = max(width, round(size[0] * cover)), max(height, round(size[1] * cover))
        y, x = (self._corner(*rest) for rest in ((high - height, down), (wide - width, across)))
        rests = zip(self._canvas, cells, (top, left), strict=True)
        below, beside = (int(share * (side - own + 1)) * cell for side, own, share in rests)
        return View((wide, high), (x, y, x + width, y + height), (beside, below))

    def _latents(
        self, picture: int, beside: int | None, view: View, mirrored: bool
    ) -> Float[Tensor, "1 c h w"]:
        key = picture, beside, view, mirrored
        if key not in self._kept:
            image = self._image(picture, beside)
            part = image.resize(view.scaled, Image.Resampling.BICUBIC).crop(view.box)
            (left, top), (width, height) = view.corner, view.size
            pixels = torch.zeros(1, 3, *self.model.image_size)  # grey
            pixels[..., top : top + height, left : left + width] = to_tensor(part)
            pixels = (pixels.flip(-1) if mirrored else pixels).to(self.model.device)
            latents = self.model.encode_image(pixels)
            while self._kept and (len(self._kept) + 1) * latents.nbytes > _BYTES:
                del self._kept[next(iter(self._kept))]
            self._kept[key] = latents
        return self._kept[key]

    def _size(self, picture: int, beside: int | None = None) -> tuple[int, int]:
        """Width and height of what a row shows a part of: of two, as large as the model sees."""
        height, width = self.model.image_size
        return self.images[picture].size if beside is None else (width, height)

    def _image(self, picture: int, beside: int | None) -> Image.Image:
        image = self.images[picture]
        return image if beside is None else self._halves(image, self.images[beside])

    def _halves(self, left: Image.Image, right: Image.Image) -> Image.Image:
        """Two pictures side by side, as large as the model sees: the middle of each, or all of it, stretched."""
        height, width = self.model.image_size
        both = Image.new("RGB", (width, height))
        for image, begin, end in ((left, 0, width // 2), (right, width // 2, width)):
            size = end - begin, height
            cut = image.resize if self.crop == "stretch" else partial(ImageOps.fit, image)
            both.paste(cut(size, Image.Resampling.BICUBIC), (begin, 0))
        return both

    def _mask(self, view: View, mirrored: bool) -> Float[Tensor, "1 1 h w"]:
        """1 in the part of a canvas where a picture is, without its rim of one latent pixel, where the latents know of
        the grey beside it. A picture that fills the canvas has no rim."""
        left, top = view.corner
        width, height = view.size
        if (height, width) == self.model.image_size:
            return torch.ones(1, 1, *self._canvas)
        mask, cell = torch.zeros(1, 1, *self._canvas), self.model.downscale
        mask[
            ..., top // cell + 1 : (top + height) // cell - 1, left // cell + 1 : (left + width) // cell - 1
        ] = 1
        return mask.flip(-1) if mirrored else mask

    def _corner(self, rest: int, share: float) -> int:
        """Where a crop begins that can move by `rest` pixels: in the middle, or steps of a latent pixel around it."""
        if self.crop == "center":
            return rest // 2
        steps, over = divmod(rest, self.model.downscale)
        return over // 2 + int(share * (steps + 1)) * self.model.downscale
