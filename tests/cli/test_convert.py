"""`wordbrush convert`, end to end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from teaching import customised
from wordbrush.cli import main
from wordbrush.concept import Concept
from wordbrush.concept.weights import LowRank
from wordbrush.model import Model

L = torch.randn(1, 24)
LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture
def model(
    tmp_path: Path,
    tiny: Callable[..., Model],
    saved: Callable[[Model, Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    monkeypatch.chdir(tmp_path)
    return str(saved(tiny("sd1"), tmp_path / "model"))


def convert(*arguments: str, model: str) -> int:
    return main(["convert", *arguments, "--model", model])


def test_to_ours_and_back(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"emb_params": L}, "cat.safetensors")
    assert (
        convert("cat.safetensors", "--token", "<my-cat>", "--init", "cat", "--out", "my.concept", model=model)
        == 0
    )
    assert "my.concept" in capsys.readouterr().out
    concept = Concept.load("my.concept")
    assert list(concept.placeholders) == ["<my-cat>"] and concept.placeholders["<my-cat>"].initial is not None
    assert convert("my.concept", "--to", "diffusers", "--out", "back.safetensors", "--json", model=model) == 0
    assert torch.equal(load_file("back.safetensors")["<my-cat>"], L)
    said = json.loads(capsys.readouterr().out)
    assert (said["to"], said["out"], said["words"]) == ("diffusers", ["back.safetensors"], ["<my-cat>"])


def test_peft_is_a_folder(model: str) -> None:
    save_file(
        {f"{LAYER}.lora.down.weight": torch.ones(2, 24), f"{LAYER}.lora.up.weight": torch.ones(16, 2)},
        "x.safetensors",
    )
    assert convert("x.safetensors", "--to", "peft", "--out", "adapter", model=model) == 0
    assert json.loads(Path("adapter/adapter_config.json").read_text())["lora_alpha"] == 2


def test_an_alpha_that_is_assumed_is_said(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    save_file(
        {f"{LAYER}.lora.down.weight": torch.ones(2, 24), f"{LAYER}.lora.up.weight": torch.ones(16, 2)},
        "x.safetensors",
    )
    assert convert("x.safetensors", "--out", "x.concept", model=model) == 0
    assert "alpha is not in the file" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_pickles_want_the_flag(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"string_to_param": {"*": L}}, "cat.pt")
    assert convert("cat.pt", "--out", "cat.concept", model=model) == 2
    assert "--allow-pickle" in " ".join(capsys.readouterr().err.split()) and not Path("cat.concept").exists()
    assert convert("cat.pt", "--out", "cat.concept", "--allow-pickle", model=model) == 0
    assert list(Concept.load("cat.concept").placeholders) == ["<cat>"]


def test_compressed(model: str, tiny: Callable[..., Model], capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny("sd1")
    whole = customised(base).save("whole.concept")
    before = Path("whole.concept").stat().st_size
    assert convert("whole.concept", "--compress", "0.6", "--out", "small.concept", model=model) == 0
    small = Concept.load("small.concept")
    assert all(isinstance(own, LowRank) for own in small.weights.values())
    after = Path("small.concept").stat().st_size
    said = capsys.readouterr().out
    assert (
        f"{before / 1000:.0f} kB → {after / 1000:.0f} kB, with 9" in said and "% of what it changes" in said
    )
    assert small.placeholders.keys() == whole.placeholders.keys() and after < before


@pytest.mark.parametrize(
    ("form", "out", "size", "most"),
    [
        ("wordbrush", "x.concept", "16k", 16_000),
        ("kohya", "x.safetensors", "16 kB", 16_000),
        ("diffusers", "x.safetensors", "0.02M", 20_000),
        ("peft", "x", "17000", 17_000),
    ],
)
def test_a_size_is_that_of_all_files(
    model: str,
    tiny: Callable[..., Model],
    capsys: pytest.CaptureFixture[str],
    form: str,
    out: str,
    size: str,
    most: int,
) -> None:
    customised(tiny("sd1")).save("whole.concept")
    assert convert("whole.concept", "--size", size, "--to", form, "--out", out, "--json", model=model) == 0
    said = json.loads(capsys.readouterr().out)
    assert sum(Path(file).stat().st_size for file in said["out"]) == said["bytes"] <= most
    assert said["bytes"] > most - 1500 and 0.5 < said["kept"] < 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "10"], "expected a size of at least"),
        (["--size", "0"], "option 'size'"),
        (["--size", "much"], "expected --size in bytes, such as 100k or 1.5M, got 'much'"),
        (["--size", "-1"], "--size"),
        (["--size", "1k", "--compress", "0.5"], "got both"),
        (["--compress", "1.1"], "option 'compress'"),
        (["--compress", "0"], "option 'compress'"),
    ],
)
def test_a_size_that_cannot_be(
    model: str,
    tiny: Callable[..., Model],
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    customised(tiny("sd1")).save("whole.concept")
    assert convert("whole.concept", *arguments, "--out", "x.concept", model=model) == 2
    assert said in " ".join(capsys.readouterr().err.split()) and not Path("x.concept").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--out", "x.safetensors"], "expected --to"),
        (["--out", "x.png", "--to", "kohya"], "end in .safetensors"),
        (["--out", "x.concept", "--to", "lora"], "one of wordbrush, kohya"),
        (["--out", "cat.safetensors", "--to", "diffusers"], "is an input"),
        (["--out", "x.safetensors", "--to", "kohya"], "words alone"),
        (["--out", "x.concept", "--init", ""], "tokenizer reads"),
        (["--out", "x.concept", "--token", " "], "at most 100 letters"),
    ],
)
def test_what_does_not_work_is_said(
    model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    save_file({"emb_params": L}, "cat.safetensors")
    assert convert("cat.safetensors", *arguments, model=model) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not Path("x.concept").exists() and not Path("x.safetensors").exists()


def test_a_concept_of_another_model_stays_that_ones(
    model: str,
    tiny: Callable[..., Model],
    saved: Callable[[Model, Path], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    customised(tiny("sd1"), "<my-cat>", "cat").save("my.concept")
    other = str(saved(tiny("sd2"), Path("other")))
    assert convert("my.concept", "--out", "same.concept", model=other) == 0
    assert "was trained on" in " ".join(capsys.readouterr().err.split())
    assert Concept.load("same.concept").base == Concept.load("my.concept").base
    assert convert("my.concept", "--out", "same.concept", model=model) == 0
    assert "was trained on" not in " ".join(capsys.readouterr().err.split())
