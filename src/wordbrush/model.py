"""The model: the only file that knows diffusers.

A `Model` is built from diffusers' and transformers' *components*, never from their pipelines. It turns
v-prediction into eps, hides SDXL's second text encoder, pooled embedding and time ids inside `TextEmbeds`, and
knows its own sizes: no other file says 512, 64, 77, 8 or 0.18215.
"""

import difflib
import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor

from wordbrush import single_file
from wordbrush.errors import ModelError, NumericsError
from wordbrush.schedule import Schedule, settings, training_alphas_cumprod
from wordbrush.words import Words, read

POCKET = Path(__file__).parent / "pocket" / "weights"

# What a model folder may be made of: anything else is not loaded, whatever its model_index.json says.
_UNETS = {"UNet2DConditionModel"}
_VAES = {"AutoencoderKL"}
_TEXT_ENCODERS = {"CLIPTextModel", "CLIPTextModelWithProjection"}
_PICKLES = {".bin", ".ckpt", ".pt"}
_PREDICTIONS = ("epsilon", "v_prediction")

# Word maps are read, and self-attention is injected, at the sites whose size is nearest to this many positions:
# the 16×16 sites of Stable Diffusion 1, as in the Prompt-to-Prompt paper.
_MAP_POSITIONS = 16 * 16

# Pictures may be this many times as large as those that a model was made for, by area.
_LARGEST = 64


@dataclass(frozen=True, eq=False)
class TextEmbeds:
    """Encoded prompts: what the UNet attends to, and for SDXL the pooled embedding that conditions its time steps."""

    hidden: Float[Tensor, "rows tokens channels"]
    pooled: Float[Tensor, "rows pooled_channels"] | None = None

    def __len__(self) -> int:
        return self.hidden.shape[0]

    def __getitem__(self, rows: slice) -> "TextEmbeds":
        return TextEmbeds(self.hidden[rows], None if self.pooled is None else self.pooled[rows])

    def expand(self, rows: int) -> "TextEmbeds":
        """One prompt's embeds, for each of `rows` rows."""
        pooled = None if self.pooled is None else self.pooled.expand(rows, -1)
        return TextEmbeds(self.hidden.expand(rows, -1, -1), pooled)

    @staticmethod
    def concat(parts: Sequence["TextEmbeds"]) -> "TextEmbeds":
        """The rows of all parts, in order."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return TextEmbeds(torch.cat([part.hidden for part in parts]), torch.cat(pooled) if pooled else None)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a model is best used with where the user does not say."""

    steps: int = 50
    guidance_scale: float = 7.5


