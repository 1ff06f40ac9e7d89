"""Custom Diffusion, of which diffusers reads our files and we read its; and SVDiff, by the equations of the paper."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import CustomDiffusionAttnProcessor
from safetensors.torch import load_file, save_file

import teaching
from foreign import changed, close, output, same
from training.helping import learn, pictures
from training.helping import output as drawn
from wordbrush.concept import Concept, Use, applied, exchange
from wordbrush.concept.weights import Full, Shut, Spectral
from wordbrush.errors import ConceptError
from wordbrush.model import Model

Tiny = Callable[..., Model]
Pipeline = Callable[[str], Any]
FILE = "pytorch_custom_diffusion_weights.safetensors"


def custom(unet: Any, trains_queries: bool) -> None:
    """Give a UNet diffusers' processors of Custom Diffusion, with random weights in cross-attention."""
    processors: dict[str, Any] = {}
    draw = torch.Generator().manual_seed(2)
    for name in unet.attn_processors:
        attention = unet.get_submodule(name.removesuffix(".processor"))
        if ".attn2." not in name:
            processors[name] = CustomDiffusionAttnProcessor(train_kv=False, train_q_out=False)
            continue
        processors[name] = CustomDiffusionAttnProcessor(
            train_kv=True,
            train_q_out=trains_queries,
            hidden_size=attention.to_k.out_features,
            cross_attention_dim=attention.to_k.in_features,
        )
        with torch.no_grad():
            for weight in processors[name].parameters():
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.4)
    unet.set_attn_processor(processors)


@pytest.mark.parametrize("trains_queries", [False, True])
def test_custom_diffusion_of_diffusers(
    tiny: Tiny, pipeline: Pipeline, tmp_path: Path, trains_queries: bool
) -> None:
    unet = pipeline("sd1").unet
    custom(unet, trains_queries)
    unet.save_attn_procs(tmp_path, safe_serialization=True)
    save_file({"<new1>": torch.ones(24)}, tmp_path / "<new1>.safetensors")
    concept = exchange.read(tmp_path / FILE, tiny("sd1"))
    assert concept.method == "custom_diffusion" and list(concept.placeholders) == ["<new1>"]
    close(output(changed(tiny("sd1"), concept).networks["unet"]), output(unet))
    files = exchange.write(concept, tmp_path / "ours" / FILE, tiny("sd1"), to="custom-diffusion")
    assert [file.name for file in files] == [FILE, "<new1>.safetensors"]
    theirs, ours = load_file(tmp_path / FILE), load_file(files[0])
    assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
    same(exchange.read(files[0].parent, tiny("sd1")), concept)
    # diffusers reads it, but sets the processors of a file with cross-attention alone by hand.
    reader = pipeline("sd1").unet
    found = reader._process_custom_diffusion(load_file(files[0]))
    reader.set_attn_processor({**reader.attn_processors, **found})
    close(output(reader), output(unet))


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [("<x>",), ("<x>", "<my/y>"), ("plainword", "<y>")])
def test_a_concept_that_was_trained_here_goes_out_and_comes_back(
    tiny: Tiny, tmp_path: Path, tokens: tuple[str, ...]
) -> None:
    """One thing and two, of one vector and of two, with a word in brackets and without."""
    model = tiny("sd1")
    folders = [pictures(tmp_path / f"{k}", 1) for k in range(len(tokens))]
    told: dict[str, Any] = {"token": tokens, "init": ("cat", "big dog")[: len(tokens)], "learning_rate": 1e-2}
    concept = learn(model, folders, "custom_diffusion", **told)
    files = exchange.write(concept.concept, tmp_path / "out" / FILE, model, to="custom-diffusion")
    assert len(files) == 1 + len(tokens)
    back = exchange.read(files[0].parent, model)
    words = sorted(concept.concept.placeholders.items(), key=lambda each: each[0].strip("<>"))  # as files are
    same(back, replace(concept.concept, placeholders=dict(words)))
    assert back.method == "custom_diffusion" and set(back.placeholders) == set(tokens)
    before, after = (applied(model, [Use(each)]) for each in (concept.concept, back))
    for one, other in zip(*(drawn(each, concept.concept.prompt) for each in (before, after)), strict=True):
        assert torch.equal(one, other)


