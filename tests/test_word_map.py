"""A word's map, against the explicit one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import oracle
from wordbrush.errors import PromptError
from wordbrush.model import Model
from wordbrush.source import Source
from wordbrush.word_map import word_map

Tiny, Seeded = Callable[..., Model], Callable[..., Source]


@pytest.mark.parametrize(
    ("shape", "latent_size", "grid"), [("sd1", (16, 16), (16, 16)), ("sdxl", (16, 20), (8, 10))]
)
@pytest.mark.parametrize("word", ["cat", "beach"])
def test_a_words_map_is_the_mean_of_the_explicit_ones(
    word: str, shape: str, latent_size: tuple[int, int], grid: tuple[int, int], tiny: Tiny, seeded: Seeded
) -> None:
    model, source = tiny(shape, torch.float64), seeded(shape, latent_size=latent_size)
    token = {"cat": 2, "beach": 5}[word]
    kept: list[torch.Tensor] = []

    class Watching(oracle.Control):
        def __call__(self, maps: torch.Tensor, is_cross: bool) -> torch.Tensor:
            if is_cross and maps.shape[2] == grid[0] * grid[1]:
                kept.append(maps[0, :, :, token].mean(0))
            return maps

    before: Any = dict(model.denoiser.unet.attn_processors)
    model.denoiser.unet.set_attn_processor(oracle.ExplicitAttention(Watching([], 0)))
    text = model.encode_text([source.prompt])
    for i in (0, 2, 4):  # 3 samples of 6 steps
        with torch.no_grad():
            oracle.predict(model, source.trajectory[i : i + 1], source.schedule.levels[i].t, text)
    model.denoiser.unet.set_attn_processor(dict(before))  # it empties what it is given
    heat = torch.stack(kept).mean(0).view(1, 1, *grid)
    heat = F.interpolate(heat, latent_size, mode="bilinear")[0, 0]
    expected = (heat - heat.min()) / (heat.max() - heat.min())

    ours = word_map(model, source.prompt, word, source.trajectory, source.schedule, samples=3)
    assert ours.shape == latent_size
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=0)
    assert model.denoiser.unet.attn_processors == before


def test_a_word_that_is_not_there_is_an_error(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    with pytest.raises(PromptError, match="did you mean 'cat'"):
        word_map(model, source.prompt, "cats", source.trajectory, source.schedule)
