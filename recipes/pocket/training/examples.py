"""The training data of the diffusion model: latents, captions as tokens, and what every token refers to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from attention import Grounds
from data import RUNS, rows
from wordbrush.pocket import vocabulary

HELD_BACK = 256  # rows at the start that are not trained on, for the losses in the log
LABELS = [*vocabulary.NAMES, *vocabulary.PLACES]  # of a cell
UNLABELLED = -100

# Codes of what a token refers to; 0, 1, 2 are the things of that index.
PLACE, OTHER = 3, 4
NOUN = 8  # added to a thing's code for its noun


@dataclass(frozen=True)
class Batch:
    """`latents` [B, 8, 16, 16], `ids` [B, 32], `grounds`, and `labels` [B, 16, 16]: indices into `LABELS`."""

    latents: Tensor
    ids: Tensor
    grounds: Grounds
    labels: Tensor


class Examples:
    """All training rows in memory; batches are made on the training device."""

    def __init__(self, tokenizer: CLIPTokenizer, device: str) -> None:
        self.device = device
        self.latents = np.load(RUNS / "latents.npy")
        self.coverage = np.load(RUNS / "train" / "coverage.npy", mmap_mode="r")
        scenes = list(rows("train"))
        self.ids, self.codes = encode([row["parts"] for row in scenes], tokenizer)
        self.null_ids, _ = encode([[]], tokenizer)
        label = {name: i for i, name in enumerate(LABELS)}
        self.names = np.full((len(scenes), 3), UNLABELLED)
        for i, row in enumerate(scenes):
            things = row["scene"]["things"]
            self.names[i, : len(things)] = [label[thing["name"]] for thing in things]
        self.places = np.array([label[row["scene"]["place"]] for row in scenes])
        self.easy = np.array(
            [i for i, row in enumerate(scenes) if i >= HELD_BACK and is_easy(row["scene"])], dtype=np.int64
        )
        self.all = np.arange(HELD_BACK, len(scenes))

    def order(self, seed: int, first: int, count: int, easy: bool) -> np.ndarray:
        """The rows of the samples `first` … `first + count - 1` of a run; every epoch is shuffled anew."""
        pool = self.easy if easy else self.all
        taken = []
        while count:
            epoch, at = divmod(first, len(pool))
            shuffled = np.random.default_rng([seed, int(easy), epoch]).permutation(pool)[at : at + count]
            taken.append(shuffled)
            first, count = first + len(shuffled), count - len(shuffled)
        return np.concatenate(taken)

    def batch(self, index: np.ndarray, dropped: Tensor) -> Batch:
        """The rows `index`; the captions of those `dropped` (bool [B]) are empty, for classifier-free guidance."""
        ids, codes = torch.from_numpy(self.ids[index]), torch.from_numpy(self.codes[index])
        ids[dropped], codes[dropped] = torch.from_numpy(self.null_ids[0]), OTHER
        things = torch.stack([(codes == k) | (codes == k + NOUN) for k in range(3)], 1)
        nouns = torch.stack([codes == k + NOUN for k in range(3)], 1)
        coverage = torch.from_numpy(self.coverage[index]).float().div(255)
        most, nearest = coverage.max(1)
        labels = torch.from_numpy(self.names[index])[torch.arange(len(index))[:, None, None], nearest]
        labels = labels.where(most > 0.5, torch.from_numpy(self.places[index])[:, None, None])
        labels = labels.where((most > 0.5) | (coverage.sum(1) < 0.2), UNLABELLED)
        grounds = Grounds(things.float(), nouns.float(), (codes == PLACE).float(), coverage)
        move = self._move
        return Batch(
            move(torch.from_numpy(self.latents[index]).float()),
            move(ids.long()),
            Grounds(move(grounds.things), move(grounds.nouns), move(grounds.place), move(grounds.coverage)),
            move(labels),
        )

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def is_easy(scene: dict[str, Any]) -> bool:
    """Whether a scene is a photo by day of one thing in its own colours."""
    only, *others = scene["things"]
    plain = only["colour"] is None and scene["light"] == "day" and scene["style"] == "photo"
    return plain and not others


def encode(captions: list[list[tuple[str, Any]]], tokenizer: CLIPTokenizer) -> tuple[np.ndarray, np.ndarray]:
    """Captions in parts as (token ids, codes), each [N, 32], padded with the end token as CLIP does."""
    length = tokenizer.model_max_length
    ids = np.full((len(captions), length), tokenizer.eos_token_id, dtype=np.int32)
    codes = np.full((len(captions), length), OTHER, dtype=np.int8)
    ids[:, 0] = tokenizer.bos_token_id
    known: dict[str, list[int]] = {}
    for i, parts in enumerate(captions):
        at = 1
        for j, (text, referent) in enumerate(parts):
            if text not in known:
                known[text] = tokenizer(text, add_special_tokens=False).input_ids
            tokens = known[text]
            ids[i, at : at + len(tokens)] = tokens
            if isinstance(referent, int):
                # The words of a thing are consecutive, its noun last.
                last = j + 1 == len(parts) or parts[j + 1][1] != referent
                codes[i, at : at + len(tokens)] = referent + (NOUN if last else 0)
            elif referent == "place":
                codes[i, at : at + len(tokens)] = PLACE
            at += len(tokens)
    return ids, codes
