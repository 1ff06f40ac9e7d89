"""LoRA and its relatives: files of peft, diffusers and LyCORIS are read, and files of ours are read by them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris import LycorisNetwork, create_lycoris, create_lycoris_from_weights
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from foreign import changed, close, encoded, output, randomised, same
from wordbrush.concept import Concept, exchange
from wordbrush.concept.weights import Hadamard, Kronecker, LowRank
from wordbrush.errors import ConceptError
from wordbrush.model import Model

Tiny = Callable[..., Model]
Pipeline = Callable[[str], Any]
LAYERS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "proj_in", "ff.net.0.proj", "conv_shortcut"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1"]


def config(layers: list[str] = LAYERS, **options: Any) -> LoraConfig:
    return LoraConfig(r=3, lora_alpha=5, target_modules=layers, **options)


def is_lora(name: str) -> bool:
    return "lora_" in name


# Files of theirs -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"rank_pattern": {"attn2.to_k": 2}, "alpha_pattern": {"attn2.to_k": 7}},
        {"use_dora": True},
    ],
    ids=["plain", "rslora", "patterns", "dora"],
)
def test_peft_folder_is_read(
    tiny: Tiny, pipeline: Pipeline, tmp_path: Path, shape: str, options: dict[str, Any]
) -> None:
    adapter = get_peft_model(pipeline(shape).unet, config(**options))
    randomised(adapter, lambda name: is_lora(name) and "magnitude" not in name)
    adapter.save_pretrained(tmp_path)
    concept = exchange.read(tmp_path, tiny(shape))
    assert concept.method == "lora" and exchange.ASSUMED not in concept.options
    close(output(changed(tiny(shape), concept).networks["unet"]), output(adapter.merge_and_unload()))


def test_peft_without_its_config_has_alpha_of_the_rank(
    tiny: Tiny, pipeline: Pipeline, tmp_path: Path
) -> None:
    adapter = get_peft_model(pipeline("sd1").unet, LoraConfig(r=3, lora_alpha=3, target_modules=LAYERS))
    randomised(adapter, is_lora)
    adapter.save_pretrained(tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    concept = exchange.read(tmp_path / "adapter_model.safetensors", tiny("sd1"))
    assert "alpha" in concept.options[exchange.ASSUMED]
    close(output(changed(tiny("sd1"), concept).networks["unet"]), output(adapter.merge_and_unload()))


def test_peft_of_a_second_text_encoder_is_told_by_its_shapes(
    tiny: Tiny, pipeline: Pipeline, tmp_path: Path
) -> None:
    adapter = get_peft_model(pipeline("sdxl").text_encoder_2, config(TEXT))
    randomised(adapter, is_lora)
    adapter.save_pretrained(tmp_path)
    concept = exchange.read(tmp_path, tiny("sdxl"))
    assert {name.partition(".")[0] for name in concept.weights} == {"text_encoder_2"}
    close(
        encoded(changed(tiny("sdxl"), concept).networks["text_encoder_2"]),
        encoded(adapter.merge_and_unload()),
    )


def trained(pipe: Any, **options: Any) -> dict[str, Any]:
    """Adapters in every network of a pipeline, and what its `save_lora_weights` takes."""
    given: dict[str, Any] = {}
    for part in ("unet", "text_encoder", "text_encoder_2"):
        if (network := getattr(pipe, part, None)) is not None:
            network.add_adapter(config(LAYERS if part == "unet" else TEXT, **options))
            randomised(network, is_lora)
            given[f"{part}_lora_layers"] = get_peft_model_state_dict(network, adapter_name="default")
            given[f"{part}_lora_adapter_metadata"] = network.peft_config["default"].to_dict()
    return given


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_diffusers_file_is_read(tiny: Tiny, pipeline: Pipeline, tmp_path: Path, shape: str) -> None:
    pipe = pipeline(shape)
    pipe.save_lora_weights(tmp_path, **trained(pipe))
    concept = exchange.read(tmp_path / "pytorch_lora_weights.safetensors", tiny(shape))
    taught = changed(tiny(shape), concept)
    assert exchange.ASSUMED not in concept.options
    close(output(taught.networks["unet"]), output(pipe.unet))
    for part in taught.networks.keys() - {"unet"}:
        close(encoded(taught.networks[part]), encoded(getattr(pipe, part)))


@pytest.mark.parametrize("end", [".lora.down.weight", "_lora.down.weight"])
def test_old_names_of_diffusers_are_read(tiny: Tiny, tmp_path: Path, end: str) -> None:
    """Attention processors' own, with and without the network's name; text encoders', where layers are called to_q."""
    block = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.processor.to_out"
    text = "text_encoder.text_model.encoder.layers.0.self_attn.to_q"
    names = {f"{block}{end}": (2, 16), f"{block}{end.replace('down', 'up')}": (16, 2)}
    names |= {f"{text}_lora.down.weight": (2, 24), f"{text}_lora.up.weight": (24, 2)}
    save_file({name: torch.ones(shape) for name, shape in names.items()}, tmp_path / "old.safetensors")
    concept = exchange.read(tmp_path / "old.safetensors", tiny("sd1"))
    assert set(concept.weights) == {
        "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.weight",
        "text_encoder.encoder.layers.0.self_attn.q_proj.weight",
    }


