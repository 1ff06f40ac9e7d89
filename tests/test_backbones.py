"""The networks behind the scores: the shipped judge, and tiny random ones saved as the hub has them."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    ConvNextConfig,
    ConvNextImageProcessorPil,
    ConvNextModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
    ViTModel,
)

from clips import write
from wordbrush import backbones
from wordbrush.backbones import Clip, load_clip, load_encoder
from wordbrush.errors import ImageError, ModelError, PromptError
from wordbrush.model import POCKET
from wordbrush.pocket import caption, render, sample

SCENES = [sample(seed) for seed in range(20)]
PICTURES = [render(scene) for scene in SCENES]
SQUARE = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


@pytest.fixture(scope="module")
def pocket() -> Clip:
    return load_clip()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: CLIPTokenizer) -> Path:
    """A tiny CLIP whose text encoder reads 12 tokens."""
    return write(tmp_path_factory.mktemp("clip"), tokenizer, reads=12)


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINO, as the hub has them: settings that squeeze, ImageNet's colours."""
    folder = tmp_path_factory.mktemp("dino")
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=56,
        patch_size=8,
        initializer_range=0.5,
    )
    ViTModel(config, add_pooling_layer=False).save_pretrained(folder)
    ViTImageProcessorPil(
        size={"height": 56, "width": 56}, image_mean=[0.485, 0.456, 0.406], image_std=[0.229, 0.224, 0.225]
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def convnext_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("convnext")
    torch.manual_seed(2)
    config = ConvNextConfig(
        num_stages=3, hidden_sizes=[8, 12, 16], depths=[1, 1, 1], layer_scale_init_value=0.5
    )
    ConvNextModel(config).save_pretrained(folder)
    SQUARE.save_pretrained(folder)
    return folder


def test_the_shipped_judge_tells_its_own_scenes_apart(pocket: Clip) -> None:
    cosines = pocket.texts([caption(scene) for scene in SCENES]) @ pocket.images(PICTURES).T
    assert (cosines.argmax(1) == torch.arange(20)).sum() >= 18
    assert pocket.name == "pocket"


def test_a_clips_vectors_are_its_own(clip_folder: Path) -> None:
    clip = load_clip(str(clip_folder))
    model = CLIPModel.from_pretrained(clip_folder).eval()
    texts = ["a cat", "a small red dog on a beach"]
    looks, words = clip.images(PICTURES[:3]), clip.texts(texts)
    with torch.no_grad():
        output = model(
            **CLIPTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt"),
            pixel_values=SQUARE(PICTURES[:3], return_tensors="pt").pixel_values,
        )
    torch.testing.assert_close(looks, output.image_embeds)
    torch.testing.assert_close(words, output.text_embeds)
    torch.testing.assert_close(looks.norm(dim=-1), torch.ones(3))
    assert clip.name == str(clip_folder)


def test_batches_change_nothing(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = load_clip(str(clip_folder))
    texts = [caption(scene)[:20] for scene in SCENES]
    whole = clip.images(PICTURES), clip.texts(texts)
    monkeypatch.setattr(backbones, "BATCH", 7)
    torch.testing.assert_close((clip.images(PICTURES), clip.texts(texts)), whole)


def test_texts_that_are_too_long_are_told_or_truncated_by_name(clip_folder: Path) -> None:
    clip = load_clip(str(clip_folder))
    fits = "a b c d e f g h i j"
    clip.texts([fits])
    with pytest.raises(PromptError, match=r"reads at most 12 tokens and 'a b c.*' has 13"):
        clip.texts(["a cat", f"{fits} k"])
    torch.testing.assert_close(clip.texts([f"{fits} k"], truncate=True), clip.texts([fits]))


def test_dinos_vectors_and_keys(vit_folder: Path) -> None:
    encoder = load_encoder(str(vit_folder))
    tall = PICTURES[0].resize((60, 90))
    # DINO's evaluation: 64, bicubic, the middle 56.
    pixels = np.asarray(tall.resize((64, 96), Image.Resampling.BICUBIC))[20:76, 4:60] / 255
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    model = ViTModel.from_pretrained(vit_folder, add_pooling_layer=False).eval().double()
    values = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        output = model(pixel_values=values, output_hidden_states=True)
    token = F.normalize(output.last_hidden_state[:, 0], dim=-1)
    torch.testing.assert_close(encoder.images([tall]).double(), token, atol=1e-5, rtol=1e-4)

    # Keys and layers of the whole picture at 56 on its shorter side; a square one needs no other positions.
    pixels = np.asarray(PICTURES[1].resize((56, 56), Image.Resampling.BILINEAR)) / 255
    values = torch.from_numpy((pixels - mean) / std).permute(2, 0, 1)[None]
    with torch.no_grad():
        states = model(pixel_values=values, output_hidden_states=True).hidden_states
    weights = {name: value for name, value in model.state_dict().items() if name.startswith("layers.2.")}
    before = F.layer_norm(
        states[-2],
        (32,),
        weights["layers.2.layernorm_before.weight"],
        weights["layers.2.layernorm_before.bias"],
        model.config.layer_norm_eps,
    )
    keys = before @ weights["layers.2.attention.k_proj.weight"].T + weights["layers.2.attention.k_proj.bias"]
    assert keys.shape == (1, 1 + 49, 32)
    torch.testing.assert_close(encoder.cells([PICTURES[1]]).double(), keys, atol=1e-4, rtol=1e-4)
    layers = encoder.layers([PICTURES[1]])
    assert [tuple(layer.shape) for layer in layers] == [(1, 32, 7, 7)] * 3
    torch.testing.assert_close(
        layers[1][0, :, 2, 3].double(), states[2][0, 1 + 2 * 7 + 3], atol=1e-4, rtol=1e-4
    )
    assert encoder.cells([tall]).shape == (1, 1 + 7 * 10, 32)  # 56 × 84: nothing is cropped
    assert [tuple(layer.shape) for layer in encoder.layers([tall])] == [(1, 32, 10, 7)] * 3


def test_values_of_0_to_255_skip_the_division_alone(vit_folder: Path) -> None:
    encoder = load_encoder(str(vit_folder))
    seen: list[torch.Tensor] = []
    hook = encoder.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    one, other = (encoder.cells([PICTURES[0]], values_0_to_255=quirk) for quirk in (False, True))
    hook.remove()
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close((seen[0] * std + mean) * 255, seen[1] * std + mean, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(one, other, atol=0.1)


def test_a_convnexts_vectors_cells_and_layers(convnext_folder: Path) -> None:
    encoder = load_encoder(str(convnext_folder))
    pixels = SQUARE(PICTURES[:3], return_tensors="pt").pixel_values
    model = ConvNextModel.from_pretrained(convnext_folder).eval()
    with torch.no_grad():
        output = model(pixels, output_hidden_states=True)
    torch.testing.assert_close(encoder.images(PICTURES[:3]), F.normalize(output.pooler_output, dim=-1))
    cells = encoder.cells(PICTURES[:3])
    assert cells.shape == (3, 4, 16)
    torch.testing.assert_close(cells[:, 2], output.last_hidden_state[:, :, 1, 0])
    layers = encoder.layers(PICTURES[:3])
    assert [tuple(layer.shape[1:]) for layer in layers] == [(8, 8, 8), (12, 4, 4), (16, 2, 2)]
    torch.testing.assert_close(layers, list(output.hidden_states[1:]))


def test_a_folder_with_the_processor_of_its_kind(convnext_folder: Path, tmp_path: Path) -> None:
    ConvNextModel.from_pretrained(convnext_folder).save_pretrained(tmp_path)
    ConvNextImageProcessorPil(size={"shortest_edge": 384}).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path))
    assert encoder.images(PICTURES[:1]).shape == (1, 16)
    assert encoder.cells(PICTURES[:1]).shape == (1, 24 * 24, 16)


def test_processors_are_the_pil_ones(clip_folder: Path, vit_folder: Path, convnext_folder: Path) -> None:
    encoders = [load_encoder(str(folder)) for folder in (vit_folder, convnext_folder)]
    processors = [load_clip().processor, load_clip(str(clip_folder)).processor]
    processors += [processor for encoder in encoders for processor in (encoder.middle, encoder.whole)]
    assert [type(processor) for processor in processors] == [CLIPImageProcessorPil] * 6
    assert "torchvision" not in sys.modules


def test_pictures_as_arrays_are_the_same(pocket: Clip) -> None:
    torch.testing.assert_close(
        pocket.images([np.asarray(p) for p in PICTURES[:2]]), pocket.images(PICTURES[:2])
    )


def test_what_cannot_be_looked_at(pocket: Clip, convnext_folder: Path) -> None:
    encoder = load_encoder(str(convnext_folder))
    for look in (pocket.images, encoder.images):
        with pytest.raises(ImageError, match="at least one"):
            look([])
    for look in (encoder.cells, encoder.layers):
        with pytest.raises(ImageError, match="one size, got 64 × 64 and 128 × 128"):
            look([PICTURES[0], PICTURES[1].resize((64, 64))])
    with pytest.raises(ImageError, match="RGB"):
        pocket.images([PICTURES[0].convert("L")])


def test_folders_as_the_hub_has_the_older_ones(clip_folder: Path, vit_folder: Path, tmp_path: Path) -> None:
    """Pickled tensors, sizes as one number, feature extractors: OpenAI's CLIPs and the first DINOs."""
    for folder, kind, network in ((clip_folder, "CLIP", load_clip), (vit_folder, "ViT", load_encoder)):
        old = tmp_path / kind
        old.mkdir()
        for file in folder.iterdir():
            if file.name != "model.safetensors":
                (old / file.name).write_bytes(file.read_bytes())
        torch.save(load_file(folder / "model.safetensors"), old / "pytorch_model.bin")
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        side = settings["size"].get("shortest_edge") or settings["size"]["height"]
        (old / "preprocessor_config.json").write_text(
            json.dumps(
                {
                    "do_normalize": True,
                    "do_resize": True,
                    "feature_extractor_type": f"{kind}FeatureExtractor",
                    "image_mean": settings["image_mean"],
                    "image_std": settings["image_std"],
                    "size": side,
                    **({"crop_size": side, "do_center_crop": True, "resample": 3} if kind == "CLIP" else {}),
                }
            )
        )
        now, then = network(str(folder)), network(str(old))
        torch.testing.assert_close(then.images(PICTURES[:2]), now.images(PICTURES[:2]))


def test_a_pickle_with_code_in_it_is_refused(convnext_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        (tmp_path / name).write_bytes((convnext_folder / name).read_bytes())
    torch.save({"layernorm.weight": Payload()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="a pickle with more than tensors"):
        load_encoder(str(tmp_path))
    assert not Payload.ran


class Payload:
    ran = False

    def __reduce__(self) -> tuple[object, ...]:
        return setattr, (Payload, "ran", True)


def test_dropping_a_classifier_is_no_loss(tmp_path: Path) -> None:
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=16,
        patch_size=8,
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil().save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path)).images(PICTURES[:1]).shape == (1, 16)


Breakage = Callable[[Path], object]


def _edit(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("breakage", "told"),
    [
        (lambda folder: (folder / "config.json").unlink(), "a config.json at .*check the path or the id"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot load config.json"),
        (lambda folder: _edit(folder / "config.json", model_type="bert"), "type vit or convnext, got 'bert'"),
        (
            lambda folder: (folder / "model.safetensors").unlink(),
            "weights as safetensors in .* there are none",
        ),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"what"), "cannot load the network"),
        (lambda folder: _edit(folder / "config.json", depths=[1, 1, 2]), "lacks 9 of its weights, such as"),
        (
            lambda folder: (folder / "preprocessor_config.json").unlink(),
            "cannot load preprocessor_config.json",
        ),
        (
            lambda folder: _edit(
                folder / "preprocessor_config.json", image_processor_type="GLPNImageProcessor"
            ),
            "names the processor 'GLPNImageProcessor'; known are CLIP, ViT, ConvNext",
        ),
    ],
)
def test_what_is_wrong_with_a_folder_is_told(
    convnext_folder: Path, tmp_path: Path, breakage: Breakage, told: str
) -> None:
    for file in convnext_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    breakage(tmp_path)
    with pytest.raises(ModelError, match=told):
        load_encoder(str(tmp_path))


