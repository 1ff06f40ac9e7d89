"""A source: everything an edit needs to know of the picture it starts from.

A source made from a seed and one inverted from a photograph look the same to an edit. Both know the latents that the
source's row has at each step, and the null embeddings to guide the targets with. A source can be saved: invert once,
edit as often as you like.
"""

import hashlib
import json
import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from annotated_types import Len
from jaxtyping import Float
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor

from wordbrush import tensorfiles
from wordbrush.denoise import SourceRow
from wordbrush.errors import SourceError, short
from wordbrush.files import Opened, atomic_write
from wordbrush.guidance import TextGuidance
from wordbrush.images import to_image
from wordbrush.inputs import AppliedConcept, FileRecord, flags, listed
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.options import RecordOptions
from wordbrush.picture import Picture
from wordbrush.reading import json_text
from wordbrush.recording import Reads, Recording, shapes
from wordbrush.schedule import Level, Schedule, training_alphas_cumprod
from wordbrush.states import States, restored

_FORMAT, _VERSION = "wordbrush.source", 2
_RECORDING = "recording."  # before the names of its tensors


@dataclass(frozen=True, eq=False, repr=False)
class Source:
    """A prompt, and the latents that lead to its picture.

    states: where the latents are at each step.
    null: the embeds that stand for "no text" when guiding; one row, or one per step (null-text inversion).
    guidance_scale: what the source was made for, and an edit's default.
    method: "seed", or the inversion's name. options: the method's, as given.
    picture: the picture it was made of, unless it was generated. saved: the file it was loaded from.
    recording: what edits read of it, so that they need not compute it again (`record`). concepts: those that the model
    had.

    >>> model = Model.load("pocket")
    >>> from_seed(model, "a cat on a beach", seed=7, steps=2).save("cat.source")
    >>> source = Source.load("cat.source", model)
    >>> source.prompt, source.method, source.image(model).size
    ('a cat on a beach', 'seed', (128, 128))
    """

    prompt: str
    states: States
    null: TextEmbeds
    schedule: Schedule
    guidance_scale: float
    method: str
    model_hash: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    picture: Picture | None = None
    saved: FileRecord | None = None
    recording: Recording | None = None
    concepts: tuple[AppliedConcept, ...] = ()

    @property
    def steps(self) -> int:
        """Number of sampling steps."""
        return self.schedule.steps

    @property
    def z_T(self) -> Float[Tensor, "1 c h w"]:  # noqa: N802 - the equation's name
        """The noise that sampling starts from."""
        return self.states.at(0)

    @property
    def z_0(self) -> Float[Tensor, "1 c h w"]:
        """The latents of the picture."""
        return self.states.at(self.steps)

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of the latents."""
        height, width = self.z_T.shape[-2:]
        return height, width

    @cached_property
    def trajectory(self) -> Float[Tensor, "steps_plus_1 c h w"]:
        """The latents before each step, z_T first, and z_0 last."""
        return torch.cat([self.states.at(i) for i in range(self.steps + 1)])

    def text_scale(self, model: Model) -> float:
        """The guidance scale of edits that are guided by text alone: the source's own. The straight path's weighs a
        difference and says nothing of that, so there it is the model's."""
        is_by_text = isinstance(self.states.guidance(self.guidance_scale), TextGuidance)
        return self.guidance_scale if is_by_text else model.defaults.guidance_scale

    def row(self, model: Model) -> SourceRow:
        """The source's row for the sampling loop."""
        return SourceRow(self.states, Conditioning(model.encode_text([self.prompt])), self.recording)

    def unconditional(self) -> Conditioning | list[Conditioning]:
        """The null embeddings as the condition of the branch "null": one for the run, or one for each step."""
        if len(self.null) == 1:
            return Conditioning(self.null)
        return [Conditioning(self.null[i : i + 1]) for i in range(len(self.null))]

    def null_off_path(self, model: Model) -> TextEmbeds:
        """The null embedding for a path that is not the source's: those of each step were found for its own."""
        return self.null if len(self.null) == 1 else model.encode_text([""])

    def late(self, start: float, model: Model) -> "Source":
        """The same source over the last part of its run; `start` of it (0 ≤ start < 1) is left out.

        An edit of it begins from a state that has more of the picture, and changes less. It has as many steps where its
        states are known between the old ones, and else the last of those. It has no recording.
        """
        if start == 0:
            return self
        schedule, states = self.states.late(
            start, self.schedule, training_alphas_cumprod(model.schedule_config)
        )
        null = self.null
        if len(null) > 1:
            null = null[[self.schedule.at(start, i)[0] for i in range(self.steps)]]
        # What was recorded was recorded at other levels.
        return replace(self, schedule=schedule, states=states, null=null, recording=None)

    def encoded(self, model: Model) -> Float[Tensor, "1 c h w"]:
        """The latents of the picture that it was made of, as the autoencoder encodes it; z_0 of a generated source.
        An inversion's own z_0 may differ from them."""
        if self.picture is None:
            return self.z_0
        height, width = self.size(model)
        return model.encode_image(self.picture.seen(height, width)).to(self.z_0)

    def size(self, model: Model) -> tuple[int, int]:
        """Height and width of the model's rendering, in pixels."""
        height, width = self.z_T.shape[-2:]
        return height * model.downscale, width * model.downscale

    def __repr__(self) -> str:
        return f"<Source {self.prompt!r:.60}, {self.method}, {self.steps} steps>"

    def made_of(self, path: str | os.PathLike[str], content: bytes | None = None) -> "Source":
        """The same source of a picture, for a record that names the picture's file by this path: with the same bytes,
        or with others of equal pixels."""
        assert self.picture is not None, "this source was made of a seed"
        kept = self.picture.content if content is None else content
        return replace(self, picture=replace(self.picture, path=os.fspath(path), content=kept))

    def image(self, model: Model) -> Image.Image:
        """The model's rendering of the source: z_0, decoded. The picture that it was made of is `picture`."""
        return to_image(self.decoded(model))

    def decoded(self, model: Model) -> Float[Tensor, "3 height width"]:
        """The model's rendering in [−1, 1]; decoded once."""
        kept: tuple[str, Tensor] | None = self.__dict__.get("_decoded")
        if kept is None or kept[0] != model.hash:
            kept = model.hash, model.decode(self.z_0.to(model.device))[0].cpu()
            self.__dict__["_decoded"] = kept
        return kept[1]

    def check(self, model: Model) -> None:
        """Raise `SourceError` unless the source was made with this model, with its concepts, in as many chunks."""
        if self.model_hash != model.hash:
            if said := _other_concepts(self.concepts, model.concepts):
                raise SourceError(said)
            if chunks := model.chunks_of(self.model_hash):
                raise SourceError(
                    f"expected a source with prompts in {_counted(model.chunks)} of the text encoder's context, got "
                    f"one with {chunks}: use model.with_chunks({chunks}), on the command line "
                    f"{'--long-prompt' if chunks > 1 else 'no --long-prompt'}, or invert the picture again"
                )
            raise SourceError(
                f"this source was made with another model or dtype (hash {self.model_hash[:12]}…, {model.name} in "
                f"{str(model.dtype).removeprefix('torch.')} has {model.hash[:12]}…): load the model it was made with "
                "(--model), in the same dtype, or invert the picture again"
            )

    def save(
        self, path: str | os.PathLike[str], opened: Opened = atomic_write, *, recording: bool = False
    ) -> None:
        """Write the source to one file: safetensors, with the rest as JSON in its header. All or nothing.

        Equal sources make equal files. recording: write what is recorded of it, too; it is as large on disk as in
        memory. opened: the function that an open `files.all_or_none` yields, to write the
        source together with other files. Raises `OutputError`.
        """
        tensors, numbers = {**self.states.tensors(), **self.null.tensors("null")}, self.states.numbers()
        picture, recorded = None, None
        if recording and self.recording is not None:
            options = self.recording.options.model_dump()
            recorded = {"options": options, "reads": [astuple(reads) for reads in self.recording.reads]}
            tensors |= _prefixed(self.recording)
        if self.picture is not None:
            picture = {"name": self.picture.path, "box": self.picture.box}
            tensors["picture"] = torch.frombuffer(bytearray(self.picture.content), dtype=torch.uint8)
        header = json.dumps(
            {
                "prompt": self.prompt,
                "states": self.states.kind,
                **({"numbers": numbers} if numbers else {}),
                "levels": [(level.t, level.signal, level.sigma) for level in self.schedule.levels],
                "guidance_scale": self.guidance_scale,
                "method": self.method,
                "options": dict(self.options),
                "model_hash": self.model_hash,
                "picture": picture,
                **({} if recorded is None else {"recording": recorded}),
                **({"concepts": [each.model_dump() for each in self.concepts]} if self.concepts else {}),
            }
        )
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {
            "format": f"{_FORMAT}.{_VERSION}",
            "source": header,
            "sha256": _checksum(header, tensors),
        }
        with opened(path) as file:
            file.write(tensorfiles.content(tensors, metadata))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model) -> "Source":
        """Read a saved source, of this version or the first. Raises `SourceError` if the file is no source, damaged,
        or of another model."""
        with _reported(path):
            header, tensors = _read(path)
            content = tensors.pop("picture", None)
            schedule = Schedule(tuple(header.levels))
            tensors = {name: tensor.to(model.device) for name, tensor in tensors.items()}
            source = cls(
                prompt=header.prompt,
                states=restored(header.states, tensors, schedule, header.numbers),
                null=TextEmbeds(tensors["null.hidden"], tensors.get("null.pooled")),
                schedule=schedule,
                guidance_scale=header.guidance_scale,
                method=header.method,
                model_hash=header.model_hash,
                options=header.options,
                picture=None
                if header.picture is None or content is None
                else Picture(content.numpy().tobytes(), header.picture.name, header.picture.box),
                saved=FileRecord.of(path),
                recording=None
                if header.recording is None
                else Recording(
                    header.recording.options,
                    tuple(header.recording.reads),
                    {
                        name.removeprefix(_RECORDING): tensor
                        for name, tensor in tensors.items()
                        if name.startswith(_RECORDING)
                    },
                ),
                concepts=tuple(header.concepts),
            )
        source.check(model)
        _require_shapes(source, model, path)
        return source


