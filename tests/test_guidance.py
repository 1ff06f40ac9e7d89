"""Guidance: which branches are predicted, and how they combine, against the papers' formulas in float64."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import conditions, ddim_step, predict_eps, timesteps
from wordbrush.denoise import denoise
from wordbrush.errors import OptionsError
from wordbrush.guidance import (
    Guidance,
    IntervalGuidance,
    PerpendicularGuidance,
    ProximalGuidance,
    SwitchedGuidance,
    TextGuidance,
    TextImageGuidance,
    check_scale,
)
from wordbrush.model import Conditioning, Model

Tiny = Callable[..., Model]
LAWS = settings(deadline=None, max_examples=30)
scales = st.floats(0, 20)


def noise(seed: int, rows: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, 16, 16, generator=generator, dtype=torch.float64)


NULL, IMAGE, TEXT, NEGATIVE = (noise(seed) for seed in range(4))


@LAWS
@given(text=scales, image=scales)
def test_text_and_image_guidance_is_linear_in_its_branches(text: float, image: float) -> None:
    """(1 − s_I) e(∅, ∅) + (s_I − s_T) e(I, ∅) + s_T e(I, T) (Brooks et al. 2023, eq. 3, collected)."""
    guided = TextImageGuidance(text, image).combine({"null": NULL, "image": IMAGE, "text": TEXT}, 0.5)
    expected = (1 - image) * NULL + (image - text) * IMAGE + text * TEXT
    torch.testing.assert_close(guided, expected, atol=1e-10, rtol=0)


@LAWS
@given(scale=scales, negative=scales)
def test_perpendicular_guidance_never_works_against_the_prompt(scale: float, negative: float) -> None:
    guidance = PerpendicularGuidance(scale, negative)
    guided = guidance.combine({"null": NULL, "negative": NEGATIVE, "text": TEXT}, 0.5)
    towards = TEXT - NULL
    plain = TextGuidance(scale).combine({"null": NULL, "text": TEXT}, 0.5)
    along = ((guided - plain) * towards).sum((1, 2, 3))
    torch.testing.assert_close(along, torch.zeros_like(along), atol=1e-8, rtol=0)
    # A negative prompt that says the same as the prompt, or nothing, takes nothing away.
    for away in (TEXT, NULL):
        unchanged = guidance.combine({"null": NULL, "negative": away, "text": TEXT}, 0.5)
        torch.testing.assert_close(unchanged, plain, atol=1e-9, rtol=0)


def proximal(differences: list[float], quantile: float, is_soft: bool) -> tuple[list[float], list[bool]]:
    """prox and mask of one picture, element by element: the proximal operators of the L1 and the L0 norm, whose λ is
    chosen so that just what is not larger than the quantile becomes 0."""
    limit = float(np.quantile(np.abs(differences), quantile))
    kept = [abs(d) > limit for d in differences]
    shrunk = [math.copysign(abs(d) - limit, d) if is_soft else d for d in differences]
    return [d if k else 0.0 for d, k in zip(shrunk, kept, strict=True)], kept


def released(differences: list[float], quantile: float, is_soft: bool) -> tuple[list[float], list[bool]]:
    """The released code's prox and mask of a batch of one source and one target, element by element. In
    negative-prompt inversion the source's difference is 0."""
    limit = float(np.quantile(np.abs([0.0] * len(differences) + differences), quantile))
    found: list[float] = []
    for d in differences:
        d -= min(max(d, -limit), limit)
        if is_soft:
            d = d - limit if d > 0 else d
            d = d + limit if d < 0 else d
        found.append(d)
    return found, [abs(d) > limit for d in found]


@LAWS
@given(quantile=st.floats(0, 1), is_soft=st.booleans(), is_released=st.booleans(), scale=scales)
def test_proximal_guidance_is_each_pictures_own(
    quantile: float, is_soft: bool, is_released: bool, scale: float
) -> None:
    guidance = ProximalGuidance(scale, quantile=quantile, is_soft=is_soft, is_released=is_released)
    found = {"null": NULL, "text": TEXT}
    guided, edited = guidance.combine(found, 0.5), guidance.where_edited(found, 0.5)
    for row in range(2):
        differences = (TEXT - NULL)[row].flatten().tolist()
        prox, mask = (released if is_released else proximal)(differences, quantile, is_soft)
        expected = NULL[row].flatten() + scale * torch.tensor(prox, dtype=torch.float64)
        torch.testing.assert_close(guided[row].flatten(), expected, atol=1e-12, rtol=0)
        assert edited[row].flatten().tolist() == mask


