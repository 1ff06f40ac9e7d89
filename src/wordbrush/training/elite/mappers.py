"""The mapping networks: from features of a masked picture to words, and to keys and values of the thing's parts."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Shaped
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt
from safetensors import SafetensorError
from torch import Tensor, nn

from wordbrush import tensorfiles
from wordbrush.attention import Likeness
from wordbrush.concept import Base
from wordbrush.errors import ModelError
from wordbrush.model import Model
from wordbrush.reading import json_mapping

_SLOPE = 0.01  # of LeakyReLU, as in the released code


class Shape(BaseModel):
    """What mappers are made for, as their config.json says it.

    base: the model. encoder: the image encoder that they read, see `features.Eye`. levels: which of its hidden states,
    one word each. widths: their channels. words: the text encoders' input widths. layers: the UNet's cross-attention
    layers, by name: their channels and the text's. hidden: of the networks. grid: cells a side of the thing's parts; 0
    for mappers without a local part.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: Base
    encoder: str
    levels: tuple[int, ...]
    widths: tuple[PositiveInt, ...]
    words: tuple[PositiveInt, ...]
    layers: dict[str, tuple[PositiveInt, PositiveInt]]
    hidden: PositiveInt = 384
    grid: NonNegativeInt = 16

    @classmethod
    def of(
        cls, model: Model, encoder: str, levels: Sequence[int], widths: Sequence[int], **sizes: int
    ) -> "Shape":
        """The shape of mappers for a model."""
        unet: Any = model.base.denoiser.unet
        layers = {
            name.removesuffix(".processor"): unet.get_submodule(name.removesuffix(".processor"))
            for name in unet.attn_processors
        }
        return cls(
            base=Base(name=model.name, hash=model.base_hash),
            encoder=encoder,
            levels=tuple(levels),
            widths=tuple(widths),
            words=tuple(each.get_input_embeddings().weight.shape[1] for each in model.text.encoders),
            layers={
                name: (int(layer.to_k.out_features), int(layer.to_k.in_features))
                for name, layer in layers.items()
                if layer.is_cross_attention
            },
            **sizes,
        )


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """The paper's mapper: three layers, with LayerNorm and LeakyReLU between them."""
    return nn.Sequential(
        nn.LayerNorm(inputs),
        nn.Linear(inputs, hidden),
        nn.LayerNorm(hidden),
        nn.LeakyReLU(_SLOPE),
        nn.Linear(hidden, hidden),
        nn.LayerNorm(hidden),
        nn.LeakyReLU(_SLOPE),
        nn.Linear(hidden, outputs),
    )


