"""One slider for every editing method: from the source to the whole edit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from wordbrush import check_edit, edit, from_seed, invert, replay
from wordbrush.editing import METHODS, Dial, dialled
from wordbrush.errors import OptionsError
from wordbrush.evaluation.bench.cases import KINDS, UNCHANGED, Case, split
from wordbrush.evaluation.bench.success import Readings, succeeded
from wordbrush.images import to_image
from wordbrush.model import Model
from wordbrush.result import Result
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"
VALUES = (0.0, 0.25, 0.5, 0.75, 1.0)
INVERSIONS: dict[str, dict[str, Any]] = {
    "straight": {"steps": 4},
    "direct": {"steps": 4},
    "ddim": {"steps": 4},
    "null_text": {"steps": 4, "null_optimizer": "adam", "inner_steps": 2, "learning_rate": 0.1},
    "negative_prompt": {"steps": 4},
    "edict": {"steps": 4, "skip": 0.0},
    "edit_friendly": {"steps": 4, "skip": 0.0},
}
WHOLE_STEPS = ("edict", "edit_friendly")  # nothing is known between these


def photo() -> Image.Image:
    return to_image(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1)


def source_of(model: Model, kind: str) -> Source:
    if kind == "seed":
        return from_seed(model, CAT, seed=3, steps=4, width=32, height=32)
    return invert(model, photo(), CAT, method=kind, options=INVERSIONS[kind])


@pytest.mark.parametrize("kind", ["seed", *INVERSIONS])
@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_0_is_the_source_and_1_the_default_edit(shape: str, kind: str, tiny: Tiny) -> None:
    model = tiny(shape)
    source = source_of(model, kind)
    nothing, little, whole, untold = (
        edit(model, source, DOG, strength=strength) for strength in (0.0, 0.3, 1.0, None)
    )
    assert torch.equal(nothing.trajectory, source.trajectory)
    assert nothing.report.unet_rows == 0 and not nothing.mask.any()
    assert "the picture is the source" in " ".join(nothing.report.notices)
    assert torch.equal(whole.trajectory, untold.trajectory)
    if kind in WHOLE_STEPS:
        assert len(little.trajectory) == 2 and 0 < little.report.unet_rows < whole.report.unet_rows
    else:
        assert little.trajectory.shape == whole.trajectory.shape
        assert little.report.unet_rows == whole.report.unet_rows > 0
    assert 0 < away(little) and torch.isfinite(little.trajectory).all()


@pytest.mark.parametrize("kind", ["seed", *INVERSIONS])
def test_a_weak_edit_is_near_the_source(kind: str, tiny: Tiny) -> None:
    """There is no jump at 0: a source's states are known between its steps."""
    model = tiny("sd1")
    source = source_of(model, kind)
    weak, half = (away(edit(model, source, DOG, strength=strength)) for strength in (0.01, 0.5))
    assert weak < half / 5


def away(result: Result) -> float:
    return float((result.trajectory[-1:] - result.source.z_0).abs().mean())


