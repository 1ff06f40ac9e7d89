"""Word maps and the masks that are made of them."""

from collections.abc import Callable

import pytest
import torch

from reference import predict_eps
from wordbrush.attention import plain
from wordbrush.local_blend import LocalBlend, WordMaps
from wordbrush.model import Model
from wordbrush.rows import Rows

Tiny = Callable[..., Model]


def maps(*pairs: list[list[list[float]]]) -> torch.Tensor:
    """targets × 2 × h × w from nested lists: per target (words to edit, words to spare)."""
    return torch.tensor(pairs, dtype=torch.float64)


def mask(
    blend: LocalBlend, source: torch.Tensor, targets: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """Where a target is edited: at its words, less where those to leave alone are."""
    edited, spared = blend.masks(source, targets, size)
    return edited & ~spared


ZERO = [[0.0] * 5] * 5


def point(y: int, x: int, value: float = 1.0) -> list[list[float]]:
    grid = [[0.0] * 5 for _ in range(5)]
    grid[y][x] = value
    return grid


def test_a_mask_is_the_pooled_map_above_its_share_of_the_maximum() -> None:
    heat = [[0.1, 0.1, 0.1, 0.1, 0.1], [0.1] * 5, [0.1, 0.1, 1.0, 0.1, 0.1], [0.1] * 5, [0.1] * 5]
    found = mask(LocalBlend(threshold=0.3), maps([ZERO, ZERO]), maps([heat, ZERO]), (5, 5))
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[1:4, 1:4] = True  # 3 × 3 pooling around the one strong position
    assert torch.equal(found[0, 0], expected)
    assert mask(LocalBlend(threshold=0.05), maps([ZERO, ZERO]), maps([heat, ZERO]), (5, 5)).all()


def test_source_and_target_words_are_joined_each_against_its_own_maximum() -> None:
    source, target = maps([point(0, 0, 0.001), ZERO]), maps([point(4, 4, 7.0), ZERO])
    found = mask(LocalBlend(), source, target, (5, 5))[0, 0]
    assert found[:2, :2].all() and found[3:, 3:].all() and found.sum() == 8


def test_spared_words_are_cut_out_unpooled() -> None:
    source = maps([point(2, 2), point(2, 2)])
    found = mask(LocalBlend(), source, maps([ZERO, ZERO]), (5, 5))[0, 0]
    assert found.sum() == 8 and not found[2, 2]
    by_target = mask(LocalBlend(), maps([point(2, 2), ZERO]), maps([ZERO, point(1, 1)]), (5, 5))[0, 0]
    assert by_target.sum() == 8 and not by_target[1, 1]


def test_thresholds_are_each_for_their_own_words() -> None:
    heat = [[1.0, 0.5, 0.0, 0.0, 0.0]] + [[0.0] * 5] * 4
    source = maps([heat, heat])
    only = mask(LocalBlend(threshold=0.9, spare_threshold=0.9), source, maps([ZERO, ZERO]), (5, 5))[0, 0]
    assert only.nonzero().tolist() == [[0, 1], [1, 0], [1, 1]]
    both = mask(LocalBlend(threshold=0.9, spare_threshold=0.4), source, maps([ZERO, ZERO]), (5, 5))[0, 0]
    assert both.nonzero().tolist() == [[1, 0], [1, 1]]


def test_no_words_are_nowhere() -> None:
    assert not mask(LocalBlend(threshold=0.0), maps([ZERO, ZERO]), maps([ZERO, ZERO]), (10, 10)).any()


def test_masks_grow_to_the_latents_by_whole_cells() -> None:
    found = mask(LocalBlend(), maps([point(0, 0), ZERO]), maps([ZERO, ZERO]), (10, 15))[0, 0]
    assert found.shape == (10, 15) and found[:4, :6].all() and found.sum() == 24


def test_a_new_thing_is_placed_where_nothing_to_leave_alone_is() -> None:
    """Its words look most at a thing that is there; its place is where they look most among what is free."""
    there, new = point(0, 0), point(0, 0, 1.0)
    new[4][4], new[2][4] = 0.3, 0.1
    blend = LocalBlend(threshold=0.4, spare_threshold=0.4)
    everywhere = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    place = blend.place(maps([ZERO, there]), maps([new, ZERO]), everywhere)[0, 0]
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[3:, 3:] = True  # 3 × 3 around (4, 4); (2, 4) is below its share, (0, 0) is taken
    assert torch.equal(place, expected)
    by_target = blend.place(maps([ZERO, ZERO]), maps([new, there]), everywhere)[0, 0]
    assert torch.equal(by_target, expected)
    large = torch.ones(1, 1, 10, 10, dtype=torch.bool)
    assert blend.place(maps([ZERO, ZERO]), maps([new, ZERO]), large)[0, 0, :4, :4].all()
    # Where the user lets nothing change is no place either.
    large[..., :4, :4] = False
    elsewhere = blend.place(maps([ZERO, ZERO]), maps([new, ZERO]), large)[0, 0]
    assert elsewhere[6:, 6:].all() and not elsewhere[:4, :4].any()


def test_targets_do_not_see_each_other() -> None:
    source = maps([point(0, 0), ZERO], [point(4, 4), ZERO])
    target = maps([point(0, 4), ZERO], [ZERO, ZERO])
    found = mask(LocalBlend(), source, target, (5, 5))
    assert torch.equal(found[:1], mask(LocalBlend(), source[:1], target[:1], (5, 5)))
    assert torch.equal(found[1:], mask(LocalBlend(), source[1:], target[1:], (5, 5)))


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_many_columns_are_read_in_turns_and_averaged(shape: str, tiny: Tiny) -> None:
    """More columns than a head has channels; each must be what it is when read alone."""
    model = tiny(shape, torch.float64)
    size = (16, 16)
    text = model.encode_text(["a cat on a beach", "a teapot"])
    generator = torch.Generator().manual_seed(2)
    columns = torch.rand(2, model.tokens, 21, generator=generator).double()
    z = torch.randn(2, 4, *size, generator=generator, dtype=torch.float64)

    def mean(columns: torch.Tensor) -> torch.Tensor:
        word_maps = WordMaps(plain, columns, lambda _: Rows(2, ("text",)), model.map_positions(size))
        predict_eps(model, z, 401, text, word_maps, step=0)
        predict_eps(model, z, 101, text, word_maps, step=1)
        return word_maps.mean

    together = mean(columns)
    assert together.shape[:2] == (2, 21)
    assert together.shape[2] * together.shape[3] == model.map_positions(size)
    for k in (0, 9, 20):
        torch.testing.assert_close(together[:, k : k + 1], mean(columns[..., k : k + 1]), atol=1e-13, rtol=0)
    # All tokens together get all the attention there is.
    torch.testing.assert_close(mean(torch.ones(2, model.tokens, 1)), torch.ones_like(together[:, :1]))
