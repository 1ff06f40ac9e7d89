"""What the edit of a picture file costs with the built-in model: beside generating source and target, and beside direct
inversion.

    python benchmarks/first_edit.py

Expected: an edit on the straight path computes 16 rows of the network, two generated pictures of 20 steps compute 80:
0.20 of the time if rows were all; encoding, decoding twice, bringing the edit back into the picture and reading the
prompts come on top: 0.35 to 0.45. Direct inversion of 20 steps computes 20 + 56 rows: 0.9 to 1.1.

Processor time, variants interleaved; medians of the ratios within a round, and the quartiles.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import wordbrush

PICTURE = Path(__file__).parents[1] / "examples" / "cat.png"
SOURCE = "a cat on a beach"
TARGETS = {
    "swap": "a dog on a beach",
    "colour": "a red cat on a beach",
    "added": "a cat and a ball on a beach",
    "place": "a cat in the snow",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = wordbrush.Model.load("pocket", device="cpu")

    def generated(target: str) -> object:
        return [wordbrush.generate(model, prompt, steps=20) for prompt in (SOURCE, target)]

    def edited(target: str, method: str, steps: int | None) -> object:
        given = {} if steps is None else {"steps": steps}
        source = wordbrush.invert(model, PICTURE, SOURCE, method=method, options=given)
        return wordbrush.edit(model, source, target).image

    def cost(run: Callable[[], object]) -> float:
        began = time.process_time()
        run()
        return time.process_time() - began

    print("| change | straight ÷ generating both | direct, 20 steps ÷ generating both |\n|---|---:|---:|")
    for name, target in TARGETS.items():
        runs = (
            lambda target=target: generated(target),
            lambda target=target: edited(target, "straight", None),
            lambda target=target: edited(target, "direct", 20),
        )
        for run in runs:
            run()  # warm
        rounds = [[cost(run) for run in runs] for _ in range(options.rounds)]
        cells: list[str] = []
        for i in (1, 2):
            ratios = [times[i] / times[0] for times in rounds]
            low, middle, high = statistics.quantiles(ratios, n=4)
            cells.append(f"{middle:.2f} ({low:.2f}–{high:.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