def own_model(path: str | os.PathLike[str], model: Model) -> Model:
    """The model with as many chunks as a saved source was made with; as it is, if the source is another model's.

    Raises `SourceError` like `Source.load`.
    """
    with _reported(path):
        header, _ = _read(path)
    return model.with_chunks(model.chunks_of(header.model_hash) or model.chunks)


class _SavedPicture(BaseModel):
    name: str | None
    box: tuple[float, float, float, float]


class _SavedRecording(BaseModel):
    options: RecordOptions
    reads: list[Reads]


class _Header(BaseModel):
    """What a source file says in words and numbers. It may come from elsewhere, so all of it is checked."""

    model_config = ConfigDict(allow_inf_nan=False)

    prompt: str
    states: str = "trajectory"
    numbers: dict[str, Annotated[float, Field(gt=0, le=1)]] = {}
    levels: Annotated[list[Level], Len(2, 1001)]
    guidance_scale: float = Field(ge=0, le=100)
    method: str
    options: dict[str, Any]
    model_hash: str
    picture: _SavedPicture | None = None
    recording: _SavedRecording | None = None
    concepts: list[AppliedConcept] = []

    @field_validator("levels")
    @classmethod
    def _get_cleaner(cls, levels: list[Level]) -> list[Level]:
        for level in levels:
            if not (level.t in range(100_000) and 0 <= level.signal <= 1 and 0 <= level.sigma <= 1):
                raise ValueError(f"no noise level: {level}")
        for noisy, clean in pairwise(levels):
            if noisy.t < clean.t or noisy.signal > clean.signal or noisy.sigma < clean.sigma:
                raise ValueError(f"the levels are not in order: {noisy} before {clean}")
        return levels


