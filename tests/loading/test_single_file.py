"""Checkpoints in one file: small ones of each family, written in the original repositories' layout."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import original
from reference import predict_eps
from wordbrush.errors import ModelError
from wordbrush.loading import clip
from wordbrush.model import Model

Tiny = Callable[..., Model]
Saved = Callable[[Model, Path], Path]
Small = Callable[..., Model]
Weights = dict[str, Tensor]

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "set_alpha_to_one": False,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd1": {"block_out_channels": (32, 64), "cross_attention_dim": 64, "attention_head_dim": 8},
    "sd2": {
        "block_out_channels": (64, 128),
        "cross_attention_dim": 64,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
        "layers_per_block": 1,
    },
    "sdxl": {
        "block_out_channels": (64, 128),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2),
        "cross_attention_dim": 64 + 128,
        "attention_head_dim": (1, 2),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 96 + 6 * 256,
    },
}


def text(kind: type, width: int, layers: int, **settings: Any) -> Any:
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        **settings,
    )
    return kind(config).eval()


def make(family: str, **unet: Any) -> Model:
    encoders = {
        "sd1": lambda: [text(CLIPTextModel, 64, 2)],
        "sd2": lambda: [text(CLIPTextModel, 64, 23, hidden_act="gelu")],
        "sdxl": lambda: [
            text(CLIPTextModel, 64, 2),
            text(CLIPTextModelWithProjection, 128, 3, hidden_act="gelu", projection_dim=96),
        ],
    }[family]()
    settings: dict[str, Any] = {
        "sample_size": {"sd1": 64, "sd2": 64, "sdxl": 128}[family],
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    scale = 0.13025 if family == "sdxl" else 0.18215
    return Model(
        unet=UNet2DConditionModel(**{**settings, **UNETS[family], **unet}),
        vae=AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(32, 64),
            scaling_factor=scale,
        ),
        text_encoders=encoders,
        tokenizers=[
            clip.tokenizer("<|endoftext|>" if i == 0 and family != "sd2" else "!")
            for i in range(len(encoders))
        ],
        schedule_config={**SCHEDULE, "prediction_type": "epsilon"},
        zero_empty_prompt=family == "sdxl",
    )


@pytest.fixture(scope="module")
def small() -> Small:
    """small("sd1"), small("sd2"), small("sdxl"): the same weights at each call; small enough, but of the families'
    vocabulary and head widths, so that nothing has to be said of their sizes."""
    kept: dict[str, Model] = {}

    def one(family: str) -> Model:
        if family not in kept:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                kept[family] = make(family)
        return kept[family]

    return one


@pytest.fixture(autouse=True)
def no_litter(tmp_path: Path) -> Iterator[None]:
    """pytest keeps temporary folders; these files are of 20 MB and more."""
    yield
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()


def weights_of(model: Model) -> Weights:
    """A model's weights as its repository saved them, with what training left behind."""
    found = original.model(model.denoiser.unet, model.autoencoder.vae, list(model.text.encoders))
    found |= {
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(470000),
        "betas": torch.rand(1000),
        "alphas_cumprod": torch.rand(1000),
        "first_stage_model.loss.logvar": torch.zeros(()),
    }
    for key in list(found):
        if key.endswith("text_model.embeddings.token_embedding.weight"):
            found[key.replace("token_embedding.weight", "position_ids")] = torch.arange(77)[None]
        if key.endswith("model.token_embedding.weight"):
            found[key.replace("token_embedding.weight", "logit_scale")] = torch.tensor(4.6)
            found.setdefault(key.replace("token_embedding.weight", "text_projection"), torch.rand(64, 64))
    for key in list(found):  # the last layer of OpenCLIP ViT-H, which Stable Diffusion 2 does not read
        if key.startswith("cond_stage_model.model.transformer.resblocks.22."):
            found[key.replace(".22.", ".23.")] = torch.rand_like(found[key])
    return found


def assert_same(loaded: Model, ours: Model, **tolerance: float) -> None:
    """Every weight, an encoded prompt, a prediction, a picture's latents and a picture, to the bit."""
    mine, theirs = ([m.denoiser.unet, m.autoencoder.vae, *m.text.encoders] for m in (ours, loaded))
    for network, other in zip(mine, theirs, strict=True):
        expected = network.state_dict()
        assert other.state_dict().keys() == expected.keys()
        for key, weight in other.state_dict().items():
            assert torch.equal(weight, expected[key]), key
    assert loaded.hash == ours.hash and loaded.image_size == ours.image_size
    embeds, own = loaded.encode_text(["a cat on a beach", ""]), ours.encode_text(["a cat on a beach", ""])
    assert torch.equal(embeds.hidden, own.hidden)
    channels = ours.denoiser.unet.config.in_channels
    if channels == 4:
        z = torch.randn(2, channels, 16, 12)
        assert torch.equal(predict_eps(loaded, z, 401, own), predict_eps(ours, z, 401, own))
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    assert torch.equal(loaded.encode_image(picture), ours.encode_image(picture))
    z = torch.randn(1, 4, 16, 16)
    assert torch.equal(loaded.decode(z), ours.decode(z))


