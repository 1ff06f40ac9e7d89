"""What a training step costs, beside the inner loop of diffusers' own training scripts on the same model.

    python benchmarks/training.py
    python benchmarks/training.py --memory

Theirs is what `textual_inversion.py`, `train_dreambooth_lora.py` and `train_custom_diffusion.py` (0.42) do in a step
with their default flags, written again here: pictures and prompts are encoded in every step; in Textual Inversion the
whole embedding table learns and its rows are put back; in LoRA the changes of low rank are peft's; in Custom Diffusion
as many pictures of the class are in the same pass, attention has diffusers' processors, the whole table has gradients,
of which all rows but the word's are zeroed, and AdamW steps over all of it. Without accelerate's wrappers, which cost
little. Custom Diffusion is timed without its sizes: here each is encoded once, there in every step. For SVDiff every
weight is built from its factors again in every pass, as svdiff-pytorch does; written from the equation.

Time is processor time on one thread, variants interleaved; medians of the ratios within a round, and the quartiles.
Memory is the peak of a process that does three steps, less what it had with the model loaded. What was expected is in
docs/benchmarks/training.md.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from PIL import Image

from shapes import build
from wordbrush import training
from wordbrush.concept.weights import spectrum
from wordbrush.fit import fit
from wordbrush.images import to_tensor
from wordbrush.model import Model
from wordbrush.model.sharing import shared
from wordbrush.training.examples import Examples
from wordbrush.training.run import planned
from wordbrush.training.svdiff.method import layers
from wordbrush.training.task import Task

BATCH = 4
NAMES = ("pocket", "mid")
METHODS = ("textual_inversion", "lora", "custom_diffusion", "svdiff")
TOLD: dict[str, dict[str, Any]] = {
    "textual_inversion": {"token": "<my-cat>", "init": "cat", "vectors": 1},
    "lora": {"prompt": "a sks cat", "layers": "attention"},
    "custom_diffusion": {"token": "<my-cat>", "init": "cat", "class_prompt": "a cat", "sizes": False},
    "svdiff": {"prompt": "a sks cat", "layers": "all"},
}
Step = Callable[[], object]


def model_of(name: str) -> Model:
    """The model; the middle one with an autoencoder that is as wide beside Stable Diffusion's as its UNet is."""
    model = build(name, torch.float32)
    if name == "pocket":
        return model
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(48, 96, 192, 192),
        layers_per_block=2,
        norm_num_groups=16,
        latent_channels=4,
    )
    return Model(
        unet=model.denoiser.unet,
        vae=vae,
        text_encoders=model.text.encoders,
        tokenizers=model.text.tokenizers,
        schedule_config=model.schedule_config,
        name=name,
    )


def folder(size: tuple[int, int]) -> Path:
    """Four pictures to learn from."""
    place = Path(tempfile.mkdtemp())
    random = np.random.default_rng(0)
    for i in range(4):
        Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)).save(place / f"{i}.png")
    return place


def ours(model: Model, method: str) -> Step:
    """A step of the optimisation loop here; the pictures' latents are encoded before."""
    told = {**TOLD[method], "batch_size": BATCH, "steps": 1_000_000, "flip": 0.0, "crop": "center"}
    plan = planned(model, folder(model.image_size), method, told)
    settings, module = plan.options, training.METHODS[method].load()
    examples = Examples(model, plan.pictures.images, 0, "center")
    task = Task(model, plan.pictures, examples)
    if "class_prompt" in told:
        task = replace(task, prior=replace(examples, stream="class"), prior_prompts=("a cat",) * BATCH)
    trainee = module.attached(task, settings)
    for parameter in trainee.parameters.values():
        parameter.requires_grad_(True)
    loop = fit(trainee.parameters, lambda number: module.loss(trainee, task, settings, number), settings)
    return lambda: next(loop)


def theirs_textual_inversion(model: Model) -> Step:
    """The token is a row of the table; all of it learns, and its other rows are put back."""
    encoder = shared(model.text.encoders[0])
    table = torch.nn.Parameter(encoder.get_input_embeddings().weight.detach().clone())
    encoder.get_input_embeddings().weight = table
    optimizer = torch.optim.AdamW([table], lr=5e-4, weight_decay=1e-2)
    own = torch.zeros(len(table), dtype=torch.bool)
    own[model.text.tokenizers[0].convert_tokens_to_ids("cat</w>")] = True
    kept = table.detach().clone()
    ids = torch.tensor([model.read("a photo of a cat").ids] * BATCH)

    def loss() -> torch.Tensor:
        return _loss(model, model.denoiser.unet, encoder(ids).last_hidden_state)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            table[~own] = kept[~own]

    return step


