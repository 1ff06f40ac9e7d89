"""Networks that say what a picture shows, and the only file that loads any: CLIPs, and encoders in DINO's role. They
score pictures, and some methods optimise what a CLIP says.

    clip = load_clip()                                 # the one that ships, for the built-in world
    clip = load_clip("openai/clip-vit-large-patch14")  # a hub id or a folder
    clip.images(pictures) @ clip.texts(captions).T     # cosines

Whatever is loaded runs in float32 through transformers, and pictures reach it through the PIL processors alone: the
torchvision ones resize differently, and a score must not depend on what else is installed. On a GPU torch's own
settings say whether convolutions may round to TF32.
"""

import contextlib
import difflib
import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from PIL import Image
from PIL.Image import Resampling
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F

from wordbrush.errors import ImageError, ModelError, PromptError, short
from wordbrush.images import Rgb as Picture
from wordbrush.images import array
from wordbrush.loading.machine import device_of
from wordbrush.model import POCKET
from wordbrush.reading import json_mapping

Item = TypeVar("Item")

BATCH = 50  # pictures or texts in a forward pass

_CLIPS = {"clip": "CLIPModel", "vision-text-dual-encoder": "VisionTextDualEncoderModel"}
_ENCODERS = {"vit": "ViTModel", "convnext": "ConvNextModel"}
_PROCESSORS = ("CLIP", "ViT", "ConvNext")
_SETTINGS = ("config.json", "preprocessor_config.json", "tokenizer*.json", "special_tokens_map.json")
_WORDS = ("vocab.json", "merges.txt")
_WEIGHTS = ("model*.safetensors", "model.safetensors.index.json")
_PICKLE = "pytorch_model.bin"  # read with weights_only: tensors, never code


