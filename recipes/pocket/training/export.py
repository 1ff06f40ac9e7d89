"""Assemble the model that ships from the trained parts: diffusers' folder format, float16, with hashes.

    python recipes/pocket/training/export.py
    python recipes/pocket/training/export.py --checkpoint runs/pocket/diffusion-116k.pt --out runs/pocket/exported/116k
    python recipes/pocket/training/export.py --blend runs/pocket/diffusion-346k.pt --share 0.35

Uses the averaged weights of `runs/pocket/diffusion.pt`, and `vae`, `tokenizer`, `judge`, `reader` and `encoder` from
the same folder. Writes `src/wordbrush/pocket/weights` with a model card and `manifest.json`, the SHA-256 of every file.
ELITE's mappers belong to one UNet, and are not copied: `elite/train.py` trains and writes them again.
If `runs/pocket/report.json` is about these weights, its figures go into the card.

`--blend` mixes in a share of the averaged weights of an earlier checkpoint of the same training: the mean of two models
of one run can be better than either (M. Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from transformers import CLIPTokenizer

from wordbrush.model import Model
from wordbrush.pocket import vocabulary

sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("data", "report")]

import figures
from data import RUNS
from diffusion import Networks, trained_modules
from shapes import SCHEDULER
from shared import SharedWeights

WEIGHTS = Path(__file__).parents[3] / "src" / "wordbrush" / "pocket" / "weights"
SHARD = "14MB"
MEBIBYTE = 2**20
STEPS, INVERSION_STEPS, GUIDANCE = 50, 20, 3.0  # the defaults; `report.py` tries other scales
LARGEST_FILE, LARGEST_WHOLE = 16 * MEBIBYTE, 60 * MEBIBYTE

CARD = """\
---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# pocket

A text-to-image latent diffusion model of {size:.1f} million parameters that paints emoji scenes, 128 × 128. It is
wordbrush's built-in model: small enough to ship, real enough for every method to run on it unchanged.

- **Data**: {scenes:,} pictures of the built-in world, rendered by a program; no photographs, nothing scraped. Sprites:
  Noto Color Emoji, SIL Open Font License 1.1.
- **Parts**: an autoencoder (8 latent channels, 16 × 16), a text encoder (CLIP, 3 layers, 32 tokens), a UNet with
  attention at 16 × 16 and 8 × 8; eps-prediction, Stable Diffusion's noise schedule. Beside them, for scoring
  pictures and each trained apart from all others: `judge/`, a small CLIP of the same world; `reader/`, which says
  what a picture or a part of it shows; `encoder/`, trained without captions or labels, which says how alike two are.
  `elite/` makes words of masked pictures (`recipes/pocket/elite`).
- **Training**: {samples:,} samples in {steps:,} steps, averaged weights{blended}; `recipes/pocket` has
  every command.
- **Best with**: guidance {guidance:g}, {ddim} DDIM steps, captions like "a small red cat next to a chair on a beach
  at night".
- **Limits**: it knows some sixty things, eight colours and twenty-two places, and nothing of the world outside. It is
  for trying out and testing editing methods.

| measured | |
|---|---|
{figures}

