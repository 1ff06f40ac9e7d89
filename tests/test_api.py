"""The verbs, on a tiny model."""

import doctest
import functools
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import wordbrush
from wordbrush import api, images, provenance
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.errors import ImageError, ModelError, OptionsError, PromptError
from wordbrush.model import Model
from wordbrush.progress import Progress

Tiny = Callable[..., Model]
PROMPT = "a cat on a beach"


@pytest.fixture
def photo() -> Image.Image:
    pixels = torch.rand(3, 40, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return images.to_image(pixels)


def test_the_public_names_are_sorted_and_there() -> None:
    assert list(wordbrush.__all__) == sorted(wordbrush.__all__)
    assert all(getattr(wordbrush, name) is not None for name in wordbrush.__all__)
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        _ = wordbrush.paint


@pytest.fixture(scope="session")
def load() -> Callable[..., Model]:
    """`Model.load`, once for all examples."""
    return functools.cache(Model.load)


@pytest.mark.parametrize("name", [*wordbrush.__all__, "check_edit"])
def test_what_is_offered_has_an_example_and_it_runs(
    name: str, load: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Model, "load", load)
    thing = getattr(wordbrush, name, None) or getattr(api, name)
    names = {**vars(api), **{public: getattr(wordbrush, public) for public in wordbrush.__all__}}
    (example,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs=names)
    assert example.examples
    told: list[str] = []
    doctest.DocTestRunner().run(example, out=told.append)
    assert not told, "".join(told)


def test_generate_is_the_picture_of_from_seed(tiny: Tiny) -> None:
    model = tiny("sd1")
    seen: list[Progress] = []
    picture = wordbrush.generate(model, PROMPT, seed=3, steps=2, width=24, height=36, on_progress=seen.append)
    source = wordbrush.from_seed(model, PROMPT, seed=3, steps=2, width=24, height=36)
    assert picture.size == (24, 36) and [p.step for p in seen] == [1, 2]
    assert picture.tobytes() == source.image(model).tobytes()


def test_a_picture_is_inverted_and_edited(tiny: Tiny, photo: Image.Image, tmp_path: Path) -> None:
    model = tiny("sd1")
    source = wordbrush.invert(model, photo, PROMPT, options={"steps": 3})
    assert source.method == "direct" and source.trajectory.shape == (4, 4, 16, 16)
    photo.save(tmp_path / "photo.png")
    by_path = wordbrush.invert(model, tmp_path / "photo.png", PROMPT, options={"steps": 3})
    assert torch.equal(by_path.trajectory, source.trajectory)
    one = wordbrush.edit(model, source, "a dog on a beach")
    several = wordbrush.edit(model, source, ["a dog on a beach", "a cat on a beach at night"])
    assert isinstance(several, list) and not isinstance(one, list)
    assert [r.prompt for r in several] == ["a dog on a beach", "a cat on a beach at night"]
    torch.testing.assert_close(several[0].trajectory, one.trajectory, atol=1e-3, rtol=0)
    assert one.image.size == (32, 32) and one.source is source


def test_options_may_be_a_mapping_or_a_value(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = wordbrush.from_seed(model, PROMPT, steps=2)
    told = {"word_edit": "refine", "reweight": {"dog": 2.0}}
    as_mapping = wordbrush.edit(model, source, "a dog on a beach", options=told)
    as_value = wordbrush.edit(model, source, "a dog on a beach", options=Options.model_validate(told))
    assert torch.equal(as_mapping.trajectory, as_value.trajectory)
    assert as_mapping.report.details["word_edit"] == "refine"


def test_heatmap(tiny: Tiny, photo: Image.Image) -> None:
    assert wordbrush.heatmap(tiny("sd1"), photo, PROMPT, "cat").size == (32, 32)


def test_methods_are_told() -> None:
    assert sorted(wordbrush.inversion_methods()) == [
        "ddim",
        "direct",
        "negative_prompt",
        "null_text",
        "straight",
    ]
    assert "prompt_to_prompt" in wordbrush.editing_methods()


MISTAKES: dict[str, tuple[Callable[[Model, Image.Image], object], type[Exception], str]] = {
    "empty prompt": (lambda m, _: api.generate(m, "  "), PromptError, "says what the picture shows"),
    "empty prompt of a picture": (
        lambda m, p: api.invert(m, p, ""),
        PromptError,
        "says what the picture shows",
    ),
    "empty target": (
        lambda m, _: api.edit(m, api.from_seed(m, PROMPT, steps=1), ["a dog", ""]),
        PromptError,
        "says what the picture shows",
    ),
    "no target": (
        lambda m, _: api.edit(m, api.from_seed(m, PROMPT, steps=1), []),
        PromptError,
        "at least one",
    ),
    "prompt too long": (lambda m, _: api.generate(m, "cat " * 50), PromptError, "from 'cat cat"),
    "steps": (
        lambda m, _: api.generate(m, PROMPT, steps=0),
        OptionsError,
        "'steps': expected greater than or equal to 1",
    ),
    "guidance": (lambda m, _: api.generate(m, PROMPT, guidance_scale=math.nan), OptionsError, "got nan"),
    "seed": (
        lambda m, _: api.generate(m, PROMPT, seed=-3),
        OptionsError,
        "'seed': expected greater than or equal to 0",
    ),
    "size": (lambda m, _: api.generate(m, PROMPT, width=33), ModelError, "multiples of 2 px"),
    "no size": (lambda m, _: api.generate(m, PROMPT, height=0), ModelError, "multiples of 2 px"),
    "inversion": (
        lambda m, p: api.invert(m, p, PROMPT, method="nulltext"),
        OptionsError,
        "did you mean 'null_text'",
    ),
    "editing method": (
        lambda m, _: api.edit(m, api.from_seed(m, PROMPT, steps=1), "a dog", method="p2p"),
        OptionsError,
        "there is prompt_to_prompt|did you mean 'prompt_to_prompt'",
    ),
    "option": (
        lambda m, p: api.invert(m, p, PROMPT, options={"guidance": 3}),
        OptionsError,
        "unknown option 'guidance'; did you mean 'guidance_scale'",
    ),
    "missing picture": (lambda m, _: api.invert(m, "no-such.png", PROMPT), ImageError, "no-such.png"),
    "word": (lambda m, p: api.heatmap(m, p, PROMPT, "dgo"), PromptError, "has no 'dgo'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_answered_before_any_work_is_done(mistake: str, tiny: Tiny, photo: Image.Image) -> None:
    attempt, kind, said = MISTAKES[mistake]
    with pytest.raises(kind, match=said):
        attempt(tiny("sd1"), photo)


def test_values_of_a_wrong_kind_are_answered_too() -> None:
    """In a process of its own: the tests' type checker would answer before the library does."""
    code = """
import wordbrush as w
model = w.Model.load("pocket")
source = w.from_seed(model, "a cat on a beach", steps=1)
for attempt in (
    lambda: w.generate(model, None),
    lambda: w.generate(model, "a cat", steps="four"),
    lambda: w.generate(model, "a cat", seed=1.5),
    lambda: w.edit(model, source, 3),
    lambda: w.edit(model, source, [3]),
    lambda: w.Model.load("pocket", device="abacus"),
):
    try:
        attempt()
    except w.InputError as error:
        print(f"{type(error).__name__}: {error}")
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = told.stdout.splitlines()
    assert lines[:5] == [
        "PromptError: expected a prompt that says what the picture shows, got None",
        "OptionsError: option 'steps': expected a valid integer, unable to parse string as an integer, got 'four'",
        "OptionsError: option 'seed': expected a valid integer, got a number with a fractional part, got 1.5",
        "PromptError: expected a target prompt, or a list of them, got 3",
        "PromptError: expected a prompt that says what the picture shows, got 3",
    ], told.stderr
    assert lines[5].startswith("ModelError: there is no device 'abacus' here; there is cpu")


# Replay -----------------------------------------------------------------------------------------------------


def keep(path: Path, picture: Image.Image, told: dict[str, Any]) -> Path:
    images.save_png(picture, path, told)
    return path


def test_a_generated_picture_is_made_again(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sd1")
    source = wordbrush.from_seed(model, PROMPT, seed=9, steps=2, width=24)
    told = provenance.SourceRecord(
        method="seed",
        prompt=PROMPT,
        steps=2,
        guidance_scale=source.guidance_scale,
        width=24,
        height=32,
        options=dict(source.options),
    )
    picture = source.image(model)
    path = keep(tmp_path / "cat.png", picture, provenance.record("generate", model, told, picture))
    again = wordbrush.replay(path, model=model)
    assert again.differences == () and again.image.tobytes() == picture.tobytes()
    other = wordbrush.replay(path, model=tiny("sd2"))
    assert any(difference.startswith("the model:") for difference in other.differences)


@pytest.mark.parametrize("from_file", [False, True])
def test_an_edit_of_a_picture_is_made_again(
    from_file: bool, tiny: Tiny, photo: Image.Image, tmp_path: Path
) -> None:
    """From the picture that was inverted, or from a saved source."""
    model = tiny("sd1")
    photo.save(tmp_path / "photo.png")
    source = wordbrush.invert(model, tmp_path / "photo.png", PROMPT, options={"steps": 2})
    source.save(tmp_path / "photo.source")
    if from_file:
        source = wordbrush.Source.load(tmp_path / "photo.source", model)
    path = tmp_path / "dog.png"
    targets = ("a fox on a beach", "a dog on a beach")
    options = {"reweight": {"beach": 1.5}}
    results = wordbrush.edit(model, source, targets, options=options)
    results[1].save(path)
    again = wordbrush.replay(path, model=model)
    assert again.differences == ()
    (tmp_path / ("photo.source" if from_file else "photo.png")).write_bytes(b"something else")
    with pytest.raises(ImageError, match="has changed since"):
        wordbrush.replay(path, model=model)


def test_a_picture_without_a_record_cannot_be_replayed(photo: Image.Image, tmp_path: Path) -> None:
    photo.save(tmp_path / "photo.png")
    with pytest.raises(ImageError):
        wordbrush.replay(tmp_path / "photo.png")
