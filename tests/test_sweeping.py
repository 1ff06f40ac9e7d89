"""One option over several values: what is swept, what is refused, and that each value is the edit alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from wordbrush import edit, from_seed, invert, sweep
from wordbrush.errors import OptionsError, PromptError, WordbrushError
from wordbrush.images import to_image
from wordbrush.model import Model
from wordbrush.options import numeric
from wordbrush.progress import Progress
from wordbrush.sweeping import Swept

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"


def photo() -> Image.Image:
    return to_image(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1)


@pytest.mark.parametrize(
    ("option", "values"),
    [("cross-replace-steps", [0.0, 0.5, 1.0]), ("guidance_scale", [1.0, 4.0]), ("self_limit", [0, 64])],
)
def test_each_value_is_the_edit_alone(option: str, values: list[Any], tiny: Tiny) -> None:
    model = tiny("sd1")
    source = from_seed(model, CAT, steps=3, width=32, height=32)
    swept = sweep(model, source, DOG, option, values, options={"local_blend": "off"})
    name = option.replace("-", "_")
    for value, result in zip(values, swept, strict=True):
        alone = edit(model, source, DOG, options={"local_blend": "off", name: value})
        assert torch.equal(result.trajectory, alone.trajectory) and result.options[name] == value
    assert not torch.equal(swept[0].trajectory, swept[-1].trajectory)


def test_strength_is_swept_by_the_methods_dial(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = from_seed(model, CAT, steps=4, width=32, height=32)
    swept = sweep(model, source, DOG, "strength")
    assert [result.options["start"] for result in swept] == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert torch.equal(swept[0].trajectory, source.trajectory)
    assert torch.equal(swept[-1].trajectory, edit(model, source, DOG).trajectory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "values"), [("steps", [2, 3]), ("noise-seed", [0, 5]), ("guidance-scale", [2.0, 4.0])]
)
def test_an_inversions_option_inverts_anew(option: str, values: list[Any], tiny: Tiny) -> None:
    model = tiny("sd1")
    method = "straight" if option == "noise-seed" else "direct"
    swept = sweep(model, photo(), DOG, option, values, prompt=CAT, inversion=method)
    name = option.replace("-", "_")
    for value, result in zip(values, swept, strict=True):
        own = invert(model, photo(), CAT, method=method, options={name: value})
        both = {name: value} if name == "guidance_scale" else {}
        assert torch.equal(result.trajectory, edit(model, own, DOG, options=both).trajectory)


def test_a_picture_is_inverted_once_for_the_edits_options(tiny: Tiny) -> None:
    seen: list[Progress] = []
    values = [0.2, 0.8, 1.0]
    options = {"steps": 3}
    swept = sweep(
        tiny("sd1"),
        photo(),
        DOG,
        "cross_replace_steps",
        values,
        prompt=CAT,
        inversion="direct",
        inversion_options=options,
        on_progress=seen.append,
    )
    assert len({id(result.source) for result in swept}) == 1
    assert {p.stage for p in seen if "inverting" in p.stage} == {"inverting, cross-replace-steps = 0.2"}
    assert [(p.step, p.total) for p in seen if p.stage == "sweep"] == [(0, 3), (1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("cross-replace-steps", (0, 0.25, 0.5, 0.75, 1)),
        ("strength", (0, 0.25, 0.5, 0.75, 1)),
        ("finish", (0.25, 0.5, 0.75, 1)),  # it may not be 0
        ("steps", (1, 2, 4, 8, 16)),
        ("guidance-scale", (1, 2, 3, 5, 7.5)),
    ],
)
def test_values_by_default_suit_the_range(option: str, values: tuple[float, ...]) -> None:
    assert Swept.of(option, None, "prompt_to_prompt", "null_text").values == pytest.approx(values)


@pytest.mark.parametrize(
    ("option", "values", "said"),
    [
        ("reweight", None, "expected a numeric option to sweep, one of blend-difference.*, strength.*, got"),
        ("cross-replace-step", None, "did you mean 'cross-replace-steps'"),
        ("steps", [2], "one of .*got 'steps'"),  # the source is made
        ("finish", [0.5, 0.0], "'finish'.*greater than 0"),
        ("strength", [0.5, 1.5], "'strength'.*less than or equal to 1, got 1.5"),
        ("strength", [], "at least one value"),
        ("start", [float("nan")], "'start'"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_work(
    option: str, values: Any, said: str, tiny: Tiny
) -> None:
    model = tiny("sd1")
    source = from_seed(model, CAT, steps=1, width=32, height=32)
    seen: list[Progress] = []
    with pytest.raises(OptionsError, match=said):
        sweep(model, source, DOG, option, values, on_progress=seen.append)
    assert not seen


def test_one_option_has_one_say(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = from_seed(model, CAT, steps=1, width=32, height=32)
    tries: list[tuple[Any, dict[str, Any], type[WordbrushError], str]] = [
        (source, {"options": {"hold": 0.5}}, OptionsError, "hold is swept"),
        (source, {"prompt": CAT}, OptionsError, "already has its prompt"),
        (photo(), {}, PromptError, "say what it shows"),
    ]
    for start, given, kind, said in tries:
        with pytest.raises(kind, match=said):
            sweep(model, start, DOG, "hold", [0.0, 1.0], **given)
    with pytest.raises(OptionsError, match="strength or start"):
        sweep(model, source, DOG, "strength", options={"start": 0.5})


def test_windows_count_as_numbers_and_words_do_not() -> None:
    from wordbrush.editing.prompt_to_prompt.options import Options

    found = numeric(Options)
    assert {"cross_replace_steps", "self_limit", "start", "guidance_scale"} <= set(found)
    assert not {"reweight", "word_steps", "local_blend", "negative_prompt", "word_edit"} & set(found)
