"""Train ELITE's mappers for the built-in model, and write the folder that ships.

    python recipes/pocket/elite/train.py --part global --minutes 35
    python recipes/pocket/elite/train.py --part local --minutes 25     # on top of it, which stays as it is
    python recipes/pocket/elite/train.py --export src/wordbrush/pocket/weights/elite

Needs the output of `examples.py`. Writes to `runs/pocket/elite`: `global.pt` and `local.pt` (to go on from) and
`log.jsonl`. A run that was stopped goes on at its last checkpoint. What a step is trained on depends only on its
number; `--minutes` is wall time, earlier calls included, and the learning rate falls with it.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from wordbrush.attention import Heads, Site
from wordbrush.model import Model
from wordbrush.pocket.vocabulary import COLOURS, NAMES
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.training.elite.features import Eye
from wordbrush.training.elite.mappers import Mappers, Shape
from wordbrush.training.elite.teaching import Classroom, Lesson

sys.path.append(str(Path(__file__).parents[1] / "data"))

from data import RUNS
from examples import GRID, LEVELS, SHARD
from world import WORD, Likeness

ROWS = 16
NAMING = 300  # steps of `name_things`
RATE = {"global": 7e-4, "local": 1e-3}
KEEP = 0.998  # decay of the averaged weights per step
GATE = 0.8
OUTSIDE = 0.25  # how much a cell counts that does not show the thing
CHECKPOINT, LOG, MEASURE = 60, 20, 300  # seconds, steps, seconds


class Examples:
    """All shards in memory. likenesses: of the things."""

    def __init__(self, paths: list[Path]) -> None:
        seeds = [int(path.stem[-4:]) * SHARD + i for path in paths if "-" in path.stem for i in range(SHARD)]
        self.likenesses = [Likeness.drawn(random.Random(f"elite/{seed}")) for seed in seeds]
        shards: list[dict[str, Any]] = [torch.load(path, weights_only=True) for path in paths]
        self.captions = [caption for each in shards for caption in each["captions"]]
        self.tensors = {
            name: torch.cat([each[name] for each in shards]) for name in ("latents", "regions", "shown")
        }
        self.levels = [torch.cat([each["levels"][i] for each in shards]) for i in range(len(LEVELS))]
        self.maps = [torch.cat([each["maps"][i] for each in shards]) for i in range(len(LEVELS))]

    def lesson(self, rows: Tensor, alphas: Tensor, generator: torch.Generator) -> Lesson:
        """Rows with noise of levels that decide what things look like."""
        u = (
            torch.randperm(len(rows), generator=generator) + torch.rand(len(rows), generator=generator)
        ) / len(rows)
        t = (1000 * torch.sigmoid(0.2 + torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))).long().clamp(0, 999)
        ratio = (alphas[t] / (1 - alphas[t])).float()
        latents = self.tensors["latents"][rows].float()
        return Lesson(
            levels=[each[rows] for each in self.levels],
            latents=latents,
            captions=[self.captions[row].replace(WORD, "{}") for row in rows.tolist()],
            noise=torch.randn(latents.shape, generator=generator),
            timesteps=t,
            emphasis=OUTSIDE + (1 - OUTSIDE) * self.tensors["regions"][rows].float(),
            weights=((ratio + 0.1).clamp(max=5) / ratio).clamp(max=5),
            maps=[each[rows].float() for each in self.maps],
            shown=self.tensors["shown"][rows].float(),
        )


def explicit(site: Site, step: int, heads: Heads) -> Tensor:
    """Attention without the fused kernel, which has a slow backward pass on a CPU."""
    query, key = heads.query() * heads.channels**-0.5, heads.key()
    return (query @ key.transpose(-1, -2)).softmax(-1) @ heads.value()


def words_of(generator: torch.Generator) -> int:
    """How many words stand for a thing in a step: often the first alone, which is what it is with the least."""
    return 1 if float(torch.rand((), generator=generator)) < 0.35 else len(LEVELS)


def name_things(model: Model, mappers: Mappers, examples: Examples) -> float:
    """Let w0 be near to what the model calls a thing, and w1 to its tint's name, where they have one.

    It takes seconds, and from there the words learn what has no name. Returns the share of w0's that are nearest to
    their thing's name.
    """
    encoder, tokenizer = model.text.encoders[0], model.text.tokenizers[0]
    table = encoder.get_input_embeddings().weight.float()

    def said(words: str) -> Tensor:
        return table[tokenizer(words, add_special_tokens=False).input_ids].mean(0)

    names = {name: said(name) for name in NAMES}
    tints = {name: said(name) for name in COLOURS}
    known = torch.tensor([each.top is None for each in examples.likenesses])
    nouns = torch.stack([names[each.name] for each in examples.likenesses])
    tinted = torch.tensor([each.paint == "tint" for each in examples.likenesses])
    drawn = [random.Random(each.seed).choice(list(COLOURS)) for each in examples.likenesses]
    colours = torch.stack([tints[each] for each in drawn])
    optimiser = torch.optim.AdamW(mappers.words.parameters(), lr=1e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(5)
    for step in range(NAMING):
        rows = torch.randint(len(known), (256,), generator=generator)
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * rate(step / NAMING, step)
        (words,) = mappers.vectors([each[rows] for each in examples.levels])
        errors = (words[:, -1] - nouns[rows]).square().mean(1) * known[rows]
        errors = errors + (words[:, -2] - colours[rows]).square().mean(1) * tinted[rows]
        errors.mean().backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    with torch.no_grad():
        (words,) = mappers.vectors(examples.levels, 1)
        every = torch.stack(list(names.values()))
        nearest = torch.cdist(words[:, 0], every).argmin(1)
        right = [every[i].equal(noun) for i, noun in zip(nearest.tolist(), nouns, strict=True)]
        return float(torch.tensor(right)[known].float().mean())


def rate(progress: float, step: int) -> float:
    """The learning rate's factor: a warm-up of 100 steps, then a cosine."""
    return min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=RATE, default="global")
    parser.add_argument("--minutes", type=float, default=35)
    parser.add_argument("--runs", type=Path, default=RUNS / "elite")
    parser.add_argument("--export", type=Path, help="only write the trained mappers to this folder")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, eye = Model.load("pocket", device="cpu"), Eye.load("pocket")
    widths = [each.shape[1] for each in eye.see([blank(eye)], [full(eye)], LEVELS).maps]
    mappers = Mappers(Shape.of(model, "pocket", LEVELS, widths, grid=GRID))
    mappers.begin(model)
    if asked.export is not None:
        export(mappers, asked.runs, asked.export)
        return
    train(model, mappers, asked.part, asked.minutes, asked.runs)


