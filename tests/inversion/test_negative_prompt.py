"""Negative-prompt inversion: with the source's prompt for null text, every guidance is none; and proximal guidance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import reference
from wordbrush import edit
from wordbrush.denoise import denoise, noise_up
from wordbrush.errors import OptionsError
from wordbrush.evaluation.bench.cases import Case, split
from wordbrush.guidance import TextGuidance
from wordbrush.images import to_tensor
from wordbrush.inversion import ddim
from wordbrush.inversion.negative_prompt import method as negative_prompt
from wordbrush.inversion.negative_prompt.options import Options
from wordbrush.model import Conditioning, Model
from wordbrush.options import SolvedOptions, parse
from wordbrush.progress import drain
from wordbrush.source import Source
from wordbrush.states import ProximalPath, Trajectory

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"


def inverted(model: Model, **options: Any) -> Source:
    image = torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(4)) * 2 - 1
    given = parse(Options, {"steps": 5, "guidance_scale": 4.0, **options})
    return drain(negative_prompt.invert(model, image, CAT, given))


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 7.5])
def test_the_source_branch_is_unguided_at_any_scale(shape: str, guidance_scale: float, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    options = Options(steps=4, guidance_scale=guidance_scale)
    source = drain(negative_prompt.invert(model, image, "a cat on a beach", options))
    text = model.encode_text(["a cat on a beach"])
    assert torch.equal(source.null.hidden, text.hidden) and source.guidance_scale == guidance_scale
    given, guidance = reference.conditions(text, source.null), TextGuidance(guidance_scale)
    guided = denoise(model, source.z_T, given, source.schedule, guidance)
    for i, step in enumerate(guided):
        torch.testing.assert_close(step.latents[0], source.trajectory[i + 1], atol=1e-10, rtol=0)
    unguided = SolvedOptions(steps=4, guidance_scale=1.0)
    baseline = drain(ddim.invert(model, image, "a cat on a beach", unguided))
    torch.testing.assert_close(source.trajectory, baseline.trajectory, atol=1e-12, rtol=0)


def dilated(mask: torch.Tensor) -> torch.Tensor:
    """Each element and its eight neighbours, by shifts."""
    n, c, h, w = mask.shape
    wide = torch.zeros(n, c, h + 2, w + 2, dtype=torch.bool)
    for dy in range(3):
        for dx in range(3):
            wide[:, :, dy : dy + h, dx : dx + w] |= mask
    return wide[:, :, 1:-1, 1:-1]


@pytest.mark.parametrize("shape", ["sd1", pytest.param("sd2", marks=pytest.mark.slow), "sdxl"])
def test_proximal_and_inversion_guidance_written_out(shape: str, tiny: Tiny) -> None:
    """Source and targets with explicit ᾱ: hard thresholding, and the last two of five steps pulled half way."""
    model = tiny(shape, torch.float64)
    source = inverted(
        model,
        proximal="hard",
        proximal_quantile=0.6,
        inversion_guidance=0.5,
        inversion_guidance_start=0.6,
    )
    schedule, text = source.schedule, model.encode_text([CAT])
    bars, ts = reference.alphas(schedule), reference.timesteps(schedule)
    z_0 = model.encode_image(torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(4)) * 2 - 1)
    pivots = [step.latents for step in noise_up(model, z_0, Conditioning(text), schedule)][::-1] + [z_0]
    z, path = pivots[0], [pivots[0]]
    for i, t in enumerate(ts):
        with torch.no_grad():
            eps = reference.predict_eps(model, z, t, text)
        z = reference.ddim_step(z, eps, bars[i], bars[i + 1])
        z = (z + pivots[i + 1]) / 2 if i >= 3 else z
        path.append(z)
    torch.testing.assert_close(source.trajectory, torch.cat(path), atol=1e-10, rtol=0)

    targets = model.encode_text([DOG, "a red cat on a beach"])
    z = path[0].expand(2, -1, -1, -1)
    expected: list[torch.Tensor] = []
    for i, t in enumerate(ts):
        with torch.no_grad():
            away = reference.predict_eps(model, z, t, text.expand(2))
            change = reference.predict_eps(model, z, t, targets) - away
        limit = torch.stack([each.abs().quantile(0.6) for each in change])[:, None, None, None]
        mask = change.abs() > limit
        z = reference.ddim_step(z, away + 4.0 * change * mask, bars[i], bars[i + 1])
        if i >= 3:
            z = torch.where(dilated(mask), z, (z + pivots[i + 1]) / 2)
        expected.append(z)
    loop = denoise(
        model,
        source.z_T.expand(2, -1, -1, -1),
        {"text": Conditioning(targets), "null": source.unconditional()},
        schedule,
        source.states.guidance(source.guidance_scale),
        source=source.row(model),
    )
    for step, latents in zip(loop, expected, strict=True):
        torch.testing.assert_close(step.latents, latents, atol=1e-9, rtol=0)


@pytest.mark.parametrize("options", [{}, {"proximal_rule": "released"}, {"solver": "dpm++"}])
def test_where_everything_is_small_an_edit_is_the_source(options: dict[str, Any], tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    plain = {name: value for name, value in options.items() if name == "solver"}
    source = inverted(model, proximal="soft", proximal_quantile=1.0, **options)
    result = edit(model, source, DOG, options={"local_blend": "off"})
    torch.testing.assert_close(result.trajectory, source.trajectory, atol=1e-10, rtol=0)
    # The source itself is what it is without.
    assert torch.equal(source.trajectory, inverted(model, **plain).trajectory)
    if not options:
        some = inverted(model, proximal="soft", proximal_quantile=0.5)
        other = edit(model, some, DOG, options={"local_blend": "off"})
        assert (other.trajectory[-1] - source.z_0[0]).abs().max() > 1e-3


def test_without_any_quantile_it_is_the_usual_edit(tiny: Tiny) -> None:
    """Hard thresholding at the smallest difference changes that element alone."""
    model = tiny("sd1", torch.float64)
    options = {"local_blend": "off"}
    found = edit(model, inverted(model, proximal="hard", proximal_quantile=0.0), DOG, options=options)
    usual = edit(model, inverted(model), DOG, options=options)
    torch.testing.assert_close(found.trajectory, usual.trajectory, atol=1e-2, rtol=0)
    assert found.report.guidance_scale == 4.0


PULLED = {"proximal": "hard", "inversion_guidance": 1.0}


def test_pulled_all_the_way_the_source_ends_with_the_encoded_picture(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = inverted(model, **PULLED)
    assert isinstance(source.states, ProximalPath)
    torch.testing.assert_close(source.trajectory[4:], source.states.pivots[4:], atol=1e-13, rtol=0)
    assert (source.trajectory[3] - source.states.pivots[3]).abs().max() > 1e-4


@pytest.mark.parametrize("options", [PULLED, {"proximal": "soft", "solver": "dpm++"}])
def test_it_is_saved_and_loaded(options: dict[str, Any], tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sd1", torch.float64)
    source = inverted(model, **options)
    source.save(tmp_path / "a.source")
    again = Source.load(tmp_path / "a.source", model)
    assert isinstance(source.states, ProximalPath) and isinstance(again.states, ProximalPath)
    assert again.states.proximal == source.states.proximal
    assert type(again.states.path) is type(source.states.path)
    for start in (0.0, 0.3):
        results = [edit(model, each, DOG, options={"start": start}) for each in (source, again)]
        assert torch.equal(results[0].trajectory, results[1].trajectory)


def test_late_edits_have_as_many_pulled_steps(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    late = inverted(model, **PULLED).late(0.5, model)
    assert isinstance(late.states, ProximalPath)
    assert (late.steps, late.states.proximal.begin(late.steps)) == (3, 1)
    even = inverted(model, proximal="hard").late(0.5, model)
    assert even.steps == 5 and isinstance(even.states, ProximalPath)
    plain = inverted(model).late(0.5, model).states
    assert isinstance(plain, Trajectory) and torch.equal(even.trajectory, plain.latents)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"proximal_quantile": 0.7},
            "proximal_quantile is read by proximal guidance, which is off.*say proximal",
        ),
        ({"proximal_rule": "released"}, "proximal_rule is read by proximal guidance"),
        ({"inversion_guidance": 1.0}, "inversion_guidance is read by proximal guidance"),
        (
            {"proximal": "hard", "inversion_guidance_start": 0.5},
            "inversion_guidance_start is read by inversion guidance, which is off",
        ),
        ({"proximal": "hard", "proximal_quantile": 1.5}, "'proximal_quantile'.*1, got 1.5"),
    ],
)
def test_options_that_nothing_reads(options: dict[str, Any], says: str, tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=says):
        inverted(tiny("sd1"), **options)


@pytest.mark.slow
def test_proximal_guidance_keeps_more_of_what_should_stay() -> None:
    """On rendered scenes of changed things: nearer to the picture outside of the true mask, the stronger it is."""
    model = Model.load("pocket", device="cpu")
    cases = [case for case in split(778, 30) if case.kind == "change object"][:2]
    assert len(cases) == 2

    def error(case: Case, options: dict[str, Any]) -> float:
        given = parse(Options, {"guidance_scale": 3.0, **options})
        picture = to_tensor(case.picture)
        source = drain(negative_prompt.invert(model, picture, case.source_prompt, given))
        result = edit(model, source, case.target_prompt, options={"local_blend": "off"})
        outside = torch.from_numpy(case.mask == 0)
        return float((model.decode(result.trajectory[-1:]) - picture)[0, :, outside].square().mean())

    given = parse(Options, {"steps": 1})
    source = drain(negative_prompt.invert(model, to_tensor(cases[0].picture), cases[0].source_prompt, given))
    assert (source.guidance_scale, source.options) == (1.5, {"steps": 1})
    for case in cases:
        plain, hard, soft = (
            error(case, options)
            for options in ({}, {"proximal": "hard", "proximal_quantile": 0.9}, {"proximal": "soft"})
        )
        assert soft < 0.7 * plain and hard < plain, (case.target_prompt, plain, hard, soft)