def theirs_lora(model: Model) -> Step:
    """Changes of low rank by peft in the attention's projections; the prompt is encoded in every step."""
    import peft

    unet = shared(model.denoiser.unet)
    config = peft.LoraConfig(
        r=4, lora_alpha=4, init_lora_weights="gaussian", target_modules=["to_k", "to_q", "to_v", "to_out.0"]
    )
    peft.inject_adapter_in_model(config, unet)
    learning = [weight for name, weight in unet.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(learning, lr=1e-4, weight_decay=1e-2)
    ids = torch.tensor([model.read("a sks cat").ids] * BATCH)

    def step() -> None:
        with torch.no_grad():
            hidden = model.text.encoders[0](ids).last_hidden_state
        _loss(model, unet, hidden).backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def theirs_custom_diffusion(model: Model) -> Step:
    """Cross-attention's keys and values in diffusers' processors, and a row of the table."""
    encoder, unet = shared(model.text.encoders[0]), shared(model.denoiser.unet)
    table = torch.nn.Parameter(encoder.get_input_embeddings().weight.detach().clone())
    encoder.get_input_embeddings().weight = table
    processors: dict[str, Any] = {}
    for name in unet.attn_processors:
        layer: Any = unet.get_submodule(name.removesuffix(".processor"))
        is_cross = ".attn2." in name
        processors[name] = CustomDiffusionAttnProcessor2_0(
            train_kv=is_cross,
            train_q_out=False,
            hidden_size=layer.to_q.in_features,
            cross_attention_dim=layer.to_k.in_features,
        )
        if is_cross:
            processors[name].to_k_custom_diffusion.weight.data = layer.to_k.weight.detach().clone()
            processors[name].to_v_custom_diffusion.weight.data = layer.to_v.weight.detach().clone()
    unet.set_attn_processor(processors)
    learning = [table, *(weight for each in processors.values() for weight in each.parameters())]
    optimizer = torch.optim.AdamW(learning, lr=1e-5, weight_decay=1e-2)
    others = torch.ones(len(table), dtype=torch.bool)
    others[model.text.tokenizers[0].convert_tokens_to_ids("cat</w>")] = False
    ids = torch.tensor([model.read("photo of a cat cat").ids] * BATCH + [model.read("a cat").ids] * BATCH)
    mask = torch.ones(BATCH, 1, *model.denoiser.size)

    def step() -> None:
        said, noise = _predicted(model, unet, encoder(ids).last_hidden_state, rows=2 * BATCH)
        own = F.mse_loss(said[:BATCH], noise[:BATCH], reduction="none")
        loss = ((own * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))).mean()
        (loss + F.mse_loss(said[BATCH:], noise[BATCH:])).backward()
        assert table.grad is not None
        table.grad[others] = 0
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


