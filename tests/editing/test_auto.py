"""The automatic choice: what it tries, what it keeps, and that the model sees whether a change is there."""

import math
from collections.abc import Callable

import pytest
import torch
from PIL import Image

from wordbrush import edit, from_seed, invert, record, sweep
from wordbrush.editing.auto import likelihood, method
from wordbrush.editing.auto.likelihood import gain
from wordbrush.model import Model
from wordbrush.pocket import caption, render, sample
from wordbrush.progress import drain
from wordbrush.schedule import Schedule
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT, CAT_AND_DOG, DOG = "a cat on a beach", "a cat and a dog on a beach", "a dog on a beach"


def photo() -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


@pytest.fixture
def source(tiny: Tiny) -> tuple[Model, Source]:
    model = tiny()
    return model, invert(model, photo(), CAT, method="straight", options={"steps": 4})


def judged(monkeypatch: pytest.MonkeyPatch, *answers: float) -> None:
    """Let the model answer this, in this order; it fails where more is asked."""
    left = list(answers)

    def answer(*_: object) -> object:
        yield from ()
        return left.pop(0)

    monkeypatch.setattr(method, "gain", answer)


def drawn(model: Model, seed: int, target: str = CAT_AND_DOG) -> torch.Tensor:
    """What Prompt-to-Prompt makes with the noise of that seed."""
    again = invert(model, photo(), CAT, method="straight", options={"steps": 4, "noise_seed": seed})
    return edit(model, again, target, method="prompt_to_prompt").trajectory


def test_what_explains_a_picture_is_found_by_the_noise_it_predicts(tiny: Tiny) -> None:
    """An independent count: the mean errors of the paper's equation 4, caption by caption, in float64."""
    model = tiny()
    schedule = Schedule.from_config(model.schedule_config, 5)
    latents = torch.randn(1, model.latent_channels, 4, 4, generator=torch.Generator().manual_seed(3))
    found = drain(gain(model, latents, CAT, DOG, schedule))

    alphas = torch.cumprod(1 - _betas(model), 0)
    ratios = {level.t: float(alphas[level.t] / (1 - alphas[level.t])) for level in schedule.levels[:-1]}
    t = min(
        ratios, key=lambda t: abs(math.sqrt(ratios[t] / (1 + ratios[t])) - math.sqrt(1 / (1 + ratios[t])))
    )
    side = 4 * model.downscale
    noise = likelihood.initial_latents(model, likelihood._SEED, side, side)  # pyright: ignore[reportPrivateUsage]
    noised = alphas[t].sqrt().float() * latents + (1 - alphas[t]).sqrt().float() * noise
    errors: list[float] = []
    for text in (CAT, DOG):
        embeds = model.encode_text([text]).hidden
        with torch.no_grad():
            predicted = model.denoiser.unet(noised, t, encoder_hidden_states=embeds).sample
        errors.append(float((predicted.double() - noise.double()).square().mean()))
    assert found == pytest.approx(errors[0] / errors[1] - 1, abs=1e-4)


def _betas(model: Model) -> torch.Tensor:
    config = model.schedule_config
    start, end = config["beta_start"] ** 0.5, config["beta_end"] ** 0.5
    return torch.linspace(start, end, 1000, dtype=torch.float64) ** 2


