"""Pictures to latents and back."""

import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from wordbrush.errors import NumericsError


@dataclass(frozen=True, eq=False)
class Autoencoder:
    """diffusers' AutoencoderKL with the scale of its latents. Latents here are scaled: what the UNet sees."""

    vae: Any

    @cached_property
    def downscale(self) -> int:
        """Picture pixels per latent pixel, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:
        """Channels of the latents."""
        return int(self.vae.config.latent_channels)

    @property
    def scale(self) -> float:
        """What the autoencoder's own latents are multiplied by."""
        return float(self.vae.config.scaling_factor)

    @property
    def shift(self) -> float:
        """What is subtracted from them before that."""
        return float(getattr(self.vae.config, "shift_factor", None) or 0)

    @torch.no_grad()
    def encode(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """Pictures in [−1, 1] to latents: the posterior's mode, so that an inversion is deterministic.

        Raises `NumericsError` rather than return latents of NaN.
        """
        latents = self.vae.encode(image.to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        return self._finite((latents - self.shift) * self.scale)

    def decode(
        self, latents: Float[Tensor, "b c h w"], *, gradients: bool = False
    ) -> Float[Tensor, "b 3 height width"]:
        """Latents to pictures in [−1, 1]. Raises `NumericsError` rather than return a picture of NaN.

        gradients: let them be differentiated by whatever of the decoder is being trained; they are not clamped then.
        """
        if not bool(torch.isfinite(latents).all()):
            raise NumericsError(
                "expected latents to decode, got NaN or infinity in them: compute in float32, or with less guidance"
            )
        z = latents / self.scale + self.shift
        with torch.set_grad_enabled(gradients):
            images = self.vae.decode(z.to(self.vae.device, self.vae.dtype)).sample.float()
        return self._finite(images) if gradients else self._finite(images).clamp(-1, 1)

    def learning(self) -> "tuple[Autoencoder, dict[str, nn.Parameter]]":
        """The same autoencoder with a decoder of its own that learns, in float32 at least; and that decoder's weights
        by name."""
        wide = torch.promote_types(self.vae.dtype, torch.float32)
        own = Autoencoder(copy.deepcopy(self.vae))
        nn.Module.to(own.vae, wide)  # diffusers' own warns of a cast
        decoder: nn.Module = own.vae.decoder
        return own, dict(decoder.requires_grad_(True).named_parameters())

    def _finite(self, values: Tensor) -> Tensor:
        if not bool(torch.isfinite(values).all()):
            dtype = str(self.vae.dtype).removeprefix("torch.")
            todo = "the model's file may be damaged" if dtype == "float32" else "load the model in float32"
            raise NumericsError(f"the autoencoder returned values that are not finite in {dtype}: {todo}")
        return values