def test_each_step_has_the_null_embedding_of_where_it_is(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = source_of(model, "null_text")
    late = source.late(0.5, model)
    assert late.steps == source.steps == len(late.null)
    assert torch.equal(late.null.hidden, source.null.hidden[[2, 2, 3, 3]])
    assert torch.equal(late.trajectory[[0, 2, 4]], source.trajectory[2:])
    assert source.late(0.0, model) is source


def test_words_and_heat_maps_work_at_every_strength(tiny: Tiny) -> None:
    model = tiny("sd1")
    result = edit(model, source_of(model, "direct"), DOG, strength=0.5)
    assert result.word_map("dog").shape == (16, 16) and result.report.words == "a [cat → dog] on a beach"


@pytest.mark.parametrize(
    ("options", "strength", "said"),
    [
        ({"start": 0.5}, 0.5, "expected strength or start, which says the same, got both"),
        ({"start": 0.0}, 1.0, "got both"),
        ({}, 1.01, "'strength': expected less than or equal to 1, got 1.01"),
        ({}, -0.1, "greater than or equal to 0, got -0.1"),
        ({}, float("nan"), "'strength'"),
    ],
)
def test_what_no_slider_can_say_is_refused(
    tiny: Tiny, options: dict[str, Any], strength: Any, said: str
) -> None:
    model = tiny("sd1")
    source = from_seed(model, CAT, steps=1, width=32, height=32)
    for attempt in (
        lambda: edit(model, source, DOG, options=options, strength=strength),
        lambda: check_edit(model, CAT, [DOG], options=options, strength=strength),
        lambda: edit(model, photo(), DOG, prompt=CAT, options=options, strength=strength),
    ):
        with pytest.raises(OptionsError, match=said):
            attempt()


def test_the_record_says_it_with_the_option(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sd1")
    result = edit(model, from_seed(model, CAT, steps=4, width=32, height=32), DOG, strength=0.25)
    assert result.options == {"start": 0.75}
    result.save(tmp_path / "dog.png")
    assert replay(tmp_path / "dog.png", model=model).differences == ()


@pytest.mark.parametrize("name", METHODS)
def test_every_dial_is_an_option_of_its_method(name: str) -> None:
    dial, options = METHODS[name].load().STRENGTH, METHODS[name].options()
    assert dialled(name, {}, None) == {}
    assert dialled(name, {}, 0.0) == {dial.option: dial.source}
    assert dialled(name, {}, 1.0) == {dial.option: dial.full}
    options.model_validate(dialled(name, {}, 0.5))
    assert options.model_fields[dial.option].default == dial.full


def test_a_dial_may_turn_either_way() -> None:
    assert Dial("left", source=1.0, full=0.5).at(0.5) == {"left": 0.75}
    assert Dial("scale", source=0.0, full=8.0).at(0.25) == {"scale": 2.0}


# On the built-in model --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pocket() -> Model:
    return Model.load("pocket", device="cpu")


def edited(model: Model, one: Case) -> list[Result]:
    source = invert(model, one.picture, one.source_prompt)
    return [edit(model, source, one.target_prompt, strength=strength) for strength in VALUES]


def distances(results: list[Result]) -> list[float]:
    """Mean absolute differences to the source's rendering, in 8-bit steps."""
    pictures = [np.asarray(result.image, dtype=float) for result in results]
    return [float(np.abs(picture - pictures[0]).mean()) for picture in pictures]


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != UNCHANGED])
def test_the_distance_from_the_source_grows(kind: str, pocket: Model) -> None:
    (one,) = split(555, 1, kind)
    found = distances(edited(pocket, one))
    assert found[0] == 0 and found[1] > 0.5
    assert all(more > 0.95 * less for less, more in zip(found, found[1:], strict=False)), found


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != UNCHANGED])
def test_success_and_distance_grow_on_rendered_truth(kind: str, pocket: Model) -> None:
    from wordbrush.evaluation.judges.judges import Judges

    reader = Judges.load(reader=True).reader
    assert reader is not None
    seen, far = list[list[bool]](), list[list[float]]()
    for one in split(777, 8, kind):
        results = edited(pocket, one)

        def read(picture: Image.Image, one: Case = one) -> Readings:
            return Readings(reader.read([picture])[0], reader.read([picture], [one.mask])[0])

        before, truth = read(one.picture), read(one.truth)
        seen.append([succeeded(one, read(result.image), before, truth) for result in results])
        far.append(distances(results))
    success, distance = np.mean(seen, 0), np.mean(far, 0)
    assert success[0] <= 0.13 and success[-1] >= 0.75  # the reader is unsure of one size in ten
    assert (np.diff(success) >= -0.13).all() and (np.diff(distance) > -0.01 * distance[-1]).all()
