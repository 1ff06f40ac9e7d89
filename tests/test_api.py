"""The verbs, on a tiny model."""

import doctest
import functools
import importlib.metadata
import io
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

import wordbrush
from teaching import concept, customised
from wordbrush import api, images, training
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
    assert wordbrush.__version__ == importlib.metadata.version("wordbrush")
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    assert [name for name in wordbrush.__all__ if f"`{name}`" not in page] == []
    with pytest.raises(AttributeError, match="no attribute 'paint'"):
        _ = wordbrush.paint


@pytest.fixture(scope="session")
def load() -> Callable[..., Model]:
    """`Model.load`, once for all examples."""
    return functools.cache(Model.load)


@pytest.mark.slow
@pytest.mark.parametrize("name", wordbrush.__all__)
def test_what_is_offered_has_an_example_and_it_runs(
    name: str, load: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Model, "load", load)
    concept(load("pocket")).save("my-cat.concept")
    for seed, noun in enumerate(("dog", "vase")):
        customised(load("pocket"), f"<my-{noun}>", noun, seed=seed).save(f"my-{noun}.concept")
    thing = getattr(wordbrush, name)
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
    assert source.method == "direct" and source.trajectory.shape == (4, 4, 14, 18)
    photo.save(tmp_path / "photo.png")
    by_path = wordbrush.invert(model, tmp_path / "photo.png", PROMPT, options={"steps": 3})
    assert torch.equal(by_path.trajectory, source.trajectory)
    one = wordbrush.edit(model, source, "a dog on a beach")
    several = wordbrush.edit(model, source, ["a dog on a beach", "a cat on a beach at night"])
    assert isinstance(several, list) and not isinstance(one, list)
    assert [r.prompt for r in several] == ["a dog on a beach", "a cat on a beach at night"]
    torch.testing.assert_close(several[0].trajectory, one.trajectory, atol=1e-3, rtol=0)
    assert one.image.size == photo.size and one.rendering.size == (36, 28) and one.source is source


