"""What an edit learns of one picture before it draws: Imagic, SINE and UniTune begin with this.

They minimise E ‖ε − ε_θ(z_t, t, c)‖² over the noisy states of a single picture (Ho et al. 2020, eq. 14), and differ in
what c says and in what learns. The model is never changed: what learns is attached to another value, as in every
training, and all of it goes through the one loop, `fit`.

What was learned is kept in memory with the source, and in a folder if one is named, by a key of all that decides it:
the picture and what a model sees of it, the model's hash, the prompt, and the options of the optimisation. So another
guidance, or another value of an edit's slider, does not learn again. In the folder there are checkpoints meanwhile, and
a run that is killed and started again ends with the same bytes.
"""

import hashlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from wordbrush import tensorfiles
from wordbrush.errors import OutputError, short
from wordbrush.files import atomic_write, sole
from wordbrush.fit import Checkpoints, fit, generator
from wordbrush.images import to_tensor
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.model.sharing import shared
from wordbrush.options import FitOptions, parse
from wordbrush.progress import Progress
from wordbrush.source import Source
from wordbrush.training.examples import Batch
from wordbrush.training.objective import losses
from wordbrush.training.options import OnePictureOptions
from wordbrush.training.task import learned_in

_VERSION = 1  # of what is computed here: what another version learned is not used
_FILE, _CHECKPOINT_EVERY = "learned.safetensors", 50
_BOXES = 36  # parts that a picture is seen in: each is encoded once
_OCTAVES = 4  # of the sines and cosines that say where a part is

Kept = dict[str, Tensor]
"""What was learned, by name."""