def test_words_of_two_encoders_do_not_go_out(tiny: Tiny, tmp_path: Path) -> None:
    concept = learn(tiny("sdxl"), pictures(tmp_path / "a", 1), "custom_diffusion").concept
    with pytest.raises(ConceptError, match="got '<x>' of 2: use --to wordbrush"):
        exchange.write(concept, tmp_path / "y.safetensors", tiny("sdxl"), to="custom-diffusion")


def test_other_weights_are_no_custom_diffusion(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sd1")
    for name in ("unet.conv_in.weight", "text_encoder.final_layer_norm.weight"):
        save_file({name: torch.randn_like(exchange.Places(model).weights[name])}, tmp_path / "x.safetensors")
        concept = exchange.read(tmp_path / "x.safetensors", model)
        assert isinstance(concept.weights[name], Full)
        with pytest.raises(ConceptError, match="cross-attention"):
            exchange.write(concept, tmp_path / "y.safetensors", model, to="custom-diffusion")
        for to in ("kohya", "diffusers", "peft"):
            with pytest.raises(ConceptError, match=f"{name} as full"):
                exchange.write(concept, tmp_path / "y.safetensors", model, to=to)


def shifts(model: Model, tmp_path: Path) -> Concept:
    """A concept from files as svdiff-pytorch has them: a shift for each weight, by the layers' names."""
    draw = torch.Generator().manual_seed(4)
    for part, name in (("unet", "spectral_shifts"), ("text_encoder", "spectral_shifts_te")):
        own: dict[str, torch.Tensor] = {}
        for path, weight in model.networks[part].named_parameters():
            if path.endswith(".weight"):
                values = min(weight.flatten(1).shape) if weight.ndim > 1 else 1
                layer = path.removesuffix(".weight")
                own[("" if part == "unet" else "text_model.") + f"{layer}.delta"] = (
                    torch.randn(values, generator=draw) * 0.2
                )
        save_file(own, tmp_path / f"{name}.safetensors")
    return exchange.read(tmp_path / "spectral_shifts.safetensors", model)


def test_spectral_shifts_are_those_of_the_paper(tiny: Tiny, pipeline: Pipeline, tmp_path: Path) -> None:
    """W' = U · diag(relu(σ + δ)) · Vᵀ, here by numpy in float64; a norm's scales are a matrix of one row."""
    model = tiny("sd1")
    concept = shifts(model, tmp_path)
    assert concept.method == "svdiff" and all(isinstance(own, Spectral) for own in concept.weights.values())
    unet = copy.deepcopy(pipeline("sd1").unet)
    stored = load_file(tmp_path / "spectral_shifts.safetensors")
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if name.endswith(".weight"):
                matrix = weight.double().numpy().reshape(weight.shape[0] if weight.ndim > 1 else 1, -1)
                u, sigma, v = np.linalg.svd(matrix, full_matrices=False)
                shifted = np.maximum(sigma + stored[name.replace(".weight", ".delta")].double().numpy(), 0)
                weight.copy_(torch.from_numpy(u @ np.diag(shifted) @ v).view_as(weight))
    close(output(changed(model, concept).networks["unet"]), output(unet))


def test_spectral_shifts_are_written_as_they_came(tiny: Tiny, tmp_path: Path) -> None:
    concept = shifts(tiny("sd1"), tmp_path)
    files = exchange.write(
        concept, tmp_path / "ours" / "spectral_shifts.safetensors", tiny("sd1"), to="svdiff"
    )
    for file in files:
        theirs, ours = load_file(tmp_path / file.name), load_file(file)
        assert theirs.keys() == ours.keys() and all(torch.equal(theirs[key], ours[key]) for key in theirs)
    same(exchange.read(files[0], tiny("sd1")), concept)
    concept.save(tmp_path / "own.concept")
    same(Concept.load(tmp_path / "own.concept"), concept)


@pytest.mark.parametrize("to", [name for name, form in exchange.FORMATS.items() if form.weights])
def test_no_other_tool_knows_entries_that_are_shut(to: str, tiny: Tiny, tmp_path: Path) -> None:
    own = teaching.concept(tiny(), (), weights=Shut)
    with pytest.raises(ConceptError, match=f"which are what --to {to} holds, got unet.* as shut: use"):
        exchange.write(own, tmp_path / "a.safetensors", tiny(), to=to)
    exchange.write(own, tmp_path / "a.concept", tiny())
    assert exchange.read(tmp_path / "a.concept", tiny()).record.sha256 == own.record.sha256
