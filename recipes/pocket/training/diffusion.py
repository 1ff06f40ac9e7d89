"""Train the text encoder and the UNet together: a caption and noise to latents.

    python recipes/pocket/training/diffusion.py --preset cpu --minutes 75
    python recipes/pocket/training/diffusion.py --preset gpu --minutes 15     # continues from the same checkpoint
    python recipes/pocket/training/diffusion.py --start src/wordbrush/pocket/weights    # from exported weights

Needs the output of `data.py`, `tokenizer.py` and `autoencoder.py`. Writes to `runs/pocket`: `diffusion.pt` (the
checkpoint to resume from), `diffusion.jsonl` (losses) and `samples/` (pictures of `PROMPTS`). `--minutes` is the wall
time of this call; the learning rate falls along a cosine over its second half. The data of a step depend only on (seed,
step, piece). `--plain` trains with the denoising loss alone, on uniform timesteps.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, multiprocessing, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

sys.path.append(str(Path(__file__).parents[1] / "data"))

from attention import PlainAttention, grounding_loss, install
from cpu_layers import speed_up
from data import RUNS, samples_of
from examples import LABELS, UNLABELLED, Batch, Examples, encode
from precision import autocast, numbers
from run import compile_all
from shapes import SCHEDULER, TEXT_ENCODER, UNET
from shared import SharedWeights, Updater

LOG_SECONDS, CHECKPOINT_SECONDS, SAMPLE_SECONDS = 20, 180, 900
SEEN = 96  # held-back rows used for the losses in the log
DROPPED = 0.1  # the share of captions left out, for classifier-free guidance
PROMPTS = (
    "a cat on a beach",
    "a photo of a dog in the snow",
    "a fox in a forest",
    "a large tiger in a meadow",
    "a red car in a city",
    "a bicycle on a street",
    "a blue teapot in a room",
    "a castle in the mountains at sunset",
    "a robot on the moon",
    "a cake on a pink background",
    "an apple on a white background",
    "a guitar on a blue background",
    "a cat next to a dog in a meadow",
    "a small red backpack to the left of a chair in a room",
    "a watercolor painting of a bear in the snow",
    "a pencil sketch of a rabbit in a forest",
)


@dataclass(frozen=True)
class Preset:
    """How the machine is used, and the hyperparameters.

    A step processes `batch` samples in pieces of `piece`. A worker takes the next piece when it has finished one, so a
    worker on a busy core does not delay the others.
    """

    device: str
    workers: int
    batch: int
    piece: int
    minutes: float
    lr: float = 8e-4
    fall: float = 0.5  # the last share of the budget, over which the learning rate falls
    keep: float = 0.999  # decay of the averaged weights per step
    optimiser: str = "muon"
    seed: int = 0
    samples: int = 0  # if set, stop after this many more samples instead of after the minutes
    easy: int = 30_000  # samples with single plain things, before all kinds are used
    grounding: float = 0.05
    labelling: float = 0.03
    content: bool = True  # timesteps and loss weights that favour the noise levels that decide content
    compiled: bool = False  # compiling takes minutes, which pays off only on a fast device


PRESETS = {
    "cpu": Preset(device="cpu", workers=2, batch=64, piece=16, minutes=75),
    "gpu": Preset(device="cuda", workers=1, batch=512, piece=512, minutes=15, compiled=True),
}


class Labeller(nn.Module):
    """Predicts from the decoder's features what every cell shows. Used only in training.

    Diffusion models learn faster if their features encode early what is where (S. Yu et al., "Representation
    Alignment", ICLR 2025). In the built-in world this is known, so no other network is needed for it.
    """

    def __init__(self, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.features: list[Tensor] = []
        coarse, fine = unet.config.block_out_channels[:0:-1]
        self.heads = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(LABELS))) for width in (coarse, fine)
        )
        for block in unet.up_blocks[:2]:
            block.register_forward_hook(self._keep)

    def _keep(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        if self.training:
            self.features.append(output)

    def forward(self, labels: Tensor, snr: Tensor) -> Tensor:
        """Cross-entropy of the cells' labels [B, 16, 16], weighted less the more noise there is."""
        losses = []
        for head, features in zip(self.heads, self.features, strict=True):
            logits = head(features.permute(0, 2, 3, 1)).float()
            stride = labels.shape[1] // logits.shape[1]
            # A coarse cell gets the label of one of its fine cells.
            wanted = labels[:, ::stride, ::stride]
            loss = F.cross_entropy(
                logits.flatten(0, 2), wanted.flatten(), ignore_index=UNLABELLED, reduction="none"
            )
            losses.append((loss.view(len(snr), -1).mean(1) * snr / (snr + 0.1)).mean())
        self.features.clear()
        return torch.stack(losses).mean()


class Networks(nn.Module):
    """Text encoder, UNet and labeller, which are trained together."""

    def __init__(self, tokenizer: CLIPTokenizer, device: str, grounded: bool) -> None:
        super().__init__()
        ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
        config = CLIPTextConfig(
            vocab_size=len(tokenizer), pad_token_id=tokenizer.eos_token_id, **ends, **TEXT_ENCODER
        )
        self.text_encoder = CLIPTextModel(config)
        self.unet = UNet2DConditionModel(**UNET)
        self.labeller = Labeller(self.unet)
        self.attention = install(self.unet, keep=grounded)
        zero_residual_branches(self.unet)
        self.to(device, memory_format=torch.channels_last)
        if device == "cpu" and numbers(device) == torch.bfloat16:
            speed_up(self.unet)

    def forward(self, z_t: Tensor, t: Tensor, ids: Tensor) -> Tensor:
        """The predicted noise [B, 8, 16, 16]."""
        return self.unet(z_t, t, self.text_encoder(ids).last_hidden_state).sample.float()

    def word_maps(self) -> list[Tensor]:
        """The word maps that the cross-attention kept in the last forward pass."""
        return [kept.words for kept in self.attention if kept.words is not None]


def zero_residual_branches(unet: UNet2DConditionModel) -> None:
    """Initialise every residual branch with zero, as the original latent diffusion does and diffusers does not."""
    last = ("conv2", "proj_out", "conv_out")
    for name, module in unet.named_modules():
        if name.split(".")[-1] in last:
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)


