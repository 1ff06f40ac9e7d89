"""What a training writes about itself: a line of JSON for each step and, if asked for, TensorBoard's files.

The lines are the truth. TensorBoard's files, which are written with delay and by another thread, are made from them
again when a run goes on, so that they have each step once, too.
"""

import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from PIL import Image

from wordbrush.errors import OutputError
from wordbrush.extras import need
from wordbrush.files import atomic_write
from wordbrush.fit.loop import Step

_NAME, _BOARD = "log.jsonl", "tensorboard"
_VALUES = ("loss", "norm", "rate")


class Log:
    """The log in a run's folder; steps after `step` are dropped from it: they will be done again."""

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        """Raises `MissingExtraError` where TensorBoard is asked for and not installed, `OutputError`."""
        self._path = folder / _NAME
        self._board: Any = None
        kept = list(_lines(self._path, step))
        with atomic_write(self._path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
        if tensorboard:
            with need("train", "--tensorboard"):
                from torch.utils.tensorboard import SummaryWriter
            shutil.rmtree(folder / _BOARD, ignore_errors=True)
            self._board = SummaryWriter(str(folder / _BOARD))
            for line in kept:
                self._tell(line)

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()

    def add(self, step: Step) -> None:
        """Write a step: its number, loss, norm (null in a step that float16 left out) and rate, and the time in seconds
        since 1970."""
        values = {name: getattr(step, name) for name in _VALUES}
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step.number, **known, "time": round(time.time(), 3)}
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; free disk space and start again"
            ) from error
        self._tell(line)

    def show(self, step: int, image: Image.Image) -> None:
        """Give a sample to TensorBoard."""
        if self._board is not None:
            self._board.add_image("sample", np.asarray(image), step, dataformats="HWC")

    def _tell(self, line: Mapping[str, Any]) -> None:
        if self._board is not None:
            for name in _VALUES if line["norm"] is not None else ("loss", "rate"):
                self._board.add_scalar(name, line[name], line["step"], walltime=line["time"])


def _lines(path: Path, last: int) -> Iterator[dict[str, Any]]:
    """The whole lines of a log up to a step; a killed process may have left half of one."""
    for text in path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else ():
        with suppress(ValueError):
            found: Any = json.loads(text)
            line = cast(dict[str, Any], found) if isinstance(found, dict) else {}
            if {"step", "time", *_VALUES} <= line.keys() and line["step"] <= last:
                yield line
