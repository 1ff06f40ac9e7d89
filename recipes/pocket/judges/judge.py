"""Train and use the judge: a small CLIP that says what a picture of the built-in world shows.

    python recipes/pocket/judges/judge.py --preset cpu --minutes 15   # train, export runs/pocket/judge, measure

To judge pictures (PIL, 128 pixels square):

    judge = load()
    ask(judge, images, things())         # [N, 63] probabilities: "a cat", "a dog", …
    ask(judge, images, colours("cat"))   # [N, 9]: "a red cat", …, and last "a cat" in its own colours
    ask(judge, images, PLACES)           # also LIGHTS, STYLES
    grade(judge, images, scenes)         # the share of pictures that show what their scenes say

It is trained only on true pictures, never on pictures of the model that it judges. It learns to answer these questions
through the text tower, to name what every cell of 16 × 16 pixels shows (in a layer that is not exported), and to match
whole captions with whole pictures (CLIP's own loss). Three of four steps use windows of 64 pixels, mostly around a
thing, which cost a quarter of the time and show what has to be distinguished.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextConfig,
    CLIPTokenizer,
    ConvNextConfig,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from wordbrush.pocket import Scene, vocabulary

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("data", "training")]

from data import RUNS, pictures, rows
from run import Preset, Run, arguments, chosen, use_threads
from shapes import JUDGE_IMAGE, JUDGE_PROJECTION, JUDGE_TEXT

PRESETS = {
    "cpu": Preset(device="cpu", workers=1, batch=24, minutes=15),
    "gpu": Preset(device="cuda", workers=1, batch=512, minutes=3),
}
NAMES = list(vocabulary.NAMES)
TINTS = [*vocabulary.COLOURS, None]  # None: a thing's own colours
CELLS, CELL = 8, 16  # cells a side, pixels a side of a cell
WHOLE = 0.25  # the share of steps with whole pictures
WINDOWS = (0, 32, 64)  # where the 64-pixel windows in which things are searched begin, down and right
# Muon replaces the weights within 1 / rate steps; each of the 63 things must appear often enough in that time.
MUON = 0.003
UNLABELLED = -100

# The questions: one answer for each key of the vocabulary's table, in its order.
PLACES = list(vocabulary.PLACES.values())
LIGHTS = ["by day", *list(vocabulary.LIGHTS.values())[1:]]
STYLES = [phrase.removesuffix(" of") for phrase in vocabulary.STYLES.values()]


def article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def things() -> list[str]:
    """Which thing is shown? One answer for each of `NAMES`."""
    return [article(name) for name in NAMES]


def colours(name: str) -> list[str]:
    """What colour is the thing called `name`? One answer for each of `TINTS`."""
    return [article(f"{tint} {name}" if tint else name) for tint in TINTS]


QUESTIONS = {"thing": things(), "place": PLACES, "light": LIGHTS, "style": STYLES}


@dataclass(frozen=True)
class Judge:
    model: VisionTextDualEncoderModel
    tokenizer: CLIPTokenizer
    processor: CLIPImageProcessorPil


def load(folder: Path = RUNS / "judge") -> Judge:
    """The exported judge, in float32."""
    model = VisionTextDualEncoderModel.from_pretrained(folder, dtype=torch.float32).eval()
    return Judge(model, CLIPTokenizer.from_pretrained(folder), CLIPImageProcessorPil.from_pretrained(folder))


def see(model: VisionTextDualEncoderModel, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, 128, 128] as unit vectors [B, D], and the features of their 64 cells [B, 64, width]."""
    features = model.vision_model(pixel_values=pixels)
    whole = model.visual_projection(features.pooler_output).float()
    return F.normalize(whole, dim=-1), features.last_hidden_state.flatten(2).transpose(1, 2)


def read(model: VisionTextDualEncoderModel, ids: Tensor) -> Tensor:
    """Token ids [B, L] as unit vectors [B, D]."""
    return F.normalize(model.text_projection(model.text_model(input_ids=ids).pooler_output).float(), dim=-1)


