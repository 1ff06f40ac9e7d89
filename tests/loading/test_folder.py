"""Model folders as people have them, and what in them would reach for code or pickles."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from wordbrush.errors import ModelError
from wordbrush.model import Model

Tiny = Callable[..., Model]
Saved = Callable[[Model, Path], Path]


@pytest.fixture
def folder(tiny: Tiny, saved: Saved, tmp_path: Path) -> Path:
    return saved(tiny("sd1"), tmp_path / "model")


def weights(folder: Path) -> Iterator[Path]:
    for part in ("unet", "vae", "text_encoder"):
        yield from (folder / part).glob("*.safetensors")


def only_variant(folder: Path, variant: str) -> None:
    for file in weights(folder):
        file.rename(file.with_name(f"{file.stem}.{variant}.safetensors"))


def sharded(folder: Path, variant: str = "") -> None:
    """The UNet in two files and an index, as diffusers names them."""
    (file,) = (folder / "unet").glob("*.safetensors")
    whole = load_file(file)
    file.unlink()
    index: dict[str, str] = {}
    keys = sorted(whole)
    for i, part in enumerate((keys[::2], keys[1::2])):
        name = f"{file.stem}{variant}-0000{i + 1}-of-00002.safetensors"
        save_file({key: whole[key] for key in part}, file.with_name(name), {"format": "pt"})
        index |= dict.fromkeys(part, name)
    content = {"metadata": {"total_size": 1}, "weight_map": index}
    (folder / "unet" / f"{file.name}.index{variant}.json").write_text(json.dumps(content))


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "bf16": lambda path: only_variant(path, "bf16"),
    "non_ema": lambda path: only_variant(path, "non_ema"),
    "another": lambda path: only_variant(path, "mine"),
    "sharded": sharded,
    "sharded fp16": lambda path: sharded(path, ".fp16"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_whatever_the_files_are_called(layout: str, folder: Path, tiny: Tiny) -> None:
    LAYOUTS[layout](folder)
    assert Model.load(folder, device="cpu").hash == tiny("sd1").hash


def test_weights_without_a_variant_are_preferred(folder: Path, tiny: Tiny) -> None:
    for file in weights(folder):
        other = {key: weight + 1 for key, weight in load_file(file).items()}
        save_file(other, file.with_name(f"{file.stem}.non_ema.safetensors"), {"format": "pt"})
        save_file(
            other, file.with_name("adapter.safetensors"), {"format": "pt"}
        )  # no name of a part's weights
    assert Model.load(folder, device="cpu").hash == tiny("sd1").hash


def test_names_of_older_versions(folder: Path, tiny: Tiny) -> None:
    """The hub's Stable Diffusion 1: an autoencoder and a text encoder that were saved years ago."""
    (vae,) = (folder / "vae").glob("*.safetensors")
    renamed: dict[str, torch.Tensor] = {}
    for key, weight in load_file(vae).items():
        for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
            key = key.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        renamed[key] = weight
    assert "encoder.mid_block.attentions.0.query.weight" in renamed
    save_file(renamed, vae, {"format": "pt"})
    (text,) = (folder / "text_encoder").glob("*.safetensors")
    own = {"text_model." + key.removeprefix("text_model."): weight for key, weight in load_file(text).items()}
    own["text_model.embeddings.position_ids"] = torch.arange(32)[None]
    save_file(own, text, {"format": "pt"})
    assert Model.load(folder, device="cpu").hash == tiny("sd1").hash


def test_nothing_is_advised(
    folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """diffusers recommends to install accelerate, unless it is told that it is not wanted."""
    Model.load(folder, device="cpu")
    captured = capsys.readouterr()
    assert (captured.out, captured.err, caplog.text) == ("", "", "")


# Pickles and code ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "listed",
    [
        "diffusion_pytorch_model-00002-of-00002.bin",
        "../vae/diffusion_pytorch_model.safetensors",
        "/etc/model.safetensors",
        "sub\\model.safetensors",
        "model.safetensors.bin",
        "",
    ],
)
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_an_index_lists_safetensors_of_its_own_folder_only(part: str, listed: str, folder: Path) -> None:
    stem = "model" if part == "text_encoder" else "diffusion_pytorch_model"
    (file,) = (folder / part).glob("*.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(load_file(file), listed)}
    file.rename(folder / part / f"{stem}-00001-of-00002.safetensors")
    (folder / part / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match="to list .safetensors files of its own folder, got") as caught:
        Model.load(folder, device="cpu")
    assert repr(listed) in str(caught.value)


def test_an_index_of_another_form(folder: Path) -> None:
    (folder / "unet" / "model.safetensors.index.json").write_text('{"weight_map": ["x.bin"]}')
    with pytest.raises(ModelError, match=r"of its own folder, got"):
        Model.load(folder, device="cpu")


def test_an_adapter_is_no_part(folder: Path) -> None:
    (folder / "text_encoder" / "adapter_config.json").write_text(
        '{"base_model_name_or_path": "nobody/model"}'
    )
    with pytest.raises(ModelError, match="expected the weights of text_encoder, got an adapter"):
        Model.load(folder, device="cpu")


def test_a_pickle_that_an_index_lists_is_not_run(folder: Path, tmp_path: Path) -> None:
    """The loader would unpickle it, and a pickle may do anything; this one would make a file."""
    sharded(folder)
    index = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    content = json.loads(index.read_text())
    (folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors").rename(folder / "unet" / "x.bin")
    content["weight_map"] = {
        key: "x.bin" if "00001" in name else name for key, name in content["weight_map"].items()
    }
    index.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"got 'x.bin'"):
        Model.load(folder, device="cpu")


def configure(folder: Path, part: str, **entries: Any) -> None:
    file = folder / part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **entries}))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