class _Rebuilt(torch.nn.Module):
    """A layer whose weight is built in every pass: U · diag(relu(σ + δ)) · Vᵀ."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.u, self.values, self.v = spectrum(layer.weight)
        self.shift = torch.nn.Parameter(torch.zeros_like(self.values))

    @property
    def out_features(self) -> int:
        return self.layer.out_features

    def forward(self, given: torch.Tensor, *scale: float) -> torch.Tensor:
        weight = (self.u @ torch.diag((self.values + self.shift).relu()) @ self.v).view_as(self.layer.weight)
        return torch.func.functional_call(self.layer, {"weight": weight}, (given,))


def theirs_svdiff(model: Model) -> Step:
    """Shifts of all weights, each rebuilt; the prompt is encoded in every step."""
    unet = shared(model.denoiser.unet)
    learning: list[torch.nn.Parameter] = []
    norms: list[torch.nn.Parameter] = []
    for name, layer, _ in list(layers(unet)):
        owner, _, own = name.rpartition(".")
        rebuilt = _Rebuilt(layer)
        setattr(unet.get_submodule(owner), own, rebuilt)
        (norms if layer.weight.ndim == 1 else learning).append(rebuilt.shift)
    optimizer = torch.optim.AdamW([{"params": learning, "lr": 1e-3}, {"params": norms, "lr": 1e-6}])
    ids = torch.tensor([model.read("a sks cat").ids] * BATCH)

    def step() -> None:
        with torch.no_grad():
            hidden = model.text.encoders[0](ids).last_hidden_state
        _loss(model, unet, hidden).backward()
        torch.nn.utils.clip_grad_norm_([*learning, *norms], 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _loss(model: Model, unet: Any, hidden: torch.Tensor) -> torch.Tensor:
    """A forward pass of the scripts, and the mean squared error."""
    output, noise = _predicted(model, unet, hidden)
    return F.mse_loss(output, noise, reduction="mean")


def _predicted(
    model: Model, unet: Any, hidden: torch.Tensor, rows: int = BATCH
) -> tuple[torch.Tensor, torch.Tensor]:
    """A forward pass of the scripts: pictures to latents, noise, and what the network says of it."""
    scheduler = _SCHEDULERS.setdefault(id(model), DDPMScheduler.from_config(model.schedule_config))
    pixels = _PIXELS.setdefault(
        model.image_size,
        torch.cat([to_tensor(Image.open(path)) for path in sorted(folder(model.image_size).glob("*.png"))]),
    )
    vae = model.autoencoder.vae
    with torch.no_grad():
        latents = (
            vae.encode(pixels.repeat(rows // BATCH, 1, 1, 1)).latent_dist.sample() * vae.config.scaling_factor
        )
    noise = torch.randn_like(latents)
    timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (rows,))
    output = unet(scheduler.add_noise(latents, noise, timesteps), timesteps, hidden).sample
    return output.float(), noise.float()


_SCHEDULERS: dict[int, Any] = {}
_PIXELS: dict[tuple[int, int], torch.Tensor] = {}
THEIRS = {
    "textual_inversion": theirs_textual_inversion,
    "lora": theirs_lora,
    "custom_diffusion": theirs_custom_diffusion,
    "svdiff": theirs_svdiff,
}


def forward(model: Model) -> Step:
    """The unit: a UNet forward of the batch."""
    from wordbrush.model import Conditioning

    text = Conditioning(model.encode_text(["a cat"] * BATCH))
    z = torch.zeros(BATCH, model.latent_channels, *model.denoiser.size)

    @torch.no_grad()
    def step() -> None:
        model.denoiser.output(z, torch.full((BATCH,), 500), text)

    return step


def cost(step: Step) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def times(rounds: int, names: Sequence[str], methods: Sequence[str]) -> None:
    for name in names:
        model = model_of(name)
        for method in methods:
            variants = {
                "ours": ours(model, method),
                "theirs": THEIRS[method](model),
                "forward": forward(model),
            }
            for step in variants.values():
                step()
            found = [{name: cost(step) for name, step in variants.items()} for _ in range(rounds)]
            ratio = statistics.quantiles([each["ours"] / each["theirs"] for each in found], n=4)
            unit, their_unit = (
                statistics.median(each[whose] / each["forward"] for each in found)
                for whose in ("ours", "theirs")
            )
            print(
                f"{name} {method}: {ratio[1]:.2f} ({ratio[0]:.2f}–{ratio[2]:.2f}) of theirs, {unit:.2f} forwards, "
                f"theirs {their_unit:.2f}",
                flush=True,
            )


def peak(name: str, method: str, whose: str) -> None:
    """Peak memory of three steps, in MiB above the loaded model's."""
    model = model_of(name)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = ours(model, method) if whose == "ours" else THEIRS[method](model)
    for _ in range(3):
        step()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory() -> None:
    for name in NAMES:
        for method in METHODS:
            used = {}
            for whose in ("ours", "theirs"):
                command = [sys.executable, __file__, "--peak", json.dumps([name, method, whose])]
                used[whose] = float(
                    subprocess.run(command, check=True, capture_output=True, text=True).stdout
                )
            print(
                f"{name} {method}: ours {used['ours']:.0f} MiB, theirs {used['theirs']:.0f} MiB", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--model", action="append", choices=NAMES)
    parser.add_argument("--method", action="append", choices=METHODS)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--peak", type=json.loads, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.peak:
        peak(*asked.peak)
    elif asked.memory:
        memory()
    else:
        times(asked.rounds, asked.model or NAMES, asked.method or METHODS)


if __name__ == "__main__":
    main()