Box = tuple[float, float, float, float]
"""A part of a picture: left, top, right and bottom, as shares of its sides."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class Learner:
    """What learns. parameters: in float32, by name. loss: the mean loss of a forward pass and its rows. kept: from the
    parameters to what is kept of them."""

    parameters: Mapping[str, nn.Parameter]
    loss: Callable[[int], tuple[Tensor, int]]
    kept: Callable[[Mapping[str, Tensor]], Kept]


@dataclass(frozen=True, eq=False)
class Learned:
    """What was learned, its key, the rows that the UNet computed for it now, and what to tell of it."""

    tensors: Kept
    key: str
    rows: int = 0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Views:
    """The picture of a source as latents, and the draws of a training on it, which follow from the seed.

    patches: the smallest side of a part that is seen, as a share of the picture's; None: the whole is seen. A part is
    scaled to the model's own size, the whole is seen at the source's.
    """

    model: Model
    source: Source
    seed: int
    patches: float | None = None

    def batch(self, number: int, count: int) -> tuple[Batch, list[Box]]:
        """The rows of a forward pass, and the part of the picture that each shows. A row is a pure function of the seed
        and of its place in the row of all rows."""
        steps = int(self.model.schedule_config.get("num_train_timesteps", 1000))
        seen: list[Tensor] = []
        noise: list[Tensor] = []
        timesteps: list[Tensor] = []
        boxes: list[Box] = []
        for place in range(number * count, (number + 1) * count):
            random = generator(self.seed, "one picture", place)
            timesteps.append(torch.randint(steps, (1,), generator=random))
            which = 0 if self.patches is None else int(torch.randint(_BOXES, (1,), generator=random))
            boxes.append(self._box(which))
            seen.append(self._latents(boxes[-1]))
            noise.append(torch.randn(seen[-1].shape, generator=random))
        latents = torch.cat(seen)
        batch = Batch(
            [0] * count,
            [None for _ in range(count)],
            [0.0] * count,
            latents,
            torch.cat(noise).to(latents),
            torch.cat(timesteps),
        )
        return batch, boxes

    def _box(self, which: int) -> Box:
        """A part of the picture of its own aspect; the first is the whole."""
        if self.patches is None or which == 0:
            return WHOLE
        random = generator(self.seed, "patch", which)
        size, across, down = map(float, torch.rand(3, generator=random, dtype=torch.float64))
        side = self.patches + size * (1 - self.patches)
        left, top = across * (1 - side), down * (1 - side)
        return left, top, left + side, top + side

    def _latents(self, box: Box) -> Float[Tensor, "1 c h w"]:
        """The latents of a part; each is encoded once."""
        kept: dict[Box, Tensor] = self.__dict__.setdefault("_parts", {})
        if box not in kept:
            kept[box] = self._encoded(box)
        return kept[box]

    def _encoded(self, box: Box) -> Float[Tensor, "1 c h w"]:
        source, model = self.source, self.model
        if self.patches is None:
            return source.encoded(model).to(model.device, model.latent_dtype)
        height, width = source.size(model)
        scale = (model.image_size[0] * model.image_size[1] / (height * width)) ** 0.5
        cell = model.downscale
        own = [max(cell, round(side * scale / cell) * cell) for side in (height, width)]
        if source.picture is None:
            image = source.image(model)
            left, top, right, bottom = 0.0, 0.0, float(image.width), float(image.height)
        else:
            image, (left, top, right, bottom) = source.picture.image, source.picture.box
        across, down = right - left, bottom - top
        corners = left + box[0] * across, top + box[1] * down, left + box[2] * across, top + box[3] * down
        part = image.resize((own[1], own[0]), Image.Resampling.LANCZOS, box=corners)
        return model.encode_image(to_tensor(part).to(model.device))


def learned(
    model: Model,
    source: Source,
    stage: str,
    decided: Mapping[str, Any],
    settings: FitOptions,
    attach: Callable[[], Learner],
    folder: str,
) -> Generator[Progress, None, Learned]:
    """What is learned of a source's picture: as it is kept, or by optimising.

    stage: what is done, in words. decided: what decides the result besides picture, model and settings. attach: what
    learns, asked for where nothing is kept. folder: where it is kept, or "".

    Raises `NumericsError`, and `OutputError` for a folder that cannot be written, or that another process holds.
    """
    made_from = {
        "version": _VERSION,
        "picture": _shown(source),
        "model": model.hash,
        "options": settings.deciding(),
        "decided": dict(decided),
    }
    key = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()
    memory: dict[str, Learned] = source.__dict__.setdefault("_learned", {})  # the last of each stage
    if stage in memory and memory[stage].key == key:
        yield Progress(stage, settings.steps, settings.steps, says="learned before")
        return memory[stage]
    with ExitStack() as ending:
        work, notices = None, list[str]()
        if folder:
            work = Path(folder) / key[:16]
            ending.enter_context(_held(work))
        kept = None if work is None else _read(work / _FILE, key, notices)
        rows = 0
        if kept is None:
            kept, rows = yield from _optimised(model, stage, key, settings, attach(), work, notices)
            if work is not None:
                _write(work / _FILE, kept, key, made_from)
                Checkpoints(work, {"key": key}).remove()
        else:
            yield Progress(stage, settings.steps, settings.steps, says=f"learned before, in {work}")
        kept = {name: tensor.to(model.device) for name, tensor in kept.items()}
        memory[stage] = Learned(kept, key)
        return Learned(kept, key, rows, tuple(notices))


def tuned(
    model: Model,
    source: Source,
    text: str | TextEmbeds,
    options: OnePictureOptions,
    *,
    after: str = "",
    train_text_encoder: bool = False,
    patches: float | None = None,
) -> Generator[Progress, None, tuple[Model, Learned]]:
    """The model after all of its UNet has learned a source's picture under a text: another value.

    text: a prompt, or what stands for one. after: the key of what made that text, where it was learned. patches: parts
    of the picture are seen (`Views`), under a text that says which (`placed`; its matrix is "position").

    options: decided, so that none is None. Raises like `learned`.
    """
    if options.tuning_steps == 0:
        return model, Learned({}, "")
    settings, parts = fit_options(options), ["unet"]
    if train_text_encoder:
        parts += [part for part in model.networks if part != "unet"]
    decided = {"text": text if isinstance(text, str) else after, "parts": parts, "patches": patches}

    def attach() -> Learner:
        networks, parameters = dict(model.networks), dict[str, nn.Parameter]()
        for part in parts:
            own = {
                name: weight.detach().to(learned_in(weight), copy=True)
                for name, weight in networks[part].named_parameters()
            }
            networks[part] = shared(networks[part], own)
            parameters |= {f"{part}.{name}": each for name, each in networks[part].named_parameters()}
        learner, views = _with(model, networks), Views(model, source, settings.seed, patches)
        embeds = model.encode_text([text]) if isinstance(text, str) else text
        if patches is not None:
            parameters["position"] = _position(embeds)

        def loss(number: int) -> tuple[Tensor, int]:
            batch, boxes = views.batch(number, settings.batch_size)
            own = embeds
            if train_text_encoder and isinstance(text, str):
                own = learner.encode_text([text], gradients=True)
            shown = own.expand(settings.batch_size)
            if patches is not None:
                shown = placed(shown, boxes, parameters["position"])
            return losses(learner, batch, Conditioning(shown)).mean(), settings.batch_size

        def kept(found: Mapping[str, Tensor]) -> Kept:
            """What was added to the weights, in the model's own type."""
            base = model.weights
            return {
                name: (own - base[name].to(own)).to(base[name].dtype) if name in base else own
                for name, own in found.items()
            }

        return Learner(parameters, loss, kept)

    found = yield from learned(
        model, source, "learning the picture", decided, settings, attach, options.tuned_in
    )
    networks = {
        part: shared(
            network,
            {
                name: (weight.detach().to(learned_in(weight)) + found.tensors[f"{part}.{name}"]).to(
                    weight.dtype
                )
                for name, weight in network.named_parameters()
            },
        )
        if part in parts
        else network
        for part, network in model.networks.items()
    }
    return _with(model, networks), found