KINDS: dict[str, dict[str, Any]] = {
    "locon": {"algo": "locon"},
    "locon tucker": {"algo": "locon", "use_tucker": True},
    "dora rows": {"algo": "locon", "dora_wd": True, "wd_on_output": True},
    "dora columns": {"algo": "locon", "dora_wd": True, "wd_on_output": False},
    "loha": {"algo": "loha"},
    "loha tucker": {"algo": "loha", "use_tucker": True},
    "loha dora": {"algo": "loha", "dora_wd": True, "wd_on_output": True},
    "lokr": {"algo": "lokr", "factor": 2},
    "lokr tucker": {"algo": "lokr", "factor": 2, "use_tucker": True, "decompose_both": True},
    "lokr whole": {"algo": "lokr", "factor": 2, "full_matrix": True},
    "lokr dora": {"algo": "lokr", "factor": 2, "dora_wd": True, "wd_on_output": False},
    "full": {"algo": "full"},
}


def lycoris(unet: Any, kind: str, prefix: str = "lora_unet") -> LycorisNetwork:
    """A network of LyCORIS in a UNet, with random weights and alpha ≠ rank."""
    LycorisNetwork.apply_preset(
        {
            "enable_conv": True,
            "target_module": ["Linear", "Conv2d", "LayerNorm", "GroupNorm"][: 4 if kind == "full" else 2],
            "lora_prefix": prefix,
        }
    )
    options = {"train_norm": kind == "full", **KINDS[kind]}
    network = create_lycoris(unet, 1.0, linear_dim=2, linear_alpha=3.0, conv_dim=2, conv_alpha=3.0, **options)
    network.apply_to()
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "dora_scale" in name:
                weight *= 1.3
            else:
                noise = torch.randn(weight.shape, generator=draw)
                weight.copy_(weight + 0.05 * noise if kind == "full" else 0.3 * noise)
    return network


@pytest.mark.parametrize("prefix", ["lora_unet", "lycoris"])
@pytest.mark.parametrize("kind", KINDS)
def test_files_of_lycoris_are_read(
    tiny: Tiny, pipeline: Pipeline, tmp_path: Path, kind: str, prefix: str
) -> None:
    unet = pipeline("sd1").unet
    network = lycoris(unet, kind, prefix)
    network.save_weights(tmp_path / "own.safetensors", torch.float32, {})
    concept = exchange.read(tmp_path / "own.safetensors", tiny("sd1"))
    close(output(changed(tiny("sd1"), concept).networks["unet"]), output(unet))


# Files of ours -------------------------------------------------------------------------------------------


