"""Pickles, opened by `sandbox` in a process of its own."""

import subprocess
import sys
from pathlib import Path

from wordbrush.concept.exchange import sandbox
from wordbrush.errors import ConceptError

SECONDS, WAIT = 120, 600
"""Of the processor's time that a pickle may take, and of waiting for it."""

_SPARE = 1024**3  # bytes beside those of the tensors


def unpickled(path: Path, folder: Path) -> Path:
    """The tensors of a pickle as a safetensors file of the same name in a folder, and those of the pickles beside it
    that belong to it: "<new1>.bin", and a second one for SDXL.

    Raises `ConceptError` for a pickle that holds anything but tensors, numbers and texts, that takes too long or too
    much memory, or that is none.
    """
    beside = {*path.parent.glob(f"<*>{path.suffix}"), path.with_stem(f"{path.stem}_2")} - {path}
    for other in sorted(beside):
        if other.is_file():
            _unpickled(other, folder)
    return _unpickled(path, folder)


def _unpickled(path: Path, folder: Path) -> Path:
    target = folder / f"{path.stem}.safetensors"
    memory = 4 * path.stat().st_size + _SPARE
    program = [sys.executable, "-P", sandbox.__file__, path, target, SECONDS, memory]
    try:
        done = subprocess.run(
            list(map(str, program)), capture_output=True, stdin=subprocess.DEVNULL, timeout=WAIT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ConceptError(
            f"expected tensors in {path}, but opening it took too long: do not trust it"
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = (
            lines[-1] if done.returncode > 0 and lines else "it took too much time or memory, and was ended"
        )
        raise ConceptError(
            f"expected tensors alone in {path}, but {reason}: it is not opened further; do not trust it"
        )
    return target
