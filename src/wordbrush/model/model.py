"""`Model`: the parts of a Stable-Diffusion-family model, and the few calls that everything else makes."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from wordbrush.attention import Attend
from wordbrush.errors import ModelError
from wordbrush.features import Features
from wordbrush.inputs import AppliedConcept
from wordbrush.loading import Defaults, Vocabulary, load_parts
from wordbrush.loading.fit import require_fit
from wordbrush.model.autoencoder import Autoencoder
from wordbrush.model.conditioning import Conditioning
from wordbrush.model.denoiser import Denoiser
from wordbrush.model.fingerprint import fingerprint, in_chunks, of_signs, version
from wordbrush.model.text import TextEmbeds, TextEncoder
from wordbrush.schedule import Level, Prediction, Schedule
from wordbrush.words import MOST_CHUNKS, Words

# The largest picture, as a multiple of the area that the model was made for.
_LARGEST = 64


class Model:
    """A Stable-Diffusion-family model, built from diffusers' components. Latents are scaled: what the UNet sees.

    text, autoencoder, denoiser: its parts. name: what it was loaded from. defaults: steps and guidance scale.
    concepts: what was applied to it, for records. uses: the same as values, from which `wordbrush.concept` applies them
    again, to the base.

    >>> model = Model.load("pocket")
    >>> model.image_size, model.read("a cat on a beach").words[1].text
    ((128, 128), 'cat')
    """

    def __init__(
        self,
        *,
        unet: Any,
        vae: Any,
        text_encoders: Sequence[Any],
        tokenizers: Sequence[Any],
        schedule_config: Mapping[str, Any],
        name: str = "model",
        defaults: Defaults | None = None,
        zero_empty_prompt: bool = False,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """Put a model together from loaded components; models may share them.

        Raises `ModelError` if they do not fit one another (see `loading.fit`), or the prediction type is not known.
        """
        require_fit(unet, vae, text_encoders, tokenizers, schedule_config, name)
        self.text = TextEncoder(tuple(text_encoders), tuple(tokenizers), zero_empty_prompt)
        self.autoencoder = Autoencoder(vae)
        prediction = schedule_config.get("prediction_type", "epsilon")
        self.denoiser = Denoiser(unet, prediction, self.autoencoder.downscale, self.autoencoder.channels)
        self.schedule_config = dict(schedule_config)
        self.name = name
        self.defaults = defaults or Defaults()
        self.vocabulary = vocabulary
        self.concepts: tuple[AppliedConcept, ...] = ()
        self.uses: tuple[Any, ...] = ()
        self._base: Model | None = None
        self._signs: tuple[Any, str] | None = None
        self._hash: tuple[Any, str] | None = None
        for module in self._modules:
            module.requires_grad_(False).eval()

    @classmethod
    def load(
        cls,
        name: str | Path = "pocket",
        *,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype | None = None,
        fetch: bool = True,
    ) -> "Model":
        """Load a model: `"pocket"` (built in), a diffusers folder, a hub id, or a single-file `.safetensors`.

        device: "cpu", "cuda", "cuda:1", "mps"…; by default the accelerator if there is one.
        dtype: "float32", "bfloat16" or "float16"; by default float16 on an accelerator and float32 on the CPU. An
        autoencoder that float16 is too small for (`force_upcast` in its config) stays in float32.
        fetch: whether a hub id may be fetched; it is looked up in the local cache first. With False, nothing is.
        A single file needs nothing beside it (see `wordbrush.loading.single_file`).

        Raises `ModelError` for a model that is not there or not of this family, or a device that is not there.

        >>> model = Model.load("pocket")
        >>> model.name
        'pocket'
        """
        return cls(**load_parts(name, device, dtype, fetch=fetch))

    @property
    def _modules(self) -> list[torch.nn.Module]:
        return [self.denoiser.unet, self.autoencoder.vae, *self.text.encoders]

    @property
    def hash(self) -> str:
        """The fingerprint of the weights as they are now, computed again when one was replaced or written to; another
        one for prompts in several chunks."""
        return in_chunks(self._fingerprint, self.chunks)

    @property
    def _fingerprint(self) -> str:
        now = version(self._modules)
        if self._hash is None or self._hash[0] != now:
            found = fingerprint(
                self.schedule_config,
                self.denoiser.prediction,
                self.text.tokenizers,
                (self.autoencoder.scale, self.autoencoder.shift),
                self.text.zero_empty_prompt,
                self.text.placeholders,
                self._modules,
            )
            self._hash = now, found
        return self._hash[1]

    # Concepts -----------------------------------------------------------------------------------------------

    @property
    def base(self) -> "Model":
        """The model that concepts were applied to; the model itself if there are none."""
        return self._base or self

    @property
    def base_hash(self) -> str:
        """What the base is known by: its UNet and text encoders, in whatever type they are loaded."""
        now = version(self.base._modules)
        if self.base._signs is None or self.base._signs[0] != now:
            self.base._signs = now, of_signs(self.base.networks)
        return self.base._signs[1]

    @property
    def networks(self) -> dict[str, Any]:
        """What concepts may change: the UNet and the text encoders, by the names of diffusers' folders."""
        encoders = {f"text_encoder_{i}": each for i, each in enumerate(self.text.encoders, 1)}
        encoders = {name.removesuffix("_1"): each for name, each in encoders.items()}
        return {"unet": self.denoiser.unet, **encoders}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that concepts may change, by the names that they have there."""
        return {
            f"{part}.{name}": weight.detach()
            for part, network in self.networks.items()
            for name, weight in network.named_parameters()
        }

    def taught(
        self,
        networks: Mapping[str, Any],
        placeholders: Mapping[str, int],
        words: Iterable[str] = (),
        concepts: Sequence[AppliedConcept] = (),
    ) -> "Model":
        """Another model: this one's base, with other networks in place of some and with learned words.

        placeholders: see `TextEncoder`. words: what else it has learned the meaning of. concepts: for records.
        """
        base = self.base
        unet, *encoders = {**base.networks, **networks}.values()
        model = copy.copy(base)
        model.text = replace(
            base.text, encoders=tuple(encoders), placeholders=dict(placeholders), chunks=self.chunks
        )
        model.denoiser = replace(base.denoiser, unet=unet)
        model.concepts, model._base, model._hash = tuple(concepts), base, None
        if base.vocabulary is not None:
            learned = {word.casefold() for word in (*placeholders, *words)}
            model.vocabulary = replace(base.vocabulary, known=base.vocabulary.known | learned)
        return model

    # Long prompts -------------------------------------------------------------------------------------------

    @property
    def chunks(self) -> int:
        """In how many chunks of the text encoder's context prompts are read: 1, but for `with_chunks`."""
        return self.text.chunks

    def with_chunks(self, chunks: int) -> "Model":
        """This model, reading prompts that are up to `chunks` times as long as its context; all parts are shared.

        Each chunk is encoded alone, and the UNet attends to the tokens of all of them, of which it was trained on one.
        Such a model's sources are its own: those of another number of chunks are refused.

        Raises `OptionsError` for a number that is not between 1 and 16.

        >>> model = Model.load("pocket").with_chunks(2)
        >>> model.tokens, model.read("a cat and " * 10 + "a dog").find("dog")[0].start
        (64, 34)
        """
        if chunks == self.chunks:
            return self
        model = copy.copy(self)
        model.text = replace(self.text, chunks=chunks)
        return model

    def for_prompts(self, prompts: Iterable[str]) -> "Model":
        """This model with the smallest number of chunks that each of these prompts fits into: all that are used with
        it, negative ones too. Raises `PromptError` for one that is too long even so.

        >>> model = Model.load("pocket")
        >>> model.for_prompts(["a cat", "a cat and " * 10 + "a dog"]).chunks
        2
        """
        longest = self.with_chunks(MOST_CHUNKS)
        filled = (sum(chunk.start < chunk.stop for chunk in longest.read(each).chunks) for each in prompts)
        return self.with_chunks(max([1, *filled]))

    def chunks_of(self, hash: str) -> int | None:
        """With how many chunks this model has that hash; None if with none."""
        numbers = range(1, MOST_CHUNKS + 1)
        return next((n for n in numbers if in_chunks(self._fingerprint, n) == hash), None)

    # Sizes --------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """The UNet's device."""
        return self.denoiser.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return self.denoiser.unet.dtype

    @property
    def latent_dtype(self) -> torch.dtype:
        """What latents are kept in: float32 at least, whatever the UNet computes in."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def downscale(self) -> int:
        """Picture pixels per latent pixel, along each side."""
        return self.autoencoder.downscale

    @property
    def image_size(self) -> tuple[int, int]:
        """The picture size the model was made for: (height, width) in pixels."""
        height, width = self.denoiser.size
        return height * self.downscale, width * self.downscale

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.autoencoder.channels

    @property
    def extra_channels(self) -> int:
        """How many channels the UNet reads beside the latents': 0, a picture's, or a mask and a masked picture's."""
        return self.denoiser.extra_channels

    @property
    def tokens(self) -> int:
        """Tokens of an encoded prompt: the text encoder's context, or several in a row (see `with_chunks`)."""
        return self.text.tokens

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent height and width of a picture.

        Raises `ModelError` if its sides are no multiples of `downscale`, or for a picture so large that memory
        would run out at the end of the run.
        """
        if height <= 0 or width <= 0 or height % self.downscale or width % self.downscale:
            raise ModelError(
                f"this model makes pictures whose sides are multiples of {self.downscale} px, got {width}×{height}"
            )
        own_height, own_width = self.image_size
        if height * width > _LARGEST * own_height * own_width:
            raise ModelError(
                f"this model was made for {own_width}×{own_height} px and makes at most {_LARGEST} times as many "
                f"pixels, got {width}×{height}: make a smaller picture"
            )
        return height // self.downscale, width // self.downscale

    def map_positions(self, latent_size: tuple[int, int]) -> int:
        """Positions of the cross-attention sites at which word maps are read, for latents of this size."""
        return self.denoiser.map_positions(latent_size)

    def schedule(self, steps: int | None = None) -> Schedule:
        """The model's noise schedule with `steps` sampling steps (default: the model's own)."""
        return Schedule.from_config(self.schedule_config, self.defaults.steps if steps is None else steps)

    # Computing ----------------------------------------------------------------------------------------------

    def read(self, prompt: str) -> Words:
        """The prompt's words and their token spans. Raises `PromptError` if it does not fit."""
        return self.text.read(prompt)

    def strange(self, prompt: str) -> str:
        """What to say of a prompt's words that the model was not trained on, with the nearest that it knows; nothing
        for a model that brings no list of its words. Raises `PromptError` like `read`.

        >>> Model.load("pocket").strange("a unicorn on a beach")
        "pocket does not know 'unicorn' (but 'horse'): do not expect to see it"
        """
        if self.vocabulary is None:
            return ""
        words = [each for each in self.read(prompt).words if each.names_something and not each.is_learned]
        unknown = {word.key: word.text for word in words if word.key not in self.vocabulary.known}
        said = [f"'{text}'{self.vocabulary.hint(key)}" for key, text in unknown.items()]
        them = "it" if len(said) == 1 else "them"
        return f"{self.name} does not know {', '.join(said)}: do not expect to see {them}" if said else ""

    def encode_text(self, prompts: Sequence[str], *, gradients: bool = False) -> TextEmbeds:
        """Encode prompts, one row each. Raises `PromptError` for a prompt that does not fit: nothing is cut off.

        gradients: let the embeds be differentiated by whatever of the text encoder is being trained.
        """
        with torch.set_grad_enabled(gradients):
            return self.text.encode(prompts)

    def encode_image(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """Pictures in [−1, 1] to latents: the posterior's mode, so that an inversion is deterministic."""
        self.latent_size(*image.shape[-2:])
        return self.autoencoder.encode(image).to(self.latent_dtype)

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Latents to pictures in [−1, 1]. Raises `NumericsError` rather than return a picture of NaN."""
        return self.autoencoder.decode(latents)

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
        """The prediction of each row at a noise level, by `Denoiser.predict`; without `attend` and `features`, bit for
        bit what the untouched UNet computes. step: the sampler's step, for both."""
        return self.denoiser.predict(
            latents, level, conditioning, attend=attend, features=features, step=step
        )
