"""What a user waits for: the help text, an edit from the command line, and rendered scenes of the built-in world.

    python benchmarks/waiting.py

Measures wall time, and starts a new process for every command, so the machine should be idle.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wordbrush.pocket import render, sample

ROOT = Path(__file__).parents[1]
WORDBRUSH = (sys.executable, "-m", "wordbrush")
EDIT = ("edit", "examples/cat.png", "--source", "a cat on a beach", "--target", "a dog on a beach")
SCENES = 500


def seconds(*command: str) -> float:
    """Wall time of a command."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - began


def rendered(first: int) -> float:
    """New scenes rendered per second by one thread."""
    scenes = [sample(seed) for seed in range(first, first + SCENES)]
    began = time.perf_counter()
    for scene in scenes:
        render(scene)
    return SCENES / (time.perf_counter() - began)


def main() -> None:
    helps = [seconds(*WORDBRUSH, "--help") for _ in range(7)]
    print(f"wordbrush --help: {statistics.median(helps):.2f} s")
    with tempfile.TemporaryDirectory() as folder:
        edits = [seconds(*WORDBRUSH, *EDIT, "--out", f"{folder}/{i}.png") for i in range(3)]
    print(f"wordbrush edit of a picture file, direct inversion, 50 steps: {statistics.median(edits):.1f} s")
    rates = [rendered(SCENES * i) for i in range(4)]
    print(f"scenes rendered a second by one thread: {rates[0]:.0f} at first, {rates[-1]:.0f} later")


if __name__ == "__main__":
    main()