def test_what_is_seen_is_drawn_once(source: tuple[Model, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    model, origin = source
    judged(monkeypatch, 0.6)
    result = edit(model, origin, CAT_AND_DOG, options={"tries": 3})
    assert torch.equal(result.trajectory, drawn(model, 0))
    assert (result.report.details["tried"], result.report.details["noise_seed"]) == (1, 0)


def test_the_best_of_all_noises_is_kept(
    source: tuple[Model, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, origin = source
    judged(monkeypatch, 0.1, 0.3, 0.2)
    result = edit(model, origin, CAT_AND_DOG, options={"tries": 3})
    assert torch.equal(result.trajectory, drawn(model, 1))
    assert (result.report.details["tried"], result.report.details["noise_seed"]) == (3, 1)
    assert result.source is origin, "its record says how the picture was inverted, and the edit does the rest"
    once = edit(model, origin, CAT_AND_DOG, method="prompt_to_prompt").report.unet_rows
    assert result.report.unet_rows == 3 * (once + likelihood.ROWS)


def test_each_target_is_tried_for_itself(
    source: tuple[Model, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, origin = source
    judged(monkeypatch, 0.1, 0.9, 0.7)
    both = edit(model, origin, [CAT_AND_DOG, "a cat and a tree on a beach"], options={"tries": 2})
    assert [result.report.details["tried"] for result in both] == [2, 1]
    assert torch.equal(both[0].trajectory, drawn(model, 1))


def test_sure_says_when_to_stop(source: tuple[Model, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    model, origin = source
    judged(monkeypatch, 0.3)
    result = edit(model, origin, CAT_AND_DOG, options={"tries": 3, "sure": 0.3})
    assert result.report.details["tried"] == 1


def test_what_is_not_seen_is_said(source: tuple[Model, Source], monkeypatch: pytest.MonkeyPatch) -> None:
    model, origin = source
    judged(monkeypatch, -0.1, 0.01)
    result = edit(model, origin, CAT_AND_DOG, options={"tries": 2})
    assert any("does not see the change" in notice for notice in result.report.notices)


def test_models_that_nobody_measured_draw_once(source: tuple[Model, Source]) -> None:
    model, origin = source
    result = edit(model, origin, CAT_AND_DOG)
    assert "tried" not in result.report.details
    plain = edit(model, origin, CAT_AND_DOG, method="prompt_to_prompt")
    assert torch.equal(result.trajectory, plain.trajectory)
    assert result.report.unet_rows == plain.report.unet_rows


def test_a_weaker_edit_is_drawn_once(source: tuple[Model, Source]) -> None:
    model, origin = source
    weaker = edit(model, origin, CAT_AND_DOG, options={"tries": 3}, strength=0.5)
    assert "tried" not in weaker.report.details
    assert not any("tries" in notice for notice in weaker.report.notices)
    assert len(sweep(model, origin, CAT_AND_DOG, "strength", [0.0, 1.0])) == 2


def test_a_source_with_its_own_path_has_no_noise_to_choose(tiny: Tiny) -> None:
    model = tiny()
    result = edit(model, from_seed(model, CAT, steps=3), CAT_AND_DOG, options={"tries": 3})
    assert any("tries does nothing here" in notice for notice in result.report.notices)


def test_targets_of_different_kinds_keep_their_order(
    source: tuple[Model, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, origin = source
    monkeypatch.setattr(method.defaults, "MEASURED", model.name)
    judged(monkeypatch, 0.9, 0.1, 0.8)
    targets = [CAT_AND_DOG, "a beach", "a cat and a tree on a beach", CAT]
    results = edit(model, origin, targets)
    assert [result.prompt for result in results] == targets
    assert [result.report.details.get("tried") for result in results] == [1, None, 2, None]
    alone = edit(model, origin, "a beach", method="prompt_to_prompt")
    assert torch.allclose(results[1].trajectory, alone.trajectory, atol=1e-5)


def test_options_of_the_method_are_never_overruled(source: tuple[Model, Source]) -> None:
    model, origin = source
    options = {"cross_replace_steps": 0.25, "guidance_scale": 1.5}
    auto = edit(model, origin, DOG, options=options)
    assert torch.equal(
        auto.trajectory, edit(model, origin, DOG, method="prompt_to_prompt", options=options).trajectory
    )
    assert auto.report.guidance_scale == 1.5


def test_a_recording_of_the_first_noise_is_not_read_by_the_second(
    source: tuple[Model, Source], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, origin = source
    judged(monkeypatch, 0.0, 1.0)
    result = edit(model, record(model, origin, precision="full"), CAT_AND_DOG, options={"tries": 2})
    assert torch.equal(result.trajectory, drawn(model, 1))


@pytest.mark.slow
def test_the_model_sees_what_is_in_a_picture() -> None:
    """On the built-in world: the caption that tells the truth explains a picture better, whatever the other leaves out
    or adds."""
    model = Model.load("pocket")
    for number, other in ((7, "guitar"), (8, "teapot"), (9, "dragon")):
        scene = sample(number, things=1)
        picture, true = render(scene), caption(scene)
        source = invert(model, picture, true, method="straight")
        assert other not in true
        more = f"{true} and a {other}"
        assert drain(gain(model, source.z_0, true, more, source.schedule)) < 0
        (name,) = (thing.name for thing in scene.things)
        swapped = true.replace(name, other)
        assert drain(gain(model, source.z_0, swapped, true, source.schedule)) > method.UNSEEN