def test_options_may_be_a_mapping_or_a_value(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = wordbrush.from_seed(model, PROMPT, steps=2)
    told = {"word_edit": "refine", "reweight": {"dog": 2.0}}
    as_mapping = wordbrush.edit(model, source, "a dog on a beach", options=told)
    as_value = wordbrush.edit(model, source, "a dog on a beach", options=Options.model_validate(told))
    assert torch.equal(as_mapping.trajectory, as_value.trajectory)
    assert as_mapping.report.details["word_edit"] == "refine"


def test_heatmap(tiny: Tiny, photo: Image.Image) -> None:
    assert wordbrush.heatmap(tiny("sd1"), photo, PROMPT, "cat").size == photo.size


def test_methods_are_told() -> None:
    assert sorted(wordbrush.inversion_methods()) == [
        "ddim",
        "direct",
        "edict",
        "edit_friendly",
        "fixed_point",
        "negative_prompt",
        "null_text",
        "regularised",
        "renoise",
        "straight",
    ]
    assert "prompt_to_prompt" in wordbrush.editing_methods()
    assert list(wordbrush.training_methods()) == list(training.METHODS)


@pytest.mark.slow
def test_a_training_goes_on_where_it_was_stopped(tiny: Tiny, photo: Image.Image, tmp_path: Path) -> None:
    model, work = tiny("sd1"), tmp_path / "work"
    told = {"prompt": "a sks cat", "steps": 3, "checkpoint_every": 1}
    photo.save(tmp_path / "photo.png")
    given = [tmp_path / "photo.png", photo.rotate(180)]
    whole = wordbrush.train(model, given, "lora", options=told)

    def stop(progress: Progress) -> None:
        if progress.stage == "training" and progress.step == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        wordbrush.train(model, given, "lora", options=told, work=work, on_progress=stop)
    seen: list[Progress] = []
    value = training.METHODS["lora"].options().model_validate(told)
    concept = wordbrush.train(model, given, "lora", options=value, work=work, on_progress=seen.append)
    assert [progress.step for progress in seen if progress.stage == "training"] == [1, 2, 3]
    assert concept.record == whole.record and concept.pictures[1].name == "picture 2"
    assert sorted(path.name for path in work.iterdir()) == ["log.jsonl", "samples", "strip.png"]
    with pytest.raises(OptionsError, match="no training method 'lara'; did you mean 'lora'"):
        wordbrush.train(model, given, "lara", options=told)


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
        "there is auto, prompt_to_prompt|did you mean 'prompt_to_prompt'",
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


@pytest.mark.slow
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
    lambda: w.generate("pocket", "a cat"),
    lambda: w.generate(None, "a cat"),
    lambda: w.edit(model, w.generate(model, "a cat", steps=1), "a dog"),
    lambda: w.edit(model, "cat.png", "a dog"),
    lambda: w.edit(model, source, "a dog on a beach", prompt="a cat"),
    lambda: w.edit(model, source, "a dog on a beach", options=[1]),
    lambda: w.invert(model, b"PNG", "a cat"),
    lambda: w.invert(model, None, "a cat"),
    lambda: w.invert(model, source, "a cat"),
    lambda: w.invert(model, "https://a.example/cat.png", "a cat"),
    lambda: w.invert(model, ["a.png"], ["a", "b"]),
    lambda: w.generate(model, "a cat", steps=True),
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
    at_once = 'to edit a picture at once, say what it shows: edit(…, prompt="a cat on a beach")'
    a_picture = "expected a picture (a PIL image, a file's path, a file object, an array or a tensor)"
    assert lines[6:] == [
        "ModelError: expected a model, as Model.load('pocket') gives one, got str",
        "ModelError: expected a model, as Model.load() gives one, got NoneType",
        f"PromptError: expected a source, as invert and from_seed make them, got Recorded; {at_once}",
        f"PromptError: expected a source, as invert and from_seed make them, got str; {at_once}",
        "OptionsError: the source already has its prompt and its steps: leave prompt out",
        "OptionsError: expected options as a mapping of names to values, got list",
        f"ImageError: {a_picture}, got bytes; pass the path of its file, or io.BytesIO of it",
        f"ImageError: {a_picture}, got NoneType",
        "ImageError: expected a picture to invert, got a source: edit it as it is",
        "ImageError: expected a picture file, got the address 'https://a.example/cat.png'; download it first",
        "PromptError: expected one prompt, or one for each of 1 pictures, got 2",
        "OptionsError: option 'steps': expected a number or text, got True",
    ]


def test_a_picture_may_be_given_in_many_forms(tiny: Tiny, photo: Image.Image, tmp_path: Path) -> None:
    model = tiny("sd1")
    photo.save(tmp_path / "photo.png")
    array = np.asarray(photo)
    forms: list[images.Pixels] = [
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
        io.BytesIO((tmp_path / "photo.png").read_bytes()),
        array,
        array.astype(np.float64) / 255,
        images.to_tensor(photo),
        images.to_tensor(photo)[0],
    ]
    expected = wordbrush.invert(model, photo, PROMPT, options={"steps": 1}).trajectory
    sources = wordbrush.invert(model, forms, PROMPT, options={"steps": 1})
    assert all(torch.equal(source.trajectory, expected) for source in sources)
    two = wordbrush.invert(model, [photo, photo], ["a cat", "a dog"], options={"steps": 1})
    assert [source.prompt for source in two] == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("picture", "said"),
    [
        (np.zeros((4, 4, 3), np.int64), r"uint8, or of floats in \[0, 1\], got int64"),
        (np.full((4, 4, 3), 1.5), r"in \[0, 1\], got float64 in \[1.5, 1.5\]"),
        (np.full((4, 4, 3), np.nan), r"in \[0, 1\], got float64 in \[nan, nan\]"),
        (np.zeros((3, 4, 5), np.uint8), r"\(height, width, 3\), got one of shape \(3, 4, 5\)"),
        (np.zeros((0, 4, 3), np.uint8), r"shape \(0, 4, 3\)"),
        (torch.zeros(4, 4, 3), r"\(3, height, width\) in \[−1, 1\], got float32 \(4, 4, 3\)"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), r"of floats .*, got uint8 \(3, 4, 4\)"),
        (torch.full((3, 4, 4), 255.0), r"in \[−1, 1\], got one in \[255, 255\]"),
        (torch.full((3, 4, 4), torch.nan), r"in \[−1, 1\], got one in \[nan, nan\]"),
        (io.StringIO("no bytes"), "a file object of bytes, got one of str; open it with 'rb'"),
        (io.BytesIO(b"no picture"), "the file object is not a picture that can be read"),
    ],
)
def test_values_out_of_their_stated_range_are_refused(picture: images.Pixels, said: str, tiny: Tiny) -> None:
    with pytest.raises(ImageError, match=said):
        wordbrush.invert(tiny("sd1"), picture, PROMPT)