class Model:
    """A Stable-Diffusion-family model. Latents are scaled: what the UNet sees, not what the VAE emits.

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
    ) -> None:
        """Put a model together from loaded components.

        Raises `ModelError` if they do not fit: a prediction type other than epsilon or v_prediction, or a text
        encoder without its tokenizer.
        """
        prediction = schedule_config.get("prediction_type", "epsilon")
        if prediction not in _PREDICTIONS:
            raise ModelError(f"prediction_type must be one of {', '.join(_PREDICTIONS)}, got {prediction!r}")
        if not text_encoders or len(text_encoders) != len(tokenizers):
            raise ModelError(
                f"each text encoder needs its tokenizer: got {len(text_encoders)} text encoders "
                f"and {len(tokenizers)} tokenizers"
            )
        self.unet, self.vae = unet, vae
        self.text_encoders, self.tokenizers = tuple(text_encoders), tuple(tokenizers)
        self.schedule_config = dict(schedule_config)
        self.prediction: Literal["epsilon", "v_prediction"] = prediction
        self.name = name
        self.defaults = defaults or Defaults()
        self.is_attended = False  # kept by attention.attending
        self._zero_empty_prompt = zero_empty_prompt
        for module in (unet, vae, *text_encoders):
            module.requires_grad_(False).eval()

    # Loading ------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls, name: str | Path = "pocket", *, device: str | None = None, dtype: torch.dtype | None = None
    ) -> "Model":
        """Load a model: `"pocket"` (built in), a diffusers folder, a hub id, or a single-file `.safetensors`.

        device: "cpu", "cuda", "cuda:1"…; by default the accelerator if there is one.
        dtype: by default float16 on an accelerator and float32 on the CPU.
        A hub id is looked up in the local cache first and fetched if it is not there. A single file needs a
        folder of configs beside it (see `wordbrush.single_file`).

        Raises `ModelError` for a model that is not there or not of this family, or a device that is not there.

        >>> model = Model.load("pocket")
        >>> model.name
        'pocket'
        """
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        _require_device(device)
        dtype = dtype or (torch.float32 if device == "cpu" else torch.float16)
        path = POCKET if name == "pocket" else Path(name)
        loaded: dict[str, Any] = {}
        if path.is_file():
            folder = single_file.config_folder(path)
            loaded = single_file.components(path, folder, dtype)
            path = folder
        elif not path.is_dir():
            path = _fetch(str(name))
        return cls._from_folder(path, "pocket" if name == "pocket" else str(name), device, dtype, loaded)

    @classmethod
    def _from_folder(
        cls, path: Path, name: str, device: str, dtype: torch.dtype, loaded: Mapping[str, Any]
    ) -> "Model":
        """The model of a diffusers folder; what is already `loaded` is not looked for there."""
        import diffusers
        import transformers

        index = _read_json(path / "model_index.json")
        _verify(path, name)
        # Entries are ["library", "class"]; whatever else the file holds is not a component.
        kinds: dict[str, str] = {
            part: cast(list[str], entry)[1]
            for part, entry in index.items()
            if isinstance(entry, list) and len(cast(list[str], entry)) == 2
        }
        missing = [part for part in ("unet", "vae", "scheduler", "text_encoder") if not kinds.get(part)]
        if missing:
            raise ModelError(
                f"{name}: model_index.json names no {', '.join(missing)}; it is not a Stable Diffusion"
            )

        def component(part: str, library: Any, allowed: set[str]) -> Any:
            if kinds[part] not in allowed:
                raise ModelError(
                    f"{name}: expected {part} to be one of {', '.join(sorted(allowed))}, got {kinds[part]}"
                )
            if part in loaded:
                return loaded[part].to(device)
            files = [file.name for file in (path / part).glob("*.safetensors")]
            if not files:
                pickles = [file.name for file in (path / part).glob("*") if file.suffix in _PICKLES]
                told = (
                    f"there is {pickles[0]}, a pickle, and those are never loaded"
                    if pickles
                    else "there are none"
                )
                raise ModelError(
                    f"{name}: expected the weights of {part} as safetensors in {path / part}, {told}: "
                    "convert them, or fetch the model again"
                )
            variant = "fp16" if files and all(".fp16" in file for file in files) else None
            try:
                with _quietly(library):
                    found, report = getattr(library, kinds[part]).from_pretrained(
                        path / part,
                        variant=variant,
                        dtype=dtype,
                        use_safetensors=True,
                        local_files_only=True,
                        output_loading_info=True,
                    )
            except (OSError, ValueError, RuntimeError, SafetensorError) as error:
                raise ModelError(f"{name}: cannot load {part}: {error}") from error
            if lost := sorted(report["missing_keys"]):  # their loaders would leave those weights random
                raise ModelError(f"{name}: {part} lacks {len(lost)} of its weights, such as {lost[0]}")
            return found.to(device)

        def tokenizer(part: str) -> Any:
            kind: Any = transformers.CLIPTokenizer
            try:
                return kind.from_pretrained(path / part, local_files_only=True)
            except (OSError, ValueError) as error:
                raise ModelError(f"{name}: cannot load {part}: {error}") from error

        encoders = [part for part in ("text_encoder", "text_encoder_2") if kinds.get(part)]
        tokenizers = [part.replace("text_encoder", "tokenizer") for part in encoders]
        own = index.get("wordbrush", {})
        return cls(
            unet=component("unet", diffusers, _UNETS),
            vae=component("vae", diffusers, _VAES),
            text_encoders=[component(part, transformers, _TEXT_ENCODERS) for part in encoders],
            tokenizers=[tokenizer(part) for part in tokenizers],
            schedule_config=_read_json(path / "scheduler" / "scheduler_config.json"),
            name=name,
            defaults=Defaults(**own.get("defaults", {})),
            zero_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", False)) and len(encoders) > 1,
        )

    # Sizes --------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the UNet lies."""
        return self.unet.device

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in."""
        return self.unet.dtype

    @property
    def latent_dtype(self) -> torch.dtype:
        """What latents are kept in: float32 at least, whatever the UNet computes in."""
        return torch.promote_types(self.dtype, torch.float32)

    @cached_property
    def downscale(self) -> int:
        """Picture pixels per latent pixel, along each side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """The picture size the model was made for: (height, width) in pixels."""
        size: int | tuple[int, int] = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return height * self.downscale, width * self.downscale

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.unet.config.in_channels)

    @property
    def tokens(self) -> int:
        """Length of the text encoder's context."""
        return int(self.text_encoders[0].config.max_position_embeddings)

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent height and width of a picture.

        Raises `ModelError` if its sides are no multiples of `downscale`, or for a size that is out of all
        proportion to the model's own: it would be found out by running out of memory, at the end.
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
        grids: set[int] = set()
        height, width = latent_size
        for has_cross in self._cross_levels:
            if has_cross:
                grids.add(height * width)
            height, width = (height + 1) // 2, (width + 1) // 2
        if not grids:
            raise ModelError("this model's UNet has no cross-attention in its down blocks")
        # Nearest by ratio, the larger grid on a tie.
        return min(
            sorted(grids, reverse=True),
            key=lambda positions: max(positions, _MAP_POSITIONS) / min(positions, _MAP_POSITIONS),
        )

    @property
    def _latent_scale(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def _latent_shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0)

    @cached_property
    def _cross_levels(self) -> tuple[bool, ...]:
        return tuple("CrossAttn" in kind for kind in self.unet.config.down_block_types)

    # Numbers ------------------------------------------------------------------------------------------------

    def schedule(self, steps: int | None = None) -> Schedule:
        """The model's noise schedule with `steps` sampling steps (default: the model's own)."""
        return Schedule.from_config(self.schedule_config, self.defaults.steps if steps is None else steps)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what a trajectory depends on: what "the same model" means to a saved source and to a replay.

        Covered: every weight (name, dtype, shape, bytes); the schedule's settings and the prediction type; the
        vocabulary and special tokens of each tokenizer; the scale of the latents and what an empty prompt stands
        for. The dtype counts because other roundings make other pixels. Not covered: name, folder, device,
        default steps and guidance, and the parts' configs, which change with the libraries' versions.
        """
        told = {
            "schedule": settings(self.schedule_config),
            "prediction": self.prediction,
            "tokenizers": [
                [each.get_vocab(), each.bos_token_id, each.eos_token_id, each.pad_token_id]
                for each in self.tokenizers
            ],
            "latents": [self._latent_scale, self._latent_shift],
            "zero_empty_prompt": self._zero_empty_prompt,
        }
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for module in (self.unet, self.vae, *self.text_encoders):
            for key, weight in sorted(module.state_dict().items()):
                digest.update(f"{key} {weight.dtype} {tuple(weight.shape)}".encode())
                digest.update(weight.detach().cpu().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @cached_property
    def _alphas_cumprod(self) -> Tensor:
        return training_alphas_cumprod(self.schedule_config)

    # Text ---------------------------------------------------------------------------------------------------

    def read(self, prompt: str) -> Words:
        """The prompt's words and their token spans. Raises `PromptError` if it does not fit the context."""
        return read(self.tokenizers[0], prompt, self.tokens)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> TextEmbeds:
        """Encode prompts, one row each. Raises `PromptError` for a prompt that does not fit: nothing is cut off."""
        for prompt in prompts:
            self.read(prompt)
        hidden: list[Tensor] = []
        pooled: Tensor | None = None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            ids = tokenizer(
                list(prompts), padding="max_length", max_length=self.tokens, return_tensors="pt"
            ).input_ids.to(self.device)
            if len(self.text_encoders) == 1:
                hidden.append(encoder(ids).last_hidden_state)
            else:
                # SDXL reads the penultimate layer of both encoders, and pools the second.
                output = encoder(ids, output_hidden_states=True)
                hidden.append(output.hidden_states[-2])
                pooled = getattr(output, "text_embeds", pooled)
        embeds = torch.cat(hidden, dim=-1)
        if self._zero_empty_prompt:
            empty = torch.tensor([prompt == "" for prompt in prompts], device=self.device)
            embeds = embeds.masked_fill(empty[:, None, None], 0)
            pooled = None if pooled is None else pooled.masked_fill(empty[:, None], 0)
        return TextEmbeds(embeds, pooled)

    # Pictures -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode_image(self, image: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b c h w"]:
        """Pictures in [−1, 1] to scaled latents: the posterior's mode, so that an inversion is deterministic."""
        self.latent_size(*image.shape[-2:])
        latents = self.vae.encode(image.to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        return ((latents - self._latent_shift) * self._latent_scale).to(self.latent_dtype)

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Scaled latents to pictures in [−1, 1]. Raises `NumericsError` rather than return a picture of NaN."""
        z = latents / self._latent_scale + self._latent_shift
        images = self.vae.decode(z.to(self.vae.device, self.vae.dtype)).sample.float()
        if not bool(torch.isfinite(images).all()):
            raise NumericsError(
                f"the autoencoder returned values that are not finite in {self.vae.dtype}: load the model in float32"
            )
        return images.clamp(-1, 1)

    # The prediction -----------------------------------------------------------------------------------------

    def predict_eps(
        self, latents: Float[Tensor, "rows c h w"], t: int, text: TextEmbeds, step: int = 0
    ) -> Float[Tensor, "rows c h w"]:
        """eps of each row at training timestep `t`; `step` tells an open `attending` context where the sampler is."""
        height, width = latents.shape[-2:]
        extra: dict[str, Any] = {}
        if self.is_attended:
            extra["cross_attention_kwargs"] = {"step": step, "latent_size": (height, width)}
        if text.pooled is not None:
            # SDXL: original size, crop corner, target size; the picture is what it seems and is not cropped.
            size = (height * self.downscale, width * self.downscale)
            ids = torch.tensor([[*size, 0, 0, *size]], device=self.device, dtype=text.pooled.dtype)
            extra["added_cond_kwargs"] = {
                "text_embeds": text.pooled,
                "time_ids": ids.expand(latents.shape[0], -1),
            }
        output = self.unet(
            latents.to(self.device, self.dtype),
            t,
            encoder_hidden_states=text.hidden,
            return_dict=False,
            **extra,
        )[0].to(latents.dtype)
        if self.prediction == "v_prediction":
            # v = √ᾱ eps − √(1−ᾱ) z_0, hence eps = √ᾱ v + √(1−ᾱ) z_t (Salimans & Ho 2022, appendix D).
            alpha = float(self._alphas_cumprod[t])
            return alpha**0.5 * output + (1 - alpha) ** 0.5 * latents
        return output


def _require_device(device: str) -> None:
    """Raise `ModelError`, naming the devices there are, if this is none of them."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu"]
        if accelerator := torch.accelerator.current_accelerator(check_available=True):
            there += [f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count())]
        raise ModelError(f"there is no device '{device}' here; there is {', '.join(there)}") from error