def concept_of(model: Model, tmp_path: Path, pipe: Any, **options: Any) -> Concept:
    """A concept of LoRA in every network, made by diffusers."""
    pipe.save_lora_weights(tmp_path, **trained(pipe, **options))
    return exchange.read(tmp_path / "pytorch_lora_weights.safetensors", model)


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("to", ["kohya", "diffusers"])
def test_diffusers_reads_ours(tiny: Tiny, pipeline: Pipeline, tmp_path: Path, shape: str, to: str) -> None:
    concept = concept_of(tiny(shape), tmp_path, pipeline(shape))
    (file,) = exchange.write(concept, tmp_path / "ours.safetensors", tiny(shape), to=to)
    reader, taught = pipeline(shape), changed(tiny(shape), concept)
    reader.load_lora_weights(file)
    close(output(taught.networks["unet"]), output(reader.unet))
    for part in taught.networks.keys() - {"unet"}:
        close(encoded(taught.networks[part]), encoded(getattr(reader, part)))
    same(exchange.read(file, tiny(shape)), concept)


@pytest.mark.parametrize("use_dora", [False, True])
def test_peft_reads_ours(tiny: Tiny, pipeline: Pipeline, tmp_path: Path, use_dora: bool) -> None:
    adapter = get_peft_model(pipeline("sd1").unet, config(use_dora=use_dora, rank_pattern={"attn2.to_k": 2}))
    randomised(adapter, lambda name: is_lora(name) and "magnitude" not in name)
    adapter.save_pretrained(tmp_path / "theirs")
    concept = exchange.read(tmp_path / "theirs", tiny("sd1"))
    files = exchange.write(concept, tmp_path / "ours", tiny("sd1"), to="peft")
    assert {file.name for file in files} == {"adapter_model.safetensors", "adapter_config.json"}
    read = PeftModel.from_pretrained(pipeline("sd1").unet, tmp_path / "ours")
    close(output(changed(tiny("sd1"), concept).networks["unet"]), output(read))
    same(exchange.read(tmp_path / "ours", tiny("sd1")), concept)


def test_peft_has_a_folder_for_each_network(tiny: Tiny, pipeline: Pipeline, tmp_path: Path) -> None:
    concept = concept_of(tiny("sdxl"), tmp_path, pipeline("sdxl"))
    exchange.write(concept, tmp_path / "ours", tiny("sdxl"), to="peft")
    for part in ("unet", "text_encoder", "text_encoder_2"):
        network = PeftModel.from_pretrained(getattr(pipeline("sdxl"), part), tmp_path / "ours" / part)
        look = output if part == "unet" else encoded
        close(look(changed(tiny("sdxl"), concept).networks[part]), look(network))
        assert exchange.read(tmp_path / "ours" / part, tiny("sdxl")).weights


# LyCORIS writes these, but its own loader does not build them: lengths are of rows there, and LoKr's sizes a guess.
UNREAD = ("dora columns", "lokr dora", "lokr tucker", "lokr whole")


@pytest.mark.parametrize("kind", KINDS)
def test_lycoris_reads_ours(tiny: Tiny, pipeline: Pipeline, tmp_path: Path, kind: str) -> None:
    lycoris(pipeline("sd1").unet, kind).save_weights(tmp_path / "theirs.safetensors", torch.float32, {})
    concept = exchange.read(tmp_path / "theirs.safetensors", tiny("sd1"))
    (file,) = exchange.write(concept, tmp_path / "ours.safetensors", tiny("sd1"), to="kohya")
    theirs, ours = (load_file(tmp_path / f"{name}.safetensors") for name in ("theirs", "ours"))
    assert theirs.keys() == ours.keys()
    same(exchange.read(file, tiny("sd1")), concept)
    if kind in UNREAD:
        return
    unet = pipeline("sd1").unet
    with torch.no_grad():
        network, _ = create_lycoris_from_weights(1.0, str(file), unet)
        network.apply_to()
    close(output(changed(tiny("sd1"), concept).networks["unet"]), output(unet))


