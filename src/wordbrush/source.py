"""A source: everything an edit needs to know of the picture it starts from.

A source made from a seed and one inverted from a photograph look alike to an edit. Both hold the trajectory
z_T … z_0 that the source's row follows, and the null embeddings to guide the targets with. A source is a value
on disk too: invert once, edit for ever.
"""

import hashlib
import json
import os
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from wordbrush.denoise import SourceRow, Step, denoise, noise_up
from wordbrush.errors import OptionsError, SourceError
from wordbrush.files import atomic_write
from wordbrush.images import to_image
from wordbrush.model import Model, TextEmbeds
from wordbrush.options import InversionOptions
from wordbrush.progress import Progress
from wordbrush.schedule import Schedule

_FORMAT = "wordbrush.source.1"


@dataclass(frozen=True, eq=False)
class Source:
    """A prompt, and the trajectory of latents that leads to its picture.

    trajectory: z_T first, z_0 last; one more than there are steps.
    null: the embeds that stand for "no text" when guiding; one row, or one per step (null-text inversion).
    guidance_scale: what the source was made for, and an edit's default.
    method: "seed", or the inversion's name. options: what the method was told.

    >>> model = Model.load("pocket")
    >>> from_seed(model, "a cat on a beach", seed=7, steps=2).save("cat.source")
    >>> source = Source.load("cat.source", model)
    >>> source.prompt, source.method, source.image(model).size
    ('a cat on a beach', 'seed', (128, 128))
    """

    prompt: str
    trajectory: Float[Tensor, "steps_plus_1 c h w"]
    null: TextEmbeds
    schedule: Schedule
    guidance_scale: float
    method: str
    model_hash: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def steps(self) -> int:
        """Number of sampling steps."""
        return self.schedule.steps

    @property
    def z_T(self) -> Float[Tensor, "1 c h w"]:  # noqa: N802 - the equation's name
        """The noise that sampling starts from."""
        return self.trajectory[:1]

    def row(self, model: Model) -> SourceRow:
        """The source's row for the sampling loop."""
        return SourceRow(self.trajectory, model.encode_text([self.prompt]))

    def image(self, model: Model) -> Image.Image:
        """The picture at the end of the trajectory."""
        return to_image(model.decode(self.trajectory[-1:].to(model.device))[0].cpu())

    def check(self, model: Model) -> None:
        """Raise `SourceError` unless the source was made with this very model."""
        if self.model_hash != model.hash:
            raise SourceError(
                f"this source was made with another model or dtype (hash {self.model_hash[:12]}…, {model.name} in "
                f"{str(model.dtype).removeprefix('torch.')} has {model.hash[:12]}…): load the model it was made with, "
                "in the same dtype, or invert the picture again"
            )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the source to one file: safetensors, its header holding the rest as JSON. All or nothing.

        Raises `OutputError`.
        """
        tensors = {"trajectory": self.trajectory, "null.hidden": self.null.hidden}
        if self.null.pooled is not None:
            tensors["null.pooled"] = self.null.pooled
        header = {
            "prompt": self.prompt,
            "guidance_scale": self.guidance_scale,
            "method": self.method,
            "options": dict(self.options),
            "model_hash": self.model_hash,
            "timesteps": self.schedule.timesteps,
            "alphas": self.schedule.alphas,
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        told = json.dumps(header)
        content = to_safetensors(
            tensors, {"format": _FORMAT, "source": told, "sha256": _digest(told, tensors)}
        )
        with atomic_write(path) as file:
            file.write(content)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model) -> "Source":
        """Read a saved source. Raises `SourceError` if the file is no source, damaged, or of another model."""
        try:
            header, tensors = _read(path, model)
            source = cls(
                prompt=header["prompt"],
                trajectory=tensors["trajectory"],
                null=TextEmbeds(tensors["null.hidden"], tensors.get("null.pooled")),
                schedule=Schedule(tuple(header["timesteps"]), tuple(header["alphas"])),
                guidance_scale=header["guidance_scale"],
                method=header["method"],
                model_hash=header["model_hash"],
                options=header["options"],
            )
        except FileNotFoundError as error:
            raise SourceError(f"there is no source file {path}") from error
        except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise SourceError(f"{path} is damaged or no wordbrush source: {error}") from error
        source.check(model)
        return source


def _read(path: str | os.PathLike[str], model: Model) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a source file; raises what the file provokes."""
    with cast(Any, safe_open(Path(path), framework="pt")) as file:
        metadata: dict[str, str] = file.metadata() or {}
        if metadata.get("format") != _FORMAT:
            raise SourceError(f"{path} is not a wordbrush source (its format is {metadata.get('format')})")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if metadata["sha256"] != _digest(metadata["source"], tensors):
        raise SourceError(
            f"{path} is damaged: its content does not match its checksum; invert the picture again"
        )
    return json.loads(metadata["source"]), {name: tensor.to(model.device) for name, tensor in tensors.items()}


