"""What every inversion promises: a trajectory that an edit can start from."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reference
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.errors import ModelError, NumericsError, OptionsError, PromptError
from wordbrush.inversion import METHODS
from wordbrush.methods import find
from wordbrush.model import Model
from wordbrush.options import SolvedOptions, parse
from wordbrush.progress import drain
from wordbrush.source import Source

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]
PROMPT = "a cat on a beach"
FAST: dict[str, dict[str, Any]] = {
    "null_text": {"null_optimizer": "adam", "inner_steps": 2, "learning_rate": 0.1},
    "edict": {"skip": 0.0},  # as many steps as are asked for
    "edit_friendly": {"skip": 0.0},
}


def picture(height: int = 32, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(1, 3, height, width, generator=generator) * 2 - 1


def invert(model: Model, method: str, image: torch.Tensor | None = None, **options: Any) -> Source:
    settings = parse(METHODS[method].options(), {"steps": 4, **FAST.get(method, {}), **options})
    return drain(
        METHODS[method].load().invert(model, picture() if image is None else image, PROMPT, settings)
    )


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_inversion_is_a_source(shape: str, method: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(shape)
    image = picture(30, 18)
    source = invert(model, method, image, guidance_scale=3.0)
    assert source.trajectory.shape == (5, 4, 15, 9)
    assert (source.prompt, source.method, source.steps, source.guidance_scale) == (PROMPT, method, 4, 3.0)
    assert source.steps == 4 and source.options["guidance_scale"] == 3.0
    assert method == "straight" or source.schedule == model.schedule(4)  # its levels are its own
    assert torch.isfinite(source.trajectory).all() and not source.trajectory.requires_grad
    assert len(source.null) == (4 if method == "null_text" else 1)
    assert source.image(model).size == (18, 30)
    assert torch.equal(invert(model, method, image, guidance_scale=3.0).trajectory, source.trajectory)
    source.save(tmp_path / "a.source")
    assert torch.equal(Source.load(tmp_path / "a.source", model).trajectory, source.trajectory)


@pytest.mark.parametrize(
    ("method", "edit_scale"),
    [
        ("ddim", None),  # each at the guidance that the source was made for …
        ("null_text", None),
        ("negative_prompt", None),
        ("negative_prompt", 9.0),  # … and where null text is the source's prompt, at any
    ],
)
def test_the_same_prompt_gives_the_source(method: str, edit_scale: float | None, tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = invert(model, method, guidance_scale=4.0)
    options = Options(guidance_scale=edit_scale)
    (result,) = drain(reference.prompt_to_prompt(model, source, [PROMPT], options))
    torch.testing.assert_close(result.trajectory, source.trajectory, atol=1e-10, rtol=0)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "straight"])  # it computes nothing
def test_an_inversion_stopped_or_spoiled_leaves_the_model_alone(
    method: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("sd1")
    entry = METHODS[method]
    before = [p.clone() for p in model.denoiser.unet.parameters()]
    loop = entry.load().invert(model, picture(), PROMPT, parse(entry.options(), {"steps": 3}))
    stages = [next(loop).stage for _ in range(2)]
    loop.close()
    assert stages == ["inverting", "inverting"]
    bias = model.denoiser.unet.conv_out.bias
    with monkeypatch.context() as patch, pytest.raises(NumericsError, match="inversion step 1 of 4"):
        patch.setattr(bias, "data", torch.full_like(bias, torch.inf))
        invert(model, method)
    assert all(torch.equal(p, q) for p, q in zip(model.denoiser.unet.parameters(), before, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in model.denoiser.unet.parameters())


@pytest.mark.parametrize("method", METHODS)
def test_wrong_options_are_named(method: str, tiny: Tiny) -> None:
    model = tiny("sd1")
    for options, said in (
        ({"step": 3}, "unknown option 'step'; did you mean 'steps'"),
        ({"steps": 0}, "'steps'.*greater than or equal to 1, got 0"),
        ({"guidance_scale": math.nan}, "'guidance_scale'"),
        ({"guidance_scale": 101}, "'guidance_scale'.*100"),
    ):
        with pytest.raises(OptionsError, match=said):
            invert(model, method, **options)
    with pytest.raises(ModelError, match="multiples of 2 px, got 32×31"):
        invert(model, method, picture(31, 32))


def test_methods_are_found_by_name() -> None:
    for name in METHODS:
        assert find(METHODS, name.replace("_", "-"), "inversion") is METHODS[name]
        assert name in METHODS[name].load().__name__.removeprefix("wordbrush.inversion.").split(".")
    with pytest.raises(OptionsError, match="no inversion method 'null-txt'; did you mean 'null-text'"):
        find(METHODS, "null-txt", "inversion")


def test_a_prompt_too_long_is_refused_before_any_work(tiny: Tiny) -> None:
    with pytest.raises(PromptError, match="shorten it"):
        next(METHODS["direct"].load().invert(tiny("sd1"), picture(), "cat " * 40, SolvedOptions(steps=1)))
