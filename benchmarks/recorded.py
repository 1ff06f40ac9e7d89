"""What another edit of a recorded picture costs, how far its pixels are off, and how large recordings are.

    python benchmarks/recorded.py
    python benchmarks/recorded.py --memory

Time is processor time, variants interleaved; medians of the ratios within a round, and the quartiles. Sizes follow from
the networks' shapes; one of them is recorded, to check. What was expected is in docs/benchmarks/recorded.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import wordbrush
from shapes import NAMES, build
from wordbrush.editing.prompt_to_prompt.defaults import readable
from wordbrush.model import Model, TextEmbeds
from wordbrush.options import RecordOptions, parse
from wordbrush.recording import kept_in, shapes
from wordbrush.source import Source
from wordbrush.states import States, StraightPath, Trajectory

PICTURE = Path(__file__).parents[1] / "examples" / "cat.png"
SOURCE = "a cat on a beach"
TARGETS = {
    "swap": "a dog on a beach",
    "recolour": "a red cat on a beach",
    "place": "a cat in the snow",
    "add": "a cat and a ball on a beach",
    "remove": "a beach",
    "style": "a pencil sketch of a cat on a beach",
    "light": "a cat on a beach at night",
}
TIMED = ("swap", "recolour", "place")
CHECKED = "mid"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        sizes()
    else:
        model = wordbrush.Model.load("pocket", device="cpu")
        times(model, options.rounds)
        pixels(model)


def cost(run: Callable[[], object]) -> float:
    began = time.process_time()
    run()
    return time.process_time() - began


def times(model: Model, rounds: int) -> None:
    """An edit with and without a recording, and the recording, beside generating source and target."""
    source = wordbrush.invert(model, PICTURE, SOURCE)
    recorded = wordbrush.record(model, source)

    def generated(target: str) -> object:
        return [wordbrush.generate(model, prompt, steps=20) for prompt in (SOURCE, target)]

    print("| change | rows | recorded ÷ generating both | not recorded | recorded ÷ not | recording |")
    print("|---|---:|---:|---:|---:|---:|")
    for name in TIMED:
        target = TARGETS[name]
        runs: tuple[Callable[[], object], ...] = (
            lambda target=target: generated(target),
            lambda target=target: wordbrush.edit(model, recorded, target).image,
            lambda target=target: wordbrush.edit(model, source, target).image,
            lambda: wordbrush.record(model, source),
        )
        for run in runs:
            run()  # warm
        taken = [[cost(run) for run in runs] for _ in range(rounds)]
        rows = [wordbrush.edit(model, each, target).report.unet_rows for each in (recorded, source)]
        cells = [f"{rows[0]} of {rows[1]}"]
        for part, whole in ((1, 0), (2, 0), (1, 2), (3, 0)):
            low, middle, high = statistics.quantiles([each[part] / each[whole] for each in taken], n=4)
            cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def pixels(model: Model) -> None:
    """The largest difference of a pixel to the edit without a recording, in grey levels."""
    print(
        "\n| change | straight, full | straight, half | seed, full | seed, half |\n|---|---:|---:|---:|---:|"
    )
    sources = (
        wordbrush.invert(model, PICTURE, SOURCE),
        wordbrush.from_seed(model, SOURCE, seed=7, steps=20),
    )
    recorded = [
        [source, *(wordbrush.record(model, source, precision=kind) for kind in ("full", "half"))]
        for source in sources
    ]
    for name, target in TARGETS.items():
        cells: list[str] = []
        for each in recorded:
            images = [np.asarray(wordbrush.edit(model, one, target).image).astype(int) for one in each]
            for image in images[1:]:
                off = np.abs(image - images[0])
                cells.append(f"{off.max()} ({(off > 0).mean():.1%})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def sizes() -> None:
    """MB of a recording, for each model and kind of source."""
    made = None
    print("| model | straight, 8 steps | of these without self-attention | 50 steps of a path of its own |")
    print("|---|---:|---:|---:|")
    for name in NAMES:
        model = build(name, torch.float32)
        straight, path = (blank(model, steps, is_straight) for steps, is_straight in ((8, True), (50, False)))
        parts = [megabytes(model, straight), megabytes(model, straight, ".attn1"), megabytes(model, path)]
        print(f"| {name} | {parts[0]:.1f} | {parts[0] - parts[1]:.1f} | {parts[2]:.1f} |", flush=True)
        if name == CHECKED:
            made = wordbrush.record(model, blank(model, 8, True, model.hash)).recording
    print(f"\n{CHECKED}, recorded: {made}")


def megabytes(model: Model, source: Source, of: str = "") -> float:
    """The size of a recording of all that is readable, or of the tensors whose names have a part."""
    kept = kept_in(model, parse(RecordOptions, {}))
    found = shapes(model, source.latent_size, readable(model, source))
    sizes = {
        name: torch.Size(shape).numel()
        * (model.latent_dtype if name.endswith(("clean", "noise")) else kept).itemsize
        for name, shape in found.items()
    }
    return sum(size for name, size in sizes.items() if of in name) / 10**6


def blank(model: Model, steps: int, is_straight: bool, model_hash: str = "") -> Source:
    """A source of zeros: sizes do not depend on what a picture shows."""
    schedule = model.schedule(steps)
    latents = torch.zeros(steps + 1, model.latent_channels, *model.denoiser.size)
    zero = latents[:1]
    states: States = StraightPath(zero, zero, schedule.levels) if is_straight else Trajectory(latents)
    return Source(SOURCE, states, TextEmbeds(torch.zeros(1, 1, 1)), schedule, 3.0, "", model_hash)


if __name__ == "__main__":
    main()