def test_one_call_edits_a_picture(tiny: Tiny, photo: Image.Image) -> None:
    model, steps = tiny("sd1"), {"steps": 2}
    source = wordbrush.invert(model, photo, PROMPT, method="ddim", options=steps)
    expected = wordbrush.edit(model, source, "a dog on a beach")
    result = wordbrush.edit(
        model, photo, "a dog on a beach", prompt=PROMPT, inversion="ddim", inversion_options=steps
    )
    assert torch.equal(result.trajectory, expected.trajectory)
    first, second = wordbrush.edit(
        model, [photo, photo], "a dog on a beach", prompt=PROMPT, inversion="ddim", inversion_options=steps
    )
    assert torch.equal(first.trajectory, expected.trajectory) and first.source is not second.source
    ((of_source,),) = wordbrush.edit(model, [source], ["a dog on a beach"])
    assert torch.equal(of_source.trajectory, expected.trajectory)


def test_a_result_in_a_notebook(tiny: Tiny) -> None:
    model = tiny("sd1")
    result = wordbrush.edit(model, wordbrush.from_seed(model, PROMPT, steps=2), "a dog on a beach")
    assert "\n" not in repr(result) and len(repr(result)) < 120
    assert "\n" not in repr(result.source) and len(repr(result.source)) < 120
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert shown.tobytes() == result.image.tobytes()
    assert result.mask is not None and result.mask.shape == (16, 16)
    assert math.isclose(float(result.mask.float().mean()), result.report.edited_share)


def test_strange_words_are_said_before_the_work(load: Callable[..., Model]) -> None:
    model = load("pocket")
    assert "'horse'" in model.strange("a unicorn on a beach") and not model.strange("a red cat at night.")
    (check,) = wordbrush.check_edit(model, PROMPT, ["ein Hund am Strand"])
    assert check.notices[0].startswith("pocket does not know 'ein'")
    source = wordbrush.from_seed(model, PROMPT, steps=1)
    result = wordbrush.edit(model, source, "a unicorn on a beach")
    assert result.report.notices[0].startswith("pocket does not know 'unicorn' (but 'horse')")


# Negative prompts -------------------------------------------------------------------------------------------


def test_a_negative_prompt_is_what_guidance_leads_away_from(tiny: Tiny) -> None:
    model = tiny("sd1")
    told = {"seed": 1, "steps": 2, "guidance_scale": 5.0}
    source = wordbrush.from_seed(model, PROMPT, **told, negative_prompt="a dog")
    assert torch.equal(source.null.hidden, model.encode_text(["a dog"]).hidden)
    plain = wordbrush.from_seed(model, PROMPT, **told)
    assert not torch.equal(source.trajectory[1:], plain.trajectory[1:])
    # Away from the prompt itself, nothing is left of the guidance.
    itself = wordbrush.from_seed(model, PROMPT, **told, negative_prompt=PROMPT)
    unguided = wordbrush.from_seed(model, PROMPT, **{**told, "guidance_scale": 1.0})
    torch.testing.assert_close(itself.trajectory, unguided.trajectory, atol=1e-4, rtol=1e-4)
    with pytest.raises(OptionsError, match="negative_prompt needs a guidance scale other than 1"):
        wordbrush.generate(model, PROMPT, guidance_scale=1.0, negative_prompt="a dog")


