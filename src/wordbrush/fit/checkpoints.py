"""Checkpoints of a training: whole or not there, the last two kept, and a broken one passed over."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor

from wordbrush.errors import OptionsError, OutputError, WordbrushError
from wordbrush.files import atomic_write
from wordbrush.inputs import sha256
from wordbrush.reading import json_file

_KEPT = 2
_STEP = re.compile(r"step-(\d{7})")
_STATE, _MANIFEST, _RUN = "state.safetensors", "manifest.json", "run.json"


@dataclass(frozen=True, eq=False)
class State:
    """All that a training goes on from: the step that is done, tensors, and numbers."""

    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run, in its folder."""

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """run: what decides the result. A folder of another run is not used.

        Raises `OptionsError` if the folder has the checkpoints of another run.
        """
        self.folder = folder
        self.ignored: list[str] = []
        told = json.loads(json.dumps(run))
        kept = folder / _RUN
        if kept.is_file() and any(self._found()):
            before: Any = json_file(kept, OptionsError)
            if before != told:
                what = _difference(before, told)
                raise OptionsError(
                    f"{folder} has checkpoints of another training ({what}): type its command again to go on with it, "
                    "remove the folder, or choose another --out"
                )
        else:
            with atomic_write(kept) as file:
                file.write(json.dumps(told, indent=1).encode())

    def last(self) -> State | None:
        """The latest that is whole; what is broken is named in `ignored`."""
        for step, path in sorted(self._found(), reverse=True):
            try:
                return _read(step, path)
            except (WordbrushError, SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                self.ignored.append(
                    f"{path} is broken and was passed over ({' '.join(str(error).split()):.80})"
                )
        return None

    def save(self, state: State) -> None:
        """Write a checkpoint; its manifest comes last, and makes it one. Older ones than the last two are removed."""
        path = self.folder / f"step-{state.step:07d}"
        shutil.rmtree(path, ignore_errors=True)  # one that is broken
        content = to_safetensors(
            {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        )
        with atomic_write(path / _STATE) as file:
            file.write(content)
        manifest = {
            "step": state.step,
            "numbers": dict(state.numbers),
            "files": {_STATE: hashlib.sha256(content).hexdigest()},
        }
        with atomic_write(path / _MANIFEST) as file:
            file.write(json.dumps(manifest).encode())
        for _, old in sorted(self._found())[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def remove(self) -> None:
        """Remove them, once the training is done."""
        for _, path in self._found():
            shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            (self.folder / _RUN).unlink()

    def _found(self) -> Iterator[tuple[int, Path]]:
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if match := _STEP.fullmatch(path.name):
                    yield int(match.group(1)), path


def _read(step: int, path: Path) -> State:
    manifest: Any = json_file(path / _MANIFEST, OutputError)
    if manifest["step"] != step or manifest["files"][_STATE] != sha256(path / _STATE):
        raise ValueError("its checksum does not fit its content")
    return State(step, from_safetensors((path / _STATE).read_bytes()), manifest["numbers"])


def _difference(before: Any, now: Mapping[str, Any]) -> str:
    """What two runs differ in, in a few words."""
    if not isinstance(before, dict):
        return "its run.json is damaged"
    then = cast(dict[str, Any], before)
    found = [
        f"{name}: {_short(then.get(name))} then, {_short(now.get(name))} now"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    ]
    return "; ".join(found[:3])


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"


def flattened(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimiser's `state_dict` as tensors and numbers; `nested` is the way back."""
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for number, own in state["state"].items():
        for name, value in own.items():
            where = tensors if isinstance(value, torch.Tensor) else numbers
            where[f"{number}.{name}"] = value
    return tensors, numbers


def nested(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """The "state" of an optimiser's `state_dict`."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in (*tensors.items(), *numbers.items()):
        number, _, name = key.partition(".")
        state.setdefault(int(number), {})[name] = value
    return state