def signal_to_noise() -> Tensor:
    """ᾱ / (1 − ᾱ) of every timestep, [1000]."""
    alphas_cumprod = DDIMScheduler(**SCHEDULER).alphas_cumprod
    return alphas_cumprod / (1 - alphas_cumprod)


def timesteps(count: int, content: bool, generator: torch.Generator) -> Tensor:
    """Timesteps, stratified over their distribution within a batch.

    With `content`, four in five are logit-normal around 600 (P. Esser et al. 2024, arXiv:2403.03206), where places and
    things are decided, and the others favour values near 1000, where only the words decide the colours of large areas.
    Otherwise all are uniform.
    """
    u = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    if content:
        middle = torch.sigmoid(0.4 + torch.special.ndtri(u.clamp(1e-4, 1 - 1e-4)))
        noisy = 1 - torch.rand(count, generator=generator).square()
        u = torch.where(torch.rand(count, generator=generator) < 0.2, noisy, middle)
    return (u * 1000).long().clamp(0, 999)


def compute_losses(
    networks: Networks, batch: Batch, snr: Tensor, preset: Preset, generator: torch.Generator
) -> dict[str, Tensor]:
    """The losses of one batch: `denoising` (weighted), `eps` (its plain mean), `grounding`, `labelling`, `total`."""
    count = len(batch.latents)
    t = timesteps(count, preset.content, generator)
    noise = torch.randn(batch.latents.shape, generator=generator).to(batch.latents.device)
    t, ratio = t.to(noise.device), snr[t].to(noise.device)
    alpha = (ratio / (1 + ratio)).view(-1, 1, 1, 1)
    z_t = alpha.sqrt() * batch.latents + (1 - alpha).sqrt() * noise
    with autocast(noise.device.type):
        predicted = networks(z_t.contiguous(memory_format=torch.channels_last), t, batch.ids)
        labelling = networks.labeller(batch.labels, ratio)
    error = (predicted - noise).square().mean((1, 2, 3))
    # Min-SNR-5 (T. Hang et al. 2023, arXiv:2303.09556), with a little more weight where there is almost only noise.
    weight = (ratio + 0.1).clamp(max=5) / ratio if preset.content else torch.ones_like(ratio)
    denoising = (weight * error).mean()
    maps = networks.word_maps()
    grounding = grounding_loss(maps, batch.grounds, ratio) if maps else torch.zeros(())
    total = denoising + preset.grounding * grounding + preset.labelling * labelling
    return {
        "total": total,
        "denoising": denoising.detach(),
        "eps": error.mean().detach(),
        "grounding": grounding.detach(),
        "labelling": labelling.detach(),
    }


