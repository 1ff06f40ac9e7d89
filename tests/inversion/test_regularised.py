"""Regularised DDIM inversion: its two losses written again, and what they do to noise."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from wordbrush.inversion.ddim import invert as ddim
from wordbrush.inversion.regularised.method import autocorrelation, divergence, invert, regularised
from wordbrush.inversion.regularised.options import Options
from wordbrush.model import Model
from wordbrush.options import SolvedOptions, parse
from wordbrush.progress import drain
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT = "a cat on a beach"


def drawn(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def told(**given: float) -> Options:
    return parse(Options, given)


def smooth(height: int, width: int) -> Tensor:
    """Noise whose neighbours are alike, and whose variance is not 1."""
    noise = torch.randn(1, 4, height, width, generator=drawn(), dtype=torch.float64)
    return 1.2 * torch.nn.functional.avg_pool2d(noise, 3, stride=1, padding=1) + 0.3 * noise + 0.1


@pytest.mark.parametrize("size", [(16, 16), (32, 16)])
def test_the_autocorrelation_is_that_of_plain_loops(size: tuple[int, int]) -> None:
    noise = smooth(*size)
    shifts, scale, expected = drawn(3), noise[0].numpy(), 0.0
    while True:
        channels, height, width = scale.shape
        for axis, side in enumerate((height, width)):
            for c in range(channels):
                shift = int(torch.randint(1, side // 2, (), generator=shifts))
                total = 0.0
                for y in range(height):
                    for x in range(width):
                        there = ((y - shift) % height, x) if axis == 0 else (y, (x - shift) % width)
                        total += scale[c, y, x] * scale[c][there]
                expected += (total / (height * width)) ** 2
        if min(height, width) <= 8:
            break
        scale = scale.reshape(channels, height // 2, 2, width // 2, 2).mean((2, 4))
    assert float(autocorrelation(noise, drawn(3))) == pytest.approx(expected, rel=1e-9)


def test_the_divergence_is_twice_that_of_two_normal_distributions() -> None:
    noise = smooth(16, 16)
    mean, deviation = noise.mean(), noise.std()
    pair = torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)
    expected = 2 * torch.distributions.kl_divergence(*pair)
    assert float(divergence(noise)) == pytest.approx(float(expected), abs=1e-6)


def test_noise_becomes_whiter_and_each_part_does_its_own() -> None:
    noise = smooth(16, 16)

    def off(noise: Tensor) -> tuple[float, float]:
        unit = noise / noise.std()
        alike = np.mean([float(autocorrelation(unit, drawn(seed))) for seed in range(8)])
        return float(alike), float(divergence(noise))

    before, after = off(noise), off(regularised(noise, told(), drawn()))
    assert after[0] < before[0] and after[1] < before[1]
    one = off(regularised(noise, told(autocorrelation=0, rounds=20), drawn()))
    other = off(regularised(noise, told(divergence=0, rounds=20), drawn()))
    assert one[1] < before[1] / 4 and other[0] < before[0] / 2
    assert torch.equal(regularised(noise, told(rounds=0), drawn()), noise)


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_without_rounds_it_is_ddim_inversion(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    image = torch.rand(1, 3, 48, 32, generator=drawn()) * 2 - 1

    def inverted(**given: float) -> Source:
        return drain(invert(model, image, CAT, told(steps=3, **given)))

    plain = drain(ddim(model, image, CAT, parse(SolvedOptions, {"steps": 3})))
    assert torch.equal(inverted(rounds=0).trajectory, plain.trajectory)
    assert torch.equal(inverted().trajectory, inverted().trajectory)
    if shape != "sd1":
        return
    different: tuple[dict[str, float], ...] = (
        {},
        {"rounds": 2},
        {"rolls": 1},
        {"autocorrelation": 1.0},
        {"divergence": 1.0},
        {"roll_seed": 1},
    )
    for given in different:
        assert not torch.equal(inverted(**given).z_T, plain.z_T)
        assert not given or not torch.equal(inverted(**given).z_T, inverted().z_T), given
