"""What each editing method costs, relative to plain generation on the same model.

    python benchmarks/editing.py                                   # every method on the built-in model
    python benchmarks/editing.py --model mid --steps 4 --method prompt-to-prompt

One process, one thread. A round generates a picture and then edits with every method; ratios are taken within the
round, and the median is reported with the quartiles. Times are processor time, so other load matters little. A method
is measured with its defaults after the inversion that suits it, both with the generation's number of steps.

rows       what the UNet computed, for the inversion and for the edit of one target; "+ n" were differentiated as well,
           which costs about two forward passes more. Plain generation with guidance computes two rows a step.
           At the papers' 50 steps: `--steps 50 --rounds 1`, beside their count (docs/benchmarks/editing.md)
inversion, edit   time, relative to generating one picture with guidance
memory     the peak resident set of the edit above what was resident before it, relative to that of the generation
"""

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import wordbrush
from shapes import NAMES, build
from wordbrush.editing import METHODS
from wordbrush.methods import key, typed
from wordbrush.model import Model
from wordbrush.progress import Progress

SOURCE, TARGET = "a cat on a beach", "a dog on a beach"


PINNED = "direct"
"""The inversion of a method that suits every one."""

FOLLOWED = {"guide_clip": "pocket"}
"""The options of methods that follow a CLIP."""


@dataclass
class Cost:
    """What one computation took."""

    seconds: float
    mebibytes: float
    rows: int
    gradient_rows: int

    def __str__(self) -> str:
        return f"{self.rows} + {self.gradient_rows}" if self.gradient_rows else str(self.rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=NAMES, action="append")
    parser.add_argument("--method", action="append", help="by default every one")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    names = list(map(key, options.method or METHODS))
    for name in options.model or ["pocket"]:
        measure(build(name, torch.float32), name, names, options.steps, options.rounds)


def measure(model: Model, name: str, methods: list[str], steps: int, rounds: int) -> None:
    """Print a row for each method."""
    picture = wordbrush.generate(model, SOURCE, steps=steps)
    plain: list[Cost] = []
    taken: dict[str, list[tuple[Cost, Cost]]] = {method: [] for method in methods}
    for _ in range(rounds):
        cost, _ = taking(lambda tell: wordbrush.generate(model, TARGET, steps=steps, on_progress=tell))
        plain.append(cost)
        for method in methods:
            after = METHODS[method].after or PINNED
            up, source = taking(
                lambda tell, after=after: wordbrush.invert(
                    model, picture, SOURCE, method=after, options={"steps": steps}, on_progress=tell
                )
            )
            options = FOLLOWED if "clip" in METHODS[method].reads else {}
            down, _ = taking(
                lambda tell, source=source, method=method, options=options: (
                    wordbrush.edit(
                        model, source, TARGET, method=method, options=options, on_progress=tell
                    ).image
                )
            )
            taken[method].append((up, down))
    print(f"\n{name}, {steps} steps, {rounds} rounds; plain generation: {plain[0]} rows\n")
    print("| method | after | rows | | time ÷ plain | | memory ÷ plain |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for method, costs in taken.items():
        up, down = costs[-1]
        times = [spread([pair[part].seconds for pair in costs], plain) for part in (0, 1)]
        least = statistics.median(each.mebibytes for each in plain)
        # A small model's run fits into memory that the allocator already holds: then there is no ratio.
        memory = f"{statistics.median(pair[1].mebibytes for pair in costs) / least:.2f}" if least > 1 else "–"
        after = METHODS[method].after or PINNED
        print(
            f"| {typed(method)} | {after} | {up} | {down} | {times[0]} | {times[1]} | {memory} |", flush=True
        )


def taking(run: Callable[[Callable[[Progress], None]], Any]) -> tuple[Cost, Any]:
    """What a computation takes, and its result."""
    rows = gradient_rows = 0

    def tell(progress: Progress) -> None:
        nonlocal rows, gradient_rows
        rows += progress.rows
        gradient_rows += progress.gradient_rows

    resident = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    began = time.process_time()
    result = run(tell)
    seconds = time.process_time() - began
    return Cost(seconds, _status("VmHWM") - resident, rows, gradient_rows), result


def spread(seconds: list[float], plain: list[Cost]) -> str:
    """The median of the ratios, and the quartiles where there are several."""
    ratios = [each / one.seconds for each, one in zip(seconds, plain, strict=True)]
    if len(ratios) < 3:
        return f"{statistics.median(ratios):.2f}"
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def _status(name: str) -> float:
    """A size of this process, in MiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    raise KeyError(name)


if __name__ == "__main__":
    main()