@pytest.mark.slow
@pytest.mark.parametrize("family", UNETS)
def test_a_checkpoint_is_the_model_it_was_made_of(family: str, small: Small, tmp_path: Path) -> None:
    path = tmp_path / "model-512.safetensors"
    save_file(weights_of(small(family)), path)
    loaded = Model.load(path, device="cpu", fetch=False)
    assert loaded.name == str(path)
    assert_same(loaded, small(family))
    assert loaded.schedule(10) == small(family).schedule(10)


@pytest.mark.parametrize("family", UNETS)
def test_the_layout_is_the_one_that_diffusers_reads(family: str, small: Small) -> None:
    """The layout of these tests against a converter that is not ours."""
    model = small(family)
    weights = weights_of(model)
    unet = single_file_utils.convert_ldm_unet_checkpoint(dict(weights), model.denoiser.unet.config)
    vae = single_file_utils.convert_ldm_vae_checkpoint(dict(weights), model.autoencoder.vae.config)
    for found, network in ((unet, model.denoiser.unet), (vae, model.autoencoder.vae)):
        expected = network.state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(weight, expected[name]) for name, weight in found.items())
    if family == "sd2":
        encoder = model.text.encoders[0]
        found = single_file_utils.convert_open_clip_checkpoint(encoder, dict(weights))
        found = {name.removeprefix("text_model."): weight for name, weight in found.items()}
        assert all(torch.equal(weight, found[name]) for name, weight in encoder.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("family", "channels"), [("sd1", 9), ("sd1", 8), ("sdxl", 9)])
def test_inpainting_and_instructions(family: str, channels: int, tmp_path: Path) -> None:
    model = make(family, in_channels=channels)
    save_file(weights_of(model), tmp_path / "512.safetensors")
    assert_same(Model.load(tmp_path / "512.safetensors", device="cpu"), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(dtype: torch.dtype, small: Small, tmp_path: Path) -> None:
    weights = {k: w.to(dtype) if w.is_floating_point() else w for k, w in weights_of(small("sd1")).items()}
    save_file(weights, tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors", device="cpu")
    assert loaded.dtype == torch.float32
    for key, weight in loaded.denoiser.unet.state_dict().items():
        assert torch.equal(weight, small("sd1").denoiser.unet.state_dict()[key].to(dtype).float())
    half = Model.load(tmp_path / "model.safetensors", device="cpu", dtype=dtype)
    networks = (half.denoiser.unet, half.text.encoders[0])
    assert {weight.dtype for network in networks for weight in network.parameters()} == {dtype}
    # The autoencoder's config, by default, says that float16 is too small for it.
    held = torch.float32 if dtype == torch.float16 else dtype
    assert {weight.dtype for weight in half.autoencoder.vae.parameters()} == {held}


def moved(old: str, new: str) -> Callable[[Weights], Weights]:
    return lambda weights: {
        new + key.removeprefix(old) if key.startswith(old) else key: weight for key, weight in weights.items()
    }


@pytest.mark.parametrize(
    ("family", "spell"),
    [
        ("sd1", moved("model.diffusion_model.", "")),
        ("sd1", moved("first_stage_model.", "vae.")),
        ("sd1", lambda weights: moved("first_stage_model.", "")(without("first_stage_model.loss")(weights))),
        ("sd1", moved("cond_stage_model.transformer.text_model.", "cond_stage_model.transformer.")),
        ("sd1", moved("cond_stage_model.transformer.text_model.", "text_model.")),
        ("sd2", moved("cond_stage_model.model.", "")),
        (
            "sdxl",
            moved("conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.0.transformer."),
        ),
        # Stable Diffusion 2 as diffusers wrote it back: without the last layer.
        ("sd2", lambda weights: without("cond_stage_model.model.transformer.resblocks.23.")(weights)),
    ],
)
def test_other_spellings(
    family: str, spell: Callable[[Weights], Weights], small: Small, tmp_path: Path
) -> None:
    save_file(spell(weights_of(small(family))), tmp_path / "512.safetensors")
    assert_same(Model.load(tmp_path / "512.safetensors", device="cpu"), small(family))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda weights, ema: weights | ema, 1),
        (lambda weights, ema: without("model.diffusion_model.")(weights) | ema, 1),
        (lambda weights, ema: weights | dict(sorted(ema.items())[1:]), 0),  # not whole: not used
    ],
)
def test_the_average_of_the_weights_is_preferred(
    spoil: Callable[[Weights, Weights], Weights], expected: int, small: Small, tmp_path: Path
) -> None:
    weights = weights_of(small("sd1"))
    unet = {k: w + 1 for k, w in weights.items() if k.startswith("model.diffusion_model.")}
    save_file(spoil(weights, original.averaged(unet)), tmp_path / "model.safetensors")
    loaded = Model.load(tmp_path / "model.safetensors", device="cpu").denoiser.unet.state_dict()
    for key, weight in small("sd1").denoiser.unet.state_dict().items():
        assert torch.equal(loaded[key], weight + expected), key


