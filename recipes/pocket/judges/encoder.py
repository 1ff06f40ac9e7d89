"""Train the encoder, which measures how similar pictures are, from pictures alone, without captions or labels.

    python recipes/pocket/judges/encoder.py --preset cpu --minutes 22   # train, export runs/pocket/encoder, measure
    python recipes/pocket/judges/encoder.py --name trial --method vicreg --minutes 3.5  # a trial with its own name
    python recipes/pocket/judges/encoder.py --report                    # only measure

It learns to match two overlapping views of a picture, by one of two methods: `simclr` (T. Chen et al., 2020,
arXiv:2002.05709, without the layers on top) or `vicreg` (A. Bardes et al., 2022, arXiv:2105.04906).

A place is easier to recognise than a thing, and it would be all that is learned. So each batch is drawn from pictures
whose borders have similar colours: among these, views can only be matched by their things.
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
from transformers import CLIPImageProcessorPil, ConvNextConfig, ConvNextModel

from wordbrush.pocket import Scene, Thing, render, sample, vocabulary

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("data", "training")]

from data import RUNS, pictures
from run import Preset, Run, arguments, chosen, use_threads
from shapes import ENCODER

PRESETS = {
    "cpu": Preset(device="cpu", workers=1, batch=128, minutes=22),
    "gpu": Preset(device="cuda", workers=1, batch=256, minutes=3),  # the size of most groups
}
SEED = 3
MUON = 0.01
TEMPERATURE = 0.15
GROUPS = 128  # groups of pictures with similar borders; a batch comes from one group
NEIGHBOURS = 5


@dataclass(frozen=True)
class Views:
    """How views are cut: their size in pixels, the range of sides in the picture, and their greatest distance."""

    size: int
    sides: tuple[float, float]
    apart: float

    def of(self, images: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Two views [B, 3, size, size] in [-1, 1] of each of `images` [B, 3, 128, 128]."""
        full = images.shape[-1]
        sides = np.exp(rng.uniform(*np.log(self.sides), (2, len(images), 1)))
        first = rng.uniform(sides[0] / 2, full - sides[0] / 2, (len(images), 2))
        second = first + rng.uniform(-self.apart, self.apart, first.shape)
        second = np.clip(second, sides[1] / 2, full - sides[1] / 2)
        return _view(images, first, sides[0], self.size, rng), _view(images, second, sides[1], self.size, rng)


# First a quarter of the picture's pixels, to learn things; then nearly all of it, to learn where to look.
CLOSE, FAR = Views(64, (45, 90), apart=20), Views(96, (88, 128), apart=10)
LATER = 0.5  # the progress from which on views are far


def _view(
    images: Tensor, middles: np.ndarray, sides: np.ndarray, pixels: int, rng: np.random.Generator
) -> Tensor:
    """The squares around `middles` [B, 2] (right, down), half of them mirrored, with random colour and blur changes."""
    count, size = len(images), images.shape[-1]
    mirrored = rng.choice([-1.0, 1.0], count)
    moves = np.zeros((count, 2, 3))
    moves[:, 0, 0] = mirrored * sides[:, 0] / size
    moves[:, 1, 1] = sides[:, 0] / size
    moves[:, :, 2] = 2 * middles / size - 1
    grid = F.affine_grid(_tensor(moves, images), [count, 3, pixels, pixels], align_corners=False)
    view = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def uniform(low: float, high: float, channels: int = 1) -> Tensor:
        return _tensor(rng.uniform(low, high, (count, channels, 1, 1)), images)

    grey = view.mean(1, keepdim=True)
    view = grey + uniform(0.8, 1.2) * (view - grey)
    view = uniform(0.92, 1.08, channels=3) * uniform(0.85, 1.15) * view + uniform(-0.1, 0.1)
    some = torch.from_numpy(rng.random(count) < 1 / 3)
    view[some] = F.avg_pool2d(F.pad(view[some], (1, 1, 1, 1), mode="replicate"), 3, 1)
    return view.clamp(-1, 1)


def _tensor(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)


