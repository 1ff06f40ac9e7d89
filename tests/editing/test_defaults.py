"""What Prompt-to-Prompt decides where the user does not, and what it says of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from PIL import Image

from wordbrush import edit, from_seed, inversion, invert
from wordbrush.changes import Change, read
from wordbrush.editing.prompt_to_prompt import defaults
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.model import Model
from wordbrush.source import Source
from wordbrush.words import align

Tiny, Seeded = Callable[..., Model], Callable[..., Source]
CAPTION = "a cat on a beach"
TARGETS = {
    "swap": "a dog on a beach",
    "recolour": "a red cat on a beach",
    "resize": "a large cat on a beach",
    "add": "a cat and a dog on a beach",
    "place": "a cat in a forest",
    "light": "a cat on a beach at night",
    "style": "a sketch of a cat on a beach",
    "relation": "a cat under a beach",
    "several": "a red dog on a beach",
    "nothing": CAPTION,
}


def photo() -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


@pytest.fixture
def straight(tiny: Tiny) -> Source:
    return invert(tiny("sd1", torch.float64), photo(), CAPTION, method="straight", options={"steps": 4})


def change(model: Model, target: str) -> Change:
    return read(align(model.read(CAPTION), model.read(target)))


@pytest.mark.parametrize("kind", TARGETS)
def test_everything_is_decided_for_every_kind_of_change(
    kind: str, tiny: Tiny, seeded: Seeded, straight: Source
) -> None:
    model = tiny("sd1", torch.float64)
    asked = change(model, TARGETS[kind])
    assert asked.kind == kind
    for source in (straight, seeded("sd1")):
        decided = defaults.decided(Options(), asked, source)
        left = {name for name, value in decided if value is None}
        assert left <= {"self_limit", "guidance_scale", "negative_prompt"} and decided.spare != "auto"
    # A trajectory of its own: the published values, whatever the words say.
    decided = defaults.decided(Options(), asked, seeded("sd1"))
    assert (decided.cross_replace_steps, decided.self_replace_steps, decided.finish) == (0.8, 0.4, 1.0)
    assert (decided.hold, decided.blend_difference, decided.spare) == (0.0, 0.0, ())


GIVEN: dict[str, Any] = {
    "cross_replace_steps": (0.1, 0.3),
    "self_replace_steps": 0.0,
    "blend_start": 0.0,
    "blend_threshold": 0.0,
    "blend_difference": 0.0,
    "spare": ("beach",),
    "spare_threshold": 0.9,
    "hold": 0.0,
    "finish": 0.9,
    "guidance_scale": 0.0,
}


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("name", GIVEN)
def test_what_is_given_is_never_overruled(name: str, kind: str, tiny: Tiny, straight: Source) -> None:
    asked = change(tiny("sd1", torch.float64), TARGETS[kind])
    given = Options(**{name: GIVEN[name]})
    decided = defaults.decided(given, asked, straight)
    assert getattr(decided, name) == GIVEN[name]
    assert name not in defaults.chosen(given, decided)


def test_the_report_says_what_was_read_and_what_was_chosen(tiny: Tiny, straight: Source) -> None:
    model = tiny("sd1", torch.float64)
    report = edit(model, straight, TARGETS["place"], options={"hold": 0.3}).report.as_json()
    assert report["change"] == "place" and "'forest'" in report["because"]
    assert report["chosen"]["cross_replace_steps"] == 0.5 and "hold" not in report["chosen"]


def test_a_model_on_which_nobody_has_measured_is_told(tiny: Tiny, straight: Source) -> None:
    model = tiny("sd1", torch.float64)
    assert inversion.default(model.name) == "direct" and inversion.default("pocket") == "straight"
    by_default = invert(model, photo(), CAPTION, options={"steps": 2})
    assert by_default.method == "direct"
    (said,) = edit(model, by_default, TARGETS["swap"]).report.notices
    assert "--inversion straight" in said and model.name in said
    (said,) = edit(model, straight, TARGETS["swap"]).report.notices
    assert "nobody has measured" in said
    assert edit(model, from_seed(model, CAPTION, steps=2), TARGETS["swap"]).report.notices == ()


def test_a_picture_that_the_model_cannot_draw_is_told(
    tiny: Tiny, straight: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A random network denoises nothing; the words are those that the built-in model would use."""
    model = tiny("sd1", torch.float64)
    monkeypatch.setattr(defaults, "MEASURED", model.name)
    source = replace(straight, model_hash=model.hash)
    (said,) = edit(model, source, TARGETS["light"]).report.notices
    assert "cannot draw this picture" in said
    monkeypatch.setattr(defaults, "_STRANGE", ((374, 1e9), (749, 1e9)))
    assert edit(model, source, TARGETS["light"]).report.notices == ()


@pytest.mark.slow
def test_pocket_tells_a_scene_from_noise_and_from_another_caption() -> None:
    from wordbrush.pocket import caption, render, sample

    model = Model.load("pocket", device="cpu")
    scene = sample(3, things=1, split="test")
    said = [
        edit(model, invert(model, picture, prompt), f"{prompt} at night").report.notices
        for picture, prompt in (
            (render(scene), caption(scene)),
            (photo().resize((128, 128), Image.Resampling.NEAREST), caption(scene)),
        )
    ]
    assert not said[0] and any("cannot draw" in notice for notice in said[1])