def test_a_negative_prompt_of_an_edit(tiny: Tiny, photo: Image.Image) -> None:
    model, target = tiny("sd1"), "a dog on a beach"
    options = {"steps": 2, "negative_prompt": "a fox"}
    negative = wordbrush.invert(model, photo, PROMPT, options=options)
    plain = wordbrush.invert(model, photo, PROMPT, options={"steps": 2})
    by_source = wordbrush.edit(model, negative, target)
    by_option = wordbrush.edit(model, plain, target, options={"negative_prompt": "a fox"})
    assert torch.equal(by_source.trajectory, by_option.trajectory)
    assert not torch.equal(by_source.trajectory, wordbrush.edit(model, plain, target).trajectory)
    straight = wordbrush.invert(model, photo, PROMPT, method="straight", options={"steps": 2})
    idle = wordbrush.edit(model, straight, target, options={"negative_prompt": "a fox", "finish": 1.0})
    assert any(notice.startswith("negative_prompt does nothing") for notice in idle.report.notices)
    with pytest.raises(OptionsError, match="leave negative_prompt out"):
        wordbrush.invert(model, photo, PROMPT, method="negative_prompt", options=options)


# Replay -----------------------------------------------------------------------------------------------------


def test_a_generated_picture_is_made_again(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sd1")
    picture = wordbrush.generate(model, PROMPT, seed=9, steps=2, width=24, negative_prompt="a dog")
    picture.save(tmp_path / "cat.png")
    for each in (picture, tmp_path / "cat.png"):
        again = wordbrush.replay(each, model=model)
        assert again.differences == () and again.image.tobytes() == picture.tobytes()
    other = wordbrush.replay(tmp_path / "cat.png", model=tiny("sd2"))
    assert any(difference.startswith("the model:") for difference in other.differences)


def test_a_picture_made_of_one_in_memory_says_that_it_cannot_be_made_again(
    tiny: Tiny, photo: Image.Image
) -> None:
    model = tiny("sd1")
    source = wordbrush.invert(model, photo, PROMPT, options={"steps": 1})
    result = wordbrush.edit(model, source, "a dog on a beach")
    assert images.read_provenance(result.image)["source"]["picture"]["path"] is None
    with pytest.raises(ImageError, match="was in memory, not in a file"):
        wordbrush.replay(result.image, model=model)


SPOILED: dict[str, tuple[tuple[str, ...], Any]] = {
    "threads below 0": (("threads",), -5),
    "threads without end": (("threads",), 5000),
    "an index past the targets": (("index",), 3),
    "a negative index": (("index",), -1),
    "a type that no model has": (("model", "dtype"), "int8"),
    "steps without end": (("source", "steps"), 10**9),
    "guidance below 0": (("source", "guidance_scale"), -1),
    "a negative seed": (("source", "options", "seed"), -4),
    "a seed that is none": (("source", "options", "seed"), "x"),
    "no seed": (("source", "options"), {"noise": 1}),
    "an option that is none": (("source", "options", "magic"), 1),
    "no width": (("source", "width"), 0),
    "something else": (("source",), 3),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_record_is_input_like_any_other(name: str, tiny: Tiny) -> None:
    model = tiny("sd1")
    picture = wordbrush.generate(model, PROMPT, steps=1)
    record = images.read_provenance(picture)
    (*path, last), value = SPOILED[name]
    entry: Any = record
    for key in path:
        entry = entry[key]
    entry[last] = value
    picture.info["wordbrush"] = json.dumps(record)
    with pytest.raises((OptionsError, ModelError)):
        wordbrush.replay(picture, model=model)


def test_a_record_fetches_no_model(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = wordbrush.generate(tiny("sd1"), PROMPT, steps=1)
    record = images.read_provenance(picture)
    record["model"]["name"] = "somebody/model"
    picture.info["wordbrush"] = json.dumps(record)
    asked: list[bool] = []

    def snapshot(name: str, *, local_files_only: bool = False, **_: Any) -> str:
        asked.append(local_files_only)
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ModelError, match="somebody/model"):
        wordbrush.replay(picture)
    assert asked and all(asked)


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