@pytest.mark.parametrize(
    "entry",
    [
        {"auto_map": {"AutoModel": "mine--code.Model"}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}},
        {"attn_implementation": "kernels-community/flash-attn"},
        {"_attn_implementation": "flash_attention_2"},
        {"_attn_implementation_internal": "nobody/kernel:attend"},
        {"text_config": {"attn_implementation": {"": "nobody/kernel"}}},
        {"use_kernels": True},
    ],
)
def test_configs_that_ask_for_code_are_refused_by_name(
    part: str, entry: dict[str, Any], folder: Path
) -> None:
    configure(folder, part, **entry)
    key = "attn_implementation" if "text_config" in entry else next(iter(entry))
    with pytest.raises(ModelError, match=rf"model: {part}: expected a config of plain weights, got {key} = "):
        Model.load(folder, device="cpu")


def test_what_attention_a_config_was_saved_with_does_no_harm(folder: Path, tiny: Tiny) -> None:
    configure(
        folder,
        "text_encoder",
        attn_implementation="eager",
        _attn_implementation_autoset=True,
        quantization_config=None,
    )
    model = Model.load(folder, device="cpu")
    assert model.hash == tiny("sd1").hash
    assert model.text.encoders[0].config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("part", "entry"),
    [
        ("text_encoder", {"hidden_size": "wide"}),
        ("text_encoder", {"num_attention_heads": 0}),
        ("text_encoder", {"num_hidden_layers": 2**31}),
        ("unet", {"block_out_channels": None}),
        ("unet", {"down_block_types": ["FlyingBlock2D"] * 3}),
        ("vae", {"norm_num_groups": 0}),
    ],
)
def test_configs_that_make_no_sense(part: str, entry: dict[str, Any], folder: Path) -> None:
    configure(folder, part, **entry)
    with pytest.raises(ModelError, match=f"model: (cannot load {part}: |expected a config that fits)"):
        Model.load(folder, device="cpu")


def test_what_a_library_says_of_every_weight_is_one_line(folder: Path) -> None:
    configure(folder, "unet", block_out_channels=[32, 64, 64])
    with pytest.raises(ModelError, match="model: cannot load unet: ") as caught:
        Model.load(folder, device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400 + len(str(folder))


def test_weights_without_a_place_are_refused(folder: Path) -> None:
    (file,) = (folder / "unet").glob("*.safetensors")
    save_file({**load_file(file), "adapter.weight": torch.zeros(1)}, file, {"format": "pt"})
    with pytest.raises(
        ModelError, match="unet has 1 weights that its config has no place for, such as adapter"
    ):
        Model.load(folder, device="cpu")


def test_a_tokenizer_without_its_words_is_refused(folder: Path, tiny: Tiny) -> None:
    """It would load all the same, with two tokens, and every prompt would be the empty one."""
    for file in ("tokenizer.json", "vocab.json", "merges.txt"):
        (folder / "tokenizer" / file).unlink(missing_ok=True)
    said = "cannot load tokenizer: expected tokenizer.json, or vocab.json and merges.txt, there are none"
    with pytest.raises(ModelError, match=said):
        Model.load(folder, device="cpu")
    pocket = Path(str(Model.load("pocket", device="cpu").text.tokenizers[0].name_or_path))
    for file in ("vocab.json", "merges.txt"):  # as the first models have it
        shutil.copy(pocket / file, folder / "tokenizer" / file)
    assert Model.load(folder, device="cpu").read("a cat").words == tiny("sd1").read("a cat").words
