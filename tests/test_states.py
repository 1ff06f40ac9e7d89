"""What a source's states follow from: each kind, alone and on disk."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from wordbrush.errors import SourceError
from wordbrush.model import Model
from wordbrush.schedule import training_alphas_cumprod
from wordbrush.source import Source
from wordbrush.states import CoupledPath, NoiseMaps, States, StraightPath, Trajectory, restored

Tiny, Seeded = Callable[..., Model], Callable[..., Source]


def noise(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 4, 16, 16, generator=generator, dtype=torch.float64)


def kinds(source: Source) -> list[States]:
    n = source.steps
    return [
        Trajectory(noise(n + 1, 1)),
        StraightPath(noise(1, 1), noise(1, 2), source.schedule.levels),
        NoiseMaps(noise(n + 1, 1), noise(n, 2), eta=0.5),
        CoupledPath(noise(n + 1, 1), noise(n + 1, 2), mixing=0.9),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_every_kind_is_saved_and_loaded(kind: int, tiny: Tiny, seeded: Seeded, tmp_path: Path) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)
    states = kinds(source)[kind]
    source = replace(source, states=states)
    assert source.trajectory.shape == (4, 4, 16, 16)
    assert torch.equal(source.z_T, source.trajectory[:1]) and torch.equal(source.z_0, source.trajectory[-1:])
    source.save(tmp_path / "a.source")
    loaded = Source.load(tmp_path / "a.source", model).states
    assert type(loaded) is type(states) and loaded.numbers() == states.numbers()
    for name, tensor in states.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor)
    for i in range(4):
        assert torch.equal(loaded.at(i), states.at(i))


@pytest.mark.parametrize("mixing", [0.0, 1.5, -0.93])
def test_a_number_out_of_range_is_damage(mixing: float, tiny: Tiny, seeded: Seeded, tmp_path: Path) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)
    states = CoupledPath(noise(4, 1), noise(4, 2), mixing)
    replace(source, states=states).save(tmp_path / "a.source")
    with pytest.raises(SourceError, match="damaged.*mixing"):
        Source.load(tmp_path / "a.source", model)


@pytest.mark.parametrize(("start", "left"), [(0.1, 3), (0.4, 2), (0.99, 1)])
def test_of_noise_maps_and_coupled_paths_whole_steps_are_left_out(
    start: float, left: int, tiny: Tiny, seeded: Seeded
) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)
    for states in kinds(source)[2:]:
        late = replace(source, states=states).late(start, model)
        assert late.steps == left and late.schedule.levels == source.schedule.levels[-left - 1 :]
        assert late.states.numbers() == states.numbers()
        for name, tensor in states.tensors().items():
            kept = left + (len(tensor) - 3)
            assert torch.equal(late.states.tensors()[name], tensor[-kept:])


def test_one_picture_and_one_noise_determine_every_state(seeded: Seeded) -> None:
    """z_t = √ᾱ_t z_0 + √(1−ᾱ_t) ε (DDPM, eq. 4), and z_0 itself at the end."""
    source = seeded("sd1", steps=3)
    z_0, eps = noise(1, 1), noise(1, 2)
    states = StraightPath(z_0, eps, source.schedule.levels)
    for i, level in enumerate(source.schedule.levels[:-1]):
        alpha = level.signal**2
        torch.testing.assert_close(states.at(i), alpha**0.5 * z_0 + (1 - alpha) ** 0.5 * eps)
    assert torch.equal(states.at(3), z_0)
    assert sum(tensor.numel() for tensor in states.tensors().values()) == 2 * z_0.numel()


def test_another_kind_is_not_guessed(seeded: Seeded) -> None:
    with pytest.raises(KeyError, match="spiral"):
        restored("spiral", {}, seeded("sd1").schedule, {})


@pytest.mark.parametrize("start", [0.1, 0.25, 0.5, 0.9])
def test_between_two_steps_a_trajectory_is_where_its_steps_lead(
    start: float, tiny: Tiny, seeded: Seeded
) -> None:
    """On the straight path each level's state is known, and the same path as a trajectory must pass through it."""
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=3)
    straight = StraightPath(noise(1, 1), noise(1, 2), source.schedule.levels)
    walked = Trajectory(torch.cat([straight.levels[i].mix(straight.z_0, straight.noise) for i in range(4)]))
    alphas_cumprod = training_alphas_cumprod(model.schedule_config)
    after, found = walked.late(start, source.schedule, alphas_cumprod)
    levels, known = straight.late(start, source.schedule, alphas_cumprod)
    assert levels == after
    assert len(after.levels) == 4 and after.levels[-1] == source.schedule.levels[-1]
    for i in range(3):
        torch.testing.assert_close(found.at(i), known.at(i), atol=1e-9, rtol=0)
    assert torch.equal(found.at(3), walked.at(3)) and torch.equal(known.at(3), straight.z_0)
