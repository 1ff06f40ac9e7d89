"""EDICT: against a transcription of the paper's equations, and its promise: the way down undoes the way up."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from reference import alphas, conditions, predict_eps, prompt_to_prompt, timesteps
from wordbrush import edit, record
from wordbrush.denoise import AfterStep, denoise
from wordbrush.editing.prompt_to_prompt.options import Options as EditOptions
from wordbrush.errors import OptionsError, SourceError
from wordbrush.guidance import TextGuidance
from wordbrush.inversion.edict import method
from wordbrush.inversion.edict.options import Options
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.source import Source
from wordbrush.states import CoupledPath

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]
CAT, DOG = "a cat on a beach", "a dog on a beach"
FREE: dict[str, Any] = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0, "local_blend": "off"}
Pair = tuple[torch.Tensor, torch.Tensor]


def picture() -> torch.Tensor:
    return torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(4)) * 2 - 1


def inverted(model: Model, **options: Any) -> Source:
    settings = parse(Options, {"steps": 4, "skip": 0.0, **options})
    return drain(method.invert(model, picture(), CAT, settings))


def pair(source: Source, i: int) -> Pair:
    assert isinstance(source.states, CoupledPath)
    return source.states.first[i : i + 1], source.states.second[i : i + 1]


def down(
    model: Model, source: Source, prompts: list[str], scale: float = 3.0, after_step: AfterStep | None = None
) -> torch.Tensor:
    """What the loop makes of the source's first latents with some prompts."""
    given, z = (
        conditions(model.encode_text(prompts), source.null),
        source.z_T.expand(len(prompts), -1, -1, -1),
    )
    guidance, row = TextGuidance(scale), source.row(model)
    for step in denoise(model, z, given, source.schedule, guidance, source=row, after_step=after_step):
        z = step.latents
    return z


class Paper:
    """Algorithms 1 and 2 of Wallace et al. 2023, in ᾱ; the first of the two is moved first in the last step."""

    def __init__(self, model: Model, source: Source, prompt: str, p: float, scale: float) -> None:
        self.model, self.p, self.scale = model, p, scale
        self.text, self.null = model.encode_text([prompt]), source.null
        self.bar, self.times = alphas(source.schedule), timesteps(source.schedule)

    def eps(self, z: torch.Tensor, i: int) -> torch.Tensor:
        with torch.no_grad():
            free = predict_eps(self.model, z, self.times[i], self.null)
            told = predict_eps(self.model, z, self.times[i], self.text)
        return free + self.scale * (told - free)

    def coefficients(self, i: int) -> tuple[float, float]:
        bar, to = self.bar[i], self.bar[i + 1]
        return math.sqrt(to / bar), math.sqrt(1 - to) - math.sqrt(to * (1 - bar) / bar)

    def swaps(self, i: int) -> bool:
        return (len(self.times) - i) % 2 == 0

    def generated(self, i: int, state: Pair) -> Pair:
        """x' = a x + b ε(y), y' = a y + b ε(x'); x = p x' + (1 − p) y', y = p y' + (1 − p) x."""
        (x, y), (a, b), p = (state[::-1] if self.swaps(i) else state), self.coefficients(i), self.p
        x_mid = a * x + b * self.eps(y, i)
        y_mid = a * y + b * self.eps(x_mid, i)
        x_new = p * x_mid + (1 - p) * y_mid
        y_new = p * y_mid + (1 - p) * x_new
        return (y_new, x_new) if self.swaps(i) else (x_new, y_new)

    def inverted(self, i: int, state: Pair) -> Pair:
        (x_new, y_new), (a, b), p = (state[::-1] if self.swaps(i) else state), self.coefficients(i), self.p
        y_mid = (y_new - (1 - p) * x_new) / p
        x_mid = (x_new - (1 - p) * y_mid) / p
        y = (y_mid - b * self.eps(x_mid, i)) / a
        x = (x_mid - b * self.eps(y, i)) / a
        return (y, x) if self.swaps(i) else (x, y)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("steps", "p"), [(4, 0.93), (3, 0.9)])