def _require_shapes(source: Source, model: Model, path: str | os.PathLike[str]) -> None:
    """Raise `SourceError` for tensors that are not those of a source of this model."""
    steps, z_T = source.steps, source.z_T  # noqa: N806
    latents = (model.latent_channels, *z_T.shape[-2:])
    null = model.encode_text([""])
    rows = (1, steps)
    expected: dict[str, list[tuple[int, ...]]] = {
        "trajectory": [(steps + 1, *latents)],
        "pivots": [(steps + 1, *latents)],
        "first": [(steps + 1, *latents)],
        "second": [(steps + 1, *latents)],
        "noises": [(steps, *latents)],
        "z_0": [(1, *latents)],
        "noise": [(1, *latents)],
        "null.hidden": [(n, *null.hidden.shape[1:]) for n in rows],
        "null.pooled": [] if null.pooled is None else [(n, *null.pooled.shape[1:]) for n in rows],
    }
    tensors = {**source.states.tensors(), **source.null.tensors("null")}
    if (recording := source.recording) is not None:
        own = shapes(model, source.latent_size, recording.reads)
        expected |= {f"{_RECORDING}{name}": [shape] for name, shape in own.items()}
        tensors |= _prefixed(recording)
        if own.keys() != recording.tensors.keys() or len(recording.reads) != steps:
            raise SourceError(f"{path} is damaged: its recording is not one of {steps} steps of this model")
    if (null.pooled is None) != (source.null.pooled is None):
        raise SourceError(f"{path} is damaged: its null embeddings are of another kind of model")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) not in expected[name] or not tensor.is_floating_point():
            raise SourceError(
                f"{path} is damaged: expected {name} to be floats of shape {expected[name][0]}, got "
                f"{str(tensor.dtype).removeprefix('torch.')} of {tuple(tensor.shape)}"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise SourceError(f"{path} is damaged: {name} is not finite")


def _prefixed(recording: Recording) -> dict[str, Tensor]:
    return {f"{_RECORDING}{name}": tensor for name, tensor in recording.tensors.items()}


@contextmanager
def _reported(path: str | os.PathLike[str]) -> Generator[None]:
    """What reading a source file may raise, as a `SourceError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise SourceError(f"there is no source file {path}") from error
    except SourceError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise SourceError(f"{path} is damaged or no wordbrush source: {_line(error)}") from error


def _other_concepts(made: Sequence[AppliedConcept], now: Sequence[AppliedConcept]) -> str:
    """What to say where a source was made with other concepts than the model has now; nothing where it was not."""
    if {(each.sha256, each.strength) for each in made} == {(each.sha256, each.strength) for each in now}:
        return ""
    known = {each.path: each.sha256 for each in now}
    changed = [each.path for each in made if each.sha256 != known.get(each.path, each.sha256)]
    files = (
        f"; {', '.join(map(str, changed))} is another file now, of other content: use the old one"
        if changed
        else ""
    )
    what = (
        f"give {flags(made)} (in Python wordbrush.apply)"
        if made
        else "leave --concept out (in Python model.base)"
    )
    return (
        f"expected the concepts that this source was made with ({listed(made)}), got {listed(now)}{files}: {what}, or "
        "invert the picture again"
    )


def _counted(chunks: int) -> str:
    return "1 chunk" if chunks == 1 else f"{chunks} chunks"


def _line(error: BaseException) -> str:
    """An error in one short line; of a long report of pydantic's its first entry."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:200]
    return " ".join(str(error).split())[:200]


def _read(path: str | os.PathLike[str]) -> tuple[_Header, dict[str, Tensor]]:
    """The header and the tensors of a source file; raises what the file provokes."""
    with cast(Any, safe_open(Path(path), framework="pt")) as file:
        metadata: dict[str, str] = file.metadata() or {}
        name, _, version = metadata.get("format", "").rpartition(".")
        if name != _FORMAT or not version.isdecimal():
            raise SourceError(
                f"{path} is not a wordbrush source (its format is {short(metadata.get('format'))})"
            )
        if int(version) > _VERSION:
            raise SourceError(
                f"{path} was written by a newer wordbrush (format {version}, this one reads up to {_VERSION}): "
                "update wordbrush, or invert the picture again"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    if metadata["sha256"] != _checksum(metadata["source"], tensors):
        raise SourceError(
            f"{path} is damaged: its checksum does not fit its content; invert the picture again"
        )
    header: Any = json_text(metadata["source"], str(path), SourceError)
    if version == "1":  # it knew trajectories and ᾱ alone
        levels = Schedule.from_alphas([*header["timesteps"], 0], header["alphas"]).levels
        header["levels"] = [(level.t, level.signal, level.sigma) for level in levels]
    header["levels"] = [Level(*level) for level in header["levels"]]
    if header.get("recording") is not None:
        header["recording"]["reads"] = [Reads(*reads) for reads in header["recording"]["reads"]]
    return _Header.model_validate(header), tensors


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    return hashlib.sha256(header.encode() + to_safetensors(dict(tensors))).hexdigest()
