"""What a training writes about itself: a line of JSON for each step and, if asked for, TensorBoard's files."""

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from wordbrush.errors import OutputError
from wordbrush.extras import need
from wordbrush.files import atomic_write
from wordbrush.fit.loop import Step

_NAME = "log.jsonl"


class Log:
    """The log in a run's folder; steps after `step` are dropped from it: they will be done again."""

    def __init__(self, folder: Path, step: int, *, tensorboard: bool = False) -> None:
        """Raises `MissingExtraError` where TensorBoard is asked for and not installed, `OutputError`."""
        self._path, self._began = folder / _NAME, time.monotonic()
        self._board: Any = None
        kept = [line for line in _lines(self._path) if line.get("step", 0) <= step]
        with atomic_write(self._path) as file:
            file.write("".join(json.dumps(line) + "\n" for line in kept).encode())
        if tensorboard:
            with need("train", "--tensorboard"):
                from torch.utils.tensorboard import SummaryWriter
            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> "Log":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._board is not None:
            self._board.close()

    def add(self, step: Step) -> None:
        """Write a step."""
        values = {"loss": step.loss, "norm": step.norm, "rate": step.rate}
        line = {"step": step.number, **values, "seconds": round(time.monotonic() - self._began, 3)}
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise OutputError(
                f"cannot write {self._path}: {error.strerror}; free disk space and start again"
            ) from error
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step.number)

    def show(self, step: int, image: Image.Image) -> None:
        """Give a sample to TensorBoard."""
        if self._board is not None:
            self._board.add_image("sample", np.asarray(image), step, dataformats="HWC")


def _lines(path: Path) -> list[Mapping[str, Any]]:
    """The whole lines of a log; a killed process may have left half of one."""
    found: list[Mapping[str, Any]] = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return found
