"""The losses, against their equations written with diffusers' parts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from training.helping import SHAPES, Parts, parts
from wordbrush.model import Model
from wordbrush.training.examples import Batch
from wordbrush.training.objective import losses

ALL = (*SHAPES, "pocket")


def ids(model: Model, number: int, prompt: str) -> list[int]:
    tokenizer, length = model.text.tokenizers[number], model.text.context
    return tokenizer(prompt, padding="max_length", max_length=length)["input_ids"]


def text(model: Model, rows: list[list[list[int]]]) -> tuple[Tensor, Tensor | None]:
    """The encoders' outputs, as diffusers' pipelines compute them. rows: ids for each encoder and row."""
    encoders = model.text.encoders
    if len(encoders) == 1:
        return encoders[0](torch.tensor(rows[0])).last_hidden_state, None
    outputs = [
        encoder(torch.tensor(own), output_hidden_states=True)
        for encoder, own in zip(encoders, rows, strict=True)
    ]
    return torch.cat([each.hidden_states[-2] for each in outputs], -1), outputs[1].text_embeds


def errors(model: Model, batch: Batch, rows: list[list[list[int]]], gamma: float | None) -> Tensor:
    """Each row's weighted error, by diffusers' scheduler and the network called as it is."""
    scheduler = DDPMScheduler.from_config(model.schedule_config)
    noisy = scheduler.add_noise(batch.latents, batch.noise, batch.timesteps)
    hidden, pooled = text(model, rows)
    extra: dict[str, Any] = {}
    if pooled is not None:
        height, width = model.image_size
        time_ids = torch.tensor([[height, width, 0, 0, height, width]] * len(noisy)).to(pooled)
        extra["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": time_ids}
    unet = model.denoiser.unet
    said = unet(noisy, batch.timesteps, encoder_hidden_states=hidden, **extra).sample
    is_velocity = scheduler.config["prediction_type"] == "v_prediction"
    target = batch.noise
    if is_velocity:
        target = scheduler.get_velocity(batch.latents, batch.noise, batch.timesteps)
    found = torch.nn.functional.mse_loss(said, target, reduction="none").mean((1, 2, 3))
    if gamma is not None:
        bar = scheduler.alphas_cumprod[batch.timesteps]
        snr = bar / (1 - bar)
        least = torch.minimum(snr, torch.tensor(gamma))
        found = found * (least / (snr + 1) if is_velocity else least / snr)
    return found


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6)


def moved(own: Parts) -> Parts:
    """The same with parameters that have learned something."""
    random = torch.Generator().manual_seed(3)
    for each in own.trainee.parameters.values():
        each.data += 0.02 * torch.randn(each.shape, generator=random)
    return own


@pytest.mark.parametrize("gamma", [None, 5.0, 0.3])
@pytest.mark.parametrize("shape", ALL)
def test_textual_inversion(shape: str, gamma: float | None, base: Callable[..., Model], folder: Path):
    """v* = argmin_v E ‖ε − ε_θ(z_t, t, c_θ(y(v)))‖² (Gal et al. 2023, eq. 2), y one of the prompts."""
    model = base(shape)
    told = {"init": "cat dog", "templates": ("a {} on a beach", "the {}"), "batch_size": 4}
    own = moved(parts(model, folder, "textual_inversion", snr_gamma=gamma, **told))
    seen: set[int] = set()
    for number in range(2):
        batch = own.task.examples.batch(number, 4, own.task.share)
        chosen = [int(choice * 2) for choice in batch.choices]
        seen |= set(chosen)
        rows: list[list[list[int]]] = []
        for k, tokenizer in enumerate(model.text.tokenizers):
            cat, dog = tokenizer("cat dog", add_special_tokens=False)["input_ids"]
            first = model.text.encoders[k].get_input_embeddings().weight.shape[0]
            learned = {cat: first, dog: first + 1}
            prompts = [("a cat dog on a beach", "the cat dog")[each] for each in chosen]
            rows.append([[learned.get(i, i) for i in ids(model, k, prompt)] for prompt in prompts])
        close(own.loss(number), errors(own.trainee.model, batch, rows, gamma).mean())
    assert seen == {0, 1}


@pytest.mark.parametrize("gamma", [None, 5.0, 0.3])
@pytest.mark.parametrize("weight", [None, 1.0, 0.25, 0.0])
@pytest.mark.parametrize("method", ["dreambooth", "lora"])
@pytest.mark.parametrize("shape", SHAPES)
def test_with_a_prior(
    shape: str,
    method: str,
    weight: float | None,
    gamma: float | None,
    base: Callable[..., Model],
    folder: Path,
):
    """E ‖ε − ε_θ(z_t, t, c)‖² + λ E ‖ε′ − ε_θ(z′_t′, t′, c_pr)‖² (Ruiz et al. 2023, eq. 2); each half has the weights
    of its own timesteps."""
    prior = {} if weight is None else {"class_prompt": "a cat", "prior_weight": weight}
    own = moved(parts(base(shape), folder, method, snr_gamma=gamma, batch_size=2, **prior))
    halves = [(own.task.examples, "a sks cat", 1.0)]
    if weight is not None:
        assert own.task.prior is not None
        halves.append((own.task.prior, "a cat", weight))
    expected = torch.zeros(())
    seen: list[int] = []
    for examples, prompt, factor in halves:
        batch = examples.batch(4, 2, own.task.share)
        seen += batch.timesteps.tolist()
        model = own.trainee.model
        rows = [[ids(model, k, prompt)] * 2 for k in range(len(model.text.encoders))]
        expected = expected + factor * errors(model, batch, rows, gamma).mean()
    assert len(set(seen)) == len(seen)  # the halves have draws of their own
    close(own.loss(4), expected)


@pytest.mark.parametrize("method", ["dreambooth", "lora"])
def test_with_a_prior_on_pocket(method: str, base: Callable[..., Model], folder: Path):
    model = base("pocket")
    own = moved(parts(model, folder, method, snr_gamma=5.0, batch_size=1, class_prompt="a cat"))
    assert own.task.prior is not None
    expected = torch.zeros(())
    for examples, prompt in ((own.task.examples, "a sks cat"), (own.task.prior, "a cat")):
        batch = examples.batch(0, 1, own.task.share)
        expected = expected + errors(own.trainee.model, batch, [[ids(model, 0, prompt)]], 5.0).mean()
    close(own.loss(0), expected)


def test_captions_take_the_prompt_s_place(base: Callable[..., Model], folder: Path, tmp_path: Path):
    from training.helping import pictures

    (pictures(tmp_path, 1) / "0.txt").write_text("a sks cat on a\nbeach")
    own = parts(base(), tmp_path, "lora", batch_size=1)
    batch = own.task.examples.batch(0, 1, own.task.share)
    close(
        own.loss(0),
        errors(own.trainee.model, batch, [[ids(base(), 0, "a sks cat on a beach")]], None).mean(),
    )


@pytest.mark.parametrize("shape", ["sd1", "sd2"])
def test_a_level_without_signal(shape: str, base: Callable[..., Model], folder: Path):
    """At a signal-to-noise ratio of 0 the weights are 1 for the noise and 0 for the velocity: never not a number."""
    own = parts(base(shape), folder, "lora")
    batch = own.task.examples.batch(0, 2, own.task.share)
    batch.timesteps[:] = torch.tensor([999, 0])
    model = own.trainee.model
    config = model.schedule_config
    try:
        model.schedule_config = {**config, "rescale_betas_zero_snr": True}
        text = own.trainee.text(["a cat", "a cat"])
        plain, weighted = (losses(model, batch, text, gamma) for gamma in (None, 5.0))
    finally:
        model.schedule_config = config
    assert float(weighted[0].detach()) == (float(plain[0].detach()) if shape == "sd1" else 0)
    assert 0 < float(weighted[1].detach()) < float(plain[1].detach())