def similar_borders(shown: np.ndarray) -> list[np.ndarray]:
    """The rows of `shown` [N, 128, 128, 3] in groups whose borders have similar colours (k-means)."""
    rough = np.concatenate(
        [
            part.reshape(len(part), 4, 32, 4, 32, 3)[:, :, ::4, :, ::4].mean((2, 4), dtype=np.float32)
            for part in np.array_split(shown, max(1, len(shown) // 1000))
        ]
    )
    border = np.ones((4, 4), dtype=bool)
    border[1:3, 1:3] = False
    colours = torch.from_numpy(rough[:, border].reshape(len(shown), -1) / 128)
    generator = torch.Generator().manual_seed(SEED)
    middles = colours[torch.randperm(len(colours), generator=generator)[:GROUPS]]
    for _ in range(10):
        nearest = torch.cdist(colours, middles).argmin(1)
        for i in nearest.unique().tolist():
            middles[i] = colours[nearest == i].mean(0)
    nearest = torch.cdist(colours, middles).argmin(1).numpy()
    return [np.flatnonzero(nearest == i) for i in range(len(middles))]


class Pictures:
    """The training pictures, drawn so that the pictures of a batch have similar borders."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.shown = pictures("train")
        self.groups = similar_borders(self.shown)

    def alike(self, count: int, rng: np.random.Generator) -> Tensor:
        """`count` different pictures from one group that is large enough, in [-1, 1]."""
        groups = [group for group in self.groups if len(group) >= count] or [np.arange(len(self.shown))]
        sizes = np.array([len(group) for group in groups])
        chosen = groups[rng.choice(len(groups), p=sizes / sizes.sum())]
        return self.of(rng.choice(chosen, count, replace=False))

    def of(self, index: np.ndarray) -> Tensor:
        rows = np.stack([self.shown[i] for i in index])
        return torch.from_numpy(rows).to(self.device).permute(0, 3, 1, 2).float().div(127.5).sub(1)


class SimCLR(nn.Module):
    """Among all views in the batch, the other view of the same picture must be nearest, in the embedding itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ConvNextModel(ConvNextConfig(**ENCODER))

    def loss(self, one: Tensor, other: Tensor) -> Tensor:
        seen = F.normalize(self.encoder(pixel_values=torch.cat([one, other])).pooler_output.float(), dim=1)
        with torch.autocast(seen.device.type, enabled=False):
            alike = seen @ seen.T / TEMPERATURE
        count = len(one)
        alike = alike.masked_fill(torch.eye(2 * count, dtype=torch.bool, device=seen.device), -torch.inf)
        partner = torch.arange(2 * count, device=seen.device).roll(count)
        return F.cross_entropy(alike, partner)


class VICReg(nn.Module):
    """Two views are near; every component varies between pictures; no two components are correlated."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = ConvNextModel(ConvNextConfig(**ENCODER))
        width, wide = ENCODER["hidden_sizes"][-1], 768
        self.head = nn.Sequential(
            nn.Linear(width, wide, bias=False), nn.BatchNorm1d(wide), nn.ReLU(), nn.Linear(wide, wide)
        )

    def loss(self, one: Tensor, other: Tensor) -> Tensor:
        features = self.encoder(pixel_values=torch.cat([one, other])).pooler_output
        seen = self.head(features).float().chunk(2)
        total = 25 * F.mse_loss(*seen)
        for each in seen:
            each = each - each.mean(0)
            total = total + 25 / 2 * F.relu(1 - (each.var(0) + 1e-4).sqrt()).mean()
            with torch.autocast(each.device.type, enabled=False):
                together = each.T @ each / (len(each) - 1)
            apart = together.square().sum() - together.diagonal().square().sum()
            total = total + apart / each.shape[1]
        return total / 25


METHODS = {"simclr": SimCLR, "vicreg": VICReg}


@torch.no_grad()
def embeddings(encoder: ConvNextModel, images: Sequence[Image.Image]) -> Tensor:
    """Unit vectors [N, D] of whole pictures."""
    found = []
    for first in range(0, len(images), 50):
        rows = np.stack([np.asarray(image) for image in images[first : first + 50]])
        pixels = torch.from_numpy(rows).permute(0, 3, 1, 2).float().div(127.5).sub(1)
        found.append(F.normalize(encoder(pixel_values=pixels).pooler_output.float(), dim=1))
    return torch.cat(found)


def agreement(encoder: ConvNextModel, count: int = 2_000) -> dict[str, float]:
    """How often the nearest neighbours of held-out pictures of one thing show the same as they do.

    "thing", "place", "light", "style": the share of the five nearest that show the same, averaged over pictures; "by
    chance": the same share of all other pictures.
    """
    scenes = [sample(seed, split="test", things=1) for seed in range(5_000, 5_000 + count)]
    seen = embeddings(encoder, [render(scene) for scene in scenes])
    alike = seen @ seen.T
    alike.fill_diagonal_(-2)
    nearest = alike.topk(NEIGHBOURS).indices.numpy()
    figures = {}
    for kind, shown in (
        ("thing", [scene.things[0].name for scene in scenes]),
        ("place", [scene.place for scene in scenes]),
        ("light", [scene.light for scene in scenes]),
        ("style", [scene.style for scene in scenes]),
    ):
        truth = np.unique(shown, return_inverse=True)[1]
        same = truth[:, None] == truth
        figures[kind] = float(same[np.arange(count)[:, None], nearest].mean())
        figures[f"{kind} by chance"] = float((same.sum() - count) / (count * (count - 1)))
    return figures


def subjects(encoder: ConvNextModel, views: int = 12) -> dict[str, float]:
    """Whether pictures of the same sprite, never shown in training, are nearer than pictures of different sprites.

    The mean cosines of pairs with the same and with different sprites, always in different places, and the probability
    that a pair of the first kind is nearer than one of the second (AUC).
    """
    rng = np.random.default_rng(SEED)
    names, where, images = [], [], []
    for name in vocabulary.HELD_OUT:
        for place in rng.choice(list(vocabulary.PLACES), views, replace=False).tolist():
            thing = Thing(
                name,
                size=rng.choice(["medium", "large"]).item(),
                x=rng.uniform(0.4, 0.6),
                y=rng.uniform(0.5, 0.62),
                flip=rng.random() < 0.5,
            )
            names.append(name)
            where.append(place)
            images.append(render(Scene((thing,), place, place_seed=int(rng.integers(96, 192)))))
    seen = embeddings(encoder, images)
    alike = (seen @ seen.T).numpy()
    same = np.array(names)[:, None] == np.array(names)
    apart = np.triu(np.array(where)[:, None] != np.array(where), 1)
    one, two = alike[same & apart], alike[~same & apart]
    order = np.sort(two)
    below = (np.searchsorted(order, one, "left") + np.searchsorted(order, one, "right")) / 2
    return {
        "cosine, same sprite": float(one.mean()),
        "cosine, other sprite": float(two.mean()),
        "AUC": float((below / len(two)).mean()),
    }


def export(encoder: ConvNextModel, held: Tensor, folder: Path) -> None:
    """Write the encoder as transformers reads it, in half precision, with its processor.

    The mean embedding of the pictures `held` [N, 3, 128, 128] is subtracted in the bias of the last layer, so that
    pictures with nothing in common have a cosine of about 0.
    """
    encoder = encoder.float().eval()
    with torch.no_grad():
        mean = torch.cat([encoder(pixel_values=part).pooler_output for part in held.split(50)]).mean(0)
        encoder.layernorm.bias.sub_(mean)
    encoder.half().save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 128},
        crop_size={"height": 128, "width": 128},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    ).save_pretrained(folder)


def report(folder: Path) -> None:
    """Measure the exported encoder on held-out pictures; writes <folder>_report.json."""
    encoder = ConvNextModel.from_pretrained(folder, dtype=torch.float32).eval()
    figures: dict[str, Any] = {"neighbours": agreement(encoder), "sprites never shown": subjects(encoder)}
    figures = {kind: {name: round(v, 4) for name, v in some.items()} for kind, some in figures.items()}
    figures["parameters"] = sum(p.numel() for p in encoder.parameters())
    part = folder.with_name(f"{folder.name}_report.part")
    part.write_text(json.dumps(figures, indent=2) + "\n")
    os.replace(part, folder.with_name(f"{folder.name}_report.json"))
    print(json.dumps(figures))


def main() -> None:
    parser = arguments(__doc__, PRESETS)
    parser.add_argument("--method", choices=METHODS, default="simclr")
    parser.add_argument("--name", default="encoder", help="the name of the run and its folder")
    parser.add_argument("--report", action="store_true", help="only measure the exported encoder")
    options = parser.parse_args()
    preset = chosen(options, PRESETS)
    use_threads(preset)
    if not options.report:
        torch.manual_seed(SEED)
        learner = METHODS[options.method]().to(preset.device)
        source = Pictures(preset.device)

        def loss(
            progress: float, rng: np.random.Generator, generator: torch.Generator
        ) -> tuple[Tensor, dict[str, float]]:
            cut = CLOSE if progress < LATER else FAR
            value = learner.loss(*cut.of(source.alike(preset.batch, rng), rng))
            return value, {"loss": value.item()}

        run = Run(options.name, preset, [learner])
        run.train(0, None, [learner], loss, muon=MUON)
        run.shared.bind([learner], "average")
        every = source.of(np.arange(0, len(source.shown), max(1, len(source.shown) // 1000))).cpu()
        export(learner.cpu().encoder, every, RUNS / options.name)
    report(RUNS / options.name)


if __name__ == "__main__":
    main()
