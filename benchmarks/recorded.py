"""What another edit of a recorded picture costs, what a recording takes, and how far its pixels are off.

    python benchmarks/recorded.py                 time and pixels, with the built-in model
    python benchmarks/recorded.py --memory        the size of recordings, from the models' shapes
    python benchmarks/recorded.py --memory --check mid    and one that is made

Time is processor time, variants interleaved; medians of the ratios within a round, and the quartiles. What was expected
is in docs/benchmarks/recorded.md.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from shapes import NAMES, RANDOM, build

import wordbrush
from wordbrush.attention import Site
from wordbrush.editing.prompt_to_prompt.defaults import readable
from wordbrush.model.denoiser import Denoiser
from wordbrush.options import RecordOptions
from wordbrush.recording import kept_in, shapes

PICTURE = Path(__file__).parents[1] / "examples" / "cat.png"
SOURCE = "a cat on a beach"
TARGETS = {
    "swap": "a dog on a beach",
    "recolour": "a red cat on a beach",
    "place": "a cat in the snow",
    "add": "a cat and a ball on a beach",
    "remove": "a beach",
    "style": "a pencil sketch of a cat on a beach",
}
TIMED = ("swap", "recolour", "place")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--check", choices=NAMES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        sizes(options.check)
    else:
        model = wordbrush.Model.load("pocket", device="cpu")
        times(model, options.rounds)
        pixels(model)