def test_up_and_down_are_the_papers(shape: str, steps: int, p: float, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = inverted(model, steps=steps, mixing=p, guidance_scale=2.5)
    z_0 = model.encode_image(picture())
    assert all(torch.equal(z, z_0) for z in pair(source, steps))
    paper, state = Paper(model, source, CAT, p, 2.5), (z_0, z_0)
    for i in reversed(range(steps)):
        state = paper.inverted(i, state)
        for found, expected in zip(pair(source, i), state, strict=True):
            torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    paper, state = Paper(model, source, DOG, p, 4.0), pair(source, 0)
    for i in range(steps):
        state = paper.generated(i, state)
    assert (state[0] - z_0).abs().max() > 1e-3, "nothing was edited"
    torch.testing.assert_close(down(model, source, [DOG], 4.0), state[0], atol=1e-9, rtol=1e-9)
    options = parse(EditOptions, {**FREE, "guidance_scale": 4.0})
    (result,) = drain(prompt_to_prompt(model, source, [DOG], options))
    torch.testing.assert_close(result.trajectory[-1:], state[0], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("steps", "scale"), [(4, 3.0), (5, 3.0), (4, 1.0), (5, 7.5)])
def test_the_sources_own_prompt_leads_back_exactly(shape: str, steps: int, scale: float, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = inverted(model, steps=steps, guidance_scale=scale)
    found = down(model, source, [CAT, DOG], scale)
    assert (found[:1] - source.z_0).abs().max() < 1e-9
    assert (found[1:] - source.z_0).abs().max() > 1e-3


@pytest.mark.slow
def test_many_steps_of_a_network_in_single_precision_lead_back_too(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = inverted(model, steps=40)
    assert source.z_T.dtype == torch.float64
    torch.testing.assert_close(down(model, source, [CAT]), source.z_0, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_edits_source_row_is_the_source(shape: str, tiny: Tiny) -> None:
    """With equal texts every map that an edit takes from its source is its own, at both predictions of a step."""
    model = tiny(shape, torch.float64)
    source = inverted(model, steps=5)
    options = {"reweight": {"cat": 1.0}, "cross_replace_steps": 0.8, "self_replace_steps": 0.8}
    result = edit(model, source, CAT, options={**FREE, **options})
    assert result.report.unet_rows == 5 * 2 * 3 - 2  # the last step reads nothing of the source
    torch.testing.assert_close(result.trajectory, source.trajectory, atol=1e-9, rtol=0)


@pytest.mark.slow
def test_where_the_source_is_put_back_both_latents_are_its_own(tiny: Tiny) -> None:
    """So an edit that is undone for two steps is one that begins after them."""
    model = tiny("sd1", torch.float64)
    source = inverted(model, steps=5)

    def after_step(step: int, z: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        return source.states.at(step + 1).expand_as(z) if step < 2 else z

    late = source.late(0.4, model)
    assert late.steps == 3 and late.schedule.levels == source.schedule.levels[2:]
    found = down(model, source, [DOG], after_step=after_step)
    assert torch.equal(found, down(model, late, [DOG]))
    assert (found - source.z_0).abs().max() > 1e-3
    assert torch.equal(inverted(model, steps=5, skip=0.4).trajectory, late.trajectory)
    assert (down(model, late, [CAT]) - source.z_0).abs().max() < 1e-9


def test_outside_of_a_mask_is_the_source(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = inverted(model)
    result = edit(model, source, DOG, options={"blend_threshold": 0.7})
    assert result.mask is not None
    outside = ~result.mask
    assert 0.02 < outside.double().mean() < 0.98
    kept = (result.trajectory[-1] - source.z_0[0]).abs().amax(0)
    assert kept[outside].max() == 0 and kept[~outside].max() > 1e-3


def test_no_recording_is_made(tiny: Tiny) -> None:
    model = tiny("sd1")
    with pytest.raises(SourceError, match="ask the network once, got one by edict.*without a recording"):
        record(model, inverted(model, steps=2))


@pytest.mark.parametrize("options", [{"mixing": 0.0}, {"mixing": 1.01}, {"skip": 1.0}])
def test_options_out_of_range_are_named(options: dict[str, Any], tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=next(iter(options))):
        inverted(tiny("sd1"), **options)
