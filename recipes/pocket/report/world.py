"""Draw a sheet of sampled scenes of the built-in world, each above its caption.

python recipes/pocket/report/world.py [--count 64] [--seed 0] [--split train] [--out runs/pocket/world.webp]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from wordbrush.pocket import caption, render, sample

sys.path.append(str(Path(__file__).parents[1] / "data"))

import figures
from data import RUNS


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="the seed of the first scene")
    parser.add_argument("--split", default="train")
    parser.add_argument("--out", type=Path, default=RUNS / "world.webp")
    options = parser.parse_args()

    seeds = range(options.seed, options.seed + options.count)
    scenes = [sample(seed, split=options.split) for seed in seeds]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figures.save(figures.sheet([(render(scene), caption(scene)) for scene in scenes]), options.out)
    print(f"{options.count} scenes: {options.out}")


if __name__ == "__main__":
    main()
