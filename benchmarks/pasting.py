"""Bringing an edit back into its picture: the seam that a mask leaves, and what is kept, beside plain pasting.

    python benchmarks/pasting.py

Rendered scenes that no other figure is measured on are edited inside of a rectangle around the thing that changes, as
a user would draw it, at the model's size and at four times that. *Plain* puts the model's rendering inside of the mask
and the file outside of it; *soft* blurs the mask's edge by two pixels of the rendering first, which gives up the
outside. The seam is the mean step from one side of the mask's edge to the other, in grey levels, over that of the
unedited picture: what is above 0 was not there before.

    python benchmarks/pasting.py --chains

edits a picture ten times, there and back and there again, each time what came of the last, and measures how far what no
edit named is from the first picture.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image, ImageFilter

import wordbrush
from wordbrush.evaluation.bench.cases import Case, split
from wordbrush.pocket import render

KINDS = ("change object", "change colour", "delete object", "change size")
SEED, MARGIN = 9104, 6 / 128  # of the picture, around the true mask
Pixels = UInt8[np.ndarray, "h w 3"]
Mask = Bool[np.ndarray, "h w"]


def rectangle(mask: Mask, size: int) -> Mask:
    """The rectangle around a mask, with a margin, at a picture's size."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    margin, scale = round(MARGIN * size), size / len(mask)
    top, bottom, left, right = (
        round(scale * edge) for edge in (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1)
    )
    found = np.zeros((size, size), bool)
    found[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True
    return found


def step(pixels: Pixels, mask: Mask) -> float:
    """The mean step across the mask's edge, in levels."""
    values = pixels.astype(float)
    across = [
        np.abs(np.diff(values, axis=axis)).mean(-1)[np.diff(mask.astype(int), axis=axis) != 0]
        for axis in (0, 1)
    ]
    return float(np.concatenate(across).mean())


def psnr(one: Pixels, other: Pixels, where: Mask) -> float:
    """In dB; infinite for equal pixels."""
    error = float(((one.astype(float) - other.astype(float)) ** 2)[where].mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def plain(own: Pixels, rendering: Pixels, mask: Mask) -> Pixels:
    """The rendering inside of the mask, the file outside."""
    return np.where(mask[..., None], rendering, own)


def soft(own: Pixels, rendering: Pixels, mask: Mask) -> Pixels:
    """The same with a blurred mask."""
    radius = 2 * len(mask) / 128
    grey = Image.fromarray(mask.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(radius))
    share = np.asarray(grey, dtype=float)[..., None] / 255
    return np.rint(share * rendering + (1 - share) * own).astype(np.uint8)


def measured(
    model: wordbrush.Model, cases: Sequence[Case], size: int
) -> dict[str, list[tuple[float, float, float]]]:
    """For each way of pasting: the seam, PSNR outside and PSNR inside to the truth, of each case."""
    found: dict[str, list[tuple[float, float, float]]] = {}
    for case in cases:
        if case.mask.all():
            continue
        own, truth = (np.asarray(render(scene, size)) for scene in (case.source, case.target))
        mask = rectangle(case.mask, size)
        result = wordbrush.edit(
            model, Image.fromarray(own), case.target_prompt, prompt=case.source_prompt, mask=mask
        )
        left, top, right, bottom = map(round, result.source.picture.box)
        enlarged = own.copy()
        part = result.rendering.resize((right - left, bottom - top), Image.Resampling.BICUBIC)
        enlarged[top:bottom, left:right] = np.asarray(part)
        ways = {
            "plain": plain(own, enlarged, mask),
            "soft": soft(own, enlarged, mask),
            "wordbrush": np.asarray(result.image),
        }
        for name, pixels in ways.items():
            seam = step(pixels, mask) - step(own, mask)
            found.setdefault(name, []).append((seam, psnr(pixels, own, ~mask), psnr(pixels, truth, mask)))
    return found


def chained(model: wordbrush.Model, case: Case, way: str) -> list[float]:
    """PSNR to the first picture, after each of ten edits, of what is two latents away from what changes."""
    names = [thing.name for thing in case.source.things if thing not in case.target.things]
    after = [thing.name for thing in case.target.things if thing not in case.source.things]
    prompts, words = (case.source_prompt, case.target_prompt), (names, after or names)
    grown = Image.fromarray(case.mask.astype(np.uint8) * 255).filter(ImageFilter.MaxFilter(33))
    unnamed, own = np.asarray(grown) == 0, np.asarray(case.picture)
    picture, found = case.picture, list[float]()
    for k in range(10):
        where = (
            {"mask": case.mask} if way == "mask" else {"mask_words": words[k % 2]} if way == "words" else {}
        )
        result = wordbrush.edit(model, picture, prompts[(k + 1) % 2], prompt=prompts[k % 2], **where)
        picture = result.rendering if way == "rendering" else result.image
        found.append(psnr(np.asarray(picture), own, unnamed))
    return found


def chains(model: wordbrush.Model, count: int) -> None:
    """Print the table of chains."""
    print("| change | way | after the first edit, dB | after the tenth | chains that stay within 0.5 dB |")
    print("|---|---|---:|---:|---:|")
    for kind in ("change object", "change colour", "change size"):
        for way in ("rendering", "pasted", "words", "mask"):
            runs = [chained(model, case, way) for case in split(SEED, count, kind)]
            first, last = (np.median([run[k] for run in runs]) for k in (0, -1))
            steady = sum(run[-1] == run[0] or run[-1] > run[0] - 0.5 or run[-1] > 60 for run in runs)
            print(f"| {kind} | {way} | {first:.1f} | {last:.1f} | {steady} of {len(runs)} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="cases of each kind")
    parser.add_argument("--chains", action="store_true")
    options = parser.parse_args()
    count = options.count
    torch.set_num_threads(1)
    model = wordbrush.Model.load("pocket")
    if options.chains:
        chains(model, count)
        return
    print("| picture | change | pasting | seam, levels | PSNR outside, dB | PSNR inside, to the truth, dB |")
    print("|---|---|---|---:|---:|---:|")
    for size in (128, 512):
        for kind in KINDS:
            for name, rows in measured(model, split(SEED, count, kind), size).items():
                seam, outside, inside = np.mean(rows, axis=0)
                print(
                    f"| {size} px | {kind} | {name} | {seam:.1f} | {outside:.1f} | {inside:.1f} |", flush=True
                )


if __name__ == "__main__":
    main()
