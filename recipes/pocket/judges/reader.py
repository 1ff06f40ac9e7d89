"""Train the world reader: it says what every cell of a picture shows, and the place, light and style.

    python recipes/pocket/judges/reader.py --preset cpu --minutes 26   # train, export runs/pocket/reader, measure
    python recipes/pocket/judges/reader.py --report                    # only measure

It uses the judge's training data, with blurred, dimmed and noisy pictures, and like the judge only true pictures. Its
weights, its loss and its random numbers are its own, and it has no text tower. For every cell it learns the share that
each thing covers, so its answers are shares of the picture.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from wordbrush.evaluation.judges.reader import (
    ANSWERS,
    CELL,
    SIDE,
    Calibration,
    Reader,
    ReaderNetwork,
    Reading,
    counted,
    evidence,
    likeliest,
    pixels,
)
from wordbrush.pocket import Scene, segment, vocabulary

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("data", "training")]

from data import RUNS, pictures, rows
from judge import NAMES, TrainingData
from run import Preset, Run, arguments, chosen, use_threads
from shapes import ENCODER

PRESETS = {
    "cpu": Preset(device="cpu", workers=1, batch=32, minutes=26),
    "gpu": Preset(device="cuda", workers=1, batch=512, minutes=3),
}
SEED = 2
HELD_BACK = 1 / 30  # of the training pictures: not trained on, used to fit the calibration
MUON = 0.004
ANSWERED = {"place": vocabulary.PLACES, "light": vocabulary.LIGHTS, "style": vocabulary.STYLES}
# The share of steps with whole pictures, at first and from the progress `LATER` on.
WHOLE, WHOLE_LATER, LATER = 0.25, 0.5, 0.7


def reader_loss(
    network: ReaderNetwork,
    data: TrainingData,
    index: np.ndarray,
    whole: bool,
    rng: np.random.Generator,
    generator: torch.Generator,
) -> tuple[Tensor, dict[str, float]]:
    """The loss of the rows `index`, and figures for the log."""
    batch = data.take(index, whole, rng, generator)
    said = network(batch.pixels)

    # The target of every cell is the share that each thing covers, so that probabilities are shares of the picture.
    names = data.tensor(data.names[index].clip(min=0))  # a missing thing covers nothing
    shares = batch.covered.new_zeros(len(index), len(NAMES) + 1, batch.covered.shape[2])
    shares.scatter_add_(1, names.unsqueeze(-1).expand_as(batch.covered), batch.covered)
    shares[:, -1] = 1 - batch.covered.sum(1)
    cells = F.cross_entropy(said.things.flatten(2), shares)
    tints = F.cross_entropy(said.tints.flatten(2), batch.tinted)

    # All cells together: the names in the picture, by the share that they cover.
    covered = said.things.flatten(2).softmax(1)[:, :-1].mean(2) + 1e-6
    occupied = batch.there.sum(1) > 0
    there = batch.there[occupied] / batch.there[occupied].sum(1, keepdim=True)
    together = F.cross_entropy(covered[occupied].log(), there)  # the softmax of a logarithm is the share

    loss = 2 * cells + 0.5 * tints + 0.3 * together
    figures = {"cells": cells.item(), "tints": tints.item(), "together": together.item()}
    for kind, answers in (("place", said.place), ("light", said.light), ("style", said.style)):
        one = F.cross_entropy(answers, data.tensor(data.truths[kind][index]))
        loss = loss + 0.2 * one
        figures[kind] = one.item()
    single = batch.there.sum(1) == 1
    right = covered.argmax(1) == batch.there.argmax(1)
    figures["object right"] = right[single].float().mean().item()
    known = batch.tinted >= 0
    figures["tint right"] = (said.tints.flatten(2).argmax(1) == batch.tinted)[known].float().mean().item()
    return loss, figures


def held_back(counts: np.ndarray) -> np.ndarray:
    """The training rows that are not trained on, given the number of things in each row. Bool [N].

    They are the last of those with three things and the last of the others.
    """
    back = np.zeros(len(counts), dtype=bool)
    for some in (np.flatnonzero(counts == 3), np.flatnonzero(counts != 3)):
        back[some[len(some) - round(HELD_BACK * len(some)) :]] = True
    return back


def row_probabilities(names: np.ndarray) -> np.ndarray:
    """The probability of drawing each row, summing to 1; `names` [N, 3] are indices, negative where there is no thing.

    All names come about equally often: otherwise the seventeen common ones would dominate, and the reader would learn
    to expect them.
    """
    there = names >= 0
    often = np.bincount(names[there], minlength=len(NAMES))
    weights = np.divide(1, often[names.clip(min=0)], where=there, out=np.zeros(names.shape)).sum(
        1
    ) / there.sum(1)
    weights[held_back(there.sum(1))] = 0
    return weights / weights.sum()


def shown(split: str) -> tuple[list[Scene], list[Image.Image]]:
    """Scenes for measuring or fitting, and their pictures: a split, or of the training split the held-back rows."""
    scenes = [Scene.from_json(json.dumps(line["scene"])) for line in rows(split)]
    chosen = np.arange(len(scenes))
    if split == "train":
        chosen = chosen[held_back(np.array([len(scene.things) for scene in scenes]))]
    every = pictures(split)
    return [scenes[i] for i in chosen], [Image.fromarray(every[i]) for i in chosen]


def regions(labels: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Regions to ask about: the whole picture, a box in it, and exactly one thing or the area that no thing covers."""
    region = np.zeros((SIDE, SIDE), dtype=bool)
    height, width = rng.integers(20, 96, 2)
    top, left = rng.integers(SIDE - height + 1), rng.integers(SIDE - width + 1)
    region[top : top + height, left : left + width] = True
    return [np.ones_like(region), region, labels == rng.choice(np.unique(labels))]