def test_dora_of_ours_is_read_by_diffusers(tiny: Tiny, pipeline: Pipeline, tmp_path: Path) -> None:
    pipe = pipeline("sd1")
    pipe.unet.add_adapter(config(["to_q", "to_k", "to_v", "to_out.0"], use_dora=True))
    randomised(pipe.unet, lambda name: is_lora(name) and "magnitude" not in name)
    layers = get_peft_model_state_dict(pipe.unet, adapter_name="default")
    metadata = pipe.unet.peft_config["default"].to_dict()
    pipe.save_lora_weights(tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=metadata)
    concept = exchange.read(tmp_path, tiny("sd1"))
    assert all(change.magnitude is not None for change in concept.weights.values())
    close(output(changed(tiny("sd1"), concept).networks["unet"]), output(pipe.unet))
    (file,) = exchange.write(concept, tmp_path / "ours.safetensors", tiny("sd1"), to="diffusers")
    reader = pipeline("sd1")
    reader.load_lora_weights(file)
    close(output(reader.unet), output(pipe.unet))
    same(exchange.read(file, tiny("sd1")), concept)


# What is refused -----------------------------------------------------------------------------------------


def test_every_key_without_a_place_is_said(tiny: Tiny, tmp_path: Path) -> None:
    good = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    own = {f"{good}.lora_down.weight": torch.ones(2, 24), f"{good}.lora_up.weight": torch.ones(16, 2)}
    for i in range(10):
        own[f"lora_unet_down_blocks_7_attentions_{i}_to_k.lora_down.weight"] = torch.ones(2, 24)
    save_file(own, tmp_path / "other.safetensors")
    with pytest.raises(ConceptError, match=r"10 tensors.*attentions_7_to_k.lora_down.weight' and 2 more"):
        exchange.read(tmp_path / "other.safetensors", tiny("sd1"))


@pytest.mark.parametrize("lacking", ["lora_down.weight", "lora_up.weight"])
def test_half_of_a_pair_is_said(tiny: Tiny, tmp_path: Path, lacking: str) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    own = {
        "lora_down.weight": torch.ones(2, 24),
        "lora_up.weight": torch.ones(16, 2),
        "alpha": torch.tensor(1.0),
    }
    save_file(
        {f"{layer}.{key}": each for key, each in own.items() if key != lacking}, tmp_path / "half.safetensors"
    )
    with pytest.raises(ConceptError, match="2 tensors"):
        exchange.read(tmp_path / "half.safetensors", tiny("sd1"))


def test_another_shape_is_said_when_it_is_read(tiny: Tiny, tmp_path: Path) -> None:
    layer = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    own = {f"{layer}.lora_down.weight": torch.ones(2, 768), f"{layer}.lora_up.weight": torch.ones(16, 2)}
    save_file(own, tmp_path / "wide.safetensors")
    with pytest.raises(ConceptError, match="does not fit this model"):
        exchange.read(tmp_path / "wide.safetensors", tiny("sd1"))


@pytest.mark.parametrize("pattern", ["(a+)+$", "x[", "to_k|to_q"])
def test_patterns_that_are_no_names_are_refused(tiny: Tiny, tmp_path: Path, pattern: str) -> None:
    key = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    own = {f"{key}.lora_A.weight": torch.ones(2, 24), f"{key}.lora_B.weight": torch.ones(16, 2)}
    said = json.dumps({"unet.lora_alpha": 2, "unet.alpha_pattern": {pattern: 4}})
    save_file(own, tmp_path / "own.safetensors", {"lora_adapter_metadata": said})
    with pytest.raises(ConceptError, match="alpha_pattern"):
        exchange.read(tmp_path / "own.safetensors", tiny("sd1"))


@pytest.mark.parametrize("to", ["diffusers", "peft", "custom-diffusion", "svdiff", "a1111"])
@pytest.mark.parametrize("kind", ["loha", "lokr", "locon tucker", "dora columns"])
def test_what_a_format_cannot_hold_is_refused(
    tiny: Tiny, pipeline: Pipeline, tmp_path: Path, kind: str, to: str
) -> None:
    lycoris(pipeline("sd1").unet, kind).save_weights(tmp_path / "theirs.safetensors", torch.float32, {})
    concept = exchange.read(tmp_path / "theirs.safetensors", tiny("sd1"))
    kinds = {"loha": Hadamard, "lokr": Kronecker}
    assert all(isinstance(change, kinds.get(kind, LowRank)) for change in concept.weights.values())
    with pytest.raises(ConceptError, match=r"use --to (kohya|wordbrush)"):
        exchange.write(concept, tmp_path / "ours", tiny("sd1"), to=to)
    assert not (tmp_path / "ours").exists()
