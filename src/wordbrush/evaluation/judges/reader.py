"""The world reader: what a picture of the built-in world shows, in the world's vocabulary, with probabilities.

    reader = Reader.load()
    (reading,) = reader.read([picture])
    reading.first(2), reading.colour("cat"), likeliest(reading.place)
    (part,) = reader.read([picture], [mask])  # what can be seen inside a mask
    part.sees("tiger"), part.nothing()

It was trained from scratch on rendered scenes alone (`recipes/pocket/judges/reader.py`), has no weights in common with
the shipped CLIP, and was never trained on generated pictures. Its accuracy is reported in `docs/pocket.md`.

Formula. A ConvNeXt says of every cell of 16 × 16 pixels how much of it each thing covers (a softmax over the 63 names
and "nothing") and in what tint. A thing's extent is the mean over the cells that count. That it can be seen has the
probability σ(a·logit max p + b), with p its shares of those cells and a, b fitted to scenes held back from training,
so that of what gets 80 % about 80 % is so; each thing is asked for by itself. Place, light and style are one softmax
each, divided by a temperature fitted likewise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Bool, Float
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from wordbrush.errors import ImageError, ModelError
from wordbrush.images import rgb
from wordbrush.loading.machine import device_of
from wordbrush.model import POCKET
from wordbrush.pocket.vocabulary import COLOURS, LIGHTS, NAMES, PLACES, STYLES, check
from wordbrush.reading import json_mapping

TINTS: tuple[str | None, ...] = (*COLOURS, None)  # None: a thing's own colours
SIDE, CELL = 128, 16  # pixels a side of what the network looks at, and of its cells
BATCH = 50
# A cell counts for a region if its overlap is at least this share of the region's best cell's.
COUNTS = 0.75

# What the network was trained on, in the order of its answers, as in the folder's config.json.
ANSWERS: dict[str, list[str]] = {
    "things": list(NAMES),
    "tints": list(COLOURS),
    "places": list(PLACES),
    "lights": list(LIGHTS),
    "styles": list(STYLES),
}


@dataclass(frozen=True)
class Calibration:
    """How the network's answers become probabilities.

    thing, something: what `evidence` is multiplied by, and what is added. place, light, style: temperatures.
    """

    thing: tuple[float, float]
    something: tuple[float, float]
    place: float
    light: float
    style: float


@dataclass(frozen=True)
class Reading:
    """What the reader sees in a picture, or in a region of it.

    things: name -> probability that it can be seen (inside the region), each for itself: they do not sum to 1.
    extents: name -> the share of the picture (or region) that it covers.
    colours: name -> its tint, a key of `COLOURS`, or None for its own colours, if it is there.
    place, light, style: probabilities, always of the whole picture.
    bare: the probability that no thing can be seen.
    """

    things: Mapping[str, float]
    extents: Mapping[str, float]
    colours: Mapping[str, str | None]
    place: Mapping[str, float]
    light: Mapping[str, float]
    style: Mapping[str, float]
    bare: float

    def first(self, count: int) -> list[str]:
        """The most probable names, the likeliest first."""
        return sorted(self.things, key=self.things.__getitem__, reverse=True)[:count]

    def sees(self, name: str) -> bool:
        """Whether a thing is more likely there than not. Raises `InputError` for a name outside the world."""
        return self.things[check("thing", name, self.things)] > 0.5

    def colour(self, name: str) -> str | None:
        """The tint of the cells where a thing is read, a key of `COLOURS`, or None for its own colours.

        Only means something where `sees(name)`. Raises `InputError` for a name outside the world.
        """
        return self.colours[check("thing", name, self.colours)]

    def nothing(self) -> float:
        """The probability that no thing can be seen (inside the region)."""
        return self.bare


def likeliest(chances: Mapping[str, float]) -> str:
    """The most probable answer to a question, such as `Reading.place`."""
    return max(chances, key=chances.__getitem__)


@dataclass(frozen=True)
class Logits:
    """The network's output: for each cell the thing (the last: none) and its tint, the rest for the whole picture."""

    things: Float[Tensor, "b 64 h w"]
    tints: Float[Tensor, "b 9 h w"]
    place: Float[Tensor, "b 22"]
    light: Float[Tensor, "b 5"]
    style: Float[Tensor, "b 6"]


