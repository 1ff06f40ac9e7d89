"""Where words act: their attention maps on held-out scenes of one thing, compared with what they name.

Used by `report.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import torch

from data import coverage
from jobs import Job, JobRunner, loaded
from wordbrush.api import invert
from wordbrush.pocket import Scene, caption, caption_parts, render, sample
from wordbrush.pocket.vocabulary import COLOURS, SIZES
from wordbrush.word_map import word_map

# The first held-out seed, the number of scenes, and how many per job.
FIRST, SCENES, CHUNK = 50_000, 120, 10
SHOWN = 0.4  # the share of its maximum at which a word's map is cut before the comparison


@cache
def scenes() -> list[Scene]:
    """Held-out scenes of one thing, of every size, light and style, not hand-picked."""
    return [sample(seed, things=1, split="test") for seed in range(FIRST, FIRST + SCENES)]


def words_of(scene: Scene) -> list[tuple[str, str]]:
    """(class, words) of the parts of a one-thing caption that refer to a region of the picture."""
    classes = {"place": "place", 0: "object"}
    parts = [(text, classes[referent]) for text, referent in caption_parts(scene) if referent in classes]
    return [
        ("colour" if text in COLOURS else "size" if text in SIZES else kind, text) for text, kind in parts
    ]


def mapped(weights: Path, first: int) -> dict[str, np.ndarray]:
    """The maps of `words_of` for some scenes, one after the other, as `wordbrush heatmap` computes them by default."""
    model = loaded(weights, torch.float32)
    found: list[np.ndarray] = []
    for scene in scenes()[first : first + CHUNK]:
        prompt = caption(scene)
        source = invert(model, render(scene), prompt, method="direct")
        for _, word in words_of(scene):
            found.append(word_map(model, prompt, word, source.trajectory, source.schedule).numpy())
    return {"maps": np.stack(found)}


def run(runner: JobRunner) -> list[np.ndarray]:
    """The maps [h, w] of all words of the first scenes, as many as the time allows."""
    jobs = [Job(f"maps-{i}", mapped, (i,)) for i in range(0, SCENES, CHUNK)]
    return [heat for arrays in runner.read(jobs) for heat in arrays["maps"]]


def measured(results: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Mean intersection over union of words' maps and what they name, in latent cells, by class of word.

    everywhere: the value of a map that covers the whole picture.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    words = [(scene, kind) for scene in scenes() for kind, _ in words_of(scene)]
    for (scene, kind), heat in zip(words, results, strict=False):
        covered = coverage(scene)[0] > 127
        true, shown = ~covered if kind == "place" else covered, heat > SHOWN
        found.setdefault(kind, []).append(((shown & true).sum() / (shown | true).sum(), true.mean()))
    means = {kind: np.mean(pairs, axis=0) for kind, pairs in sorted(found.items())}
    return {
        kind: {"iou": float(iou), "everywhere": float(everywhere), "of": len(found[kind])}
        for kind, (iou, everywhere) in means.items()
    }
