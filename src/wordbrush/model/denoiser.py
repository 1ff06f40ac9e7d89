"""The UNet: from noisy latents and conditions to a prediction."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from wordbrush import features as residual
from wordbrush.attention import Attend, Site, install
from wordbrush.errors import ModelError, short
from wordbrush.features import Block, Features
from wordbrush.model.conditioning import Conditioning
from wordbrush.schedule import Level, Prediction

# Word maps are read, and self-attention is injected, at the sites whose size is nearest to this many positions:
# the 16×16 sites of Stable Diffusion 1, as in the Prompt-to-Prompt paper.
_MAP_POSITIONS = 16 * 16

# How each kind of network's output becomes a prediction: one line a kind.
PREDICTIONS: Mapping[str, Any] = {"epsilon": Level.from_noise, "v_prediction": Level.from_velocity}


@dataclass(frozen=True, eq=False)
class Denoiser:
    """diffusers' UNet2DConditionModel and what it was trained to predict.

    downscale, channels: the autoencoder's. Raises `ModelError` for a prediction type other than those of `PREDICTIONS`.
    """

    unet: Any
    prediction: str
    downscale: int
    channels: int
    _unlike: str = field(init=False)  # why its attention cannot be edited, or ""

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ModelError(
                f"prediction_type must be one of {', '.join(PREDICTIONS)}, got {short(self.prediction)}"
            )
        object.__setattr__(self, "_unlike", install(self.unet))
        residual.install(self.unet)

    @property
    def unlike(self) -> str:
        """Why its attention cannot be edited; "" where it can."""
        return self._unlike

    @property
    def size(self) -> tuple[int, int]:
        """The latent size that the network was made for: (height, width)."""
        size: int | tuple[int, int] = self.unet.config.sample_size
        return (size, size) if isinstance(size, int) else size

    @property
    def extra_channels(self) -> int:
        """How many channels it reads beside the latents': a picture's, or a mask and a masked picture's."""
        return int(self.unet.config.in_channels) - self.channels

    def predict(
        self,
        latents: Float[Tensor, "rows c h w"],
        level: Level,
        conditioning: Conditioning,
        *,
        attend: Attend | None = None,
        features: Features | None = None,
        step: int | None = None,
    ) -> Prediction:
        """The prediction of each row at a level; raises like `output`."""
        output = self.output(latents, level.t, conditioning, attend=attend, features=features, step=step)
        return PREDICTIONS[self.prediction](level, latents, output)

    def output(
        self,
        latents: Float[Tensor, "rows c h w"],
        timesteps: int | Int[Tensor, " rows"],
        conditioning: Conditioning,
        *,
        attend: Attend | None = None,
        features: Features | None = None,
        step: int | None = None,
    ) -> Float[Tensor, "rows c h w"]:
        """What the network itself says, in the latents' type; `attend` computes the attention layers, `features`
        changes what residual blocks add, and both are given the `step`. timesteps: one for all rows, or one each.

        Raises `ModelError` where `attend` is given and this UNet's attention is not Stable Diffusion's, or for other
        extra channels than it reads, or where a distilled model is not told its guidance scale.
        """
        extra: dict[str, Any] = {}
        if not self._unlike:
            attending = {} if attend is None else {"attend": attend}
            extra["cross_attention_kwargs"] = {
                "step": 0 if step is None else step,
                "latent_size": (latents.shape[-2], latents.shape[-1]),
                "cache": conditioning.cache,
                "spots": conditioning.text.spots,
                **attending,
            }
        elif attend is not None:
            raise ModelError(f"this model's attention cannot be edited: {self._unlike}")
        if conditioning.text.pooled is not None:
            extra["added_cond_kwargs"] = self._sdxl(latents, conditioning.text.pooled)
        if conditioning.guidance_scale is not None:
            extra["timestep_cond"] = self._embedded(conditioning.guidance_scale, len(latents))
        elif getattr(self.unet.config, "time_cond_proj_dim", None):  # diffusers would leave it out in silence
            raise ModelError(
                "this model is distilled and reads the guidance scale as an input, got none: "
                "give the scale in its conditioning, or use the model it was distilled from"
            )
        with residual.during(features, 0 if step is None else step):
            output = self.unet(
                self._input(latents, conditioning.channels),
                timesteps,
                encoder_hidden_states=conditioning.text.hidden,
                return_dict=False,
                **extra,
            )[0]
        return output.to(latents.dtype)

    def map_positions(self, latent_size: tuple[int, int]) -> int:
        """Positions of the cross-attention sites at which word maps are read, for latents of this size."""
        levels = zip(self._grids(latent_size), self._cross_levels, strict=True)
        grids = {height * width for (height, width), has_cross in levels if has_cross}
        if not grids:
            raise ModelError("this model's UNet has no cross-attention in its down blocks")
        # Nearest by ratio, the larger grid on a tie.
        return min(
            sorted(grids, reverse=True),
            key=lambda positions: max(positions, _MAP_POSITIONS) / min(positions, _MAP_POSITIONS),
        )

    def sites(self, latent_size: tuple[int, int]) -> dict[Site, tuple[int, int]]:
        """Every attention layer under latents of this size: its number of heads, and of channels per head."""
        grids = self._grids(latent_size)
        found: dict[Site, tuple[int, int]] = {}
        for processor in self.unet.attn_processors:
            name = processor.removesuffix(".processor")
            match name.split("."):
                case "down_blocks", number, *_:
                    level = int(number)
                case "up_blocks", number, *_:
                    level = -1 - int(number)
                case _:  # the middle
                    level = -1
            layer = self.unet.get_submodule(name)
            site = Site(name, layer.is_cross_attention, *grids[level])
            found[site] = layer.heads, layer.to_q.out_features // layer.heads
        return found

    def decoder_blocks(self, place: float) -> tuple[Block, ...]:
        """The decoder's blocks (`features.blocks`) from a place on: 0 is the first, and 1 is behind the last.

        Raises `ModelError` for a UNet without any.
        """
        found = residual.blocks(self.unet)
        if not found:
            raise ModelError("this model's UNet has no attention in its up blocks")
        return found[
            math.ceil(place * len(found) - 1e-3) :
        ]  # a third of nine blocks is three, however it is rounded

    def _grids(self, latent_size: tuple[int, int]) -> list[tuple[int, int]]:
        """Height and width of each level, the latents' own first: the UNet halves its grid, rounding up."""
        grids = [latent_size]
        for _ in self._cross_levels[1:]:
            height, width = grids[-1]
            grids.append(((height + 1) // 2, (width + 1) // 2))
        return grids

    @cached_property
    def _cross_levels(self) -> tuple[bool, ...]:
        return tuple("CrossAttn" in kind for kind in self.unet.config.down_block_types)

    def _input(self, latents: Tensor, channels: Tensor | None) -> Tensor:
        """The latents and the extra channels, as the UNet reads them."""
        wanted = self.extra_channels
        given = 0 if channels is None else channels.shape[1]
        if given != wanted:
            todo = "use a method for models of this kind" if wanted else "leave them out"
            if wanted == self.channels + 1:
                todo = (
                    "use a method for models of this kind; this one inpaints (method inpainting after the inversion "
                    "straight, with a mask from a file)"
                )
            raise ModelError(
                f"this model reads {wanted} channels beside the latents' {self.channels}, got {given}: {todo}"
            )
        latents = latents.to(self.unet.device, self.unet.dtype)
        return latents if channels is None else torch.cat([latents, channels.to(latents)], dim=1)

    def _sdxl(self, latents: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """SDXL's original size, crop corner and target size: the picture is at its own size and is not cropped."""
        size = [side * self.downscale for side in latents.shape[-2:]]
        ids = torch.tensor([[*size, 0, 0, *size]], device=self.unet.device, dtype=pooled.dtype)
        return {"text_embeds": pooled, "time_ids": ids.expand(latents.shape[0], -1)}

    def _embedded(self, guidance_scale: float, rows: int) -> Float[Tensor, "rows channels"]:
        """Sines and cosines of 1000 (w − 1), as guidance-distilled models read the scale (Meng et al. 2023)."""
        channels: int | None = self.unet.config.time_cond_proj_dim
        if channels is None:
            raise ModelError("this model reads no guidance scale: leave it out")
        half = channels // 2
        rates = torch.exp(torch.arange(half, dtype=torch.float64) * -math.log(10_000) / (half - 1))
        angles = 1000 * (guidance_scale - 1) * rates
        embedding = torch.cat([angles.sin(), angles.cos()]).to(self.unet.device, self.unet.dtype)
        return embedding[None].expand(rows, -1)
