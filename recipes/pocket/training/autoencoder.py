"""Train the autoencoder: from a 128-pixel picture to 16 × 16 cells of 8 numbers, and back.

    python recipes/pocket/training/autoencoder.py --preset cpu --minutes 25    # train, then export runs/pocket/vae
    python recipes/pocket/training/autoencoder.py --encode                     # runs/pocket/latents.npy for the UNet
    python recipes/pocket/training/autoencoder.py --decoder-only --minutes 20  # later: sharper, same latents
    python recipes/pocket/training/autoencoder.py --further --minutes 90       # later: both; the UNet must follow

If run again, training continues from its last checkpoint; more minutes stretch the schedule. It uses random 64-pixel
crops at first and whole pictures towards the end, because in use the group norms see whole pictures.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from threading import Barrier

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor, multiprocessing
from torch.nn import functional as F

sys.path.append(str(Path(__file__).parents[1] / "data"))

from data import CELL, PICTURE, RUNS, pictures, rows
from precision import numbers
from run import Preset, Run, arguments, chosen, compile_all, spawn, use_threads
from shapes import AUTOENCODER

CROP = 64
WHOLE_FROM = 0.6  # the share of the time after which whole pictures are used
NOISE = 0.05  # added to latents of about unit size, so that the decoder tolerates small errors of the UNet
BLOCK = 16  # pictures encoded at a time
# The learning rates for further training of exported weights, low enough not to lose what was learned.
MUON_LATER, ADAM_LATER = 0.004, 5e-4
CHANNELS = AUTOENCODER["latent_channels"]

PRESETS = {
    "cpu": Preset(device="cpu", workers=2, batch=16, minutes=25),
    "gpu": Preset(device="cuda", workers=1, batch=128, minutes=8),
}


def to_tensor(rows: np.ndarray, device: str = "cpu") -> Tensor:
    """uint8 [N, H, W, 3] as float [N, 3, H, W] in [-1, 1]."""
    images = torch.from_numpy(np.array(rows)).to(device).permute(0, 3, 1, 2)
    return images.float().div(127.5).sub(1).contiguous(memory_format=torch.channels_last)


def crops(source: np.ndarray, count: int, size: int, rng: np.random.Generator) -> tuple[Tensor, np.ndarray]:
    """`count` random crops as a tensor, and their positions: rows of (picture, cell down, cell right).

    Corners are aligned with the latent cells, as those of a whole picture are. The mean of two random numbers favours
    the middle, where the things are.
    """
    room = (PICTURE - size) // CELL
    where = np.concatenate(
        [rng.integers(0, len(source), (count, 1)), rng.integers(0, room + 1, (count, 2, 2)).sum(2) // 2],
        axis=1,
    )
    taken = [source[i, CELL * y : CELL * y + size, CELL * x : CELL * x + size] for i, y, x in where]
    return to_tensor(np.stack(taken)), where


def distance(decoded: Tensor, true: Tensor) -> Tensor:
    """The reconstruction loss: squared error (for the PSNR), absolute error, and absolute error of the edges."""
    error = decoded - true
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return 4 * error.square().mean() + error.abs().mean() + 0.5 * edges


def fair_distance(decoded: Tensor, true: Tensor) -> Tensor:
    """`distance` plus the logarithm of each picture's squared error, which dominates once errors are small.

    The logarithm corresponds to the PSNR, so difficult pictures do not count more.
    """
    return 0.08 * (decoded - true).square().mean((1, 2, 3)).log().mean() + distance(decoded, true)


def psnr(decoded: Tensor, true: Tensor) -> float:
    """In decibels, of pictures in [-1, 1]."""
    return 10 * math.log10(4 / (decoded - true).square().mean().item())


def noisy(latents: Tensor, generator: torch.Generator) -> Tensor:
    return latents + NOISE * torch.randn(latents.shape, generator=generator).to(latents.device)


def autoencoder_loss(
    model: AutoencoderKL, true: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The loss of a batch of crops [B, 3, H, W], and figures for the log."""
    clean = model.encode(true).latent_dist.mean.float()
    latents = noisy(clean, generator)
    decoded = model.decode(latents).sample.float()
    # A quarter of the batch is also decoded from latents at half size, which should give the picture at half size.
    # Latents that scale like pictures contain less fine noise that the UNet would have to learn
    # (T. Kouzelis et al., "EQ-VAE", 2025, arXiv:2502.09509).
    quarter = max(1, len(true) // 4)
    halved = model.decode(F.avg_pool2d(latents[:quarter], 2)).sample.float()
    loss = distance(decoded, true) + 0.25 * distance(halved, F.avg_pool2d(true[:quarter], 2))
    size = clean.square().mean((0, 2, 3))
    return loss + 0.01 * (size - 1).square().mean(), {"psnr": psnr(decoded, true)}


def further_loss(
    model: AutoencoderKL, true: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The loss of further training of the exported autoencoder, on [B, 3, 128, 128], and figures for the log."""
    clean = model.encode(true).latent_dist.mean.float()
    decoded = model.decode(noisy(clean, generator)).sample.float()
    halved = model.decode(F.avg_pool2d(clean[:1], 2)).sample.float()
    loss = fair_distance(decoded, true) + 0.25 * distance(halved, F.avg_pool2d(true[:1], 2))
    size = clean.square().mean((0, 2, 3))
    return loss + 0.01 * (size - 1).square().mean(), {"psnr": psnr(decoded, true)}


def decoder_loss(
    model: AutoencoderKL, true: Tensor, latents: Tensor, generator: torch.Generator
) -> tuple[Tensor, dict[str, float]]:
    """The loss of decoding given latents [B, 8, h, w], and figures for the log."""
    decoded = model.decode(noisy(latents, generator)).sample.float()
    return fair_distance(decoded, true), {"psnr": psnr(decoded, true)}


def autoencoder(preset: Preset) -> AutoencoderKL:
    """A new autoencoder, initialised the same way every time."""
    torch.manual_seed(0)
    return AutoencoderKL(**AUTOENCODER).to(preset.device, memory_format=torch.channels_last)


def exported(preset: Preset) -> AutoencoderKL:
    """The autoencoder in runs/pocket/vae."""
    model = AutoencoderKL.from_pretrained(RUNS / "vae", torch_dtype=torch.float32)
    return model.requires_grad_(False).to(preset.device, memory_format=torch.channels_last)


def further(preset: Preset) -> AutoencoderKL:
    """The exported autoencoder, with all parameters trainable."""
    return exported(preset).requires_grad_()


def train_whole(worker: int, run: Run, barrier: Barrier | None) -> None:
    """One worker's part of training encoder and decoder."""
    preset = run.preset
    use_threads(preset)
    model, source, share = autoencoder(preset), pictures("train"), preset.batch // preset.workers
    if preset.device == "cuda":
        compile_all(model.encoder, model.decoder)

    def loss(
        progress: float, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        whole = progress >= WHOLE_FROM
        true, _ = crops(source, share // 4 if whole else share, PICTURE if whole else CROP, rng)
        return autoencoder_loss(model, true.to(preset.device), generator)

    run.train(worker, barrier, [model], loss)


def train_decoder(worker: int, run: Run, barrier: Barrier | None) -> None:
    """One worker's part of training the exported decoder, with its encoder and latents fixed."""
    preset = run.preset
    use_threads(preset)
    model, source, share = exported(preset), pictures("train"), preset.batch // preset.workers // 2
    latents = np.load(RUNS / "latents.npy", mmap_mode="r")
    modules = [model.decoder.requires_grad_(), model.post_quant_conv.requires_grad_()]

    def loss(
        progress: float, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        true, where = crops(source, share, PICTURE, rng)
        given = torch.from_numpy(latents[where[:, 0]].astype(np.float32))
        return decoder_loss(model, true.to(preset.device), given.to(preset.device), generator)

    run.train(worker, barrier, modules, loss, muon=MUON_LATER / 2, adam=ADAM_LATER / 2)


def train_further(worker: int, run: Run, barrier: Barrier | None) -> None:
    """One worker's part of further training of the exported autoencoder, on whole pictures only.

    An additional fifth of them are mosaics and pixel art, whose fine grids were too rare in the first training.
    """
    preset = run.preset
    use_threads(preset)
    model, source, share = further(preset), pictures("train"), preset.batch // preset.workers // 2
    if preset.device == "cuda":
        compile_all(model.encoder, model.decoder)
    grids = [i for i, row in enumerate(rows("train")) if row["scene"]["style"] in ("mosaic", "pixel art")]

    def loss(
        progress: float, rng: np.random.Generator, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, float]]:
        fine = rng.random(share) < 1 / 5
        index = np.where(fine, rng.choice(grids, share), rng.integers(len(source), size=share))
        true = to_tensor(np.stack([source[i] for i in index]))
        return further_loss(model, true.to(preset.device), generator)

    run.train(worker, barrier, [model], loss, muon=MUON_LATER, adam=ADAM_LATER)


@torch.no_grad()
def fold(model: AutoencoderKL, sample: Tensor) -> None:
    """Normalise the latents to zero mean and unit deviation per channel, by changing the two 1 × 1 convolutions.

    The variance that the encoder returns becomes that of the noise in training, at the new scale.
    """
    latents = torch.cat([model.encode(part).latent_dist.mean for part in sample.split(32)])
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out = model.quant_conv, model.post_quant_conv
    into.weight[:CHANNELS] /= deviation[:, None, None, None]
    into.bias[:CHANNELS] = (into.bias[:CHANNELS] - mean) / deviation
    into.weight[CHANNELS:] = 0
    into.bias[CHANNELS:] = 2 * torch.log(NOISE / deviation)
    out.bias += torch.einsum("oihw,i->o", out.weight, mean)
    out.weight *= deviation[None, :, None, None]


def export(model: AutoencoderKL) -> None:
    """Write runs/pocket/vae, in half precision."""
    half = AutoencoderKL(**AUTOENCODER)
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(RUNS / "vae")


def report(count: int = 512) -> None:
    """Measure runs/pocket/vae on held-out pictures; writes autoencoder_report.json, and autoencoder.png to look at."""
    model = exported(PRESETS["cpu"])
    true = pictures("test")[:count]
    decoded = reconstruct(model, true)
    errors = np.square(decoded.astype(np.float64) - true).mean((1, 2, 3))
    figures = {
        "psnr": round(float(np.mean(10 * np.log10(255**2 / errors))), 2),
        "psnr_of_mean_error": round(float(10 * np.log10(255**2 / errors.mean())), 2),
        "pictures": count,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    (RUNS / "autoencoder_report.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(figures)
    pairs = np.stack([true[:48], decoded[:48]], axis=1).reshape(6, 16, PICTURE, PICTURE, 3)
    sheet = pairs.transpose(0, 2, 1, 3, 4).reshape(6 * PICTURE, 16 * PICTURE, 3)
    Image.fromarray(sheet).save(RUNS / "autoencoder.png")


@torch.no_grad()
def reconstruct(model: AutoencoderKL, rows: np.ndarray) -> np.ndarray:
    """Reconstructions of pictures: uint8 [N, 128, 128, 3] to the same."""
    decoded = []
    for first in range(0, len(rows), 16):
        images = model.decode(model.encode(to_tensor(rows[first : first + 16])).latent_dist.mode()).sample
        decoded.append(images.clamp(-1, 1).add(1).mul(127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(decoded)


@torch.no_grad()
def encode(worker: int, preset: Preset, part: str) -> None:
    """Write this worker's share of the latents of all training pictures to the array file `part`."""
    use_threads(preset)
    dtype = numbers(preset.device)
    # Without gradients, oneDNN's bfloat16 convolutions are fastest with channels first.
    model = exported(preset).to(dtype, memory_format=torch.contiguous_format)
    source, latents = pictures("train"), np.load(part, mmap_mode="r+")
    for first in range(BLOCK * worker, len(source), BLOCK * preset.workers):
        images = to_tensor(source[first : first + BLOCK], preset.device).to(dtype).contiguous()
        latents[first : first + BLOCK] = model.encode(images).latent_dist.mode().half().cpu().numpy()
    latents.flush()


def encode_all(preset: Preset) -> None:
    """Write runs/pocket/latents.npy, float16 [N, 8, 16, 16]; the file appears once it is complete."""
    part = RUNS / "latents.part.npy"
    shape = (len(pictures("train")), CHANNELS, PICTURE // CELL, PICTURE // CELL)
    numbers(preset.device)  # measured before there are workers
    np.lib.format.open_memmap(part, mode="w+", dtype=np.float16, shape=shape).flush()
    multiprocessing.spawn(encode, (preset, str(part)), nprocs=preset.workers)
    os.replace(part, RUNS / "latents.npy")


def main() -> None:
    parser = arguments(__doc__, PRESETS)
    parser.add_argument("--workers", type=int, help="processes that train or encode")
    task = parser.add_mutually_exclusive_group()
    task.add_argument(
        "--decoder-only", action="store_true", help="train only the decoder, with fixed latents"
    )
    task.add_argument(
        "--further", action="store_true", help="continue training the exported one; the latents change"
    )
    task.add_argument("--encode", action="store_true", help="encode the training pictures for the UNet")
    task.add_argument("--report", action="store_true", help="measure on held-out pictures")
    options = parser.parse_args()
    preset = chosen(options, PRESETS)
    if options.report:
        report()
    elif options.encode:
        encode_all(preset)
    elif options.decoder_only:
        model = exported(preset)
        modules = [model.decoder, model.post_quant_conv]
        run = Run("decoder", preset, modules)
        spawn(train_decoder, run)
        run.shared.bind(modules, "average")
        export(model.cpu())
    else:
        model = further(preset) if options.further else autoencoder(preset)
        run = Run("further" if options.further else "autoencoder", preset, [model])
        spawn(train_further if options.further else train_whole, run)
        run.shared.bind([model], "average")
        source = pictures("train")
        fold(model.cpu().requires_grad_(False), to_tensor(source[:: max(1, len(source) // 256)]))
        export(model)


if __name__ == "__main__":
    main()