def rate(step: int, progress: float, fall: float) -> float:
    """The learning rate's factor: 60 steps of warm-up; a cosine to 2 % over the last share `fall` of the budget."""
    fallen = max(0.0, min(1.0, 1 - (1 - progress) / fall))
    return min(1.0, (step + 1) / 60) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * fallen)))


@torch.no_grad()
def paint(
    networks: Networks, ids: Tensor, null_ids: Tensor, seed: int, steps: int = 30, scale: float = 5.0
) -> Tensor:
    """Latents [B, 8, 16, 16] for the captions `ids`, by DDIM with classifier-free guidance."""
    scheduler = DDIMScheduler(**SCHEDULER)
    scheduler.set_timesteps(steps)
    count, device = len(ids), ids.device
    z = torch.randn(count, 8, 16, 16, generator=torch.Generator().manual_seed(seed)).to(device)
    with autocast(device.type):
        embeds = networks.text_encoder(torch.cat([ids, null_ids.expand(count, -1)])).last_hidden_state
        for t in scheduler.timesteps:
            both = networks.unet(torch.cat([z, z]), t.to(device), embeds).sample.float()
            eps, eps_null = both.chunk(2)
            z = scheduler.step(eps_null + scale * (eps - eps_null), t, z).prev_sample
    return z


def sheet(pictures: Tensor, columns: int) -> Image.Image:
    """Pictures [N, 3, H, W] in [-1, 1] side by side."""
    rows = [torch.cat(list(row), 2) for row in pictures.split(columns)]
    pixels = ((torch.cat(rows, 1).clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).cpu().numpy())


class Evaluator:
    """Evaluates the averaged weights: losses on held-back rows, and pictures of `PROMPTS`."""

    def __init__(
        self, shared: SharedWeights, examples: Examples, tokenizer: CLIPTokenizer, device: str
    ) -> None:
        self.networks = Networks(tokenizer, device, grounded=True).requires_grad_(False).eval()
        shared.bind(trained_modules(self.networks), "average")
        self.examples, self.device = examples, device
        self.ids = (
            torch.from_numpy(encode([[(prompt, None)] for prompt in PROMPTS], tokenizer)[0]).long().to(device)
        )

    def losses(self, snr: Tensor) -> dict[str, float]:
        """Unweighted noise errors at five timesteps, and the overlap of nouns' maps and things (mean IoU)."""
        held = self.examples.batch(np.arange(SEEN), torch.zeros(SEEN, dtype=torch.bool))
        noise = torch.randn(held.latents.shape, generator=torch.Generator().manual_seed(1)).to(self.device)
        found: dict[str, float] = {}
        for t in (150, 350, 550, 750, 900):
            alpha = snr[t] / (1 + snr[t])
            z_t = alpha.sqrt() * held.latents + (1 - alpha).sqrt() * noise
            steps = torch.full((len(noise),), t, device=self.device)
            # The processors keep maps only if gradients are enabled.
            with torch.enable_grad(), autocast(self.device):
                predicted = self.networks(z_t, steps, held.ids)
            found[f"eps_{t}"] = (predicted - noise).square().mean().item()
            if t == 550:
                found["iou"] = overlap(self.networks.attention, held)
        return found

    def pictures(self) -> Image.Image:
        null_ids = torch.from_numpy(self.examples.null_ids).long().to(self.device)
        z = paint(self.networks, self.ids, null_ids, seed=0)
        vae = AutoencoderKL.from_pretrained(RUNS / "vae").to(self.device).eval()
        with torch.no_grad():
            return sheet(vae.decode(z / vae.config.scaling_factor).sample, columns=8)


