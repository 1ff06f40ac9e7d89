"""Checkpoints of a training: whole or not there, the last two kept, and a broken one passed over."""

import hashlib
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor

from wordbrush import tensorfiles
from wordbrush.errors import OptionsError, OutputError, WordbrushError
from wordbrush.files import all_or_none, atomic_write, inside
from wordbrush.reading import json_mapping

_KEPT = 2
_STEP = re.compile(r"step-(\d{7})")
_MANIFEST, _NUMBERS, _RUN = "manifest.json", "numbers.json", "run.json"


@dataclass(frozen=True, eq=False)
class State:
    """All that a training goes on from: the step that is done, tensors by kind and name, and numbers."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: Mapping[str, Any]


class Checkpoints:
    """The checkpoints of one run, in its folder, which is made when the first one is saved.

    ignored: what was passed over by `last`, in words.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any]) -> None:
        """run: what decides the result. A folder of another run is not used.

        Raises `OptionsError` if the folder has the checkpoints of another run.
        """
        self.folder = folder
        self.ignored: list[str] = []
        self._run: dict[str, Any] = json.loads(json.dumps(run))
        if any(self._found()) and (what := self._other()):
            raise OptionsError(
                f"expected checkpoints of this training in {folder}, got another's ({what}): type its command again to "
                "go on with it, remove the folder, or choose another --out"
            )

    def last(self) -> State | None:
        """The latest that is whole; what is broken is named in `ignored`.

        The rests of older ones, of whose removal a kill came in the middle, are removed.
        """
        self.ignored.clear()
        found = sorted(self._found(), reverse=True)
        for number, (step, path) in enumerate(found):
            try:
                state = _read(step, path)
            except (WordbrushError, SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
                self.ignored.append(
                    f"{path} is broken and was passed over ({' '.join(str(error).split()):.80})"
                )
                continue
            for _, older in found[number + 1 :]:
                if not (older / _MANIFEST).exists():
                    _remove(older)
            return state
        return None

    def save(self, state: State) -> None:
        """Write a checkpoint; its manifest comes last, and makes it one. Raises `OutputError`.

        Those before the last two are removed, and broken ones that were passed over.
        """
        if not (self.folder / _RUN).is_file() or self._other():
            with atomic_write(self.folder / _RUN) as file:
                file.write(json.dumps(self._run, indent=1).encode())
        path = self.folder / f"step-{state.step:07d}"
        for step, old in self._found():
            if step >= state.step:
                _remove(old)
        hashes: dict[str, str] = {}
        with all_or_none() as opened:
            for name, content in _contents(state):
                hashes[name] = hashlib.sha256(content).hexdigest()
                with opened(path / name) as file:
                    file.write(content)
        manifest = {"step": state.step, "files": hashes}
        with atomic_write(path / _MANIFEST) as file:
            file.write(json.dumps(manifest).encode())
        for _, old in sorted(self._found())[:-_KEPT]:
            _remove(old)

    def remove(self) -> None:
        """Remove them, once the training is done."""
        for _, path in self._found():
            _remove(path)
        with suppress(OSError):
            (self.folder / _RUN).unlink()

    def _found(self) -> Iterator[tuple[int, Path]]:
        for path in list(self.folder.iterdir()) if self.folder.is_dir() else ():
            if match := _STEP.fullmatch(path.name):
                yield int(match.group(1)), path

    def _other(self) -> str:
        """In what the folder's run is another one than this, or ""."""
        try:
            before = json_mapping(self.folder / _RUN, OptionsError)
        except OptionsError as error:
            return str(error)
        return "; ".join(_differences(before, self._run)[:3])


def _read(step: int, path: Path) -> State:
    manifest = json_mapping(path / _MANIFEST, OutputError)
    if manifest["step"] != step:
        raise ValueError(f"it says that it is of step {manifest['step']}")
    tensors: dict[str, dict[str, Tensor]] = {}
    for name, expected in dict(manifest["files"]).items():
        content = inside(path, name).read_bytes()
        if hashlib.sha256(content).hexdigest() != expected:
            raise ValueError(f"the checksum of {name} does not fit its content")
        if name != _NUMBERS:
            tensors[Path(name).stem] = from_safetensors(content)
    return State(step, tensors, json_mapping(path / _NUMBERS, OutputError))


def _contents(state: State) -> Iterator[tuple[str, bytes]]:
    """The files of a checkpoint, one after the other: all together are large."""
    for kind, tensors in state.tensors.items():
        yield f"{kind}.safetensors", tensorfiles.content(tensors)
    yield _NUMBERS, json.dumps(dict(state.numbers)).encode()


def _remove(path: Path) -> None:
    """Remove a checkpoint: its manifest first, so that a rest of it is none."""
    with suppress(OSError):
        (path / _MANIFEST).unlink()
    shutil.rmtree(path, ignore_errors=True)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What two runs differ in, a few words each; of what has names itself, by those."""
    found: list[str] = []
    for name in sorted({*before, *now}):
        both: tuple[Any, Any] = before.get(name), now.get(name)
        if all(isinstance(each, dict) for each in both):
            found += _differences(*both)
        elif both[0] != both[1]:
            found.append(f"{name}: {_short(both[0])} then, {_short(both[1])} now")
    return found


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