class ReaderNetwork(nn.Module):
    """A ConvNeXt with five answers, each one layer. `look`: the settings of transformers' ConvNextConfig."""

    def __init__(self, look: dict[str, Any]) -> None:
        from transformers import ConvNextConfig, ConvNextModel

        super().__init__()
        self.trunk = ConvNextModel(ConvNextConfig(**look))
        width = look["hidden_sizes"][-1]
        self.norm = nn.LayerNorm(width)
        self.things = nn.Linear(width, len(NAMES) + 1)
        self.tints = nn.Linear(width, len(TINTS))
        self.place = nn.Linear(width, len(PLACES))
        self.light = nn.Linear(width, len(LIGHTS))
        self.style = nn.Linear(width, len(STYLES))

    def forward(self, pixels: Float[Tensor, "b 3 height width"]) -> Logits:
        """`pixels` in [-1, 1]; sides are multiples of `CELL`."""
        seen = self.trunk(pixel_values=pixels)
        cells = self.norm(seen.last_hidden_state.permute(0, 2, 3, 1))
        whole = seen.pooler_output
        return Logits(
            self.things(cells).permute(0, 3, 1, 2).float(),
            self.tints(cells).permute(0, 3, 1, 2).float(),
            self.place(whole).float(),
            self.light(whole).float(),
            self.style(whole).float(),
        )


def pixels(pictures: Sequence[Image.Image]) -> Float[Tensor, "b 3 128 128"]:
    """Pictures as the network sees them, in [-1, 1]; those of other sizes are resized (bicubic)."""
    square = [
        picture if picture.size == (SIDE, SIDE) else picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        for picture in (rgb(picture) for picture in pictures)
    ]
    return torch.from_numpy(np.stack([np.asarray(p) for p in square])).permute(0, 3, 1, 2) / 127.5 - 1