@torch.no_grad()
def ask(judge: Judge, images: Sequence[Image.Image], answers: Sequence[str]) -> Tensor:
    """How probable each answer is for each picture: [N, answers].

    One list can contain all answers to several of `QUESTIONS`; those to one question sum to 1. Place, light and style
    are asked about the whole picture. Things are searched in the whole picture and in nine windows of half its width
    and height: a name gets the sum of its probability in the whole and in its best window. Anything else, such as a
    thing's colour, is answered from whichever of these fits best.
    """
    words = read(judge.model, judge.tokenizer(list(answers), padding=True, return_tensors="pt").input_ids)
    looks = torch.cat([_looks(judge, images[first : first + 50]) for first in range(0, len(images), 50)])
    logits = judge.model.logit_scale.exp() * looks @ words.T
    complete = {kind: table for kind, table in QUESTIONS.items() if set(table) <= set(answers)}
    question_of = {answer: kind for kind, table in complete.items() for answer in table}
    asked = [question_of.get(answer, "other") for answer in answers]
    chances = torch.empty(len(images), len(answers))
    for question in set(asked):
        columns = [i for i, other in enumerate(asked) if other == question]
        each = logits[..., columns]
        if question == "thing":
            each = each.softmax(-1)
            chances[:, columns] = F.normalize(each[:, 0] + each[:, 1:].amax(1), p=1, dim=-1)
        elif question == "other":
            chances[:, columns] = each.amax(1).softmax(-1)
        else:
            chances[:, columns] = each[:, 0].softmax(-1)
    return chances


def _looks(judge: Judge, images: Sequence[Image.Image]) -> Tensor:
    """Unit vectors [N, 10, D] of the whole pictures and of their windows, row by row."""
    pixels = judge.processor(list(images), return_tensors="pt").pixel_values
    half = pixels.shape[-1] // 2
    windows = [pixels[:, :, y : y + half, x : x + half] for y in WINDOWS for x in WINDOWS]
    return torch.stack([see(judge.model, look)[0] for look in (pixels, *windows)], 1)


def grade(judge: Judge, images: Sequence[Image.Image], scenes: Sequence[Scene]) -> dict[str, float]:
    """The share of pictures that show what their scene says, for each aspect of a scene.

    "object": scenes of one thing whose name ranks first. "both", "three": scenes of more things, whose names rank
    first. "colour": tinted things whose tint ranks first of nine (the thing's own colours are one of them). "place",
    "light", "style": the right one ranks first. "… of": the number of questions.
    """
    right: dict[str, list[bool]] = {}
    shown = ask(judge, images, things()).argsort(-1, descending=True)
    for order, scene in zip(shown.tolist(), scenes, strict=True):
        count = len(scene.things)
        first = {NAMES[i] for i in order[:count]}
        kind = ("object", "both", "three")[count - 1]
        right.setdefault(kind, []).append(first == {thing.name for thing in scene.things})
    tinted: dict[str, list[tuple[int, str]]] = {}
    for i, scene in enumerate(scenes):
        for thing in scene.things:
            if thing.colour is not None:
                tinted.setdefault(thing.name, []).append((i, thing.colour))
    for name, asked in tinted.items():
        best = ask(judge, [images[i] for i, _ in asked], colours(name)).argmax(-1).tolist()
        right.setdefault("colour", []).extend(
            TINTS[b] == tint for b, (_, tint) in zip(best, asked, strict=True)
        )
    for kind, answers, table in (
        ("place", PLACES, vocabulary.PLACES),
        ("light", LIGHTS, vocabulary.LIGHTS),
        ("style", STYLES, vocabulary.STYLES),
    ):
        best = ask(judge, images, answers).argmax(-1).tolist()
        keys = list(table)
        right[kind] = [keys[b] == getattr(scene, kind) for b, scene in zip(best, scenes, strict=True)]
    shares = {kind: round(float(np.mean(answers)), 4) for kind, answers in right.items()}
    return shares | {f"{kind} of": len(answers) for kind, answers in right.items()}


