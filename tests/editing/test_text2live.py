"""Text2LIVE's losses against their equations in float64; the layer over the picture; and what is kept of it."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wordbrush import Result, edit, from_seed, invert
from wordbrush.api import edit_steps
from wordbrush.backbones import Clip, load_clip
from wordbrush.editing import METHODS
from wordbrush.editing.text2live import method
from wordbrush.editing.text2live.generator import Generator
from wordbrush.editing.text2live.losses import composition, relevance, sparsity, structure
from wordbrush.editing.text2live.options import Options
from wordbrush.errors import ModelError, OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.source import Source
from wordbrush.words import align

Tiny = Callable[..., Model]
CAT, DOG, RED = "a cat on a beach", "a dog on a beach", "a red cat on a beach"


def seeded(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fresh(model: Model) -> Source:
    return from_seed(model, CAT, seed=7, steps=2)


@pytest.fixture
def told(small_clip: str) -> dict[str, Any]:
    return {"guide_clip": small_clip, "layer_steps": 3, "layer_views": 2, "layer_channels": 4}


def made(model: Model, told: dict[str, Any], target: str = DOG, **where: Any) -> Result:
    return edit(model, fresh(model), target, method="text2live", options=told, **where)


def pixels(result: Result) -> Tensor:
    assert result.decoded is not None
    return result.decoded


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_composition_is_of_the_picture_and_of_its_change() -> None:
    unit = [torch.nn.functional.normalize(seeded(3, 6, seed=k), dim=-1) for k in (1, 2, 3, 4)]
    made, before, target, source = unit[0], unit[1], unit[2][:1], unit[3][:1]
    a, b, t, s = (each.numpy() for each in (made, before, target[0], source[0]))
    expected = np.mean([2 - cosine(a[k], t) - cosine(a[k] - b[k], t - s) for k in range(3)])
    assert float(composition(made, before, target, source)) == pytest.approx(expected, abs=1e-12)


def test_structure_is_of_all_pairs_of_parts() -> None:
    one, other = seeded(2, 5, 2, 3), seeded(2, 5, 2, 3, seed=2)
    total = 0.0
    for k in range(2):
        a, b = (each[k].flatten(1).T.numpy() for each in (one, other))
        total += sum((cosine(a[i], a[j]) - cosine(b[i], b[j])) ** 2 for i in range(6) for j in range(6))
    assert float(structure(one, other)) == pytest.approx(total / (2 * 36), abs=1e-12)
    assert float(structure(one, one)) == pytest.approx(0, abs=1e-12)


def test_sparsity_counts_how_much_and_how_many() -> None:
    alpha = seeded(1, 1, 3, 4).sigmoid()
    values = alpha.numpy()
    expected = values.mean() + (2 / (1 + np.exp(-5 * values)) - 1).mean()
    assert float(sparsity(alpha)) == pytest.approx(expected, abs=1e-12)
    assert float(sparsity(torch.zeros_like(alpha))) == 0


def test_a_thing_is_where_covering_it_takes_the_words_away() -> None:
    def seen(pictures: Tensor) -> tuple[Tensor, None]:
        """What finds the words in what is bright in the upper left corner."""
        found = pictures[:, 0, :8, :8].mean((1, 2))
        return torch.stack([found, 1 - found], 1), None

    clip = Clip(
        "stub", SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=32))), 0, 0
    )
    object.__setattr__(clip, "seen", seen)
    found = relevance(clip, torch.ones(1, 3, 32, 32), torch.tensor([[1.0, 0.0]]))[0, 0]
    assert found.max() == pytest.approx(1, abs=0.05)
    assert found[:6, :6].min() > 0.5 and found[16:].max() == 0 and found[:, 16:].max() == 0


@pytest.mark.slow
def test_pockets_clip_finds_a_thing_in_a_picture() -> None:
    case = next(case for case in split(777, 30) if case.kind == "change object")
    clip = load_clip()
    shown = torch.from_numpy(np.array(case.picture)).permute(2, 0, 1)[None].float() / 127.5 - 1
    found = relevance(clip, shown, clip.texts(["a teapot"]))[0, 0].numpy()
    own = case.mask
    assert found.min() >= 0 and found.max() == pytest.approx(1, abs=0.05)
    assert found[own].mean() > 1.5 * found[~own].mean()


def test_the_network_is_drawn_from_its_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    one, other = Generator(4, (32, 48), 1), Generator(4, (32, 48), 2)
    again = Generator(4, (32, 48), 1)
    assert torch.equal(before, torch.random.get_rng_state())
    pairs = zip(one.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in pairs)
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    colour, alpha = one(torch.zeros(1, 3, 32, 48))
    assert colour.shape == (1, 3, 32, 48) and alpha.shape == (1, 1, 32, 48)
    assert 0 <= float(alpha.min()) and float(alpha.max()) <= 1 and float(colour.abs().max()) <= 1


@pytest.mark.slow
def test_the_edit_is_a_layer_over_the_picture(tiny: Tiny, told: dict[str, Any]) -> None:
    model = tiny("sd1")
    own = fresh(model).decoded(model)
    whole, half = pixels(made(model, told)), pixels(made(model, {**told, "opacity": 0.5}))
    torch.testing.assert_close(half, (own + whole) / 2, atol=1e-5, rtol=0)
    none = made(model, {**told, "opacity": 0.0})
    assert torch.equal(pixels(none), own) and "shows nothing" in none.report.notices[0]
    result = made(model, told)
    assert result.report.unet_rows == 0 and 0 < result.report.edited_share < 1
    torch.testing.assert_close(result.trajectory[-1:], model.encode_image(whole[None]))


def test_outside_of_a_mask_are_the_pictures_own_pixels(tiny: Tiny, told: dict[str, Any]) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    found, own = pixels(made(tiny("sd1"), told, mask=mask)), fresh(tiny("sd1")).decoded(tiny("sd1"))
    assert torch.equal(found[..., 16:], own[..., 16:]) and not torch.allclose(found[..., :16], own[..., :16])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layer_text", "a red dog"),
        ("layer_steps", 4),
        ("layer_rate", 0.01),
        ("layer_channels", 5),
        ("layer_views", 3),
        ("composition_weight", 0.0),
        ("screen_weight", 0.0),
        ("structure_weight", 0.0),
        ("sparsity_weight", 5.0),
        ("bootstrap_weight", 0.0),
        ("bootstrap_until", 1.0),
        ("tuning_seed", 1),
    ],
)
def test_every_option_does_something(name: str, value: Any, tiny: Tiny, told: dict[str, Any]) -> None:
    assert not torch.equal(pixels(made(tiny("sd1"), {**told, name: value})), pixels(made(tiny("sd1"), told)))


@pytest.mark.parametrize(
    ("target", "layer", "thing"),
    [
        (DOG, "a dog over a green screen", "a cat"),
        (RED, "a red cat over a green screen", "a cat"),
        ("a cat on a beach at night", "a cat on a beach at night over a green screen", CAT),
    ],
)
def test_the_words_are_the_captions(target: str, layer: str, thing: str, tiny: Tiny, small_clip: str) -> None:
    model = tiny("sd1")
    read = align(model.read(CAT), model.read(target))
    texts = method._texts(load_clip(small_clip), read, Options())
    assert texts == {"target": target, "source": CAT, "screen": layer, "thing": thing}
    assert (
        method._texts(load_clip(), read, Options(layer_text="fire"))["screen"] == "fire on a green background"
    )


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_and_ends_the_same(
    tiny: Tiny, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(method, "_CHECKPOINT_EVERY", 1)
    model, options = tiny("sd1"), {**told, "tuned_in": str(tmp_path)}
    steps = edit_steps(model, fresh(model), [DOG], method="text2live", options=options)
    for progress in steps:
        if progress.step == 2:
            break
    steps.close()
    seen = list[str]()
    result = edit(
        model,
        fresh(model),
        DOG,
        method="text2live",
        options=options,
        on_progress=lambda progress: seen.append(f"{progress.stage} {progress.step}"),
    )
    assert "painting 1" not in seen and "painting 3" in seen
    assert torch.equal(pixels(result), pixels(made(model, told)))


def test_what_is_wrong_is_told(tiny: Tiny, told: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="--guide-clip"):
        edit(tiny("sd1"), fresh(tiny("sd1")), DOG, method="text2live")
    with pytest.raises(PromptError, match="at most 32 tokens"):
        made(tiny("sd1"), {**told, "layer_text": " ".join(["dog"] * 40)})
    for wrong in ({"opacity": 2}, {"layer_views": 0}, {"layer_text": " "}, {"sparsity_weight": -1}):
        with pytest.raises(OptionsError):
            parse(Options, wrong)
    assert METHODS["text2live"].reads == {"clip"}


@pytest.mark.slow
def test_it_recolours_a_thing_and_leaves_the_rest() -> None:
    model, clip = Model.load("pocket"), load_clip()
    case = next(case for case in split(777, 30) if case.kind == "change colour")
    source = invert(model, case.picture, case.source_prompt, method="straight")
    options = {"layer_steps": 30}
    result = edit(model, source, case.target_prompt, method="text2live", options=options)
    words = clip.texts([case.target_prompt])[0]
    before, after = clip.images([case.picture, result.rendering]) @ words
    assert after > before
    shown, own, true = (np.asarray(each, np.float32) for each in (result.rendering, case.picture, case.truth))
    inside, outside = case.mask, ~case.mask
    assert np.abs(shown - true)[inside].mean() < np.abs(own - true)[inside].mean()
    assert np.abs(shown - own)[inside].mean() > 1.5 * np.abs(shown - own)[outside].mean()
