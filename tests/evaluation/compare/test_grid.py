"""Cards on paper: nothing cut off, nothing over anything else."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wordbrush.evaluation.compare.grid import Block, Card, _font, _Paper, _wrapped, draw

TEXT = st.text(st.characters(codec="latin-1", exclude_categories=("Cc",)), max_size=120)
PAPER = np.array((250, 249, 246))


def ink(image: Image.Image) -> np.ndarray:
    """Where anything is drawn."""
    return (np.asarray(image) != PAPER).any(-1)


@given(text=TEXT, width=st.integers(60, 400), size=st.integers(10, 30))
def test_a_text_is_whole_and_its_lines_fit(text: str, width: int, size: int) -> None:
    lines = _wrapped(text, size, width)
    assert all(_font(size).getlength(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@settings(deadline=None, max_examples=30)
@given(name=TEXT, value=TEXT)
def test_a_figures_name_and_value_never_meet(name: str, value: str) -> None:
    paper = _Paper(256, 256)
    both, alone, other = (ink(paper._figure(*each)) for each in ((name, value), (name, ""), ("", value)))
    lines = both.shape[0]
    if lines == alone.shape[0] == other.shape[0]:  # in one line, at both ends of it
        columns = np.flatnonzero(alone.any(0)), np.flatnonzero(other.any(0))
        if columns[0].size and columns[1].size:
            assert columns[0].max() < columns[1].min()
    else:  # one below the other
        assert lines >= 2
    assert both.sum() > 0 or not (alone.any() or other.any())


def test_cards_stand_below_one_another_and_have_the_same_width() -> None:
    red, blue = Image.new("RGB", (128, 96), (200, 0, 0)), Image.new("RGB", (128, 96), (0, 0, 200))
    long = Card(None, "a", message="why there is none, " * 40, is_failure=True)
    grid = draw(
        [
            Block("one", ((Card(red, "source", "", (("dB", "1"),)), Card(blue, "direct")),)),
            Block("two", ((Card(red, "source"), long, Card(blue, "ddim")),)),
        ],
        (128, 96),
    )
    assert grid.width == 3 * (384 + 24) + 24 or grid.width == 3 * (256 + 16) + 16
    pixels = np.asarray(grid)
    reds, blues = (np.argwhere((pixels == each).all(-1)) for each in ((200, 0, 0), (0, 0, 200)))
    # The inside of 256 × 192 pictures, a frame of one pixel around them, twice.
    assert len(reds) == len(blues) == 2 * 254 * 190
    assert reds[:, 1].min() == 17 and reds[:, 1].max() == 17 + 253
    edge = ink(grid)
    assert not (edge[:, :16].any() or edge[:, -16:].any() or edge[:8].any() or edge[-8:].any())


def test_large_pictures_are_made_smaller_and_small_ones_larger() -> None:
    def width(side: int) -> int:
        return draw([Block("", ((Card(Image.new("RGB", (side, side)), "x"),),))], (side, side)).width

    assert width(32) == width(128) == width(256) == 256 + 2 * 16
    assert width(1024) == 384 + 2 * 24
