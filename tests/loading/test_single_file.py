"""Checkpoints in one file: a tiny one, written in the original repository's layout."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from reference import predict_eps
from wordbrush.errors import ModelError
from wordbrush.model import Model

Tiny = Callable[..., Model]
Saved = Callable[[Model, Path], Path]

# The tiny SD 1 UNet has three levels of one layer each: in the original layout a level is a run of blocks.
DOWN = {"resnets.0": "{0}.0", "attentions.0": "{0}.1", "downsamplers.0.conv": "{1}.0.op"}
UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
}


def unet_name(key: str, cross_up: tuple[bool, ...]) -> str:
    """The original name of one of the UNet's weights."""
    name = key
    for ours, theirs in UNET_ENDS.items():
        if name.startswith(ours + "."):
            name = theirs + name.removeprefix(ours)
    if found := re.match(r"down_blocks\.(\d)\.(resnets\.0|attentions\.0|downsamplers\.0\.conv)\.", key):
        first = 1 + 2 * int(found[1])  # two blocks a level: the layer and the downsampler
        name = f"input_blocks.{DOWN[found[2]].format(first, first + 1)}.{key[found.end() :]}"
    if found := re.match(r"up_blocks\.(\d)\.(resnets|attentions|upsamplers)\.(\d)\.", key):
        level, kind, layer = int(found[1]), found[2], int(found[3])
        rest = key[found.end() :]
        if kind == "upsamplers":  # behind the level's last layer and its attention
            name = f"output_blocks.{2 * level + 1}.{1 + cross_up[level]}.{rest}"
        else:
            name = f"output_blocks.{2 * level + layer}.{int(kind == 'attentions')}.{rest}"
    if "resnets" in key:
        for ours, theirs in UNET_RESNET.items():
            name = re.sub(rf"\.{ours}\.(weight|bias)$", rf".{theirs}.\1", name)
    return "model.diffusion_model." + name


def vae_name(key: str) -> str:
    """The original name of one of the autoencoder's weights."""
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"encoder\.down_blocks\.(\d)\.resnets", r"encoder.down.\1.block", name)
    name = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
    name = re.sub(r"decoder\.up_blocks\.(\d)\.resnets", lambda m: f"decoder.up.{1 - int(m[1])}.block", name)
    name = re.sub(
        r"decoder\.up_blocks\.(\d)\.upsamplers\.0", lambda m: f"decoder.up.{1 - int(m[1])}.upsample", name
    )
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    for ours, theirs in {
        "group_norm": "norm",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "to_out.0": "proj_out",
    }.items():
        name = name.replace(f"attn_1.{ours}.", f"attn_1.{theirs}.")
    return "first_stage_model." + name


def original(model: Model) -> dict[str, Tensor]:
    """A model's weights as the original repository would have saved them."""
    cross_up = tuple("CrossAttn" in kind for kind in model.denoiser.unet.config.up_block_types)
    weights = {unet_name(k, cross_up): w for k, w in model.denoiser.unet.state_dict().items()}
    for key, weight in model.autoencoder.vae.state_dict().items():
        if "attentions" in key and "group_norm" not in key and weight.ndim == 2:
            weight = weight[:, :, None, None]  # its attention was made of 1 × 1 convolutions
        weights[vae_name(key)] = weight
    for key, weight in model.text.encoders[0].state_dict().items():
        weights["cond_stage_model.transformer.text_model." + key] = weight
    weights["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(32)[None]
    weights["model_ema.decay"] = torch.tensor(0.9999)  # and what training left behind
    return {key: weight.clone().contiguous() for key, weight in weights.items()}


@pytest.fixture
def checkpoint(tiny: Tiny, saved: Saved, tmp_path: Path) -> Path:
    """tiny.safetensors beside tiny/, which has configs and a tokenizer and not one weight."""
    folder = saved(tiny("sd1"), tmp_path / "tiny")
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    save_file(original(tiny("sd1")), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_a_checkpoint_predicts_what_its_folder_does(checkpoint: Path, tiny: Tiny) -> None:
    ours, loaded = tiny("sd1"), Model.load(checkpoint, device="cpu")
    assert loaded.name == str(checkpoint) and loaded.hash == ours.hash
    z, picture = torch.randn(1, 4, 16, 12), torch.rand(1, 3, 32, 32) * 2 - 1
    text = ours.encode_text(["a cat on a beach"])
    for mine, theirs in (  # the same weights elsewhere in memory: equal, but for the last bits
        (loaded.encode_text(["a cat on a beach"]).hidden, text.hidden),
        (predict_eps(loaded, z, 401, text), predict_eps(ours, z, 401, text)),
        (loaded.encode_image(picture), ours.encode_image(picture)),
        (loaded.decode(z), ours.decode(z)),
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
    assert loaded.schedule(10) == ours.schedule(10)


def test_precision_and_the_folder_of_configs_can_be_chosen(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.move(tmp_path / "tiny", tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"has weights but no architecture.*WORDBRUSH_SINGLE_FILE_CONFIG"):
        Model.load(checkpoint, device="cpu")
    monkeypatch.setenv("WORDBRUSH_SINGLE_FILE_CONFIG", str(tmp_path / "elsewhere"))
    model = Model.load(str(checkpoint), device="cpu", dtype=torch.bfloat16)
    assert {m.dtype for m in (model.denoiser.unet, model.autoencoder.vae, model.text.encoders[0])} == {
        torch.bfloat16
    }


def without(prefix: str, *, one: bool = False) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def spoil(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        found = [key for key in sorted(weights) if key.startswith(prefix)]
        for key in found[:1] if one else found:
            del weights[key]
        return weights

    return spoil


def reshaped(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**weights, "model.diffusion_model.out.2.bias": torch.zeros(5)}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (without("model.diffusion_model."), "it has no UNet"),
        (without("cond_stage_model."), "not laid out like Stable Diffusion 1: it has no CLIP text encoder"),
        (without("first_stage_model."), "it has no autoencoder"),
        (without("model.diffusion_model.out.2", one=True), r"unet needs \d+ weights and the file has \d+"),
        (without("first_stage_model.quant", one=True), r"vae needs \d+ weights and the file has \d+"),
        (
            without("cond_stage_model.transformer.text_model.final", one=True),
            "text_encoder needs final_layer_norm",
        ),
        (reshaped, "does not fit the configs"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(
    spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]], said: str, checkpoint: Path, tiny: Tiny
) -> None:
    save_file(spoil(original(tiny("sd1"))), checkpoint)
    with pytest.raises(ModelError, match=said):
        Model.load(checkpoint, device="cpu")


def test_pickles_and_cut_files_are_refused(checkpoint: Path, tiny: Tiny) -> None:
    whole = checkpoint.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        checkpoint.write_bytes(content)
        with pytest.raises(ModelError, match="is not a whole safetensors file"):
            Model.load(checkpoint, device="cpu")
    torch.save(original(tiny("sd1")), checkpoint)
    with pytest.raises(ModelError, match="pickled checkpoints are not read"):
        Model.load(checkpoint, device="cpu")
