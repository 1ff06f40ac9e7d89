"""What a CLIP is shown of a picture, against the projection written again point by point; and which CLIP it is."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from wordbrush.backbones import load_clip
from wordbrush.clip_guidance import Views, cosine_distance, guide, looked_at, spherical_distance
from wordbrush.errors import ModelError
from wordbrush.images import to_image
from wordbrush.model import Model
from wordbrush.pocket import render, sample

Tiny = Callable[..., Model]


def seeded(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(height: int, width: int, count: int = 1) -> torch.Tensor:
    noise = torch.rand(count, 3, 4, 4, generator=seeded(1)) * 2 - 1
    return F.interpolate(noise, (height, width), mode="bilinear")


def test_a_view_that_may_not_differ_is_the_picture() -> None:
    picture = smooth(16, 16)
    grids = Views().grids(3, (16, 16), (16, 16), seeded())
    torch.testing.assert_close(looked_at(picture, grids), picture.repeat(3, 1, 1, 1), atol=1e-5, rtol=0)
    wide = smooth(16, 24)
    whole = looked_at(wide, Views().grids(1, (16, 24), (16, 24), seeded()))
    torch.testing.assert_close(whole, wide, atol=1e-5, rtol=0)


def test_views_are_the_projection_of_what_was_drawn() -> None:
    views = Views(smallest=0.5, shift=0.1, turn=20.0, tilt=0.3, mirrored=True)
    (height, width), (high, wide), count = (20, 30), (8, 8), 5
    drawn = torch.rand(count, 9, generator=seeded(), dtype=torch.float64).numpy()
    grids = views.grids(count, (height, width), (high, wide), seeded()).double().numpy()
    for k in range(count):
        side = 0.5 + 0.5 * drawn[k, 0]
        sign = 2 * drawn[k, 1:8] - 1
        angle = math.radians(20 * sign[4])
        flip = -1 if drawn[k, 8] < 0.5 else 1
        for row in range(high):
            for column in range(wide):
                x, y = flip * ((2 * column + 1) / wide - 1), (2 * row + 1) / high - 1
                depth = 1 + 0.3 * (sign[5] * x + sign[6] * y) / 2
                u = (math.cos(angle) * x - math.sin(angle) * y) / depth
                v = (math.sin(angle) * x + math.cos(angle) * y) / depth
                # The picture is 1.5 times as wide as high: its halves are 1.5 and 1.
                u = side * u + sign[0] * (1.5 - side) + 0.1 * sign[2]
                v = side * v + sign[1] * (1 - side) + 0.1 * sign[3]
                assert np.allclose(grids[k, row, column], (u / 1.5, v), atol=1e-6)


def test_parts_stay_inside_and_differ() -> None:
    grids = Views(smallest=0.4).grids(50, (16, 24), (8, 8), seeded())
    assert grids.abs().max() <= 1 and len({tuple(grid.flatten().tolist()) for grid in grids}) == 50
    across = grids[:, 0, -1, 0] - grids[:, 0, 0, 0]
    # Sides of 0.4 to 1, of a picture 1.5 times as wide as high, between the middles of eight pixels.
    assert 0.46 < across.min() < 0.6 and 1.0 < across.max() < 1.17


def test_views_are_picture_by_picture_and_the_same_for_all() -> None:
    pictures = smooth(16, 16, count=2)
    grids = Views(smallest=0.5, turn=30.0).grids(3, (16, 16), (8, 8), seeded())
    together = looked_at(pictures, grids)
    torch.testing.assert_close(together[:3], looked_at(pictures[:1], grids))
    torch.testing.assert_close(together[3:], looked_at(pictures[1:], grids))


def test_distances_are_those_of_the_angle() -> None:
    one, other = (F.normalize(torch.randn(7, 5, generator=seeded(k)).double(), dim=-1) for k in (1, 2))
    angles = (one * other).sum(-1).acos()
    torch.testing.assert_close(cosine_distance(one, other), 1 - angles.cos())
    torch.testing.assert_close(spherical_distance(one, other), angles.square() / 2)


@pytest.mark.parametrize("name", ["pocket", "small"])
def test_what_is_differentiated_is_what_scores(name: str, small_clip: str) -> None:
    clip = load_clip(name if name == "pocket" else small_clip)
    pixels = torch.cat([smooth(clip.size, clip.size), -smooth(clip.size, clip.size)])
    pixels = (pixels * 127.5).round() / 127.5
    shown = pixels.clone().requires_grad_()
    looks, parts = clip.seen(shown)
    expected = clip.images([to_image(each) for each in pixels])
    torch.testing.assert_close(looks.detach(), expected, atol=5e-3, rtol=0)
    assert parts.ndim == 4 and parts.shape[-1] == parts.shape[-2] > 1
    (gradient,) = torch.autograd.grad(looks[:, 0].sum(), shown)
    assert gradient.abs().amax((1, 2, 3)).min() > 0


def test_parts_are_where_they_are(small_clip: str) -> None:
    clip = load_clip(small_clip)
    before = smooth(32, 32)
    after = before.clone()
    after[..., :8, 24:] *= -1
    moved = (clip.seen(after)[1] - clip.seen(before)[1]).norm(dim=1)[0]
    assert int(moved.argmax()) == 3, "the patch of the first row and the last column"


def test_a_model_of_another_world_has_to_be_told_its_clip(tiny: Tiny, small_clip: str) -> None:
    with pytest.raises(ModelError, match=r"expected the name of a CLIP.*--guide-clip"):
        guide(tiny("sd1"), "")
    assert guide(tiny("sd1"), small_clip).name == small_clip
    with pytest.raises(ModelError, match="no network 'nowhere'"):
        guide(tiny("sd1"), "nowhere")


def test_a_clip_is_known_by_its_weights(small_clip: str) -> None:
    clip = load_clip(small_clip)
    before = clip.hash
    again = load_clip(small_clip)
    assert again.hash == before
    with torch.no_grad():
        next(again.model.parameters()).add_(1)
    assert load_clip(small_clip).hash == before
    del again.__dict__["hash"]
    assert again.hash != before


@pytest.mark.slow
def test_pockets_own_clip_is_found() -> None:
    model = Model.load("pocket")
    clip = guide(model, "")
    assert clip.name == "pocket" and clip.size == 128
    assert clip.images([render(sample(0))]).shape == (1, 192)