@dataclass(frozen=True)
class Batch:
    """A training batch: `pixels` [B, 3, S, S]; which names are `there` [B, 63]; what each cell shows (`shown` and
    `tinted`, both [B, cells]); the share of it that the first, second and third thing cover (`covered` [B, 3, cells]);
    and one thing of each picture to ask about: its name (or `UNLABELLED`) and its tint.
    """

    pixels: Tensor
    there: Tensor
    covered: Tensor
    shown: Tensor
    tinted: Tensor
    asked: np.ndarray
    tints: np.ndarray


class TrainingData:
    """The training pictures with their labels: the training data of the judge and of the reader."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.pictures = pictures("train")
        lines = list(rows("train"))
        scenes = [line["scene"] for line in lines]
        self.captions = [line["caption"] for line in lines]
        self.names = np.full((len(scenes), 3), UNLABELLED)
        self.tints = np.full((len(scenes), 3), UNLABELLED)
        self.centres = np.zeros((len(scenes), 3, 2))  # down and right, as shares of the picture
        for i, scene in enumerate(scenes):
            for k, thing in enumerate(scene["things"]):
                self.names[i, k] = NAMES.index(thing["name"])
                self.tints[i, k] = TINTS.index(thing["colour"])
                self.centres[i, k] = thing["y"], thing["x"]
        self.truths = {
            kind: np.array([list(table).index(scene[kind]) for scene in scenes])
            for kind, table in (
                ("place", vocabulary.PLACES),
                ("light", vocabulary.LIGHTS),
                ("style", vocabulary.STYLES),
            )
        }
        coverage = np.load(RUNS / "train" / "coverage.npy", mmap_mode="r")
        self.coverage = np.stack([self._by_cell(cells) for cells in coverage])

    @staticmethod
    def _by_cell(cells: np.ndarray) -> np.ndarray:
        """Coverage of latent cells, uint8 [3, 16, 16], as that of the judge's cells, uint8 [3, 8, 8]."""
        return cells.reshape(3, CELLS, 2, CELLS, 2).mean((2, 4)).astype(np.uint8)

    def take(
        self, index: np.ndarray, whole: bool, rng: np.random.Generator, generator: torch.Generator
    ) -> Batch:
        """The pictures `index`, whole or a 64-pixel window of each, mostly around one of its things.

        A thing counts as there if half of it is in the window.
        """
        rows = np.arange(len(index))
        names, tints = self.names[index], self.tints[index]
        asked = rng.integers((names >= 0).sum(1))
        side = CELLS if whole else CELLS // 2
        middle = CELLS * self.centres[index, asked] + rng.uniform(-1, 1, (len(index), 2)) - side / 2
        corners = np.clip(np.round(middle), 0, CELLS - side).astype(int)
        if not whole:  # one of four is a window as `ask` cuts them, whatever it shows
            fourth = len(index) // 4
            corners[-fourth:] = rng.choice(WINDOWS, (fourth, 2)) // CELL
        images = np.stack(
            [
                self.pictures[i, CELL * y : CELL * (y + side), CELL * x : CELL * (x + side)]
                for i, (y, x) in zip(index, corners, strict=True)
            ]
        )
        all_cells = self.coverage[index]
        cells = np.stack(
            [c[:, y : y + side, x : x + side] for c, (y, x) in zip(all_cells, corners, strict=True)]
        )
        there = (names >= 0) & (cells.sum((2, 3), dtype=int) >= 0.5 * all_cells.sum((2, 3), dtype=int))

        cells = cells.reshape(len(index), 3, -1)
        nearest, most = cells.argmax(1), cells.max(1)
        bare = cells.sum(1, dtype=int) < 25
        places = len(NAMES) + self.truths["place"][index][:, None]
        shown = np.where(most > 110, names[rows[:, None], nearest], np.where(bare, places, UNLABELLED))
        tinted = np.where(most > 110, tints[rows[:, None], nearest], UNLABELLED)
        one_hot = F.one_hot(torch.from_numpy(names).clamp(min=0), len(NAMES))
        return Batch(
            self._degraded(images, rng, generator),
            (one_hot * torch.from_numpy(there).unsqueeze(-1)).sum(1).float().to(self.device),
            torch.from_numpy(cells).to(self.device).float() / 255,
            self.tensor(shown),
            self.tensor(tinted),
            np.where(there[rows, asked], names[rows, asked], UNLABELLED),
            tints[rows, asked],
        )

    def _degraded(self, rows: np.ndarray, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """Pictures in [-1, 1], half of them slightly blurred, dimmed or noisy, so that the judge is robust to this."""
        images = torch.from_numpy(rows).to(self.device).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        some = len(images) // 4
        images[:some] = F.interpolate(F.avg_pool2d(images[:some], 2), scale_factor=2, mode="bilinear")
        gain = torch.from_numpy(rng.uniform(0.9, 1.1, (some, 1, 1, 1))).float().to(self.device)
        grain = torch.randn(images[:some].shape, generator=generator).to(self.device)
        images[some : 2 * some] = images[some : 2 * some] * gain + 0.08 * grain
        return images.clamp(-1, 1)

    def tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).long().to(self.device)