def _verify(path: Path, name: str) -> None:
    """Hold a folder's files to the SHA-256 in its manifest, if it has one: a flipped bit is a different model.

    Raises `ModelError` for a file that is missing or not what it was.
    """
    if not (path / "manifest.json").is_file():
        return
    for file, expected in _read_json(path / "manifest.json")["files"].items():
        if not (path / file).is_file():
            raise ModelError(
                f"{name}: {file} is missing from {path}: install the package, or fetch the model, again"
            )
        with open(path / file, "rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != expected:
                raise ModelError(
                    f"{name}: {file} is damaged (its SHA-256 is not the manifest's): install it again"
                )


@contextmanager
def _quietly(library: Any) -> Generator[None, None, None]:
    """Without diffusers' or transformers' own progress bars: progress belongs to the caller."""
    logging = library.utils.logging
    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise ModelError(f"expected a diffusers model folder, but {path} does not exist") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a diffusers config: expected names and values, got {content!r:.40}")
    return cast(dict[str, Any], content)


def _fetch(name: str) -> Path:
    """A hub id's folder: from the cache, or fetched. Only safetensors weights and configs, never code or pickles."""
    if difflib.get_close_matches(name, ["pocket"]):
        raise ModelError(f"no model {name!r}; did you mean 'pocket'?")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = ["model_index.json"]
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        patterns += [f"{part}/*.json", f"{part}/*.safetensors"]
    patterns += ["tokenizer*/*", "scheduler/*.json"]
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise ModelError(
            f"no model {name!r}: not 'pocket', no folder or file there, and no hub id"
        ) from error
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, OSError) as error:
        reason = (
            "could not be reached"
            if isinstance(error, LocalEntryNotFoundError)
            else f"did not give it ({str(error).partition(chr(10))[0]})"
        )
        raise ModelError(
            f"no model {name!r}: not 'pocket', no such folder or file, and the hub {reason}"
        ) from error