Licence: Apache-2.0.
"""


def card(folder: Path, size: float, checkpoint: dict[str, Any], blended: str) -> str:
    shown: dict[str, str] = {}
    if (written := RUNS / "report.json").exists():
        report = json.loads(written.read_text())
        if (
            report["weights"] == Model.load(folder, device="cpu").hash
        ):  # the report may be about other weights
            shown = figures.card(report)
    scenes = sum(1 for _ in (RUNS / "train" / "scenes.jsonl").open())
    lines = "\n".join(f"| {name} | {value} |" for name, value in shown.items())
    return CARD.format(
        size=size / 1e6,
        scenes=scenes,
        samples=checkpoint["samples"],
        steps=int(checkpoint["steps"]),
        figures=lines,
        guidance=GUIDANCE,
        ddim=STEPS,
        blended=blended,
    )


def model_index() -> dict[str, Any]:
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "wordbrush": {
            "defaults": {"steps": STEPS, "guidance_scale": GUIDANCE, "inversion_steps": INVERSION_STEPS}
        },
    }


def known_words() -> str:
    """The file that names the words which the model was trained on, and others with the word to use instead."""
    words = {"known": sorted(vocabulary.in_captions()), "instead": vocabulary.instead()}
    return json.dumps(words, indent=1) + "\n"


def forget_origin(config: Path) -> None:
    """Remove from a saved config the folder that diffusers loaded the model from, which is meaningless elsewhere."""
    settings = json.loads(config.read_text())
    settings.pop("_name_or_path", None)
    config.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def export(
    out: Path, checkpoint_file: Path, vae_folder: Path, earlier_file: Path | None = None, share: float = 0.0
) -> None:
    """Write the folder, replacing it, with the averaged weights moved by `share` towards the earlier checkpoint's.

    Raises `ValueError` if a file or the whole folder is larger than allowed.
    """
    part = out.with_name(f"{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)

    checkpoint = torch.load(checkpoint_file, weights_only=True)
    networks = Networks(CLIPTokenizer.from_pretrained(RUNS / "tokenizer"), "cpu", grounded=False)
    shared = SharedWeights(trained_modules(networks), workers=1, device="cpu")
    shared.load(checkpoint)
    blended = ""
    if earlier_file is not None:
        earlier = torch.load(earlier_file, weights_only=True)
        now = shared.row("average").clone()
        shared.load(earlier)
        shared.row("average").copy_(now.lerp(shared.row("average"), share))
        blended = f" ({100 * share:g} % of them\n  those after {earlier['samples']:,})"
    shared.bind(trained_modules(networks), "average")
    vae = AutoencoderKL.from_pretrained(vae_folder, torch_dtype=torch.float16)
    networks.half().to(memory_format=torch.contiguous_format)
    models = {"unet": networks.unet, "text_encoder": networks.text_encoder, "vae": vae}
    for name, model in models.items():
        model.save_pretrained(part / name, max_shard_size=SHARD)
    forget_origin(part / "vae" / "config.json")
    DDIMScheduler(**SCHEDULER).save_pretrained(part / "scheduler")
    for name in ("tokenizer", "judge", "reader", "encoder"):
        shutil.copytree(RUNS / name, part / name)
    (part / "model_index.json").write_text(json.dumps(model_index(), indent=2) + "\n")
    (part / "words.json").write_text(known_words())
    size = sum(p.numel() for model in models.values() for p in model.parameters())
    (part / "README.md").write_text(card(part, size, checkpoint, blended))

    files = sorted(path for path in part.rglob("*") if path.is_file())
    sizes = {path: path.stat().st_size for path in files}
    if max(sizes.values()) >= LARGEST_FILE or sum(sizes.values()) > LARGEST_WHOLE:
        largest = max(sizes, key=lambda path: sizes[path])
        raise ValueError(
            f"expected files under 16 MiB and 60 MiB in all; got {sum(sizes.values()) / MEBIBYTE:.1f} MiB in all, "
            f"the largest {largest.relative_to(part)} with {sizes[largest] / MEBIBYTE:.1f} MiB"
        )
    for path in files:
        path.chmod(0o644)
    hashes = {str(path.relative_to(part)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    manifest = {"samples": checkpoint["samples"], "files": hashes}
    (part / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    shutil.rmtree(out, ignore_errors=True)
    part.rename(out)
    print(
        f"{out.name}: {len(files)} files, {sum(sizes.values()) / MEBIBYTE:.1f} MiB, {size / 1e6:.1f} M parameters"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--checkpoint", type=Path, default=RUNS / "diffusion.pt")
    parser.add_argument("--vae", type=Path, default=RUNS / "vae")
    parser.add_argument("--blend", type=Path, help="an earlier checkpoint to blend with")
    parser.add_argument("--share", type=float, default=0.35, help="the weight of the earlier checkpoint")
    options = parser.parse_args()
    export(options.out, options.checkpoint, options.vae, options.blend, options.share)


if __name__ == "__main__":
    main()
