"""Options that do nothing are named in the report, and those that do something are not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from wordbrush import edit
from wordbrush.errors import PromptError
from wordbrush.model import Model
from wordbrush.source import Source

Tiny, Seeded = Callable[..., Model], Callable[..., Source]
DOG, NIGHT, TEAPOT = "a dog on a beach", "a cat on a beach at night", "a cat and a teapot on a beach"

IDLE: dict[str, tuple[str, dict[str, Any], str]] = {
    "a weight without a window": (
        DOG,
        {"reweight": {"dog": 3}, "cross_replace_steps": 0.0},
        "reweight of 'dog'",
    ),
    "a window shorter than a step": (
        DOG,
        {"reweight": {"dog": 3}, "cross_replace_steps": 0.01},
        "reweight of 'dog'",
    ),
    "a window of a word that has its own maps": (
        NIGHT,
        {"word_steps": {"night": 0.5}},
        "word_steps of 'night'",
    ),
    "a limit without injection": (DOG, {"self_limit": 16, "self_replace_steps": 0.0}, "self_limit"),
    "injection nowhere": (DOG, {"self_limit": 0, "self_replace_steps": 0.5}, "self_replace_steps"),
    "spare things, and there are none": (DOG, {"spare": "things"}, "spare things"),
    "a threshold without words": (DOG, {"local_blend": "off", "blend_threshold": 0.5}, "blend_threshold"),
    "a start without words": (DOG, {"local_blend": "off", "blend_start": 0.5}, "blend_start"),
    "the same of what is spared": (DOG, {"spare_threshold": 0.5}, "spare_threshold"),
    "a start after the end": (DOG, {"blend_start": 1.0}, "local blend"),
}


@pytest.mark.parametrize("name", IDLE)
def test_an_option_without_effect_is_named_and_has_none(name: str, tiny: Tiny, seeded: Seeded) -> None:
    target, options, said = IDLE[name]
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    result = edit(model, source, target, options=options)
    assert any(notice.startswith(f"{said} does nothing: ") for notice in result.report.notices)
    if said != "local blend":
        first = next(iter(options))
        without = {key: value for key, value in options.items() if key not in (first, said)}
        without |= {key: options[key] for key in options if key in ("cross_replace_steps", "local_blend")}
        if said == "self_replace_steps":
            without = {"self_replace_steps": 0.0}
        assert torch.equal(edit(model, source, target, options=without).trajectory, result.trajectory)


def test_blending_that_never_starts_edits_everything(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    never = edit(model, source, DOG, options={"blend_start": 1.0})
    off = edit(model, source, DOG, options={"local_blend": "off", "spare": ()})
    assert never.report.edited_share == 1
    assert torch.equal(never.trajectory, off.trajectory)


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (DOG, {}),
        (DOG, {"reweight": {"dog": 3}}),
        (NIGHT, {"word_steps": {"cat": 0.5}}),
        (DOG, {"self_limit": 64, "self_replace_steps": 0.5}),
        (DOG, {"spare": ("beach",), "spare_threshold": 0.9}),
        (DOG, {"blend_threshold": 0.5, "blend_start": 0.5}),
        (DOG, {"blend_difference": 0.2, "local_blend": "off", "blend_start": 0.5}),
        (DOG, {"reweight": {"dog": 1}, "cross_replace_steps": 0.0}),
        (DOG, {"word_steps": {"dog": 0.0}}),
    ],
)
def test_an_option_with_effect_is_not(
    target: str, options: dict[str, Any], tiny: Tiny, seeded: Seeded
) -> None:
    result = edit(tiny("sd1", torch.float64), seeded("sd1"), target, options=options)
    assert not [notice for notice in result.report.notices if "does nothing" in notice]


@pytest.mark.parametrize("option", ["local_blend", "spare"])
def test_a_word_that_only_one_of_several_targets_has(option: str, tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    plain, teapot = edit(model, source, [DOG, TEAPOT], options={option: ("teapot",)})
    said = f"{option} teapot does nothing: neither this prompt nor the source's has such a word"
    assert said in plain.report.notices
    assert said not in teapot.report.notices
    with pytest.raises(PromptError, match="has no 'teapot'"):
        edit(model, source, [DOG, NIGHT], options={option: ("teapot",)})