class TokenisedData(TrainingData):
    """The training data with the judge's questions as tokens."""

    def __init__(self, tokenizer: CLIPTokenizer, device: str) -> None:
        super().__init__(device)
        self.tokenizer = tokenizer
        # All simple questions in one list of texts, for one pass through the text tower.
        self.simple = self.ids([*things(), *PLACES, *LIGHTS, *STYLES])
        self.sizes = [len(NAMES), len(PLACES), len(LIGHTS), len(STYLES)]
        self.colour_ids = [self.ids(colours(name)) for name in NAMES]

    def ids(self, texts: list[str]) -> Tensor:
        return self.tokenizer(texts, padding=True, return_tensors="pt").input_ids.to(self.device)


class TrainableJudge(nn.Module):
    """The judge with the two layers that it has only in training."""

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        super().__init__()
        words = CLIPTextConfig(
            **JUDGE_TEXT,
            vocab_size=len(tokenizer),
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        config = VisionTextDualEncoderConfig.from_vision_text_configs(
            ConvNextConfig(**JUDGE_IMAGE), words, projection_dim=JUDGE_PROJECTION
        )
        torch.manual_seed(1)
        # PyTorch's fused attention has a slow backward pass on a CPU.
        self.clip = VisionTextDualEncoderModel._from_config(config, attn_implementation="eager")
        width = JUDGE_IMAGE["hidden_size"]
        self.names = nn.Linear(width, len(NAMES) + len(PLACES))
        self.tints = nn.Linear(width, len(TINTS))

    def forward(
        self,
        data: TokenisedData,
        index: np.ndarray,
        whole: bool,
        rng: np.random.Generator,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, float]]:
        """The loss of the rows `index`, and figures for the log."""
        batch = data.take(index, whole, rng, generator)
        seen, cells = see(self.clip, batch.pixels)
        scale = self.clip.logit_scale.exp().clamp(max=100)

        # The simple questions. For the first, several things share the probability.
        logits = (scale * seen @ read(self.clip, data.simple).T).split(data.sizes, dim=1)
        # If nothing is there, no name should dominate.
        share = batch.there + 1e-6
        share = share / share.sum(1, keepdim=True)
        questions = F.cross_entropy(logits[0], share)
        for answers, kind in zip(logits[1:], ("place", "light", "style"), strict=True):
            truth = data.tensor(data.truths[kind][index])
            questions = questions + 0.3 * F.cross_entropy(answers, truth)

        # The colour of one thing in some of the pictures.
        some = rng.permutation(np.flatnonzero(batch.asked >= 0))[: len(index) // 3]
        ids = [data.colour_ids[name] for name in batch.asked[some]]
        length, end = max(rows.shape[1] for rows in ids), data.tokenizer.eos_token_id
        ids = torch.cat([F.pad(rows, (0, length - rows.shape[1]), value=end) for rows in ids])
        said = read(self.clip, ids).view(len(some), len(TINTS), -1)
        answers = scale * torch.einsum("bd,btd->bt", seen[torch.from_numpy(some)], said)
        truth = data.tensor(batch.tints[some])
        colour = F.cross_entropy(answers, truth)

        # What every cell shows.
        dense = F.cross_entropy(self.names(cells).float().flatten(0, 1), batch.shown.flatten())
        dense = dense + 0.5 * F.cross_entropy(self.tints(cells).float().flatten(0, 1), batch.tinted.flatten())
        loss = questions + colour + dense

        one = batch.there.sum(1) == 1
        figures = {
            "questions": questions.item(),
            "colour": colour.item(),
            "cells": dense.item(),
            "object right": (logits[0].argmax(1) == batch.there.argmax(1))[one].float().mean().item(),
            "colour right": (answers.argmax(1) == truth).float().mean().item(),
        }
        if whole:  # CLIP's own loss, which matches captions and pictures
            pairs = scale * seen @ read(self.clip, data.ids([data.captions[i] for i in index])).T
            own = torch.arange(len(index), device=pairs.device)
            contrast = (F.cross_entropy(pairs, own) + F.cross_entropy(pairs.T, own)) / 2
            loss, figures["contrast"] = loss + 0.3 * contrast, contrast.item()
        return loss, figures


def export(network: TrainableJudge, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write the judge as transformers reads it, in half precision, with its processor and tokenizer."""
    with torch.no_grad():
        network.clip.logit_scale.clamp_(max=float(np.log(100)))
    network.clip.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 128},
        crop_size={"height": 128, "width": 128},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)


def report() -> None:
    """Measure the judge on true held-out pictures; writes judge_report.json."""
    scenes = [Scene.from_json(json.dumps(line["scene"])) for line in rows("test")]
    images = [Image.fromarray(picture) for picture in pictures("test")]
    judge = load()
    figures: dict[str, Any] = {"all": grade(judge, images, scenes)}
    photos = [i for i, scene in enumerate(scenes) if (scene.style, scene.light) == ("photo", "day")]
    figures["photos by day"] = grade(judge, [images[i] for i in photos], [scenes[i] for i in photos])
    figures["parameters"] = sum(p.numel() for p in judge.model.parameters())
    part = RUNS / "judge_report.part"
    part.write_text(json.dumps(figures, indent=2) + "\n")
    os.replace(part, RUNS / "judge_report.json")
    print(json.dumps(figures))


def main() -> None:
    parser = arguments(__doc__, PRESETS)
    parser.add_argument("--report", action="store_true", help="only measure the exported judge")
    options = parser.parse_args()
    preset = chosen(options, PRESETS)
    use_threads(preset)
    if not options.report:
        tokenizer = CLIPTokenizer.from_pretrained(RUNS / "tokenizer")
        network = TrainableJudge(tokenizer).to(preset.device)
        data = TokenisedData(tokenizer, preset.device)

        def loss(
            progress: float, rng: np.random.Generator, generator: torch.Generator
        ) -> tuple[Tensor, dict[str, float]]:
            whole = rng.random() < WHOLE
            count = preset.batch if whole else 4 * preset.batch
            return network(data, rng.integers(len(data.captions), size=count), whole, rng, generator)

        run = Run("judge", preset, [network])
        run.train(0, None, [network], loss, muon=MUON)
        run.shared.bind([network], "average")
        export(network.cpu(), tokenizer, RUNS / "judge")
    report()


if __name__ == "__main__":
    main()
