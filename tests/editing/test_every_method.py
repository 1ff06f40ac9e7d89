"""What every editing method promises, on the built-in model and on models of each shape, square and not."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from wordbrush import Model, Result, edit, from_seed, invert
from wordbrush.cli import main
from wordbrush.editing import METHODS
from wordbrush.images import load
from wordbrush.methods import FAMILIES, typed

Tiny = Callable[..., Model]
CAT, DOG, RED = "a cat on a beach", "a dog on a beach", "a red cat on a beach"
SHAPES = list(FAMILIES)
SIZES = {"square": (32, 32), "wide": (32, 48)}  # height, width


@dataclass(frozen=True)
class Case:
    """How a method is tried where its default takes long, or where random weights need something else.

    options: the method's own. inversion: the way from a picture to its source; None for the model's default.
    inverting: the options of that. from_seeds: whether it edits what was made from a seed. draws: whether the model's
    own network draws.
    """

    options: dict[str, Any] = field(default_factory=dict[str, Any])
    inversion: str | None = None
    inverting: dict[str, Any] = field(default_factory=dict[str, Any])
    from_seeds: bool = True
    draws: bool = True


CASES: dict[str, Case] = {
    "blended_diffusion": Case({"guide_clip": "pocket", "guided_steps": 3, "samples": 1, "augmentations": 2}),
    "vqgan_clip": Case({"guide_clip": "pocket", "latent_steps": 2, "cutouts": 2}, draws=False),
    "text2live": Case(
        {"guide_clip": "pocket", "layer_steps": 2, "layer_views": 2, "layer_channels": 4}, draws=False
    ),
    "imagic": Case({"embedding_steps": 1, "tuning_steps": 1}),
    "sine": Case({"tuning_steps": 1}),
    "unitune": Case({"tuning_steps": 1}),
}


@pytest.fixture(scope="session")
def pocket() -> Model:
    return Model.load("pocket")


@pytest.fixture
def model(request: pytest.FixtureRequest, tiny: Tiny, pocket: Model) -> Model:
    return pocket if request.param == "pocket" else tiny(request.param)


def weights(model: Model) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in model.denoiser.unet.named_parameters()}


def photograph(size: tuple[int, int]) -> Image.Image:
    """A picture of that size, smooth enough for any autoencoder."""
    height, width = size
    noise = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))
    pixels = torch.nn.functional.interpolate(noise[None], (height, width), mode="bicubic").clamp(0, 1)[0]
    return Image.fromarray((pixels.permute(1, 2, 0) * 255).byte().numpy())


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("model", SHAPES, indirect=True)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_edits_sources(method: str, model: Model, size: str) -> None:
    own = CASES.get(method, Case())
    before, (height, width) = weights(model), SIZES[size]
    if size == "wide" and own.from_seeds:
        source = from_seed(model, CAT, seed=7, steps=3, height=height, width=width)
    else:
        how = {} if own.inversion is None else {"method": own.inversion}
        source = invert(model, photograph(SIZES[size]), CAT, **how, options={"steps": 3, **own.inverting})

    def made(targets: list[str]) -> list[Result]:
        return edit(model, source, targets, method=method, options=own.options)

    results = made([DOG, RED])
    assert [result.prompt for result in results] == [DOG, RED]
    for result, again in zip(results, made([DOG, RED]), strict=True):
        assert result.image.size == (width, height)
        assert torch.isfinite(result.trajectory).all() and not result.trajectory.requires_grad
        assert torch.equal(result.trajectory, again.trajectory), "the same edit gives the same picture"
        assert not torch.equal(result.trajectory[-1:], source.z_0), "an edit changes something"
        assert (result.report.unet_rows > 0) == own.draws and result.report.words
    after = model.denoiser.unet.named_parameters()
    assert all(torch.equal(weight, before[name]) and not weight.requires_grad for name, weight in after)


@pytest.fixture(scope="module")
def named(
    tiny: Tiny, saved: Callable[[Model, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], str]:
    """named("sd1"): what to type for that model."""
    folder = tmp_path_factory.mktemp("models")

    def name(shape: str) -> str:
        if shape != "pocket" and not (folder / shape).exists():
            saved(tiny(shape), folder / shape)
        return shape if shape == "pocket" else str(folder / shape)

    return name


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "size"), list(zip(SHAPES, ["wide", "square"] * 2, strict=True)))
@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_a_command(
    method: str,
    shape: str,
    size: str,
    named: Callable[[str], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    own = CASES.get(method, Case())
    photograph(SIZES[size]).save("photo.png")
    told = {"method": typed(method), "model": named(shape), "steps": 3, **own.inverting, **own.options}
    if own.inversion:
        told["inversion"] = typed(own.inversion)
    flags = [part for name, value in told.items() for part in (f"--{typed(name)}", str(value))]
    code = main(["edit", "photo.png", "--source", CAT, "--target", DOG, "--out", "dog.png", *flags])
    said = capsys.readouterr()
    assert code == 0, said.err
    height, width = SIZES[size]
    assert load("dog.png").size == (width, height)
    assert main(["replay", "dog.png"]) == 0
    assert "every pixel is the same" in capsys.readouterr().out