def blank(eye: Eye) -> Any:
    from PIL import Image

    return Image.new("RGB", (eye.size, eye.size))


def full(eye: Eye) -> Any:
    import numpy as np

    return np.ones((eye.size, eye.size), dtype=bool)


def is_local(name: str) -> bool:
    """Whether a parameter is of the local mapper."""
    return name.startswith(("parts.", "places", "local."))


def train(model: Model, mappers: Mappers, part: str, minutes: float, runs: Path) -> None:
    """Steps until the time is over. The average of the weights is what is kept."""
    if part == "local":
        state = torch.load(runs / "global.pt", weights_only=True)
        mappers.load_state_dict(state["average"])
        mappers.begin_parts(model)
    learning = {
        name: each for name, each in mappers.named_parameters() if is_local(name) == (part == "local")
    }
    mappers.requires_grad_(False)
    for each in learning.values():
        each.requires_grad_(True)
    average = copy.deepcopy(mappers).requires_grad_(False)
    optimiser = torch.optim.AdamW(
        list(learning.values()), lr=RATE[part], betas=(0.9, 0.99), weight_decay=0.01
    )
    step, spent = 0, 0.0
    checkpoint = runs / f"{part}.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        mappers.load_state_dict(state["weights"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        step, spent = state["step"], state["seconds"]
    examples = Examples(sorted(runs.glob("shard-*.pt")))
    held = Examples([runs / "validation.pt"])
    alphas = training_alphas_cumprod(model.schedule_config)
    if part == "global" and step == 0:
        right = name_things(model, mappers, examples)
        average.load_state_dict(mappers.state_dict())
    room, measuring = Classroom(model, mappers, ROWS, explicit), Classroom(model, average, ROWS, explicit)
    gate = GATE if part == "local" else 0.0
    began, saved, measured = time.monotonic() - spent, time.monotonic(), time.monotonic()
    seen: list[float] = []

    def save() -> None:
        torch.save(
            {
                "weights": mappers.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "step": step,
                "seconds": time.monotonic() - began,
            },
            checkpoint.with_suffix(".part"),
        )
        os.replace(checkpoint.with_suffix(".part"), checkpoint)

    def note(**figures: float) -> None:
        line = {"part": part, "step": step, "seconds": round(time.monotonic() - began)}
        with (runs / "log.jsonl").open("a") as log:
            log.write(
                json.dumps({**line, **{name: round(value, 5) for name, value in figures.items()}}) + "\n"
            )

    if step == 0:
        start = {"named right": right} if part == "global" else {}
        note(**start, **validation(measuring, held, alphas, gate))
    while (progress := (time.monotonic() - began) / (60 * minutes)) < 1:
        generator = torch.Generator().manual_seed(1_000_003 * (part == "local") + step)
        rows = torch.randint(len(examples.captions), (ROWS,), generator=generator)
        words = words_of(generator)
        lesson = examples.lesson(rows, alphas, generator)
        for group in optimiser.param_groups:
            group["lr"] = RATE[part] * rate(progress, step)
        with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
            loss = room.loss(lesson, words, gate)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning.values(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        step += 1
        keep = min(KEEP, (step + 1) / (step + 10))
        with torch.no_grad():
            own = dict(average.named_parameters())
            for name, each in learning.items():
                own[name].lerp_(each, 1 - keep)
        seen.append(float(loss.detach()))
        if step % LOG == 0:
            note(loss=sum(seen) / len(seen))
            seen.clear()
        if time.monotonic() - measured > MEASURE:
            note(**validation(measuring, held, alphas, gate))
            measured = time.monotonic()
        if time.monotonic() - saved > CHECKPOINT:
            save()
            saved = time.monotonic()
    save()
    note(**validation(measuring, held, alphas, gate))


@torch.no_grad()
def validation(room: Classroom, held: Examples, alphas: Tensor, gate: float) -> dict[str, float]:
    """The loss on sprites that are not trained on, with one word and with all; always of the same noise."""
    found: dict[str, float] = {}
    for words in (1, len(LEVELS)):
        generator, losses = torch.Generator().manual_seed(7), []
        for first in range(0, 128, ROWS):
            lesson = held.lesson(torch.arange(first, first + ROWS), alphas, generator)
            with sdpa_kernel(SDPBackend.MATH), torch.autocast("cpu", torch.bfloat16):
                losses.append(float(room.loss(lesson, words, gate, penalty=0.0, part_penalty=0.0)))
        found[f"held back, {words} words"] = sum(losses) / len(losses)
    return found


def export(mappers: Mappers, runs: Path, folder: Path) -> None:
    """Write the averaged weights of both parts, of the global one alone if there is no other; into the model's manifest
    as well, if they are written into its folder."""
    checkpoint = runs / "local.pt" if (runs / "local.pt").exists() else runs / "global.pt"
    mappers.load_state_dict(torch.load(checkpoint, weights_only=True)["average"])
    mappers.save(folder)
    manifest = folder.parent / "manifest.json"
    if manifest.exists():
        known = json.loads(manifest.read_text())
        own = {f"{folder.name}/{path.name}": path for path in sorted(folder.iterdir())}
        hashes = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in own.items()}
        known["files"] = dict(sorted({**known["files"], **hashes}.items()))
        manifest.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
