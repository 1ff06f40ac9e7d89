"""Pages for plots."""

from pathlib import Path

from wordbrush.evaluation.results.plots import COLOURS, MARKS, blank, save
from wordbrush.images import load


def test_equal_figures_make_equal_files(tmp_path: Path):
    for name in ("one.png", "other.png"):
        figure, axes = blank("x →", "y →")
        axes.plot([0, 1], [1, 0], color=COLOURS[0], marker=MARKS[0])
        save(figure, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
    assert load(tmp_path / "one.png").width > 800
    figure, axes = blank("another x →", "y →")
    save(figure, tmp_path / "third.png")
    assert (tmp_path / "third.png").read_bytes() != (tmp_path / "one.png").read_bytes()


def test_there_are_as_many_marks_as_colours():
    assert len(set(COLOURS)) == len(set(MARKS)) == len(COLOURS)
