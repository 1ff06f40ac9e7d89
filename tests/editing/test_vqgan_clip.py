"""VQGAN+CLIP against a loop of torch's own Adam; what a cutout's distance is; and what is kept of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from wordbrush import edit, from_seed, invert
from wordbrush.api import edit_steps
from wordbrush.backbones import load_clip
from wordbrush.clip_guidance import Views
from wordbrush.editing import METHODS
from wordbrush.editing.vqgan_clip.method import from_words
from wordbrush.editing.vqgan_clip.options import Options
from wordbrush.errors import ModelError, OptionsError
from wordbrush.evaluation.bench.cases import split
from wordbrush.fit import generator
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT, DOG, RED = "a cat on a beach", "a dog on a beach", "a red cat on a beach"


def fresh(model: Model) -> Source:
    return from_seed(model, CAT, seed=7, steps=2)


@pytest.fixture
def told(small_clip: str) -> dict[str, Any]:
    return {"guide_clip": small_clip, "latent_steps": 3, "cutouts": 2}


def made(model: Model, told: dict[str, Any], target: str = DOG, **where: Any) -> Tensor:
    return edit(model, fresh(model), target, method="vqgan_clip", options=told, **where).trajectory[-1:]


def distance(
    model: Model, told: dict[str, Any], z: Tensor, target: str, number: int, picture: Tensor | None = None
) -> Tensor:
    """Of each cutout: half of the squared angle between what CLIP sees and the words."""
    options, clip = Options(**told), load_clip(told["guide_clip"])
    count = told["cutouts"]
    shown = model.autoencoder.vae.decode(z / model.autoencoder.scale).sample if picture is None else picture
    random = generator(options.tuning_seed, "cutouts", number)
    views = Views(smallest=options.smallest_cutout, shift=0.1, turn=15.0, tilt=0.3)
    grids = views.grids(count, (shown.shape[-2], shown.shape[-1]), (clip.size, clip.size), random)
    strength = options.cutout_noise * torch.rand(count, 1, 1, 1, generator=random)
    noise = torch.randn(count, 3, clip.size, clip.size, generator=random)
    words = clip.texts([target])[0]
    found: list[Tensor] = []
    for k in range(count):
        cut = F.grid_sample(shown, grids[k : k + 1], padding_mode="border", align_corners=False)
        look = clip.seen(cut + strength[k] * noise[k])[0][0]
        found.append((look @ words).clamp(-1, 1).acos().square() / 2)
    return torch.stack(found)


def test_a_cutouts_distance_is_half_of_the_squared_angle(tiny: Tiny, told: dict[str, Any]) -> None:
    picture = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(2)) * 2 - 1
    clip = load_clip(told["guide_clip"])
    found = from_words(clip, picture, clip.texts([DOG]), 2, Options(**told), 5)
    expected = distance(tiny("sd1"), told, picture, DOG, 5, picture)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_latents_go_where_adam_leads_them(weight: float, tiny: Tiny, told: dict[str, Any]) -> None:
    model = tiny("sd1")
    options = {**told, "init_weight": weight}
    own = fresh(model).z_0
    z = own.clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=0.1)
    for number in range(3):
        loss = distance(model, told, z, DOG, number).mean() + weight / 2 * (z - own).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    torch.testing.assert_close(made(model, options), z.detach(), atol=2e-3, rtol=1e-3)
    assert not torch.allclose(z.detach(), own, atol=0.05)


def test_latents_outside_of_a_mask_stay(tiny: Tiny, told: dict[str, Any]) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :16] = 255
    found, own = made(tiny("sd1"), told, mask=mask), fresh(tiny("sd1")).z_0
    assert torch.equal(found[..., 8:], own[..., 8:]) and not torch.allclose(found[..., :8], own[..., :8])


def test_the_share_goes_from_the_picture_to_the_edit(tiny: Tiny, told: dict[str, Any]) -> None:
    model = tiny("sd1")
    own, whole = fresh(model).z_0, made(model, told)
    half = made(model, {**told, "latent_share": 0.5})
    torch.testing.assert_close(half, (own + whole) / 2, atol=1e-5, rtol=1e-5)
    none = edit(model, fresh(model), DOG, method="vqgan_clip", options=told, strength=0.0)
    assert torch.equal(none.trajectory[-1:], own) and none.report.edited_share == 0
    assert "changes nothing" in none.report.notices[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("latent_steps", 4),
        ("latent_rate", 0.05),
        ("cutouts", 3),
        ("smallest_cutout", 1.0),
        ("cutout_noise", 0.0),
        ("init_weight", 10.0),
        ("tuning_seed", 1),
    ],
)
def test_every_option_does_something(name: str, value: Any, tiny: Tiny, told: dict[str, Any]) -> None:
    assert not torch.equal(made(tiny("sd1"), {**told, name: value}), made(tiny("sd1"), told))


def test_no_network_of_the_model_draws(tiny: Tiny, told: dict[str, Any]) -> None:
    results = edit(tiny("sd1"), fresh(tiny("sd1")), [RED, DOG], method="vqgan_clip", options=told)
    assert all(result.report.unet_rows == 0 for result in results)
    assert torch.equal(results[1].trajectory[-1:], made(tiny("sd1"), told))


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_and_ends_the_same(
    tiny: Tiny, told: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wordbrush.editing.vqgan_clip.method._CHECKPOINT_EVERY", 1)
    model, options = tiny("sd1"), {**told, "tuned_in": str(tmp_path)}
    steps = edit_steps(model, fresh(model), [DOG], method="vqgan_clip", options=options)
    for progress in steps:
        if progress.step == 2:
            break
    steps.close()
    again = list[str]()
    result = edit(
        model,
        fresh(model),
        DOG,
        method="vqgan_clip",
        options=options,
        on_progress=lambda progress: again.append(f"{progress.stage} {progress.step}"),
    )
    assert "optimising 1" not in again and "optimising 3" in again
    assert torch.equal(result.trajectory[-1:], made(model, told))
    third = list[str]()
    edit(
        model,
        fresh(model),
        DOG,
        method="vqgan_clip",
        options=options,
        on_progress=lambda progress: third.append(progress.says),
    )
    assert any("learned before" in says for says in third)


def test_what_is_wrong_is_told(tiny: Tiny) -> None:
    with pytest.raises(ModelError, match="--guide-clip"):
        edit(tiny("sd1"), fresh(tiny("sd1")), DOG, method="vqgan_clip")
    for wrong in ({"latent_share": 2}, {"cutouts": 0}, {"smallest_cutout": 0}, {"latent_rate": 0}):
        with pytest.raises(OptionsError):
            parse(Options, wrong)
    assert METHODS["vqgan_clip"].reads == {"clip"}


@pytest.mark.slow
def test_clip_finds_the_words_and_the_whole_picture_pays() -> None:
    model, clip = Model.load("pocket"), load_clip()
    case = next(case for case in split(777, 30) if case.kind == "change object")
    source = invert(model, case.picture, case.source_prompt, method="straight")
    options = {"latent_steps": 12}
    result = edit(model, source, case.target_prompt, method="vqgan_clip", options=options)
    words = clip.texts([case.target_prompt])[0]
    before, after = clip.images([source.image(model), result.rendering]) @ words
    assert after > before + 0.1
    outside = ~case.mask
    shown, own = (np.asarray(each, np.float32)[outside] for each in (result.rendering, source.image(model)))
    assert np.abs(shown - own).mean() > 5, "nothing holds what no word is about"
