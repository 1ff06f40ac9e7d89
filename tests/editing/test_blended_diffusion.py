"""Blended Diffusion against its algorithm, written again step by step; and what each of its options is for."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from wordbrush import edit, from_seed, invert
from wordbrush.backbones import load_clip
from wordbrush.editing import METHODS
from wordbrush.editing.blended_diffusion.method import VIEWS
from wordbrush.editing.blended_diffusion.options import Options
from wordbrush.errors import ModelError, OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.fit import generator
from wordbrush.model import Conditioning, Model
from wordbrush.options import parse
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT, DOG, RED = "a cat on a beach", "a dog on a beach", "a red cat on a beach"
FAST = {"guided_steps": 3, "clip_weight": 30.0, "samples": 1, "augmentations": 2}


@pytest.fixture
def source(tiny: Tiny) -> Source:
    return from_seed(tiny("sd1"), CAT, seed=7, steps=3)


@pytest.fixture
def told(small_clip: str) -> dict[str, Any]:
    return {**FAST, "guide_clip": small_clip}


def left_half(side: int = 32) -> np.ndarray:
    mask = np.zeros((side, side), np.uint8)
    mask[:, : side // 2] = 255
    return mask


def made(model: Model, source: Source, told: dict[str, Any], target: str = DOG, **where: Any) -> Tensor:
    return edit(model, source, target, method="blended_diffusion", options=told, **where).trajectory[-1:]


def by_hand(model: Model, source: Source, told: dict[str, Any], target: str, mask: np.ndarray) -> Tensor:
    """Algorithm 2, with ᾱ in place of levels."""
    options = Options(**told)
    assert options.guided_steps is not None and options.clip_weight is not None
    clip = load_clip(options.guide_clip)
    words = clip.texts([target])
    m = torch.from_numpy(mask / 255).float()[None, None]
    cell = model.downscale
    free = F.max_pool2d(m, cell) > 0
    noise, views = generator(0, "noise", 0), generator(0, "views", 0)
    levels = model.schedule(options.guided_steps).levels[round(options.start * options.guided_steps) :]
    alphas = [level.signal**2 for level in levels]
    x = source.z_0

    def fresh() -> Tensor:
        return torch.randn(x.shape, generator=noise)

    z = math.sqrt(alphas[0]) * x + math.sqrt(1 - alphas[0]) * fresh()
    nothing = Conditioning(model.encode_text([""]))
    for i in range(len(levels) - 1):
        here, to = alphas[i], alphas[i + 1]
        own = z.detach().requires_grad_()
        eps = model.predict(own, levels[i], nothing).noise
        clean = (own - math.sqrt(1 - here) * eps) / math.sqrt(here)
        vae = model.autoencoder.vae
        picture = vae.decode(clean / model.autoencoder.scale).sample
        distance = torch.tensor(0.0)
        grids = VIEWS.grids(options.augmentations, mask.shape, (clip.size, clip.size), views)
        for grid in grids:
            shown = F.grid_sample(picture * m, grid[None], padding_mode="border", align_corners=False)
            distance = distance + (1 - (clip.seen(shown)[0] * words).sum()) / len(grids)
        beyond = F.relu(picture.abs() - 1).square().mean()
        loss = options.clip_weight * distance + options.range_weight * beyond
        if options.background_weight:
            outside = ((picture - source.decoded(model)) * (1 - m)).square().mean()
            loss = loss + options.background_weight * outside
        (gradient,) = torch.autograd.grad(loss, own)
        variance = (1 - to) / (1 - here) * (1 - here / to)
        mean = math.sqrt(to) * clean + math.sqrt(1 - to - variance) * eps
        z = (mean - variance * gradient + math.sqrt(variance) * fresh()).detach()
        if options.blend:
            last = i == len(levels) - 2
            behind = x if last else math.sqrt(to) * x + math.sqrt(1 - to) * fresh()
            z = torch.where(free, z, behind)
    return z


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"blend": False, "background_weight": 100.0},
        {"start": 0.5, "augmentations": 1, "range_weight": 1e4},
    ],
)
@pytest.mark.parametrize("shape", ["sd1", "sd2"])
def test_it_is_the_papers_algorithm(shape: str, changes: dict[str, Any], tiny: Tiny, told: Any) -> None:
    model = tiny(shape)
    source = from_seed(model, CAT, seed=7, steps=3)
    options = {**told, **changes}
    expected = by_hand(model, source, options, DOG, left_half())
    torch.testing.assert_close(made(model, source, options, mask=left_half()), expected, atol=2e-4, rtol=1e-3)


def test_outside_of_the_mask_are_the_pictures_latents(tiny: Tiny, source: Source, told: Any) -> None:
    found = made(tiny("sd1"), source, told, mask=left_half())
    assert torch.equal(found[..., 8:], source.z_0[..., 8:])
    assert not torch.allclose(found[..., :8], source.z_0[..., :8])
    kept = made(tiny("sd1"), source, {**told, "blend": False}, mask=left_half())
    held = made(tiny("sd1"), source, {**told, "blend": False, "background_weight": 3e3}, mask=left_half())
    assert not torch.allclose(kept[..., 8:], source.z_0[..., 8:])
    away = [(each - source.z_0)[..., 8:].square().mean() for each in (held, kept)]
    assert away[0] < away[1]


def test_clip_alone_reads_the_words(tiny: Tiny, source: Source, told: Any) -> None:
    unread = {**told, "clip_weight": 0.0}
    model = tiny("sd1")
    dog, red = (made(model, source, unread, target, mask=left_half()) for target in (DOG, RED))
    assert torch.equal(dog, red)
    assert not torch.equal(made(model, source, told, DOG, mask=left_half()), dog)


@pytest.mark.slow
def test_a_target_is_the_same_alone_and_with_others(tiny: Tiny, source: Source, told: Any) -> None:
    results = edit(
        tiny("sd1"), source, [RED, DOG], method="blended_diffusion", options=told, mask=left_half()
    )
    alone = made(tiny("sd1"), source, told, DOG, mask=left_half())
    torch.testing.assert_close(results[1].trajectory[-1:], alone, atol=1e-4, rtol=1e-4)
    report = results[0].report
    assert report.unet_rows == 2 * 2 and report.details["clip"] == told["guide_clip"]


@pytest.mark.slow
def test_of_several_samples_the_one_nearest_to_the_words_is_kept(
    tiny: Tiny, source: Source, told: Any
) -> None:
    model, clip = tiny("sd1"), load_clip(told["guide_clip"])
    words, m = clip.texts([DOG]), torch.from_numpy(left_half() / 255).float()

    def distance(samples: int) -> float:
        z = made(model, source, {**told, "samples": samples}, mask=left_half())
        return float(1 - (clip.seen(model.decode(z) * m)[0] * words).sum())

    distances = [distance(samples) for samples in (1, 2, 4)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < distances[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("start", 0.6),
        ("guided_steps", 4),
        ("clip_weight", 60.0),
        ("augmentations", 0),
        ("augmentations", 3),
        ("range_weight", 1e5),
        ("blend", False),
        ("background_weight", 50.0),
        ("redraw_seed", 1),
    ],
)
def test_every_option_does_something(
    name: str, value: Any, tiny: Tiny, source: Source, told: dict[str, Any]
) -> None:
    changed = made(tiny("sd1"), source, {**told, name: value}, mask=left_half())
    assert not torch.equal(changed, made(tiny("sd1"), source, told, mask=left_half()))


def test_nothing_of_the_run_is_the_picture(tiny: Tiny, source: Source, told: Any) -> None:
    result = edit(tiny("sd1"), source, DOG, method="blended_diffusion", options={**told, "start": 1.0})
    assert torch.equal(result.trajectory[-1:], source.z_0) and result.report.unet_rows == 0
    assert any("changes nothing" in notice for notice in result.report.notices)
    same = edit(tiny("sd1"), source, DOG, method="blended_diffusion", options=told, strength=0.0)
    assert torch.equal(same.trajectory, result.trajectory)


def test_a_room_that_is_not_used_is_named(tiny: Tiny, source: Source, told: Any) -> None:
    given = edit(
        tiny("sd1"), source, DOG, method="blended_diffusion", options={**told, "room": 2}, mask=left_half()
    )
    assert any("room has no effect" in notice for notice in given.report.notices)


def test_what_is_wrong_is_told(tiny: Tiny, source: Source, told: Any) -> None:
    model = tiny("sd1")
    with pytest.raises(ModelError, match="--guide-clip"):
        edit(model, source, DOG, method="blended_diffusion")
    with pytest.raises(ModelError, match="no network"):
        edit(model, source, DOG, method="blended_diffusion", options={"guide_clip": "nowhere"})
    with pytest.raises(PromptError, match="at most 30 tokens"):
        edit(model, source, " ".join(["dog"] * 40), method="blended_diffusion", options=told)
    for wrong in ({"start": 1.5}, {"samples": 0}, {"guided_steps": 0}, {"guide_clip": " "}):
        with pytest.raises(OptionsError):
            parse(Options, wrong)


def test_it_says_that_it_reads_a_clip() -> None:
    assert METHODS["blended_diffusion"].reads == {"clip"}
    assert METHODS["sdedit"].reads == frozenset()


@pytest.mark.slow
def test_the_inside_turns_towards_the_words_and_the_outside_stays() -> None:
    model = Model.load("pocket")
    case = next(case for case in split(777, 30) if case.kind == "change colour")
    source = invert(model, case.picture, case.source_prompt, method="straight")
    where = {"mask": Image.fromarray(np.where(case.mask, np.uint8(255), np.uint8(0)))}
    clip = load_clip()
    words = clip.texts([case.target_prompt])
    found = []
    for weight in (0.0, 200.0):
        options = {"guided_steps": 16, "clip_weight": weight}
        result = edit(model, source, case.target_prompt, method="blended_diffusion", options=options, **where)
        inside = np.where(case.mask[..., None], np.asarray(result.rendering), np.uint8(127))
        found.append(float(clip.images([inside])[0] @ words[0]))
        kept = np.asarray(result.image)[~case.mask], np.asarray(case.picture)[~case.mask]
        assert np.array_equal(*kept)
    assert found[1] > found[0] + 0.05