def fit_options(
    options: OnePictureOptions, steps: int | None = None, rate: float | None = None
) -> FitOptions:
    """How to optimise, by decided options: plain Adam at a constant rate, as the papers do. steps, rate: others than
    those of the fine-tuning."""
    return parse(
        FitOptions,
        {
            "steps": options.tuning_steps if steps is None else steps,
            "learning_rate": options.tuning_rate if rate is None else rate,
            "batch_size": options.tuning_batch,
            "seed": options.tuning_seed,
            "weight_decay": 0.0,
            "checkpoint_every": _CHECKPOINT_EVERY,
        },
    )


def placed(
    text: TextEmbeds, boxes: Sequence[Box], position: Float[Tensor, "features channels"]
) -> TextEmbeds:
    """Texts that also say which part of the picture their rows show: γ(box) · position is added to every token.

    γ has sines and cosines of the box's corners in octaves. At a position of zeros the text is as it was.
    """
    corners = torch.tensor(boxes, dtype=position.dtype, device=position.device)
    rates = torch.pi * 2.0 ** torch.arange(_OCTAVES, dtype=position.dtype, device=position.device)
    angles = (corners[:, :, None] * rates).flatten(1)
    added = torch.cat([angles.sin(), angles.cos()], 1) @ position
    hidden = text.hidden + added[:, None].to(text.hidden)
    return TextEmbeds(hidden, text.pooled, text.spots)


def _position(text: TextEmbeds) -> nn.Parameter:
    """The matrix of `placed`, of zeros."""
    like = text.hidden
    return nn.Parameter(
        torch.zeros(2 * 4 * _OCTAVES, like.shape[-1], dtype=learned_in(like), device=like.device),
        requires_grad=False,
    )


def _with(model: Model, networks: Mapping[str, Any]) -> Model:
    """The model with other networks, and the words and concepts that it has."""
    found = model.taught(networks, model.text.placeholders, concepts=model.concepts)
    found.uses = model.uses
    return found


def _shown(source: Source) -> dict[str, Any]:
    """What decides what a model sees of a source's picture."""
    size = list(source.latent_size)
    if source.picture is None:
        content = source.z_0.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        return {"latents": hashlib.sha256(content).hexdigest(), "size": size}
    own = source.picture
    return {"sha256": own.record.sha256, "box": list(own.box), "size": size}


def _optimised(
    model: Model,
    stage: str,
    key: str,
    settings: FitOptions,
    learner: Learner,
    work: Path | None,
    notices: list[str],
) -> Generator[Progress, None, tuple[Kept, int]]:
    checkpoints = None if work is None else Checkpoints(work, {"key": key})
    state = None if checkpoints is None else checkpoints.last()
    rows, recent = 0, list[float]()
    with _learning(learner.parameters.values()):
        steps = fit(
            learner.parameters,
            learner.loss,
            settings,
            autocast=_autocast(model),
            scaled=model.dtype == torch.float16,
            state=state,
            save=None if checkpoints is None else checkpoints.save,
        )
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                found = learner.kept(end.value)
                break
            rows += step.rows
            recent = [*recent[-19:], step.loss]
            told = f"loss {sum(recent) / len(recent):.4f}"
            yield Progress(stage, step.number, step.total, None, step.rows, step.rows, told)
    notices += [] if checkpoints is None else checkpoints.ignored
    return {name: tensor.detach() for name, tensor in found.items()}, rows


@contextmanager
def _learning(parameters: Any) -> Generator[None, None, None]:
    """Let parameters learn, for the block."""
    learning = list[nn.Parameter](parameters)
    for each in learning:
        each.requires_grad_(True)
    try:
        yield
    finally:
        for each in learning:
            each.requires_grad_(False)
            each.grad = None


def _autocast(model: Model) -> AbstractContextManager[Any]:
    """The context of forward passes: what learns is in float32, the networks compute in the model's own type."""
    if model.dtype in (torch.float32, torch.float64):
        return nullcontext()
    return torch.autocast(model.device.type, model.dtype)


@contextmanager
def _held(work: Path) -> Generator[None, None, None]:
    with ExitStack() as ending:
        try:
            ending.enter_context(sole(work / ".lock"))
        except BlockingIOError as error:
            raise OutputError(
                f"another process learns the same picture in {work}: wait for it, or name another folder (tuned_in)"
            ) from error
        yield


def _write(path: Path, tensors: Kept, key: str, made_from: Mapping[str, Any]) -> None:
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"key": key, "made_from": json.dumps(made_from, sort_keys=True), "sha256": _checksum(plain)}
    with atomic_write(path) as file:
        file.write(tensorfiles.content(plain, metadata))


def _read(path: Path, key: str, notices: list[str]) -> Kept | None:
    """What is kept by this key; None where there is nothing. What is damaged is named in `notices` and passed over."""
    if not path.is_file():
        return None
    try:
        with cast(Any, safe_open(path, framework="pt")) as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors: Kept = {name: file.get_tensor(name) for name in file.keys()}
        if metadata["key"] != key or metadata["sha256"] != _checksum(tensors):
            raise ValueError("its checksum does not fit its content")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        notices.append(
            f"{path} is damaged and was passed over ({short(str(error))}): the picture is learned again"
        )
        return None
    return tensors


def _checksum(tensors: Kept) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