class Projections(nn.Module):
    """Keys and values of one layer; they start at zero."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.key = nn.Linear(context, channels, bias=False)
        self.value = nn.Linear(context, channels, bias=False)
        nn.init.zeros_(self.key.weight)
        nn.init.zeros_(self.value.weight)


class Mappers(nn.Module):
    """Both mappers, and the layers' own keys and values.

    words: one network a level. changes: what is added to each layer's projections at the word's tokens. parts: the
    network on each cell. local: each layer's projections of the cells.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.words = nn.ModuleList(
            [_network(2 * width, shape.hidden, sum(shape.words)) for width in shape.widths]
        )
        self.changes = _by_layer(shape)
        self.parts = _network(sum(shape.widths), shape.hidden, _context(shape)) if shape.grid else None
        self.places = nn.Parameter(0.02 * torch.randn(_context(shape), shape.grid, shape.grid))
        self.local = _by_layer(shape) if shape.grid else nn.ModuleDict()

    @torch.no_grad()
    def begin(self, model: Model) -> None:
        """Start words where the model's own are: at the mean of its tokens, with their spread."""
        tables = [encoder.get_input_embeddings().weight.float() for encoder in model.text.encoders]
        mean = torch.cat([table.mean(0) for table in tables])
        spread = torch.cat([table.std(0) for table in tables])
        for network in self.words:
            last = cast(Any, network)[-1]
            last.bias.copy_(mean)
            last.weight.copy_(torch.randn_like(last.weight) * spread[:, None] * self.shape.hidden**-0.5)

    @torch.no_grad()
    def begin_parts(self, model: Model) -> None:
        """Start the parts' keys where the text's own are; their values stay at zero, so that nothing changes yet."""
        unet: Any = model.base.denoiser.unet
        for name in self.shape.layers:
            own: Any = self.local[_flat(name)]
            own.key.weight.copy_(unet.get_submodule(name).to_k.weight)

    def vectors(
        self, levels: Sequence[Float[Tensor, "b _"]], count: int | None = None
    ) -> list[Float[Tensor, "b n _"]]:
        """The words of pictures, w0 last, for each text encoder: as a noun is, it reads those before it. levels: see
        `features.Seen.levels`. count: of the words, by default one a level."""
        chosen = list(zip(self.words, levels, strict=True))[:count][::-1]
        words = torch.stack([network(level) for network, level in chosen], 1)
        return list(torch.split(words, list(self.shape.words), -1))

    def cells(
        self, maps: Sequence[Float[Tensor, "b _ _ _"]], region: Shaped[Tensor, "b h w"]
    ) -> tuple[Float[Tensor, "b cells d"], Bool[Tensor, "b cells"]]:
        """Features of a thing's parts, and which of the cells show it. maps: of the levels. region: where it is."""
        assert self.parts is not None, "these mappers have no local part"
        size = (self.shape.grid, self.shape.grid)
        resized = [_resized(each, size) for each in maps]
        shown = F.adaptive_avg_pool2d(region[:, None].float(), size)[:, 0]
        # At least the cell that the thing covers most: a thin thing fills none.
        shown = shown >= shown.flatten(1).amax(1).clamp(max=0.5)[:, None, None]
        features = self.parts(torch.cat(resized, 1).permute(0, 2, 3, 1))
        return (features + self.places.permute(1, 2, 0)).flatten(1, 2), shown.flatten(1)

    def likenesses(self, token: str | None) -> dict[str, Likeness]:
        """What a word brings to each layer by the global mapper; token: None for all words."""
        changes: dict[str, Any] = {name: self.changes[_flat(name)] for name in self.shape.layers}
        return {name: Likeness(token, own.key.weight, own.value.weight) for name, own in changes.items()}

    def parts_of(
        self,
        tokens: Sequence[str],
        cells: Float[Tensor, "b cells d"],
        shown: Bool[Tensor, "b cells"],
        gate: float,
    ) -> list[dict[str, Likeness]]:
        """What each of some words brings to each layer by the local mapper: the cells that show its thing."""
        found: list[dict[str, Likeness]] = [{} for _ in tokens]
        for name in self.shape.layers:
            own: Any = self.local[_flat(name)]
            keys, values = own.key(cells), own.value(cells)
            for row, token in enumerate(tokens):
                at = shown[row]
                found[row][name] = Likeness(token, None, None, keys[row][at], values[row][at], gate)
        return found

    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors, in half precision."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.shape.model_dump(mode="json"), indent=2) + "\n")
        weights = {
            name: each.detach().half().contiguous() for name, each in sorted(self.state_dict().items())
        }
        (folder / "model.safetensors").write_bytes(tensorfiles.content(weights, {"format": "pt"}))

    @classmethod
    def load(cls, folder: Path) -> "Mappers":
        """Mappers from a folder, in float32. Raises `ModelError`."""
        try:
            shape = Shape.model_validate(json_mapping(folder / "config.json", ModelError))
            weights: dict[str, Tensor] = cast(Any, safetensors.torch).load_file(folder / "model.safetensors")
            with torch.device(
                "meta"
            ):  # whatever sizes the config asks for, the file's are all that takes memory
                mappers = cls(shape)
            mappers.load_state_dict({name: each.float() for name, each in weights.items()}, assign=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise ModelError(
                f"expected ELITE's mappers (config.json and model.safetensors) in {folder}, got: "
                f"{str(error).partition(chr(10))[0]:.200}; give the folder that recipes/pocket/elite/train.py wrote"
            ) from error
        return mappers.requires_grad_(False).eval()


def _context(shape: Shape) -> int:
    return next(iter(shape.layers.values()))[1]


def _by_layer(shape: Shape) -> nn.ModuleDict:
    return nn.ModuleDict({_flat(name): Projections(*sizes) for name, sizes in shape.layers.items()})


def _flat(name: str) -> str:
    return name.replace(".", "/")


def _resized(maps: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c _ _"]:
    if maps.shape[-1] >= size[-1]:
        return F.adaptive_avg_pool2d(maps, size)
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