def test_the_proximal_quantile_says_how_much_is_left() -> None:
    found = {"null": NULL, "text": TEXT}

    def share(quantile: float, **rule: bool) -> float:
        guided = ProximalGuidance(3.0, quantile=quantile, **rule).combine(found, 0.5)
        return float((guided != NULL).double().mean())

    assert share(1.0) == 0
    assert share(0.7) == pytest.approx(0.3, abs=1e-3)
    # Over the source's zeros, too, 0.7 is 0.4.
    assert share(0.7, is_released=True) == pytest.approx(0.6, abs=1e-3)
    assert ProximalGuidance(1.0).branches(0.5) == ("null", "text")  # they do not cancel


def test_what_is_edited_is_said_by_the_guidance_in_force() -> None:
    found = {"null": NULL, "text": TEXT}
    switched = SwitchedGuidance(ProximalGuidance(3.0), TextGuidance(3.0), 0.5)
    assert switched.where_edited(found, 0.4) is not None and switched.where_edited(found, 0.5) is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_proximal_guidance_in_half_precision(dtype: torch.dtype) -> None:
    found = {"null": NULL.to(dtype), "text": TEXT.to(dtype)}
    guided = ProximalGuidance(3.0).combine(found, 0.5)
    assert guided.dtype == dtype
    assert float((guided == found["null"]).double().mean()) == pytest.approx(0.7, abs=0.05)


Guided = Callable[[torch.Tensor, int, float], torch.Tensor]


def by_hand(model: Model, z: torch.Tensor, guided: Guided) -> list[torch.Tensor]:
    """A run of three steps whose guided noise is `guided(z, t, progress)`."""
    schedule, path = model.schedule(3), []
    for i, t in enumerate(timesteps(schedule)):
        alpha, alpha_next = (level.signal**2 for level in schedule.levels[i : i + 2])
        with torch.no_grad():
            z = ddim_step(z, guided(z, t, i / 3), alpha, alpha_next)
        path.append(z)
    return path


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_the_loop_predicts_each_branch_with_what_it_sees(shape: str, tiny: Tiny) -> None:
    """Three branches; and inside an interval only, where the text is alone outside."""
    model = tiny(shape, torch.float64)
    texts = {name: model.encode_text([name]) for name in ("null", "negative")}
    texts["text"] = model.encode_text(["a cat", "a dog"])
    whole = PerpendicularGuidance(5.0, 2.0)
    part = IntervalGuidance(whole, 0.3, 0.9)

    def guided(guidance: Guidance) -> Guided:
        def step(z: torch.Tensor, t: int, progress: float) -> torch.Tensor:
            found = {
                name: predict_eps(model, z, t, text if len(text) == 2 else text.expand(2))
                for name, text in texts.items()
            }
            return found["text"] if guidance is part and progress < 0.3 else whole.combine(found, progress)

        return step

    given_ = {name: Conditioning(text) for name, text in texts.items()}
    for guidance, rows in ((whole, [6, 6, 6]), (part, [2, 6, 6])):
        steps = list(denoise(model, noise(7), given_, model.schedule(3), guidance))
        assert [step.rows for step in steps] == rows
        for step, expected in zip(steps, by_hand(model, noise(7), guided(guidance)), strict=True):
            torch.testing.assert_close(step.latents, expected, atol=1e-10, rtol=0)


def test_a_branch_may_be_another_models(tiny: Tiny) -> None:
    """Karras et al. 2024, eq. 3: away from a weaker model with the same text."""
    model, weak = tiny("sd1", torch.float64), tiny("sd2", torch.float64)
    text = model.encode_text(["a cat", "a dog"])
    given_ = {"text": Conditioning(text), "weak": Conditioning(text)}
    guidance = TextGuidance(3.0, reference="weak")
    steps = list(denoise(model, noise(7), given_, model.schedule(3), guidance, others={"weak": weak}))

    def guided(z: torch.Tensor, t: int, _: float) -> torch.Tensor:
        strong, away = predict_eps(model, z, t, text), predict_eps(weak, z, t, text)
        return 3.0 * strong - 2.0 * away

    assert [step.rows for step in steps] == [4, 4, 4]
    for step, expected in zip(steps, by_hand(model, noise(7), guided), strict=True):
        torch.testing.assert_close(step.latents, expected, atol=1e-10, rtol=0)


def test_a_text_branch_alone_needs_no_other_condition(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    text = model.encode_text(["a cat", "a dog"])
    alone = list(denoise(model, noise(7), {"text": Conditioning(text)}, model.schedule(2), TextGuidance(1.0)))
    given_ = conditions(text, model.encode_text([""]))
    beside = list(denoise(model, noise(7), given_, model.schedule(2), TextGuidance(1.0)))
    assert torch.equal(alone[-1].latents, beside[-1].latents)


@pytest.mark.parametrize("scale", [-0.1, 100.1, float("nan")])
def test_scales_out_of_range_are_named(scale: float) -> None:
    with pytest.raises(OptionsError, match=f"between 0 and 100, got {scale}"):
        check_scale(scale)