def overlap(attention: list[PlainAttention], batch: Batch) -> float:
    """Mean intersection over union of each noun's map (16 × 16, cut at 0.4 of its maximum) and its thing."""
    maps = torch.stack([k.words for k in attention if k.words is not None and k.words.shape[1] == 256]).mean(
        0
    )
    noun = batch.grounds.nouns @ maps.transpose(1, 2)
    shown = noun > 0.4 * noun.amax(-1, keepdim=True)
    true = batch.grounds.coverage.flatten(2) > 0.5
    said = (batch.grounds.nouns.amax(-1) > 0) & true.any(-1)
    ratio = (shown & true).sum(-1) / (shown | true).sum(-1).clamp(min=1)
    return ratio[said].mean().item()


def trained_modules(networks: Networks) -> list[nn.Module]:
    return [networks.text_encoder, networks.unet, networks.labeller]


class Pieces:
    """Distributes the pieces of every step among the workers, counted over the whole run."""

    def __init__(self, in_a_step: int) -> None:
        self.in_a_step = in_a_step
        self.dealt = multiprocessing.get_context("spawn").Value("q", 0)

    def of_step(self, number: int) -> Iterator[int]:
        """The pieces of this run's step `number` that no worker has taken yet, until all are taken."""
        while True:
            with self.dealt.get_lock():
                piece = self.dealt.value - number * self.in_a_step
                if piece >= self.in_a_step:
                    return
                self.dealt.value += 1
            yield piece


def train(
    worker: int,
    run: Preset,
    name: str,
    shared: SharedWeights,
    barrier: Barrier | None,
    control: Tensor,
    pieces: Pieces,
) -> None:
    """One worker's run. `control` is shared and written by worker 0: [learning rate factor, whether to stop]."""
    if run.device == "cpu":
        torch.set_num_threads(1)
    tokenizer = CLIPTokenizer.from_pretrained(RUNS / "tokenizer")
    examples = Examples(tokenizer, run.device)
    networks = Networks(tokenizer, run.device, grounded=run.grounding > 0)
    shared.bind(trained_modules(networks), "weights", worker)
    if run.compiled:
        compile_all(networks.unet, networks.text_encoder)
    updater = Updater(shared, worker, barrier, run.optimiser, run.lr, run.keep)
    training_log = TrainingLog(name, shared, examples, tokenizer, run.device) if worker == 0 else None
    snr = signal_to_noise()
    start = time.monotonic()
    first = step = int(shared.steps.item())
    seen = int(shared.samples.item())
    until = seen + run.samples if run.samples else None
    stop = False
    while not stop:
        if worker == 0:
            progress = (time.monotonic() - start) / (60 * run.minutes)
            if until is not None:
                progress = 1 - (until - seen) / run.samples
            control[0], control[1] = rate(step, progress, run.fall), float(progress >= 1)
        index = examples.order(run.seed, seen, run.batch, easy=seen < run.easy)
        losses: list[dict[str, Tensor]] = []
        for piece in pieces.of_step(step - first):
            seed = np.random.SeedSequence([run.seed, step, piece]).generate_state(1)[0]
            generator = torch.Generator().manual_seed(int(seed))
            rows = index[piece :: pieces.in_a_step]
            dropped = torch.rand(len(rows), generator=generator) < DROPPED
            losses.append(compute_losses(networks, examples.batch(rows, dropped), snr, run, generator))
            # The updater averages over workers, but the step needs the average over pieces.
            (losses[-1]["total"] * run.workers / pieces.in_a_step).backward()
        norm, stop = updater.step(control, run.batch)
        step, seen = step + 1, seen + run.batch
        if training_log is not None:
            for some in losses:
                training_log.note(some)
            training_log.close_step(step, seen, norm.item(), control[0].item(), stop)