def seen(scene: Scene, labels: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Which of `NAMES` are visible in a region: 1, 0, or -1 if it is ambiguous.

    A thing is visible if it covers nearly half a cell of the region or if half of it is in the region, and not visible
    if nothing of it is in the region.
    """
    truth = np.zeros(len(NAMES), dtype=int)
    for i, thing in enumerate(scene.things):
        whole, part = (labels == 1 + i).sum(), ((labels == 1 + i) & region).sum()
        enough = part > 0.43 * CELL**2 or 2 * part > max(whole, 1)
        truth[NAMES.index(thing.name)] = 1 if enough else -1 if part else 0
    return truth


@torch.no_grad()
def calibrated(network: ReaderNetwork) -> Calibration:
    """The calibration of the network's probabilities, fitted to held-back training pictures.

    Every picture is used with all of its `regions`.
    """
    scenes, images = shown("train")
    rng = np.random.default_rng(SEED)
    said: dict[str, list[Tensor]] = {kind: [] for kind in ("things", *ANSWERED)}
    for first in range(0, len(images), 50):
        logits = network(pixels(images[first : first + 50]))
        for kind, values in said.items():
            values.append(getattr(logits, kind))
    shares = torch.cat(said["things"]).softmax(1)
    labels = [segment(scene) for scene in scenes]
    clues: dict[str, list[Tensor]] = {"thing": [], "something": []}
    truths: dict[str, list[Tensor]] = {"thing": [], "something": []}
    for some in zip(*(regions(each, rng) for each in labels), strict=True):
        cells = torch.from_numpy(np.stack([counted(region) for region in some]))
        truth = torch.from_numpy(np.stack([seen(*three) for three in zip(scenes, labels, some, strict=True)]))
        clues["thing"].append(evidence(shares[:, :-1], cells).flatten())
        truths["thing"].append(truth.flatten())
        clues["something"].append(evidence(1 - shares[:, -1:], cells).flatten())
        # Certainly visible, certainly not visible, or neither.
        one, doubtful = truth.amax(1) == 1, (truth < 0).any(1)
        truths["something"].append(torch.where(one, 1, torch.where(doubtful, -1, 0)))
    fitted = {kind: _logistic(torch.cat(clues[kind]), torch.cat(truths[kind])) for kind in clues}
    temperatures = {
        kind: _temperature(torch.cat(said[kind]), [list(table).index(getattr(s, kind)) for s in scenes])
        for kind, table in ANSWERED.items()
    }
    return Calibration(**fitted, **temperatures)


def _logistic(clues: Tensor, truth: Tensor) -> tuple[float, float]:
    """The factor and the constant of the most likely logistic fit to the known truths (1 or 0, not -1)."""
    known = truth >= 0
    values, asked = clues[known], truth[known].float()
    weights = torch.tensor([1.0, 0.0], requires_grad=True)
    _minimise(lambda: F.binary_cross_entropy_with_logits(weights[0] * values + weights[1], asked), weights)
    factor, constant = weights.tolist()
    return round(factor, 4), round(constant, 4)


def _temperature(logits: Tensor, truth: list[int]) -> float:
    """The temperature that makes the truths most likely; logits are divided by it."""
    log = torch.zeros(1, requires_grad=True)
    _minimise(lambda: F.cross_entropy(logits / log.exp(), torch.tensor(truth)), log)
    return round(log.exp().item(), 4)


@torch.enable_grad()
def _minimise(loss: Callable[[], Tensor], weights: Tensor) -> None:
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def export(network: ReaderNetwork, folder: Path) -> None:
    """Write the reader as `wordbrush.evaluation.judges.reader` loads it: half precision, and calibrated in it."""
    network = network.half().float().eval()
    settings = {"look": ENCODER, "answers": ANSWERS, "calibration": asdict(calibrated(network))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    weights = {key: value.half().contiguous() for key, value in network.state_dict().items()}
    save_file(weights, folder / "model.safetensors")


def grade(readings: Sequence[Reading], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of pictures that are read correctly, for each aspect of a scene; as in `judge.grade`.

    In addition "own colours": things without a tint that are read as such. "seen, and there" is the precision and
    "there, and seen" the recall of what is seen (`Reading.sees`).
    """
    right: dict[str, list[bool]] = {}
    for reading, scene in zip(readings, scenes, strict=True):
        names = {thing.name for thing in scene.things}
        kind = ("object", "both", "three")[len(names) - 1]
        right.setdefault(kind, []).append(set(reading.first(len(names))) == names)
        for thing in scene.things:
            kind = "own colours" if thing.colour is None else "colour"
            right.setdefault(kind, []).append(reading.colour(thing.name) == thing.colour)
            right.setdefault("there, and seen", []).append(reading.sees(thing.name))
        for name in filter(reading.sees, NAMES):
            right.setdefault("seen, and there", []).append(name in names)
        for kind in ANSWERED:
            right.setdefault(kind, []).append(likeliest(getattr(reading, kind)) == getattr(scene, kind))
    shares = {kind: round(float(np.mean(answers)), 4) for kind, answers in right.items()}
    return shares | {f"{kind} of": len(answers) for kind, answers in right.items()}


def calibration_error(chances: Sequence[float], right: Sequence[bool], bins: int = 15) -> float:
    """The expected calibration error: the weighted mean difference of probability and frequency, in equal bins."""
    chance, truth = np.array(chances), np.array(right, dtype=float)
    which = np.minimum((chance * bins).astype(int), bins - 1)
    gaps = [abs(chance[which == i].sum() - truth[which == i].sum()) for i in range(bins)]
    return round(float(np.sum(gaps) / len(chance)), 4)


def calibration_errors(readings: Sequence[Reading], scenes: Sequence[Scene]) -> dict[str, float]:
    """For the most probable place, light and style, and for every thing with a probability of 2 % or more."""
    errors = {}
    for kind in ANSWERED:
        said = [getattr(reading, kind) for reading in readings]
        best = [likeliest(answers) for answers in said]
        errors[kind] = calibration_error(
            [answers[name] for answers, name in zip(said, best, strict=True)],
            [name == getattr(scene, kind) for name, scene in zip(best, scenes, strict=True)],
        )
    pairs = [
        (chance, name in {thing.name for thing in scene.things})
        for reading, scene in zip(readings, scenes, strict=True)
        for name, chance in reading.things.items()
        if chance >= 0.02
    ]
    return errors | {"things": calibration_error(*zip(*pairs, strict=True))}


def by_region(reader: Reader, scenes: list[Scene], images: list[Image.Image]) -> dict[str, float]:
    """Reading with exact masks: of things in scenes with several (200 pixels or more), and of the bare area."""
    asked: list[tuple[int, str | None, np.ndarray]] = []
    for i, scene in enumerate(scenes):
        labels = segment(scene)
        asked.append((i, None, labels == 0))
        if len(scene.things) > 1:
            masks = [(thing.name, labels == 1 + k) for k, thing in enumerate(scene.things)]
            asked += [(i, name, mask) for name, mask in masks if mask.sum() >= 200]
    readings = reader.read([images[i] for i, _, _ in asked], [region for _, _, region in asked])
    found: dict[str, list[bool]] = {
        kind: []
        for kind in ("first is the thing", "thing seen", "another of the scene seen", "bare, and called so")
    }
    for (i, name, _), reading in zip(asked, readings, strict=True):
        if name is None:
            found["bare, and called so"].append(reading.nothing() > 0.5)
            continue
        found["first is the thing"].append(reading.first(1) == [name])
        found["thing seen"].append(reading.sees(name))
        others = {thing.name for thing in scenes[i].things} - {name}
        found["another of the scene seen"] += [reading.sees(other) for other in others]
    shares = {kind: round(float(np.mean(answers)), 4) for kind, answers in found.items()}
    return shares | {"regions": len(found["thing seen"])}


def report() -> None:
    """Measure the exported reader's accuracy and calibration on held-out pictures; writes reader_report.json."""
    scenes, images = shown("test")
    reader = Reader.load(RUNS / "reader")
    started = time.process_time()
    readings = reader.read(images)
    rate = len(images) / (time.process_time() - started)
    photos = [i for i, scene in enumerate(scenes) if (scene.style, scene.light) == ("photo", "day")]
    figures: dict[str, Any] = {
        "all": grade(readings, scenes),
        "photos by day": grade([readings[i] for i in photos], [scenes[i] for i in photos]),
        "calibration error": calibration_errors(readings, scenes),
        "regions": by_region(reader, scenes, images),
        "parameters": sum(p.numel() for p in reader.network.parameters()),
        "pictures a second": round(rate, 1),
    }
    part = RUNS / "reader_report.part"
    part.write_text(json.dumps(figures, indent=2) + "\n")
    os.replace(part, RUNS / "reader_report.json")
    print(json.dumps(figures))


def main() -> None:
    parser = arguments(__doc__, PRESETS)
    parser.add_argument("--report", action="store_true", help="only measure the exported reader")
    options = parser.parse_args()
    preset = chosen(options, PRESETS)
    use_threads(preset)
    if not options.report:
        torch.manual_seed(SEED)
        network = ReaderNetwork(ENCODER).to(preset.device)
        data = TrainingData(preset.device)
        chances = row_probabilities(data.names)

        def loss(
            progress: float, rng: np.random.Generator, generator: torch.Generator
        ) -> tuple[Tensor, dict[str, float]]:
            (rng,) = rng.spawn(1)  # other random numbers than the judge's
            whole = rng.random() < (WHOLE if progress < LATER else WHOLE_LATER)
            count = preset.batch if whole else 4 * preset.batch
            index = rng.choice(len(chances), count, p=chances)
            return reader_loss(network, data, index, whole, rng, generator)

        run = Run("reader", preset, [network])
        run.train(0, None, [network], loss, muon=MUON)
        run.shared.bind([network], "average")
        export(network.cpu(), RUNS / "reader")
    report()


if __name__ == "__main__":
    main()
