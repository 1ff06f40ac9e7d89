"""What the tests of trainings share: pictures, short trainings of each method, and their parts."""

import hashlib
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wordbrush import training
from wordbrush.fit import ALONE, Share, generator
from wordbrush.model import Conditioning, Model
from wordbrush.progress import drain
from wordbrush.training import run
from wordbrush.training.examples import Examples
from wordbrush.training.pictures import Folder
from wordbrush.training.run import Trained
from wordbrush.training.task import Task, Trainee

SHAPES = ("sd1", "sd2", "sdxl")
METHODS: Mapping[str, Mapping[str, Any]] = {
    "textual_inversion": {"token": "<x>", "init": "cat", "learning_rate": 0.01},
    "dreambooth": {"prompt": "a sks cat", "learning_rate": 1e-3},
    "lora": {"prompt": "a sks cat", "learning_rate": 1e-2},
    "svdiff": {"prompt": "a sks cat", "learning_rate": 1e-2},
    "custom_diffusion": {"token": "<x>", "init": "cat", "learning_rate": 1e-2, "word_learning_rate": 0.01},
    "cones": {"prompt": "a sks cat", "learning_rate": 0.25, "limit": 1.0},
}
PRIOR: Mapping[str, Any] = {"class_prompt": "a cat", "class_pictures": 1}
VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "textual_inversion": ("textual_inversion", {}),
    "dreambooth": ("dreambooth", {}),
    "dreambooth, text, prior": ("dreambooth", {"train_text_encoder": True, **PRIOR}),
    "lora": ("lora", {}),
    "lora, text, all": ("lora", {"train_text_encoder": True, "layers": "all", "rank": 2}),
    "svdiff": ("svdiff", {"norm_learning_rate": 1e-3}),
    "svdiff, two, text, prior": (
        "svdiff",
        {
            "prompt": ("a sks cat", "a tpk dog"),
            "train_text_encoder": True,
            "class_prompt": ("a cat", "a dog"),
            "class_pictures": 1,
        },
    ),
    "svdiff, kv": ("svdiff", {"layers": "cross-attention-kv"}),
    "custom_diffusion": ("custom_diffusion", {}),
    "custom_diffusion, prior": ("custom_diffusion", PRIOR),
    "custom_diffusion, all, same size": ("custom_diffusion", {"layers": "all", "sizes": False}),
    "custom_diffusion, frozen word": ("custom_diffusion", {"train_word": False}),
    "cones": ("cones", {}),
    "cones, prior": ("cones", PRIOR),
}


def pictures(folder: Path, count: int = 3) -> Path:
    """Pictures of some colours, wider than high."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        random = np.random.default_rng(k)
        few = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        few.resize((60, 40), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
    return folder


def learn(
    model: Model, folder: Folder, method: str, work: Path | None = None, share: Share = ALONE, **told: Any
) -> Trained:
    """A short training."""
    return drain(run.run(plan(model, folder, method, **told), work, share))


def plan(model: Model, folder: Folder, method: str, **told: Any) -> run.Plan:
    short = {"steps": 3, "batch_size": 2, "sample_every": 10**6}
    own: dict[str, Any] = {**METHODS[method], **short, **told}
    prompts = own.get("prompt")
    if isinstance(prompts, tuple) and isinstance(folder, Path):
        # Two things are learned from one folder, given twice: enough for what is not about how they look.
        folder = [folder] * len(cast("tuple[str, ...]", prompts))
    return run.planned(model, folder, method, own)


@dataclass(frozen=True)
class Parts:
    """What a loss is computed from."""

    trainee: Trainee
    task: Task
    options: Any
    method: Any

    def loss(self, number: int) -> Tensor:
        return self.method.loss(self.trainee, self.task, self.options, number)[0]


def parts(model: Model, folder: Folder, method: str, share: Share = ALONE, **told: Any) -> Parts:
    """A method's parts, as `run` puts them together."""
    made = plan(model, folder, method, **told)
    found, options = made.pictures, made.options

    def examples(stream: str) -> Examples:
        seen = found.images, options.seed, options.crop, options.flip, stream
        return Examples(model, *seen, found.things, getattr(options, "cut_mix", 0.0))

    classes = getattr(options, "class_prompts", ())
    prior = examples("class") if classes else None
    shown = tuple(classes[min(found.thing(k), len(classes) - 1)] for k in range(len(found)) if classes)
    task = Task(model, found, examples("pictures"), prior, shown, share)
    loaded = training.METHODS[method].load()
    return Parts(loaded.attached(task, options), task, options, loaded)


def output(
    model: Model, prompt: str, autocast: AbstractContextManager[Any] | None = None
) -> tuple[Tensor, Tensor]:
    """What a network says of two noises under a prompt, and the prompt's embeds."""
    height, width = (side // model.downscale for side in model.image_size)
    latents = torch.randn(2, model.latent_channels, height, width, generator=generator(9)).to(
        model.latent_dtype
    )
    with torch.no_grad(), autocast or nullcontext():
        text = model.encode_text([prompt, prompt])
        said = model.denoiser.output(latents, torch.tensor([10, 700]), Conditioning(text))
    return said, text.hidden


def digest(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """A hash of each tensor's bytes."""
    return {
        name: hashlib.sha256(each.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()).hexdigest()
        for name, each in tensors.items()
    }


def weights(model: Model) -> dict[str, Tensor]:
    """Every weight of a model, the autoencoder's too."""
    networks = {**model.networks, "vae": model.autoencoder.vae}
    return {
        f"{part}.{name}": each for part, own in networks.items() for name, each in own.state_dict().items()
    }


def content(trained: Trained, path: Path) -> bytes:
    """The bytes of a concept's file."""
    trained.concept.save(path)
    return path.read_bytes()