def counted(region: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "8 8"]:
    """The cells that count for a region: at least three quarters as much inside of it as the one that is most.

    So those at least three quarters inside, where the region fills a cell, and the best there are where it is small.
    """
    shares = Image.fromarray(region.astype(np.float32)).resize(
        (SIDE // CELL, SIDE // CELL), Image.Resampling.BOX
    )
    inside = np.asarray(shares)
    return inside >= COUNTS * inside.max()


def evidence(shares: Float[Tensor, "b n h w"], cells: Bool[Tensor, "b h w"]) -> Float[Tensor, "b n"]:
    """The evidence that each of n things is seen in these cells: logit max p, with p its shares of the cells."""
    return (shares * cells.unsqueeze(1)).amax((2, 3)).clamp(1e-6, 1 - 1e-6).logit()


def chances(evidence: Float[Tensor, "b n"], calibration: tuple[float, float]) -> Float[Tensor, "b n"]:
    """The probabilities that the evidence corresponds to."""
    return (calibration[0] * evidence + calibration[1]).sigmoid()


@dataclass(frozen=True, eq=False)
class Reader:
    """The network with its calibration. name: "pocket" or the folder, for tables."""

    name: str
    network: ReaderNetwork
    calibration: Calibration

    @staticmethod
    def load(folder: Path | None = None, device: str | None = None) -> Reader:
        """The reader that ships, or one that `recipes/pocket/judges/reader.py` wrote; in float32.

        device: by default the accelerator if there is one.
        Raises `ModelError` for a folder that holds no reader, not all of it, or one of another world.
        """
        name, folder = ("pocket", POCKET / "reader") if folder is None else (str(folder), folder)
        try:
            settings = json_mapping(folder / "config.json", ModelError)
            taught: dict[str, list[str]] = dict(settings["answers"])
            calibration = _calibration(settings["calibration"])
            network = ReaderNetwork(settings["look"]).float()
            file = folder / "model.safetensors"
            weights: dict[str, Tensor] = cast(Any, safetensors.torch).load_file(file)
            network.load_state_dict({key: value.float() for key, value in weights.items()})
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            reason = str(error).partition("\n")[0]
            raise ModelError(
                f"expected a world reader (config.json and model.safetensors) in {folder}, got: {reason}; "
                "give the folder that recipes/pocket/judges/reader.py wrote"
            ) from error
        if taught != ANSWERS:
            differing = next(kind for kind in ANSWERS if taught.get(kind) != ANSWERS[kind])
            raise ModelError(
                f"expected a reader of this world, and the one in {folder} was taught other {differing}; "
                "train it again with recipes/pocket/judges/reader.py"
            )
        return Reader(name, network.requires_grad_(False).eval().to(device_of(device)), calibration)

    def read(
        self, pictures: Sequence[Image.Image], regions: Sequence[np.ndarray] | None = None
    ) -> list[Reading]:
        """What each picture shows.

        pictures: any sizes; the network looks at 128 × 128 pixels.
        regions: for each picture a bool array [height, width] of its size. Then only the cells of 16 × 16 (of the
        128) that lie at least three quarters in it count for things, extents and colours (`counted` says what a region
        smaller than that does); they are still read with their surroundings in view.
        Raises `ImageError` for no pictures, and for regions of another number, size or type, or without a pixel.
        """
        if not pictures:
            raise ImageError("expected at least one picture to read, got none")
        cells = torch.ones(len(pictures), SIDE // CELL, SIDE // CELL, dtype=torch.bool)
        if regions is not None:
            if len(regions) != len(pictures):
                raise ImageError(
                    f"expected a region for each of {len(pictures)} pictures, got {len(regions)}"
                )
            for picture, region in zip(pictures, regions, strict=True):
                _check(region, picture)
            cells = torch.from_numpy(np.stack([counted(region) for region in regions]))
        readings: list[Reading] = []
        for first in range(0, len(pictures), BATCH):
            readings += self._read(pictures[first : first + BATCH], cells[first : first + BATCH])
        return readings

    @torch.no_grad()
    def _read(self, pictures: Sequence[Image.Image], cells: Bool[Tensor, "b 8 8"]) -> list[Reading]:
        device, calibration = next(self.network.parameters()).device, self.calibration
        cells = cells.to(device)
        said = self.network(pixels(pictures).to(device))
        shares = said.things.softmax(1)
        named, none = shares[:, :-1], shares[:, -1:]
        inside = named * cells.unsqueeze(1)
        tinted = torch.einsum("bnhw,bthw->bnt", inside, said.tints.softmax(1)).argmax(2)
        tints: list[list[int]] = cast(Any, tinted).tolist()
        colours = [{name: TINTS[i] for name, i in zip(NAMES, row, strict=True)} for row in tints]
        rows = zip(
            _named(chances(evidence(named, cells), calibration.thing), NAMES),
            _named(inside.sum((2, 3)) / cells.sum((1, 2)).unsqueeze(1), NAMES),
            colours,
            _named((said.place / calibration.place).softmax(1), PLACES),
            _named((said.light / calibration.light).softmax(1), LIGHTS),
            _named((said.style / calibration.style).softmax(1), STYLES),
            _rows(chances(evidence(1 - none, cells), calibration.something)),
            strict=True,
        )
        return [
            Reading(
                things=things,
                extents=extents,
                colours=colours,
                place=place,
                light=light,
                style=style,
                bare=1 - something[0],
            )
            for things, extents, colours, place, light, style, something in rows
        ]


def _calibration(fitted: dict[str, Any]) -> Calibration:
    """The calibration in the folder's config.json. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
    thing, something = ((float(a), float(b)) for a, b in (fitted["thing"], fitted["something"]))
    place, light, style = (float(fitted[kind]) for kind in ("place", "light", "style"))
    return Calibration(thing, something, place, light, style)


def _named(values: Float[Tensor, "b n"], names: Mapping[str, object]) -> list[dict[str, float]]:
    return [dict(zip(names, row, strict=True)) for row in _rows(values)]


def _rows(values: Float[Tensor, "b n"]) -> list[list[float]]:
    return cast(Any, values).tolist()


def _check(region: np.ndarray, picture: Image.Image) -> None:
    expected = f"expected a region as a bool array of the picture's {picture.height} × {picture.width}"
    if region.shape != (picture.height, picture.width):
        raise ImageError(
            f"{expected}, got {' × '.join(map(str, region.shape))}; cut it from the same picture"
        )
    if region.dtype != np.bool_:
        raise ImageError(f"{expected}, got {region.dtype}; compare it with a threshold first")
    if not region.any():
        raise ImageError(
            f"{expected} with at least one pixel in it, got none; leave it out to read all of it"
        )