# What the network predicts ------------------------------------------------------------------------------------

V, EPS = "v_prediction", "epsilon"


@pytest.mark.parametrize(
    ("family", "name", "header", "markers", "expected"),
    [
        ("sd1", "model", {}, [], EPS),
        ("sdxl", "model", {}, [], EPS),
        ("sdxl", "noob", {}, ["v_pred"], V),
        ("sdxl", "noob", {"modelspec.prediction_type": "epsilon"}, ["v_pred"], V),
        ("sdxl", "model", {"modelspec.prediction_type": "v"}, [], V),
        ("sdxl", "model_vPred_10", {}, [], V),
        ("sd1", "model-v-pred", {"modelspec.prediction_type": "epsilon"}, [], EPS),
        ("sd1", "model-768", {}, [], EPS),
        ("sd2", "v2-1_768-ema-pruned", {}, [], V),
        ("sd2", "768-v-ema", {}, [], V),
        ("sd2", "512-base-ema", {}, [], EPS),
        ("sd2", "my-base", {}, [], EPS),
        ("sd2", "mine", {"modelspec.architecture": "stable-diffusion-v2-768-v"}, [], V),
        ("sd2", "mine", {"modelspec.architecture": "stable-diffusion-v2-512"}, [], EPS),
        ("sd2", "mine-768", {"modelspec.prediction_type": "epsilon"}, [], EPS),
        ("sd2", "mine_eps", {}, [], EPS),
    ],
)
def test_what_it_predicts(
    family: str,
    name: str,
    header: dict[str, str],
    markers: list[str],
    expected: str,
    small: Small,
    tmp_path: Path,
) -> None:
    weights = weights_of(small(family)) | {marker: torch.tensor([]) for marker in markers}
    save_file(weights, tmp_path / f"{name}.safetensors", header)
    loaded = Model.load(tmp_path / f"{name}.safetensors", device="cpu")
    assert loaded.denoiser.prediction == expected
    assert loaded.image_size == {"sd1": (128, 128), "sdxl": (256, 256)}.get(
        family, (192, 192) if expected == V else (128, 128)
    )


def test_zero_terminal_snr_is_read(small: Small, tmp_path: Path) -> None:
    markers = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    save_file(weights_of(small("sdxl")) | markers, tmp_path / "noob.safetensors")
    config = Model.load(tmp_path / "noob.safetensors", device="cpu").schedule_config
    assert config["rescale_betas_zero_snr"] is True and config["timestep_spacing"] == "trailing"
    assert config["prediction_type"] == V


def test_a_file_that_does_not_say_what_it_predicts(small: Small, tmp_path: Path) -> None:
    for name in ("mine", "database-steps-15120"):
        save_file(weights_of(small("sd2")), tmp_path / f"{name}.safetensors")
        with pytest.raises(
            ModelError, match=r"predicts eps or v.*put 512 \(eps\) or 768 \(v\) into the name"
        ):
            Model.load(tmp_path / f"{name}.safetensors", device="cpu")
    save_file(weights_of(small("sd1")), tmp_path / "other.safetensors", {"modelspec.prediction_type": "x0"})
    with pytest.raises(ModelError, match="to be epsilon or v, got 'x0'"):
        Model.load(tmp_path / "other.safetensors", device="cpu")


# A folder of configs ------------------------------------------------------------------------------------------


@pytest.fixture
def configs(tiny: Tiny, saved: Saved, tmp_path: Path) -> Path:
    """tiny.safetensors beside tiny/, which has configs and a tokenizer and not one weight."""
    folder = saved(tiny("sd1"), tmp_path / "tiny")
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    save_file(weights_of(tiny("sd1")), tmp_path / "tiny.safetensors")
    return folder


