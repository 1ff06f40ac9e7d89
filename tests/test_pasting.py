"""Edits brought back into their pictures: the file's own pixels outside, the edit inside, no seam between."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from wordbrush.images import to_tensor
from wordbrush.pasting import pasted

SIZE = 64


def noise(seed: int, size: tuple[int, int] = (SIZE, SIZE)) -> Image.Image:
    """A picture with detail everywhere."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def rendering(image: Image.Image) -> torch.Tensor:
    """What an autoencoder leaves of a picture: a softer one."""
    return to_tensor(image.filter(ImageFilter.GaussianBlur(1)))[0]


def changed(before: torch.Tensor, value: float = 1.0) -> torch.Tensor:
    after = before.clone()
    after[:, 20:40, 20:40] = value
    return after


def test_where_nothing_changed_the_pixels_are_the_files() -> None:
    own = noise(0)
    before = rendering(own)
    result = pasted(own, (0, 0, SIZE, SIZE), before, before)
    assert result.image.tobytes() == own.tobytes() and not result.share.any()


def test_a_change_arrives_and_the_rest_is_the_files_bit_for_bit() -> None:
    own = noise(1)
    before = rendering(own)
    result = pasted(own, (0, 0, SIZE, SIZE), before, changed(before))
    pixels, mine = np.asarray(result.image), np.asarray(own)
    assert (pixels[24:36, 24:36] == 255).all()
    far = np.ones((SIZE, SIZE), bool)
    far[12:48, 12:48] = False
    assert (pixels[far] == mine[far]).all() and not result.share[far].any()
    assert (result.share[24:36, 24:36] > 0.9).all()


@settings(max_examples=30, deadline=None)
@given(
    st.tuples(st.integers(40, 200), st.integers(40, 200)),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(1, 40),
    st.booleans(),
)
def test_outside_of_a_mask_nothing_changes_at_any_size(
    size: tuple[int, int], left: int, top: int, extent: int, is_soft: bool
) -> None:
    own = noise(2, size)
    allowed = np.zeros((size[1], size[0]), np.uint8)
    allowed[top : top + extent, left : left + extent] = 200 if is_soft else 255
    before, after = torch.full((3, 32, 32), -0.5), torch.full((3, 32, 32), 0.9)
    result = pasted(own, (0, 0, *size), before, after, allowed=allowed)
    outside = allowed == 0
    assert (np.asarray(result.image)[outside] == np.asarray(own)[outside]).all()
    assert not result.share[outside].any()


def test_a_box_changes_its_part_only_and_is_enlarged_to_it() -> None:
    own = noise(3, (200, 150))
    before, after = torch.full((3, 32, 32), -1.0), torch.full((3, 32, 32), 1.0)
    result = pasted(own, (50, 30, 150, 130), before, after)
    pixels = np.asarray(result.image)
    assert (pixels[30:130, 50:150] == 255).all()
    rest = np.ones((150, 200), bool)
    rest[30:130, 50:150] = False
    assert (pixels[rest] == np.asarray(own)[rest]).all()


def test_soft_edges_are_respected() -> None:
    own = Image.new("RGB", (SIZE, SIZE), "black")
    ramp = np.tile(np.linspace(0, 255, SIZE).round().astype(np.uint8), (SIZE, 1))
    before, after = torch.full((3, SIZE, SIZE), -1.0), torch.full((3, SIZE, SIZE), 1.0)
    result = pasted(own, (0, 0, SIZE, SIZE), before, after, allowed=ramp)
    assert np.abs(np.asarray(result.image)[..., 0].astype(int) - ramp).max() <= 1


def test_hard_edges_fade_in_inside_and_leave_no_seam() -> None:
    own = Image.new("RGB", (SIZE, SIZE), "black")
    allowed = np.zeros((SIZE, SIZE), np.uint8)
    allowed[16:48, 16:48] = 255
    before, after = torch.full((3, SIZE, SIZE), -1.0), torch.full((3, SIZE, SIZE), 1.0)
    levels = np.asarray(pasted(own, (0, 0, SIZE, SIZE), before, after, allowed=allowed).image)[
        32, :, 0
    ].astype(int)
    assert np.abs(np.diff(levels)).max() < 140  # plain pasting: 255
    assert levels[24] == 255


def test_small_changes_keep_the_files_detail() -> None:
    """Beside a large change, a small shift arrives as a shift of the file's own pixels, not as the softer rendering."""
    own = noise(4).point(lambda level: 64 + level // 2)
    before = rendering(own)
    after = before + 20 / 127.5
    after[:, :16, :16] = 1.0
    pixels, mine = (
        np.asarray(image).astype(float)
        for image in (pasted(own, (0, 0, SIZE, SIZE), before, after).image, own)
    )
    shift = (pixels - mine)[30:, 30:]
    assert abs(shift.mean() - 20) < 2
    rendered = ((after.numpy().transpose(1, 2, 0) + 1) * 127.5)[30:, 30:]
    assert (
        np.abs(pixels[30:, 30:] - mine[30:, 30:] - 20).mean()
        < 0.8 * np.abs(rendered - mine[30:, 30:] - 20).mean()
    )


def test_in_fog_a_small_change_is_a_whole_one() -> None:
    """Where nothing changes much, the largest change says what counts: no ghost of what was there stays."""
    fog = Image.new("RGB", (SIZE, SIZE), (180, 180, 180))
    thing = fog.copy()
    thing.paste((196, 196, 196), (20, 20, 40, 40))
    result = pasted(thing, (0, 0, SIZE, SIZE), to_tensor(thing)[0], to_tensor(fog)[0])
    assert np.abs(np.asarray(result.image).astype(int)[24:36, 24:36] - 180).max() <= 1


def test_an_edit_is_about_what_its_words_name() -> None:
    own = noise(6)
    before, after = torch.full((3, SIZE, SIZE), -0.5), torch.full((3, SIZE, SIZE), 0.5)
    named = np.zeros((SIZE, SIZE), np.float32)
    named[:32] = 1
    pixels = np.asarray(pasted(own, (0, 0, SIZE, SIZE), before, after, named=named).image)
    assert (pixels[:32] == 191).all() and (pixels[32:] == np.asarray(own)[32:]).all()


def test_latents_that_were_not_free_change_nothing() -> None:
    own = noise(5)
    before, after = torch.full((3, SIZE, SIZE), -0.5), torch.full((3, SIZE, SIZE), 0.5)
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[2:4, 2:4] = True
    result = pasted(own, (0, 0, SIZE, SIZE), before, after, region)
    pixels, mine = np.asarray(result.image), np.asarray(own)
    assert (pixels[16:32, 16:32] == 191).all()
    far = np.ones((SIZE, SIZE), bool)
    far[0:48, 0:48] = False
    assert (pixels[far] == mine[far]).all()
    nowhere = pasted(own, (0, 0, SIZE, SIZE), before, after, torch.zeros(8, 8, dtype=torch.bool))
    assert nowhere.image.tobytes() == own.tobytes()