def _digest(header: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(header.encode() + to_safetensors(dict(tensors))).hexdigest()


def initial_latents(model: Model, seed: int, height: int, width: int) -> Float[Tensor, "1 c h w"]:
    """z_T of a seed: standard normal, drawn on the CPU so that a seed means the same noise on every device."""
    h, w = model.latent_size(height, width)
    generator = torch.Generator().manual_seed(check_seed(seed))
    return torch.randn(1, model.latent_channels, h, w, generator=generator).to(
        model.device, model.latent_dtype
    )


def check_seed(seed: int) -> int:
    """A seed as given. Raises `OptionsError` unless it fits torch's generator."""
    if not 0 <= seed < 2**63:
        raise OptionsError(f"seed must lie between 0 and 2^63 − 1, got {seed}")
    return seed


def from_seed(
    model: Model,
    prompt: str,
    seed: int,
    *,
    steps: int | None = None,
    guidance_scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
) -> Generator[Progress, None, Source]:
    """Generate a picture from a seed, keeping the way there as a source. Defaults are the model's own.

    Raises `PromptError`, `OptionsError`, or `ModelError` for a size that the model cannot make.
    """
    schedule = model.schedule(steps)
    scale = model.defaults.guidance_scale if guidance_scale is None else guidance_scale
    check_guidance(scale)
    default_height, default_width = model.image_size
    size = default_height if height is None else height, default_width if width is None else width
    z_T = initial_latents(model, seed, *size)  # noqa: N806
    text, null = model.encode_text([prompt]), model.encode_text([""])
    steps_down = denoise(model, z_T, text, null, schedule, guidance_scale=scale)
    states = yield from watched("generating", steps_down, model)
    return Source(
        prompt=prompt,
        trajectory=torch.cat([z_T, *states]),
        null=null,
        schedule=schedule,
        guidance_scale=scale,
        method="seed",
        model_hash=model.hash,
        options={"seed": seed},
    )


def walk_up(
    model: Model,
    image: Float[Tensor, "1 3 height width"],
    prompt: str,
    method: str,
    options: InversionOptions,
) -> Generator[Progress, None, Source]:
    """Walk a picture in [−1, 1] up to z_T by unguided DDIM inversion, as every inversion begins.

    Returns the source whose trajectory is the very path; what else an inversion finds takes the place of its
    trajectory or its null embeddings. Defaults are the model's own.
    """
    schedule = model.schedule(options.steps)
    scale = model.defaults.guidance_scale if options.guidance_scale is None else options.guidance_scale
    text = model.encode_text([prompt])
    z_0 = model.encode_image(image)
    path = yield from watched("inverting", noise_up(model, z_0, text, schedule), model)
    return Source(
        prompt=prompt,
        trajectory=torch.cat([*reversed(path), z_0]),
        null=model.encode_text([""]),
        schedule=schedule,
        guidance_scale=scale,
        method=method,
        model_hash=model.hash,
        options=options.model_dump(exclude_none=True),
    )


def check_guidance(guidance_scale: float) -> None:
    """Raise `OptionsError` for a guidance scale that is not a number from 0 to 100."""
    if not 0 <= guidance_scale <= 100:
        raise OptionsError(f"guidance_scale must lie between 0 and 100, got {guidance_scale}")


def watched(
    stage: str, loop: Generator[Step, None, object], model: Model
) -> Generator[Progress, None, list[Float[Tensor, "n c h w"]]]:
    """Run a loop, telling its steps as progress with previews; returns the latents after each step."""
    states: list[Tensor] = []
    for step in loop:
        states.append(step.latents)
        yield Progress(stage, step.index + 1, step.total, partial(_preview, model, step.clean[-1:]))
    return states


def _preview(model: Model, clean: Tensor) -> Image.Image:
    return to_image(model.decode(clean)[0].cpu())
