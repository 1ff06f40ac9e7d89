"""The papers' edits by name, each judged against rendered truth; and mask-based editing, a method of its own."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wordbrush import check_edit, edit, from_seed, preset
from wordbrush.cli import main
from wordbrush.editing.presets import PRESETS
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import Case, split
from wordbrush.images import load, read_provenance
from wordbrush.model import Model
from wordbrush.pocket import segment
from wordbrush.result import Result
from wordbrush.states import StraightPath

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"


@pytest.fixture(scope="module")
def pocket() -> Model:
    return Model.load("pocket", device="cpu")


def edited(model: Model, one: Case, name: str, word: str | None = None) -> Result:
    return edit(model, one.picture, one.target_prompt, prompt=one.source_prompt, **preset(name, word))


def off(result: Result, truth: Image.Image, where: np.ndarray) -> float:
    """Mean absolute difference to a picture, of 255, where a mask is True."""
    return float(np.abs(np.asarray(result.image, float) - np.asarray(truth, float))[where].mean())


@pytest.mark.slow
def test_object_preservation_keeps_a_thing_and_changes_its_place(pocket: Model) -> None:
    for one in split(555, 3, "change place"):
        thing = np.asarray(segment(one.source)) == 1
        result = edited(pocket, one, "object-preservation", one.source.things[0].name)
        free = edit(
            pocket,
            result.source,
            one.target_prompt,
            options={**preset("stylisation")["options"], "hold": 1.0},
        )
        assert off(result, one.picture, thing) < 22 < off(result, one.picture, ~thing)
        assert off(result, one.truth, ~thing) < off(free, one.truth, ~thing), (
            "no freer than the layout's maps"
        )


@pytest.mark.slow
def test_stylisation_changes_all_of_the_picture_and_keeps_the_layout(pocket: Model) -> None:
    for one in split(555, 3, "change style"):
        result = edited(pocket, one, "stylisation")
        whole = np.ones(result.image.size[::-1], bool)
        assert result.report.edited_share == 1
        assert off(result, one.truth, whole) < 0.9 * off(result, one.picture, whole)
        ours, theirs = (np.asarray(p.convert("L"), float).ravel() for p in (result.image, one.truth))
        assert np.corrcoef(ours, theirs)[0, 1] > 0.6


@pytest.mark.slow
def test_mask_based_editing_draws_the_new_thing_in_the_old_ones_place(pocket: Model) -> None:
    for one in split(555, 3, "change object"):
        result = edited(pocket, one, "mask-based")
        assert result.mask is not None and 0.02 < result.report.edited_share < 0.6
        assert torch.equal(result.trajectory[-1][:, ~result.mask], result.source.z_0[0][:, ~result.mask])
        states = result.source.states
        assert isinstance(states, StraightPath)
        last = result.source.steps - 1
        assert not torch.equal(result.trajectory[last], states.at(last)[0])
        assert off(result, one.truth, one.mask) < off_source(one)


def off_source(one: Case) -> float:
    """The same of the picture itself, as if it had not been edited."""
    difference = np.abs(np.asarray(one.picture, float) - np.asarray(one.truth, float))
    return float(difference[one.mask].mean())


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_outside_of_the_mask_the_source_is_put_back_at_every_step(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    source = from_seed(model, CAT, steps=4, width=32, height=32)
    options = {"mask_threshold": 0.9, "start": 0.0}
    dog, fox = edit(model, source, [DOG, "a fox on a beach"], method="mask_based", options=options)
    for result in (dog, fox):
        mask = result.mask
        assert mask is not None and 0 < mask.float().mean() < 1
        assert torch.equal(result.trajectory[-1][:, ~mask], source.z_0[0][:, ~mask])
        assert not torch.equal(result.trajectory[-1][:, mask], source.z_0[0][:, mask])
        assert torch.equal(result.trajectory[0], source.z_T[0])
    alone = edit(model, source, "a fox on a beach", method="mask_based", options=options)
    torch.testing.assert_close(alone.trajectory, fox.trajectory, atol=1e-4, rtol=1e-4)
    assert dog.report.unet_rows == 4 * 2 * 2


def test_without_a_new_word_the_mask_needs_one(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = from_seed(model, "a cat and a tree", steps=2, width=32, height=32)
    with pytest.raises(PromptError, match="name one of its words with blend_words"):
        edit(model, source, "a cat", method="mask_based")
    with pytest.raises(PromptError, match="has no 'dog'"):
        check_edit(model, CAT, [CAT], method="mask_based", options={"blend_words": ["dog"]})
    for target, words in (
        ("a cat", ["cat"]),
        ("a cat in a forest", "auto"),
        ("a red cat and a tree", "auto"),
    ):
        result = edit(model, source, target, method="mask_based", options={"blend_words": words})
        said = {"a cat": ["cat"], "a cat in a forest": ["forest"]}.get(target, ["red", "cat"])
        assert result.report.details["local_blend"] == said


@pytest.mark.parametrize(
    ("name", "word", "said"),
    [
        ("object-preservation", None, "needs the word of the thing to preserve"),
        ("object-preservation", " ", "needs the word"),
        ("stylisation", "cat", "reads no word"),
        ("mask-basd", None, "no preset 'mask-basd'; did you mean 'mask-based'"),
    ],
)
def test_presets_that_are_none(name: str, word: str | None, said: str) -> None:
    with pytest.raises(OptionsError, match=said):
        preset(name, word)


@pytest.mark.slow
def test_the_command_line_knows_them(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny: Tiny,
    saved: Callable[[Model, Path], Path],
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = str(saved(tiny("sd1"), tmp_path / "model"))
    Image.new("RGB", (32, 32), "teal").save("photo.png")
    asked = ["edit", "photo.png", "--source", CAT, "--target", "a cat in a forest", "--out", "cat.png"]
    asked += ["--model", folder, "--steps", "2"]
    assert main([*asked, "--preset", "object-preservation", "--word", "cat", "--guidance-scale", "2"]) == 0
    made = read_provenance("cat.png")
    assert made["method"] == "prompt_to_prompt" and made["options"]["word_steps"] == {"cat": 0.8}
    assert made["options"]["guidance_scale"] == 2
    assert main([*asked, "--preset", "mask-based", "--mask-threshold", "0.6"]) == 0
    made = read_provenance("cat.png")
    assert made["method"] == "mask_based" and made["options"] == {"mask_threshold": 0.6}
    assert main(["replay", "cat.png"]) == 0 and load("cat.png").size == (32, 32)
    capsys.readouterr()
    for more, said in (
        (["--preset", "stylisation", "--method", "mask-based"], "--method or --preset"),
        (["--word", "cat"], "--preset object-preservation beside --word"),
        (["--preset", "stylizasion"], "no preset"),
    ):
        assert main([*asked, *more]) == 2
        assert said in capsys.readouterr().err
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(name.replace("_", "-") in out for name in PRESETS)