def test_a_folder_of_configs_wins(
    configs: Path, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiny model's heads and norms are not those that the file's shapes would be taken to mean."""
    schedule = configs / "scheduler" / "scheduler_config.json"
    schedule.write_text(json.dumps({**tiny("sd1").schedule_config, "prediction_type": V}))
    for place in (configs, tmp_path / "elsewhere"):
        configs.rename(place)
        configs = place
        if place.name == "elsewhere":
            monkeypatch.setenv("WORDBRUSH_SINGLE_FILE_CONFIG", str(place))
        loaded = Model.load(tmp_path / "tiny.safetensors", device="cpu")
        assert loaded.denoiser.prediction == V and loaded.denoiser.unet.config.norm_num_groups == 8
        z, embeds = torch.randn(1, 4, 16, 12), tiny("sd1").encode_text(["a cat"])
        assert torch.equal(loaded.encode_text(["a cat"]).hidden, embeds.hidden)
        with torch.no_grad():
            expected = tiny("sd1").denoiser.unet(z, 401, embeds.hidden).sample
            assert torch.equal(loaded.denoiser.unet(z, 401, embeds.hidden).sample, expected)


def test_a_folder_that_is_named_has_to_be_there(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file(weights_of(small("sd1")), tmp_path / "model.safetensors")
    monkeypatch.setenv("WORDBRUSH_SINGLE_FILE_CONFIG", str(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match="expected WORDBRUSH_SINGLE_FILE_CONFIG to name a diffusers folder"):
        Model.load(tmp_path / "model.safetensors", device="cpu")


def test_a_config_that_asks_for_code_is_refused(configs: Path, tmp_path: Path) -> None:
    config = json.loads((configs / "unet" / "config.json").read_text())
    (configs / "unet" / "config.json").write_text(json.dumps({**config, "auto_map": {"x": "y"}}))
    with pytest.raises(ModelError, match="tiny/unet: expected a config of plain weights, got auto_map"):
        Model.load(tmp_path / "tiny.safetensors", device="cpu")


# What is refused ----------------------------------------------------------------------------------------------


def without(prefix: str, *, one: bool = False) -> Callable[[Weights], Weights]:
    def spoil(weights: Weights) -> Weights:
        found = [key for key in sorted(weights) if key.startswith(prefix)]
        gone = set(found[:1] if one else found)
        assert gone
        return {key: weight for key, weight in weights.items() if key not in gone}

    return spoil


def only(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {key: weight for key, weight in weights.items() if key.startswith(prefix)}


def plus(*names: str, size: tuple[int, ...] = (4, 4)) -> Callable[[Weights], Weights]:
    return lambda weights: weights | {name: torch.rand(size) for name in names}


def just(*names: str) -> Callable[[Weights], Weights]:
    return lambda _: {name: torch.rand(4, 4) for name in names}


def swapped(weights: Weights) -> Weights:
    """Three weights short, and three more than there should be."""
    for i in range(3):
        weights[f"model.diffusion_model.extra.{i}"] = weights.pop(
            f"model.diffusion_model.{['out.2.bias', 'time_embed.0.bias', 'middle_block.1.norm.bias'][i]}"
        )
    return weights


REFUSED: dict[str, tuple[str, Callable[[Weights], Weights], str]] = {
    "no UNet": ("sd1", without("model.diffusion_model."), "the CLIP text encoder and lacks the UNet:"),
    "no text encoder": (
        "sd1",
        without("cond_stage_model."),
        "has the UNet and the autoencoder and lacks the text",
    ),
    "no autoencoder": ("sd2", without("first_stage_model."), "lacks the autoencoder"),
    "an autoencoder": (
        "sd1",
        only("first_stage_model."),
        "has the autoencoder and lacks the UNet and the text enc",
    ),
    "nothing": (
        "sd1",
        just("weight"),
        "512.safetensors lacks the UNet and the autoencoder and the text encoder",
    ),
    "a LoRA": ("sd1", just("lora_unet_down_blocks_0.lora_up.weight"), "is a LoRA, which changes a model"),
    "a LoRA of diffusers": ("sd1", just("unet.down_blocks.0.to_k.lora_A.weight"), "is a LoRA"),
    "a ControlNet": ("sd1", just("control_model.input_hint_block.0.weight"), "is a ControlNet"),
    "a part of a folder": (
        "sd1",
        just("down_blocks.0.resnets.0.conv1.weight"),
        "is one part of a model in diff",
    ),
    "a learned word": ("sd1", just("emb_params"), "is a learned word"),
    "the refiner": (
        "sdxl",
        moved("conditioner.embedders.1.model.", "conditioner.embedders.0.model."),
        "is SDXL's refiner",
    ),
    "Stable Diffusion 3": (
        "sd1",
        just("model.diffusion_model.joint_blocks.0.x.weight"),
        "is Stable Diffusion 3",
    ),
    "Flux": ("sd1", just("double_blocks.0.img_attn.norm.key_norm.scale"), "is a model of the Flux family"),
    "EDM": ("sdxl", plus("edm_mean"), "is an EDM model"),
    "an upscaler": ("sd2", plus("model.diffusion_model.label_emb.weight"), "reads more than a prompt"),
    "quantised": ("sdxl", plus("model.diffusion_model.out.2.scale_weight"), "is a quantised model"),
    "a weight short": (
        "sd1",
        without("model.diffusion_model.out.2.bias"),
        r"lacks 1 of the \d+ weights of its UNet, such as model.diffusion_model.out.2.bias: fetch",
    ),
    "a shape short": (
        "sd1",
        without("model.diffusion_model.out.2.weight"),
        "lacks model.diffusion_model.out.2.wei",
    ),
    "a block short": (
        "sd1",
        without("model.diffusion_model.output_blocks.5."),
        "lacks .* weights of its UNet",
    ),
    "a weight of the autoencoder short": (
        "sd2",
        without("first_stage_model.post_quant_conv.bias"),
        "weights of its autoencoder, such as first_stage_model.post_quant_conv.bias",
    ),
    "a text weight short": (
        "sd1",
        without("cond_stage_model.transformer.text_model.final_layer_norm.bias"),
        "of its CLIP text encoder, such as cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ),
    "an OpenCLIP weight short": (
        "sdxl",
        without("conditioner.embedders.1.model.transformer.resblocks.1.attn.in_proj_bias"),
        "of its OpenCLIP text encoder, such as .*resblocks.1.attn.in_proj_bias",
    ),
    "three short and three more": ("sd1", swapped, r"lacks 3 of the \d+ weights of its UNet, such as"),
    "another architecture": (
        "sd1",
        plus("model.diffusion_model.adapter.weight"),
        "has 1 weights for which its UNet has no place, such as model.diffusion_model.adapter.weight",
    ),
    "another shape": (
        "sd1",
        plus("model.diffusion_model.out.2.bias", size=(5,)),
        r"expected model.diffusion_model.out.2.bias to fit numbers of shape \[4\], got float32 of shape \[5\]",
    ),
    "whole numbers": (
        "sd1",
        lambda weights: weights | {"model.diffusion_model.out.2.bias": torch.ones(4, dtype=torch.int8)},
        "got int8 of shape",
    ),
    "no such sizes": (
        "sd1",
        lambda weights: (
            weights
            | {
                f"model.diffusion_model.input_blocks.{i}.0.out_layers.3.weight": torch.rand(33, 4, 3, 3)
                for i in (1, 2)
            }
        ),
        "expected the sizes of a UNet",
    ),
    "flat": (
        "sd1",
        plus("model.diffusion_model.input_blocks.0.0.weight", size=(4,)),
        "expected the sizes of a part",
    ),
    "another width of text": (
        "sd1",
        plus("model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight", size=(64, 32)),
        "to fit numbers of shape",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_file_that_is_no_such_model_is_refused(case: str, small: Small, tmp_path: Path) -> None:
    family, spoil, said = REFUSED[case]
    save_file(spoil(weights_of(small(family))), tmp_path / "512.safetensors")
    with pytest.raises(ModelError, match=said) as caught:
        Model.load(tmp_path / "512.safetensors", device="cpu")
    assert "512.safetensors" in str(caught.value)


def test_pickles_and_cut_files_are_refused(small: Small, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file(weights_of(small("sd1")), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="expected a whole safetensors file, but .* is none"):
            Model.load(path, device="cpu")
    header = json.dumps({"x" * 10**4: {"dtype": "F32", "shape": "none", "data_offsets": [0, 4]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(ModelError, match="expected a whole safetensors file") as caught:
        Model.load(path, device="cpu")
    assert len(str(caught.value)) < 500 + len(str(path))
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(ModelError, match="pickled checkpoints are never loaded"):
        Model.load(path, device="cpu")


def test_the_weights_are_no_view_of_the_file(small: Small, tmp_path: Path) -> None:
    """Another tool may write the file anew while the model is in use."""
    path = tmp_path / "model.safetensors"
    save_file(weights_of(small("sd1")), path)
    loaded = Model.load(path, device="cpu")
    with open(path, "r+b") as file:
        file.seek(file.seek(0, 2) // 2)
        file.write(b"\x7f" * 1_000_000)
    assert_same(loaded, small("sd1"))
