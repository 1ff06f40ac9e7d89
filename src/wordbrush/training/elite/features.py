"""What an image encoder sees of a masked picture: the thing in the middle, and nothing behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from wordbrush.errors import ModelError
from wordbrush.imports import libraries
from wordbrush.model import POCKET

FILLED = 0.75
"""How much of the encoder's picture the thing's longer side fills."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Features of pictures. levels: of each hidden state, two vectors in one: what stands for the whole, and the mean
    of the thing's patches. maps: the patches of each hidden state. region: where the thing is."""

    levels: list[Float[Tensor, "b _"]]
    maps: list[Float[Tensor, "b _ _ _"]]
    region: Bool[Tensor, "b size size"]


def framed(
    picture: Image.Image, mask: Bool[np.ndarray, "height width"], size: int, behind: tuple[int, int, int]
) -> tuple[Image.Image, Bool[np.ndarray, "size size"]]:
    """The thing alone, in the middle of a square, `FILLED` of it; with its mask there. behind: the colour around it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    side = max(1, round(max(bottom - top, right - left) / FILLED))
    shape = Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0)))
    alone = Image.composite(picture.convert("RGB"), Image.new("RGB", picture.size, behind), shape)
    page, cover = Image.new("RGB", (side, side), behind), Image.new("L", (side, side))
    corner = ((side - int(right - left)) // 2 - int(left), (side - int(bottom - top)) // 2 - int(top))
    page.paste(alone, corner)
    cover.paste(shape, corner)
    square = (size, size)
    covered = np.asarray(cover.resize(square, Image.Resampling.BILINEAR)) > 127
    return page.resize(square, Image.Resampling.BICUBIC), covered


@dataclass(frozen=True, eq=False)
class Eye:
    """An image encoder. name: "pocket", or the CLIP's id or folder. size: its pictures' side. mean, spread: of its
    colours."""

    name: str
    network: Any
    size: int
    mean: tuple[float, ...]
    spread: tuple[float, ...]

    @staticmethod
    def load(name: str = "pocket") -> "Eye":
        """The image part of the CLIP that ships, or of one by hub id or folder, in float32 on the CPU.

        Raises `ModelError` for one that is not there.
        """
        return _loaded(name)

    @property
    def behind(self) -> tuple[int, int, int]:
        """The colour that is zero to the encoder."""
        red, green, blue = (round(255 * each) for each in self.mean)
        return red, green, blue

    def framed(
        self, picture: Image.Image, mask: Bool[np.ndarray, "height width"]
    ) -> tuple[Image.Image, Bool[np.ndarray, "size size"]]:
        """The thing as the encoder sees it."""
        return framed(picture, mask, self.size, self.behind)

    @torch.no_grad()
    def see(
        self,
        pictures: Sequence[Image.Image],
        regions: Sequence[Bool[np.ndarray, "size size"]],
        levels: Sequence[int],
    ) -> Seen:
        """Features of framed pictures. levels: which hidden states."""
        values = np.stack([np.asarray(picture) for picture in pictures]).astype(np.float32) / 255
        mean, spread = (np.array(each, dtype=np.float32) for each in (self.mean, self.spread))
        pixels = torch.from_numpy((values - mean) / spread)
        pixels = pixels.permute(0, 3, 1, 2).contiguous().to(self.network.device)
        states = self.network(pixel_values=pixels, output_hidden_states=True).hidden_states
        region = torch.from_numpy(np.stack(regions)).to(pixels.device)
        seen = [self._read(states[level], region) for level in levels]
        return Seen([level for level, _ in seen], [maps for _, maps in seen], region)

    def _read(self, state: Tensor, region: Tensor) -> tuple[Tensor, Tensor]:
        """A hidden state's level and map. What stands for the whole is a transformer's CLS token; a convolutional
        encoder has none, and its patches' spread is taken."""
        first: Tensor | None = None
        if state.ndim == 3:
            first, side = state[:, 0], round((state.shape[1] - 1) ** 0.5)
            state = state[:, 1:].transpose(1, 2).reshape(len(state), -1, side, side)
        height, width = state.shape[-2:]
        shares = F.adaptive_avg_pool2d(region[:, None].float(), (height, width))
        shares = shares / shares.sum((2, 3), keepdim=True)
        mean = (state * shares).sum((2, 3))
        if first is None:
            first = ((state - mean[..., None, None]).square() * shares).sum((2, 3)).sqrt()
        return torch.cat([first, mean], -1), state


@lru_cache(maxsize=1)
def _loaded(name: str) -> Eye:
    libraries()
    import transformers

    kinds: Any = transformers
    folder: Any = POCKET / "judge" if name == "pocket" else name
    bars = kinds.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()  # progress belongs to the caller
    try:
        if name == "pocket":
            network = kinds.VisionTextDualEncoderModel.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True
            ).vision_model
        else:
            network = kinds.CLIPVisionModel.from_pretrained(folder, dtype=torch.float32)
        settings = kinds.CLIPImageProcessorPil.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"expected a CLIP's image encoder, got {name!r:.100}: {str(error).partition(chr(10))[0]:.200}; "
            "give a folder or a hub id that can be reached"
        ) from error
    finally:
        if shown:
            bars.enable_progress_bar()
    return Eye(
        name,
        network.requires_grad_(False).eval(),
        int(network.config.image_size),
        tuple(settings.image_mean),
        tuple(settings.image_std),
    )
