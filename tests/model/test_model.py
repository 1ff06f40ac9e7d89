"""The model: what it loads and refuses, its sizes, its text and its pictures."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

import conftest
from reference import predict_eps
from wordbrush.errors import ModelError, PromptError
from wordbrush.loading import POCKET, Defaults
from wordbrush.model import Model, TextEmbeds
from wordbrush.model.autoencoder import Autoencoder

Tiny = Callable[..., Model]
Saved = Callable[[Model, Path], Path]
SHAPES = ["sd1", "sd2", "sdxl"]


def predict(model: Model) -> torch.Tensor:
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3)).to(model.latent_dtype)
    return predict_eps(model, z, 401, model.encode_text(["a cat on a beach"]))


# Loading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_diffusers_folder_is_loaded_as_it_was_saved(
    shape: str, tiny: Tiny, saved: Saved, tmp_path: Path
) -> None:
    model = tiny(shape)
    loaded = Model.load(saved(model, tmp_path / "model"), device="cpu")
    assert loaded.hash == model.hash
    assert loaded.name == str(tmp_path / "model")
    assert loaded.denoiser.prediction == ("v_prediction" if shape == "sd2" else "epsilon")
    # Weights that lie elsewhere in memory may be multiplied by another kernel: equal, but for the last bits.
    torch.testing.assert_close(predict(loaded), predict(model), atol=1e-5, rtol=0)
    null, ours = loaded.encode_text([""]), model.encode_text([""])
    torch.testing.assert_close(null.hidden, ours.hidden, atol=1e-5, rtol=0)
    assert loaded.schedule(7) == model.schedule(7)
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(loaded.encode_image(picture), model.encode_image(picture), atol=1e-5, rtol=0)
    for module in (loaded.denoiser.unet, loaded.autoencoder.vae, *loaded.text.encoders):
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_half_precision_files_and_dtypes(tiny: Tiny, saved: Saved, tmp_path: Path) -> None:
    """A folder that has only the fp16 variant is read all the same, in the precision asked for."""
    path = saved(tiny("sd1"), tmp_path / "model")
    for part in ("unet", "vae", "text_encoder"):
        (file,) = (path / part).glob("*.safetensors")
        save_file({k: w.half() for k, w in load_file(file).items()}, file, {"format": "pt"})
        file.rename(file.with_suffix(".fp16.safetensors"))
    loaded = Model.load(path, device="cpu")
    assert loaded.dtype == torch.float32 == loaded.autoencoder.vae.dtype
    torch.testing.assert_close(predict(loaded), predict(tiny("sd1")), atol=0.02, rtol=0.02)
    assert Model.load(path, device="cpu", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_defaults_of_its_own(tiny: Tiny, saved: Saved, tmp_path: Path) -> None:
    path = saved(tiny("sd1"), tmp_path / "model")
    assert Model.load(path, device="cpu").defaults == Defaults(50, 7.5)
    index = json.loads((path / "model_index.json").read_text())
    index["wordbrush"] = {"defaults": {"steps": 20, "guidance_scale": 3.0}}
    (path / "model_index.json").write_text(json.dumps(index))
    model = Model.load(path, device="cpu")
    assert model.defaults == Defaults(20, 3.0) and model.schedule().steps == 20


def change_index(path: Path, **parts: Any) -> None:
    index = json.loads((path / "model_index.json").read_text())
    (path / "model_index.json").write_text(json.dumps({**index, **parts}))


def without(path: Path, key: str, part: str) -> None:
    (file,) = (path / part).glob("*.safetensors")
    weights = load_file(file)
    del weights[key]
    save_file(weights, file, {"format": "pt"})


def reshaped(path: Path) -> None:
    (file,) = (path / "unet").glob("*.safetensors")
    weights = load_file(file)
    weights["conv_in.weight"] = torch.zeros(3, 3)
    save_file(weights, file, {"format": "pt"})


def pickled(path: Path) -> None:
    (file,) = (path / "unet").glob("*.safetensors")
    torch.save(load_file(file), file.with_suffix(".bin"))
    file.unlink()


def cut(path: Path, part: str) -> None:
    (file,) = (path / part).glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda p: (p / "model_index.json").unlink(), "expected a diffusers model folder"),
    "index is no JSON": (lambda p: (p / "model_index.json").write_text("{"), "expected JSON, got"),
    "index is a list": (lambda p: (p / "model_index.json").write_text("[]"), "expected names and values"),
    "another UNet": (
        lambda p: change_index(p, unet=["diffusers", "SD3Transformer2DModel"]),
        "expected unet to be one of UNet2DConditionModel, got SD3Transformer2DModel",
    ),
    "an entry of another form": (lambda p: change_index(p, vae="AutoencoderKL"), "names no vae"),
    "a kind that is no name": (
        lambda p: change_index(p, unet=["diffusers", ["UNet2DConditionModel"]]),
        "names no unet",
    ),
    "another text encoder": (
        lambda p: change_index(p, text_encoder=["transformers", "T5EncoderModel"]),
        "expected text_encoder to be one of.*got T5EncoderModel",
    ),
    "code of its own": (lambda p: change_index(p, unet=["my_unet", "MyUNet"]), "got MyUNet"),
    "no text encoder": (lambda p: change_index(p, text_encoder=[None, None]), "names no text_encoder"),
    "no UNet folder": (
        lambda p: shutil.rmtree(p / "unet"),
        "the weights of unet as safetensors.*there are none",
    ),
    "no tokenizer folder": (lambda p: shutil.rmtree(p / "tokenizer"), "cannot load tokenizer"),
    "no schedule": (lambda p: shutil.rmtree(p / "scheduler"), "scheduler_config.json does not exist"),
    "weights cut": (lambda p: cut(p, "unet"), "cannot load unet"),
    "text weights cut": (lambda p: cut(p, "text_encoder"), "cannot load text_encoder"),
    "a weight missing": (lambda p: without(p, "conv_out.bias", "unet"), "unet lacks 1.*conv_out.bias"),
    "a text weight missing": (
        lambda p: without(p, "final_layer_norm.weight", "text_encoder"),
        "text_encoder lacks 1.*final_layer_norm.weight",
    ),
    "a weight of another shape": (reshaped, "cannot load unet"),
    "a pickle": (pickled, r"there is \S+\.bin, a pickle, and those are never loaded: convert them"),
    "another prediction": (
        lambda p: (p / "scheduler" / "scheduler_config.json").write_text('{"prediction_type": "sample"}'),
        "prediction_type must be one of epsilon, v_prediction, got 'sample'",
    ),
    "a prediction that is a whole book": (
        lambda p: (p / "scheduler" / "scheduler_config.json").write_text(
            json.dumps({"prediction_type": "x" * 10**4})
        ),
        "prediction_type must be one of epsilon, v_prediction, got 'xxx.{40,60}$",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_folder_that_is_not_right_says_what_is_wrong(
    damage: str, tiny: Tiny, saved: Saved, tmp_path: Path
) -> None:
    path = saved(tiny("sd1"), tmp_path / "model")
    spoil, said = DAMAGE[damage]
    spoil(path)
    with pytest.raises(ModelError, match=said):
        Model.load(path, device="cpu")


@pytest.mark.parametrize(
    "name", ["nobody/nothing-of-this-name", "no/such/folder", "not a model", "./missing"]
)
def test_a_model_that_is_nowhere(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=f"no model '{name}': not 'pocket'"):
        Model.load(name, device="cpu")


def test_parts_must_fit(tiny: Tiny, tokenizer: CLIPTokenizer) -> None:
    model = tiny("sd1")
    parts: dict[str, Any] = {
        "unet": model.denoiser.unet,
        "vae": model.autoencoder.vae,
        "schedule_config": model.schedule_config,
    }
    with pytest.raises(ModelError, match="got 1 text encoders and 2 tokenizers"):
        Model(**parts, text_encoders=model.text.encoders, tokenizers=[tokenizer, tokenizer])
    with pytest.raises(ModelError, match="got 0 text encoders"):
        Model(**parts, text_encoders=[], tokenizers=[])


# Sizes ------------------------------------------------------------------------------------------------------


def test_sizes(tiny: Tiny) -> None:
    model = tiny("sd1")
    assert (model.downscale, model.image_size, model.latent_channels, model.tokens) == (2, (32, 32), 4, 32)
    assert model.latent_size(30, 44) == (15, 22)


@pytest.mark.parametrize(
    ("shape", "latent_size", "positions"),
    [
        ("sd1", (16, 16), 256),
        ("sd1", (32, 32), 256),
        ("sd1", (64, 64), 1024),  # of 4096 and 1024 (a third level has no text)
        ("sd1", (33, 17), 153),  # 561 and 17 × 9
        ("sdxl", (16, 16), 64),
        ("sdxl", (31, 31), 256),
    ],
)
def test_maps_are_read_where_they_are_nearest_to_sixteen_by_sixteen(
    shape: str, latent_size: tuple[int, int], positions: int, tiny: Tiny
) -> None:
    assert tiny(shape).map_positions(latent_size) == positions


def test_stable_diffusions_own_sites_are_found(tokenizer: CLIPTokenizer, tiny: Tiny) -> None:
    """SD 1 at 64 × 64: its 16 × 16 sites, three levels down; SDXL at 128 × 128: 32 × 32."""
    model = tiny("sd1")
    for blocks, latents, positions in (
        (["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], (64, 64), 256),
        (["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"], (96, 64), 384),
        (["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"], (128, 128), 1024),
    ):
        unet = type(
            "UNet",
            (torch.nn.Module,),
            {
                "config": type("C", (), {**model.denoiser.unet.config, "down_block_types": blocks}),
                "attn_processors": {},
                "up_blocks": (),
            },
        )()
        unet.set_attn_processor = lambda _: None
        other = Model(
            unet=unet,
            vae=model.autoencoder.vae,
            text_encoders=model.text.encoders,
            tokenizers=model.text.tokenizers,
            schedule_config=model.schedule_config,
        )
        assert other.map_positions(latents) == positions


# Text -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_text_is_encoded_row_by_row(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    prompts = ["a cat", "", "a dog on a beach"]
    together = model.encode_text(prompts)
    assert len(together) == 3 and together.hidden.shape == (
        3,
        32,
        model.denoiser.unet.config.cross_attention_dim,
    )
    for i, prompt in enumerate(prompts):
        alone = model.encode_text([prompt])
        torch.testing.assert_close(together.hidden[i : i + 1], alone.hidden, atol=1e-5, rtol=1e-5)
    again = TextEmbeds.concat([together[0:1], together[1:3]])
    assert torch.equal(again.hidden, together.hidden)
    assert torch.equal(together[1:2].expand(4).hidden[3], together.hidden[1])
    assert (together.pooled is not None) == (shape == "sdxl")


def test_sdxl_reads_both_encoders_and_pools_the_second(tiny: Tiny) -> None:
    model = tiny("sdxl")
    embeds = model.encode_text(["a cat"])
    ids = model.text.tokenizers[0](
        "a cat", padding="max_length", max_length=32, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        first, second = (encoder(ids, output_hidden_states=True) for encoder in model.text.encoders)
    assert torch.equal(embeds.hidden, torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1))
    assert embeds.pooled is not None and torch.equal(embeds.pooled, second.text_embeds)
    null = model.encode_text([""])
    assert null.pooled is not None and not null.hidden.any() and not null.pooled.any()


def test_sd_reads_the_last_layer(tiny: Tiny) -> None:
    model = tiny("sd2")
    ids = model.text.tokenizers[0](
        "a cat", padding="max_length", max_length=32, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        assert torch.equal(model.encode_text(["a cat"]).hidden, model.text.encoders[0](ids).last_hidden_state)
    assert model.encode_text([""]).hidden.any()


def test_words_are_those_of_the_encoder(tiny: Tiny) -> None:
    words = tiny("sd1").read("a cat on a beach")
    assert words.length == 32 and [w.text for w in words.words] == ["a", "cat", "on", "a", "beach"]
    with pytest.raises(PromptError, match="at most 30 tokens, got 31"):
        tiny("sd1").encode_text(["a cat", "cat " * 31])


# Pictures and predictions -----------------------------------------------------------------------------------


def test_pictures_are_the_posteriors_mode_scaled(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    picture = (torch.rand(2, 3, 32, 20) * 2 - 1).double()
    with torch.no_grad():
        mean = model.autoencoder.vae.encode(picture).latent_dist.mean
        z = model.encode_image(picture)
        torch.testing.assert_close(z, mean * 0.18215, atol=1e-12, rtol=0)
        decoded = model.autoencoder.vae.decode(mean).sample.clamp(-1, 1).float()
    assert torch.equal(model.encode_image(picture), z)
    torch.testing.assert_close(model.decode(z), decoded, atol=1e-6, rtol=0)
    with pytest.raises(ModelError, match="got 33×32"):
        model.encode_image(torch.zeros(1, 3, 32, 33))


def test_sdxl_is_told_the_pictures_size(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("sdxl")
    seen: list[torch.Tensor] = []
    forward = model.denoiser.unet.forward

    def watched(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["added_cond_kwargs"]["time_ids"])
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(model.denoiser.unet, "forward", watched)
    predict_eps(model, torch.zeros(2, 4, 16, 12), 5, model.encode_text(["a cat", "a dog"]))
    assert seen[0].tolist() == [[32, 24, 0, 0, 32, 24]] * 2


def test_eps_is_the_unets_own(tiny: Tiny) -> None:
    model = tiny("sd1")
    assert isinstance(model.denoiser.unet, UNet2DConditionModel)
    z, text = torch.randn(2, 4, 16, 12), model.encode_text(["a cat", "a dog"])
    with torch.no_grad():
        expected = model.denoiser.unet(z, 77, encoder_hidden_states=text.hidden).sample
    assert torch.equal(predict_eps(model, z, 77, text), expected)


def test_the_hash_is_what_a_trajectory_depends_on(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("sd1")
    parts: dict[str, Any] = {
        "unet": model.denoiser.unet,
        "vae": model.autoencoder.vae,
        "text_encoders": model.text.encoders,
        "tokenizers": model.text.tokenizers,
        "schedule_config": model.schedule_config,
    }
    before = model.hash
    assert Model(**parts).hash == before != tiny("sd1", torch.float64).hash
    for module in (model.denoiser.unet, model.autoencoder.vae, model.text.encoders[0]):
        weight = next(module.parameters())
        changed = weight.detach().clone()
        changed.view(-1)[0] += 1
        with monkeypatch.context() as patch:
            patch.setattr(weight, "data", changed)
            assert Model(**parts).hash == model.hash != before  # known anew, for the weights have moved
    assert model.hash == before
    schedule = model.schedule_config
    same = {**schedule, "_class_name": "PNDMScheduler", "skip_prk_steps": True, "timestep_spacing": "leading"}
    assert Model(**{**parts, "schedule_config": same}).hash == model.hash
    for setting in ({"beta_end": 0.013}, {"steps_offset": 0}, {"prediction_type": "v_prediction"}):
        assert Model(**{**parts, "schedule_config": {**schedule, **setting}}).hash != model.hash
    again, padded = (CLIPTokenizer.from_pretrained(POCKET / "tokenizer") for _ in range(2))
    assert Model(**{**parts, "tokenizers": [again]}).hash == model.hash
    padded.pad_token = "a</w>"
    turned = CLIPTokenizer(vocab={token: 984 - number for token, number in again.get_vocab().items()})
    for other in (padded, turned):
        assert Model(**{**parts, "tokenizers": [other]}).hash != model.hash
    assert Model(**parts, zero_empty_prompt=True).hash != model.hash
    with monkeypatch.context() as patch:
        patch.setattr(Autoencoder, "scale", 0.5)
        assert Model(**parts).hash != before


def test_the_hash_follows_weights_that_move(tokenizer: CLIPTokenizer) -> None:
    """It is kept while nothing happens, and known anew after a step of training, a new weight or a new dtype."""
    torch.manual_seed(0)
    model = conftest.sd1(tokenizer)
    hashes = [model.hash]
    weight = model.denoiser.unet.conv_out.bias
    with torch.no_grad():
        weight += 1
    hashes.append(model.hash)
    model.denoiser.unet.conv_out.bias = torch.nn.Parameter(weight.detach() + 1)
    hashes.append(model.hash)
    model.denoiser.unet.to(torch.float64)
    hashes.append(model.hash)
    model.text.encoders[0].get_input_embeddings().weight.data = (
        model.text.encoders[0].get_input_embeddings().weight.data + 1
    )
    hashes.append(model.hash)
    assert len(set(hashes)) == 5 and model.hash == hashes[-1]


def test_models_may_share_parts_and_have_hashes_of_their_own(tiny: Tiny) -> None:
    """A model with other weights in one part, beside its base: what applied concepts will be."""
    base = tiny("sd1")
    before, predicted = base.hash, predict(base)
    unet = copy.deepcopy(base.denoiser.unet)
    with torch.no_grad():
        unet.conv_out.bias += 1
    other = Model(
        unet=unet,
        vae=base.autoencoder.vae,
        text_encoders=base.text.encoders,
        tokenizers=base.text.tokenizers,
        schedule_config=base.schedule_config,
    )
    assert other.hash != before == base.hash
    assert not torch.equal(predict(other), predicted) and torch.equal(predict(base), predicted)
    assert other.autoencoder.vae is base.autoencoder.vae


def test_text_can_be_encoded_with_gradients(tokenizer: CLIPTokenizer) -> None:
    """Of what is being trained of the encoder; without being asked for, none."""
    torch.manual_seed(0)
    model = conftest.sd1(tokenizer)
    embeddings = model.text.encoders[0].get_input_embeddings().weight.requires_grad_(True)
    assert not model.encode_text(["a cat"]).hidden.requires_grad
    model.encode_text(["a cat"], gradients=True).hidden.sum().backward()
    ids = model.text.tokenizers[0]("a cat").input_ids
    assert embeddings.grad is not None and all(embeddings.grad[token].any() for token in ids)