@dataclass(frozen=True, eq=False)
class Clip:
    """A network that embeds pictures and texts in one space.

    name: "pocket" or the checkpoint, for tables: scores of two CLIPs are not comparable.
    """

    name: str
    model: Any
    tokenizer: Any
    processor: Any

    @torch.no_grad()
    def images(self, pictures: Sequence[Picture]) -> Float[Tensor, "n d"]:
        """Unit vectors, on the CPU. The checkpoint's own protocol: the shorter side resized, then the middle square."""

        def embed(batch: Sequence[Picture]) -> Tensor:
            pixels = _pixels(self.processor, batch).to(self.model.device)
            return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

        return F.normalize(_batched(embed, pictures), dim=-1).cpu()

    @property
    def size(self) -> int:
        """Height and width of the pictures that it sees, in pixels."""
        return int(self.model.config.vision_config.image_size)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of its weights."""
        digest = hashlib.sha256()
        for name, weight in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tuple(weight.shape)}".encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def seen(
        self, pictures: Float[Tensor, "n 3 size size"]
    ) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n c rows columns"]]:
        """Unit vectors of pictures in [−1, 1] of its own size, and the last layer's features of their parts; both can
        be differentiated, and pixels outside of the range are taken as they are."""
        settings = self.processor
        mean, spread = (
            torch.tensor(each, device=self.model.device)[:, None, None]
            for each in (settings.image_mean, settings.image_std)
        )
        output = self.model.vision_model(pixel_values=((pictures.to(mean) + 1) / 2 - mean) / spread)
        parts = output.last_hidden_state
        if parts.ndim == 3:  # a transformer's, after the CLS token
            rows = self.size // int(self.model.config.vision_config.patch_size)
            parts = parts[:, 1:].transpose(1, 2).unflatten(-1, (rows, -1))
        return F.normalize(self.model.visual_projection(output.pooler_output), dim=-1), parts

    @torch.no_grad()
    def texts(self, texts: Sequence[str], *, truncate: bool = False) -> Float[Tensor, "n d"]:
        """Unit vectors, on the CPU.

        truncate: cut what does not fit the text encoder (77 tokens in OpenAI's), as published CLIP scores do.
        Raises `PromptError` for such a text otherwise.
        """
        window = self.model.config.text_config.max_position_embeddings
        rows = [self.tokenizer(text, verbose=False).input_ids for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if len(row) > window and not truncate:
                raise PromptError(
                    f"{self.name} reads at most {window} tokens and '{text:.60}…' has {len(row)}: "
                    "shorten it, or ask for it to be truncated"
                )

        def embed(batch: Sequence[str]) -> Tensor:
            tokens = self.tokenizer(
                list(batch), padding=True, truncation=True, max_length=window, return_tensors="pt"
            ).to(self.model.device)
            encoded = self.model.text_model(
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask
            ).pooler_output
            return self.model.text_projection(encoded)

        return F.normalize(_batched(embed, texts), dim=-1).cpu()


@dataclass(frozen=True, eq=False)
class Encoder:
    """A network that describes pictures without words: a DINO vision transformer, or the pocket's ConvNeXt.

    name: "pocket" or the checkpoint, for tables: scores of two encoders are not comparable.
    middle, whole: the processor that crops the middle square, and the one that keeps the whole picture.
    """

    name: str
    model: Any
    middle: Any
    whole: Any

    @property
    def is_transformer(self) -> bool:
        return self.model.config.model_type == "vit"

    @torch.no_grad()
    def images(self, pictures: Sequence[Picture]) -> Float[Tensor, "n d"]:
        """Unit vectors, on the CPU: a transformer's CLS token after its last norm, a ConvNeXt's pooled features.

        Transformers see what DINO's own evaluation shows them: the shorter side resized to 8/7 of the network's
        (256 for 224), bicubic, then the middle square. A ConvNeXt sees what its folder says.
        """

        def embed(batch: Sequence[Picture]) -> Tensor:
            output = self._run(_pixels(self.middle, batch))
            return output.last_hidden_state[:, 0] if self.is_transformer else output.pooler_output

        return F.normalize(_batched(embed, pictures), dim=-1).cpu()

    @torch.no_grad()
    def cells(
        self, pictures: Sequence[Picture], *, values_0_to_255: bool = False
    ) -> Float[Tensor, "n cells d"]:
        """Features of each part of a picture; the pictures have equal sizes and are not cropped.

        A transformer's keys in its last layer, all heads side by side: the CLS token's first, then the patches
        row by row, as the structure distance takes them. A ConvNeXt's last feature map, row by row.
        values_0_to_255: leave out the division by 255 that belongs before the normalisation, as PIE-Bench's
        harness does.
        """
        _require_equal_sizes(pictures)

        def embed(batch: Sequence[Picture]) -> Tensor:
            pixels = _pixels(self.whole, batch, rescale=not values_0_to_255)
            if not self.is_transformer:
                return self._run(pixels).last_hidden_state.flatten(2).transpose(1, 2)
            keys: list[Tensor] = []

            def keep(module: object, inputs: object, output: Tensor) -> None:
                keys.append(output)

            hook = self.model.layers[-1].attention.k_proj.register_forward_hook(keep)
            try:
                self._run(pixels)
            finally:
                hook.remove()
            return keys[0]

        return _batched(embed, pictures)

    @torch.no_grad()
    def layers(self, pictures: Sequence[Picture]) -> list[Float[Tensor, "_ _ _ _"]]:
        """The feature maps [n, c, h, w] after each stage of a ConvNeXt, or of each layer's patches of a transformer.

        The pictures have equal sizes and are not cropped. All maps are in memory at once: pass few pictures at a time.
        """
        _require_equal_sizes(pictures)
        pixels = _pixels(self.whole, pictures)
        maps = self._run(pixels, hidden=True).hidden_states[1:]
        if not self.is_transformer:
            return list(maps)
        rows = pixels.shape[-2] // self.model.config.patch_size
        return [tokens[:, 1:].transpose(1, 2).unflatten(-1, (rows, -1)) for tokens in maps]

    def _run(self, pixels: Float[Tensor, "n 3 h w"], *, hidden: bool = False) -> Any:
        any_size = {"interpolate_pos_encoding": True} if self.is_transformer else {}
        return self.model(pixel_values=pixels.to(self.model.device), output_hidden_states=hidden, **any_size)


def load_clip(name: str = "pocket", device: str | None = None) -> Clip:
    """The CLIP that ships, or one by hub id or folder (transformers' CLIPModel or VisionTextDualEncoderModel).

    device: by default the accelerator if there is one.
    Raises `ModelError` for one that is not there, not complete, or no CLIP.
    """
    import transformers

    folder = POCKET / "judge" if name == "pocket" else _folder(name)
    model = _network(folder, name, _CLIPS, device)
    with _readable(name, "tokenizer"):
        kind: Any = transformers.AutoTokenizer
        tokenizer = kind.from_pretrained(folder, local_files_only=True)
    return Clip(name, model, tokenizer, _processor(folder, name))


def load_encoder(name: str = "pocket", device: str | None = None) -> Encoder:
    """The encoder that ships, or one by hub id or folder (transformers' ViTModel or ConvNextModel).

    device: by default the accelerator if there is one.
    Raises `ModelError` for one that is not there, not complete, or of another kind.
    """
    folder = POCKET / "encoder" if name == "pocket" else _folder(name)
    model = _network(folder, name, _ENCODERS, device)
    middle, whole = _encoder_processors(_processor(folder, name), model.config)
    return Encoder(name, model, middle, whole)


def _network(folder: Path, name: str, kinds: dict[str, str], device: str | None) -> Any:
    """The network in a folder, in float32, complete and of one of these kinds."""
    import transformers

    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{name}: expected a transformers folder with a config.json at {folder}, and there is none: "
            + ("install the package again" if name == "pocket" else "check the path or the id")
        )
    with _readable(name, "config.json"):
        kind = json_mapping(folder / "config.json", ModelError, finite=False)["model_type"]
    if not isinstance(kind, str) or kind not in kinds:
        raise ModelError(f"{name}: expected a network of type {' or '.join(kinds)}, got {short(kind)}")
    if not any((folder / pattern).is_file() or any(folder.glob(pattern)) for pattern in (_PICKLE, *_WEIGHTS)):
        raise ModelError(f"{name}: expected weights as safetensors in {folder}, and there are none")
    # Images are scored without the layer that other tasks put on top, and DINO's checkpoints have none.
    bare = {"add_pooling_layer": False} if kind == "vit" else {}
    with _readable(name, "the network"), _without_bars(transformers.utils.logging):
        model, report = getattr(transformers, kinds[kind]).from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True, **bare
        )
    if lost := sorted(report["missing_keys"]):  # transformers would leave those weights random
        raise ModelError(f"{name}: the network lacks {len(lost)} of its weights, such as {lost[0]}")
    return model.requires_grad_(False).eval().to(device_of(device))


def _processor(folder: Path, name: str) -> Any:
    """The PIL form of the processor that the folder names, with its settings."""
    import transformers

    with _readable(name, "preprocessor_config.json"):
        settings = json_mapping(folder / "preprocessor_config.json", ModelError, finite=False)
        named = str(settings.get("image_processor_type") or settings.get("feature_extractor_type", ""))
        family = named.partition("ImageProcessor")[0].partition("FeatureExtractor")[0]
        if family not in _PROCESSORS:
            raise ValueError(f"it names the processor {short(named)}; known are {', '.join(_PROCESSORS)}")
        return getattr(transformers, f"{family}ImageProcessorPil").from_pretrained(
            folder, local_files_only=True
        )


def _encoder_processors(settings: Any, config: Any) -> tuple[Any, Any]:
    """`Encoder.middle` and `.whole`, with the colour statistics of a folder's processor.

    The hub's settings for DINO squeeze a picture to a square, so both are the published transforms instead:
    DINO's evaluation, bicubic, and Tumanyan's, bilinear on the shorter side alone.
    """
    import transformers

    kind: Any = transformers.CLIPImageProcessorPil
    colours = {"image_mean": settings.image_mean, "image_std": settings.image_std}
    size = config.image_size
    if config.model_type == "vit":
        crop_size = {"height": size, "width": size}
        middle = kind(size={"shortest_edge": round(size * 8 / 7)}, crop_size=crop_size, **colours)
        whole = kind(
            size={"shortest_edge": size}, do_center_crop=False, resample=Resampling.BILINEAR, **colours
        )
        return middle, whole
    cropped = getattr(settings, "crop_size", None) or settings.size
    shortest = {"shortest_edge": cropped.get("height") or cropped["shortest_edge"]}
    return settings, kind(size=shortest, do_center_crop=False, resample=settings.resample, **colours)


def _pixels(processor: Any, pictures: Sequence[Picture], *, rescale: bool = True) -> Float[Tensor, "n 3 h w"]:
    images = [Image.fromarray(array(picture)) for picture in pictures]
    return processor(images, return_tensors="pt", do_rescale=rescale).pixel_values


def _batched(embed: Callable[[Sequence[Item]], Tensor], items: Sequence[Item]) -> Tensor:
    if not items:
        raise ImageError("expected at least one picture or text to look at, got none")
    return torch.cat([embed(items[first : first + BATCH]) for first in range(0, len(items), BATCH)])


def _require_equal_sizes(pictures: Sequence[Picture]) -> None:
    if len(sizes := {array(picture).shape for picture in pictures}) > 1:
        shown = " and ".join(f"{width} × {height}" for height, width, _ in sorted(sizes)[:2])
        raise ImageError(f"expected pictures of one size, got {shown}; resize them or ask for one at a time")


def _folder(name: str) -> Path:
    """A folder, or a hub id's: from the cache, or fetched. Weights as safetensors where the hub has them."""
    if Path(name).is_dir():
        return Path(name)
    if difflib.get_close_matches(name, ["pocket"]):
        raise ModelError(f"no network {name!r}; did you mean 'pocket'?")
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def complete(folder: Path) -> bool:
        return any(folder.glob("*.safetensors")) or (folder / _PICKLE).is_file()

    def fetch(*patterns: str) -> Path:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=list(patterns)))

    try:
        with contextlib.suppress(LocalEntryNotFoundError):
            folder = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
            if complete(folder):
                return folder
        folder = fetch(*_SETTINGS, *_WORDS, *_WEIGHTS)
        return folder if complete(folder) else fetch(_PICKLE)
    except HFValidationError as error:
        raise ModelError(f"no network {name!r}: not 'pocket', no folder there, and no hub id") from error
    except (HfHubHTTPError, OSError) as error:
        reason = (
            "could not be reached: fetch it where there is a network, and give its folder"
            if isinstance(error, LocalEntryNotFoundError)
            else f"did not give it ({str(error).partition(chr(10))[0]})"
        )
        raise ModelError(
            f"no network {name!r}: not 'pocket', no such folder, not in the hub's cache here, and the hub {reason}"
        ) from error


@contextlib.contextmanager
def _readable(name: str, part: str) -> Generator[None]:
    """Turn any error while a file is read inside this block into a `ModelError` that names the file."""
    try:
        yield
    except UnpicklingError as error:
        raise ModelError(
            f"{name}: {part} is damaged, or a pickle with more than tensors; fetch it again"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{name}: cannot load {part}: {reason}; fetch it again") from error


@contextlib.contextmanager
def _without_bars(logging: Any) -> Generator[None]:
    """Without transformers' own progress bars: progress belongs to the caller."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
