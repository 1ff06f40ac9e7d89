"""A Stable-Diffusion-family model: the text encoders, the autoencoder and the denoiser, and how to condition it."""

from wordbrush.loading import POCKET
from wordbrush.model.conditioning import Conditioning
from wordbrush.model.model import Model
from wordbrush.model.text import TextEmbeds

__all__ = ["POCKET", "Conditioning", "Model", "TextEmbeds"]