class TrainingLog:
    """What worker 0 writes: log lines, checkpoints, and evaluations of the averaged weights."""

    def __init__(
        self, name: str, shared: SharedWeights, examples: Examples, tokenizer: CLIPTokenizer, device: str
    ) -> None:
        self.name, self.shared = name, shared
        self.evaluator = Evaluator(shared, examples, tokenizer, device)
        self.snr = signal_to_noise()
        self.logged = self.saved = self.looked = time.monotonic()
        self.sums: dict[str, float] = {}
        self.count, self.since = 0, int(shared.samples.item())

    def note(self, losses: dict[str, Tensor]) -> None:
        """Add the losses of one piece."""
        self.count += 1
        for key, value in losses.items():
            self.sums[key] = self.sums.get(key, 0.0) + value.item()

    def close_step(self, step: int, seen: int, norm: float, rate: float, last: bool) -> None:
        """Write whatever is due; after the `last` step, everything."""
        now = time.monotonic()
        if self.count and (last or now - self.logged > LOG_SECONDS):
            speed = (seen - self.since) / (now - self.logged)
            means = {key: value / self.count for key, value in self.sums.items()}
            self._write(
                {"step": step, "samples": seen, "per_second": speed, **means, "norm": norm, "rate": rate}
            )
            self.logged, self.since, self.count, self.sums = now, seen, 0, {}
        if last or now - self.saved > CHECKPOINT_SECONDS:
            part = RUNS / f"{self.name}.part"
            torch.save(self.shared.saved(), part)
            os.replace(part, RUNS / f"{self.name}.pt")
            self.saved = now
        if last or now - self.looked > SAMPLE_SECONDS:
            self._write({"step": step, "samples": seen, **self.evaluator.losses(self.snr)})
            folder = RUNS / "samples"
            folder.mkdir(exist_ok=True)
            self.evaluator.pictures().save(folder / f"{self.name}-{seen // 1000:05d}k.png")
            self.logged, self.since = time.monotonic(), seen
            self.looked = self.logged

    def _write(self, line: dict[str, float]) -> None:
        rounded = {key: round(value, 4) for key, value in line.items()}
        with (RUNS / f"{self.name}.jsonl").open("a") as log:
            log.write(json.dumps(rounded) + "\n")


def initial_weights(run: Preset, tokenizer: CLIPTokenizer, start: Path | None) -> SharedWeights:
    """The weights to start from: new ones, always initialised the same way, or those exported to the folder `start`.

    Exported weights come without optimiser state, which a hundred steps rebuild, and without labeller.
    """
    torch.manual_seed(run.seed)
    networks = Networks(tokenizer, run.device, grounded=False)
    if start is not None:
        text_encoder = CLIPTextModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
        unet = UNet2DConditionModel.from_pretrained(start / "unet", torch_dtype=torch.float32)
        networks.text_encoder.load_state_dict(text_encoder.state_dict())
        networks.unet.load_state_dict(unet.state_dict())
    shared = SharedWeights(trained_modules(networks), run.workers, run.device)
    if start is not None:
        samples = samples_of(start)
        shared.samples.fill_(samples)
        shared.steps.fill_(samples // run.batch)
    return shared


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--name", default="diffusion", help="of the checkpoint, the log and the samples")
    parser.add_argument(
        "--start", type=Path, help="a folder written by export.py, used if there is no checkpoint"
    )
    parser.add_argument("--plain", action="store_true", help="only the denoising loss, uniform timesteps")
    for field in fields(Preset):
        if field.name not in ("device", "content", "compiled"):
            kind = str if field.type == "str" else float if field.type == "float" else int
            parser.add_argument(f"--{field.name}", type=kind, help=f"instead of the preset's {field.name}")
    given = vars(parser.parse_args())
    run, name, start = PRESETS[given.pop("preset")], given.pop("name"), given.pop("start")
    if given.pop("plain"):
        run = replace(run, easy=0, grounding=0.0, labelling=0.0, content=False)
    run = replace(run, **{key: value for key, value in given.items() if value is not None})

    tokenizer = CLIPTokenizer.from_pretrained(RUNS / "tokenizer")
    shared = initial_weights(run, tokenizer, start)
    if (checkpoint := RUNS / f"{name}.pt").exists():
        shared.load(torch.load(checkpoint, map_location=run.device, weights_only=True))
    control = torch.zeros(2).share_memory_()
    pieces = Pieces(run.batch // run.piece)
    if run.workers == 1:
        train(0, run, name, shared, None, control, pieces)
    else:
        barrier = multiprocessing.get_context("spawn").Barrier(run.workers)
        multiprocessing.spawn(train, (run, name, shared, barrier, control, pieces), nprocs=run.workers)


if __name__ == "__main__":
    main()