@pytest.mark.parametrize("device", ["abacus", "", "meta", "cpu:1"])
def test_an_unknown_device(convnext_folder: Path, device: str) -> None:
    with pytest.raises(ModelError, match=f"no device '{device}'"):
        load_encoder(str(convnext_folder), device=device)


def test_a_shipped_network_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backbones, "POCKET", tmp_path)
    with pytest.raises(ModelError, match="install the package again"):
        load_encoder()


def test_names_that_are_no_network() -> None:
    with pytest.raises(ModelError, match="did you mean 'pocket'"):
        load_clip("pocked")
    with pytest.raises(ModelError, match="no folder there, and no hub id"):
        load_clip("no/such/network")


def test_the_hub_out_of_reach_and_its_cache(
    convnext_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="the hub could not be reached: fetch it where there is a network"):
        load_encoder("somebody/encoder")
    # The cache's own layout: what was fetched once needs no network.
    kept = tmp_path / "models--somebody--encoder"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots").mkdir()
    (kept / "snapshots" / ("0" * 40)).symlink_to(convnext_folder)
    encoder = load_encoder("somebody/encoder")
    assert encoder.name == "somebody/encoder"
    here = load_encoder(str(convnext_folder))
    torch.testing.assert_close(encoder.images(PICTURES[:2]), here.images(PICTURES[:2]))


def test_transformers_own_bars_come_back(convnext_folder: Path) -> None:
    logging = transformers.utils.logging
    was = logging.is_progress_bar_enabled()
    load_encoder(str(convnext_folder))
    assert logging.is_progress_bar_enabled() == was


def test_weights_ship_with_the_package(pocket: Clip) -> None:
    assert (POCKET / "judge" / "model.safetensors").is_file()
    assert next(pocket.model.parameters()).dtype == torch.float32
