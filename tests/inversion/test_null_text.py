"""Null-text inversion: only the null embedding moves, and it moves the source closer to the picture."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import reference
from wordbrush.denoise import denoise, noise_up
from wordbrush.errors import OptionsError
from wordbrush.guidance import TextGuidance
from wordbrush.inversion import ddim
from wordbrush.inversion.null_text import method as null_text
from wordbrush.inversion.null_text.options import Options
from wordbrush.model import Conditioning, Model
from wordbrush.options import SolvedOptions, parse
from wordbrush.progress import drain
from wordbrush.source import Source

Tiny = Callable[..., Model]
PROMPT = "a cat on a beach"


def picture() -> torch.Tensor:
    return torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1


def invert(model: Model, **options: Any) -> Source:
    settings = parse(Options, {"steps": 4, "guidance_scale": 7.5, **options})
    return drain(null_text.invert(model, picture(), PROMPT, settings))


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_without_inner_steps_it_is_guided_ddim(shape: str, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = invert(model, inner_steps=0)
    baseline = drain(ddim.invert(model, picture(), PROMPT, SolvedOptions(steps=4, guidance_scale=7.5)))
    torch.testing.assert_close(source.trajectory, baseline.trajectory, atol=1e-11, rtol=0)
    assert torch.equal(source.null.hidden, model.encode_text([""]).hidden.expand(4, -1, -1))


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_optimising_brings_every_step_nearer_to_its_pivot(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    pivots = torch.cat(
        [
            model.encode_image(picture()),
            *(
                s.latents
                for s in noise_up(
                    model,
                    model.encode_image(picture()),
                    Conditioning(model.encode_text([PROMPT])),
                    model.schedule(4),
                )
            ),
        ]
    ).flip(0)
    plain, optimised = invert(model, inner_steps=0), invert(model, inner_steps=8, early_stop=0.0)

    def errors(source: Source) -> list[float]:
        return (source.trajectory - pivots).square().mean((1, 2, 3)).tolist()

    before, after = errors(plain), errors(optimised)
    assert after[0] == before[0] == 0
    assert all(b < a for a, b in zip(before[1:], after[1:], strict=True)), (before, after)


def test_the_first_adam_step_shows_warm_start_rate_and_early_stop(tiny: Tiny) -> None:
    """Stopped after one step each, every element has moved from the last embedding by just that step's rate.

    (A fresh Adam's first step is the rate times the gradient's sign.)
    """
    model = tiny("sd1")
    source = invert(model, early_stop=1e9, learning_rate=0.02, inner_steps=10)
    last = model.encode_text([""]).hidden
    for i in range(4):
        moved = (source.null.hidden[i : i + 1] - last).abs()
        rate = 0.02 * (1 - i / 8)
        assert float(moved.median()) == pytest.approx(rate, rel=1e-2)
        assert float(moved.max()) <= rate * 1.001
        last = source.null.hidden[i : i + 1]


def test_the_edit_walks_down_with_the_optimised_embeddings(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = invert(model, inner_steps=2)
    text = model.encode_text([PROMPT])
    given = reference.conditions(text, source.null)
    states = denoise(model, source.z_T, given, source.schedule, TextGuidance(7.5))
    path = torch.cat([s.latents for s in states])
    torch.testing.assert_close(path, source.trajectory[1:], atol=1e-11, rtol=0)


def test_the_weights_stay_frozen_and_the_conditional_prediction_is_made_once(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("sd1")
    before = [p.clone() for p in model.denoiser.unet.parameters()]
    with_text = model.encode_text([PROMPT]).hidden
    calls: list[bool] = []
    forward = model.denoiser.unet.forward

    def counted(
        sample: torch.Tensor, t: int, encoder_hidden_states: torch.Tensor, **kwargs: object
    ) -> object:
        calls.append(torch.equal(encoder_hidden_states, with_text))
        return forward(sample, t, encoder_hidden_states=encoder_hidden_states, **kwargs)

    monkeypatch.setattr(model.denoiser.unet, "forward", counted)
    invert(model, inner_steps=3, early_stop=0.0, early_stop_growth=0.0)
    assert all(p.grad is None and not p.requires_grad for p in model.denoiser.unet.parameters())
    assert all(torch.equal(p, q) for p, q in zip(model.denoiser.unet.parameters(), before, strict=True))
    # up: one each; down: one with text, three inner steps, and the step itself without text
    assert calls == [True] * 4 + [True, False, False, False, False] * 4


def test_progress_tells_both_stages(tiny: Tiny) -> None:
    stages = []
    options = Options(steps=2, inner_steps=1)
    drain(null_text.invert(tiny("sd1"), picture(), PROMPT, options), stages.append)
    assert [(p.stage, p.step, p.total) for p in stages] == [
        ("inverting", 1, 2),
        ("inverting", 2, 2),
        ("optimising null text", 1, 2),
        ("optimising null text", 2, 2),
    ]


@pytest.mark.parametrize("options", [{"inner_steps": -1}, {"learning_rate": 0.0}, {"early_stop": -1.0}])
def test_options_out_of_range_are_named(options: dict[str, Any], tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=next(iter(options))):
        invert(tiny("sd1"), **options)
