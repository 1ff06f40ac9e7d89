"""Several ways to edit one picture, side by side: in the library, and on the command line."""

import csv
import errno
import io
import json
import math
import os
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from wordbrush import edit, editing, from_seed, inversion, invert
from wordbrush.backbones import load_clip
from wordbrush.cli import main
from wordbrush.errors import ImageError, ModelError, NumericsError, OptionsError, PromptError
from wordbrush.evaluation.compare.request import Look, Request, Truth
from wordbrush.evaluation.compare.result import Comparison
from wordbrush.evaluation.compare.run import compare
from wordbrush.evaluation.compare.score import load_judges
from wordbrush.evaluation.metrics.pixels import psnr, ssim
from wordbrush.images import load, read_provenance
from wordbrush.loading import Defaults
from wordbrush.methods import typed
from wordbrush.model import Model
from wordbrush.progress import Progress, drain

CAT, DOG, NIGHT = "a cat on a beach", "a dog on a beach", "a cat on a beach at night"
SDEDIT = editing.METHODS["sdedit"]
FAST = {"steps": 3, "guidance_scale": 3.0}
ONE, WAYS = {"direct": FAST}, {"direct": FAST, "ddim": FAST}
Tiny = Callable[..., Model]


@pytest.fixture(autouse=True)
def one_method() -> Generator[None]:
    """By default all methods are compared; what is tested here does not depend on how many there are."""
    table, before = cast(dict[str, Any], editing.METHODS), dict(editing.METHODS)
    table.clear()
    table[editing.COMPARED] = before[editing.COMPARED]
    # Not the tests' own monkeypatch, which would put back its items after the table.
    with pytest.MonkeyPatch.context() as patch:
        for module in ("app", "options.methods"):  # the default of other commands is looked up as well
            patch.setattr(f"wordbrush.cli.{module}.EDITING", typed(editing.COMPARED))
        yield
    table.clear()
    table.update(before)  # in their order


def noise(side: int = 32, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize((side, side))


class Absolute:
    """Mean absolute difference: a distance that the test can compute as well."""

    name = "absolute"

    def distances(self, made: Sequence[Any], true: Sequence[Any]) -> list[float]:
        pairs = zip(made, true, strict=True)
        return [float(np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()) for a, b in pairs]


def compared(model: Model, *targets: str, **told: Any) -> Comparison:
    judges = {name: told.pop(name) for name in ("clip", "distance") if name in told}
    picture = told.pop("picture", noise())
    request = Request(picture, CAT, targets or (DOG,), **{"inversions": WAYS, **told})
    return drain(compare(model, request, **judges))


# The library ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_cell_is_what_inverting_and_editing_alone_make(tiny: Tiny) -> None:
    model = tiny()
    hooks = dict(model.denoiser.unet._forward_hooks)
    comparison = compared(model, DOG, NIGHT, distance=Absolute())
    assert [(cell.target, cell.start.inversion, cell.method) for cell in comparison.cells] == [
        (target, way, "prompt_to_prompt") for target in (DOG, NIGHT) for way in WAYS
    ]
    best = load_roundtrip(model)
    for cell in comparison.cells:
        source = invert(model, noise(), CAT, method=cell.start.inversion, options=FAST)
        alone = edit(model, source, [cell.target], method=cell.method)[0]
        assert cell.result is not None and cell.start.cost is not None and cell.cost is not None
        assert torch.equal(cell.result.trajectory, alone.trajectory)
        assert cell.scores == {
            "psnr": psnr(alone.rendering, noise()),
            "ssim": ssim(alone.rendering, noise()),
            "distance": Absolute().distances([alone.rendering], [noise()])[0],
        }
        assert cell.start.reconstruction == psnr(source.image(model), best)
        # Up: one row a step. DDIM comes down again, guided, with two.
        assert cell.start.cost.rows == {"direct": 3, "ddim": 3 + 3 * 2}[cell.start.inversion]
        assert cell.cost.rows == alone.report.unet_rows and cell.cost.seconds > 0
        assert not cell.failure and cell.start.cost.with_gradient == 0
    assert comparison.bound == psnr(best, noise()) and not comparison.failures
    assert comparison.starts[0].reconstruction == math.inf > comparison.starts[1].reconstruction
    assert model.denoiser.unet._forward_hooks == hooks


def load_roundtrip(model: Model) -> Image.Image:
    """The test's picture through the autoencoder and back."""
    values = torch.tensor(np.asarray(noise()), dtype=torch.float32).permute(2, 0, 1)[None] / 127.5 - 1
    out = model.decode(model.encode_image(values))[0]
    return Image.fromarray(((out + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy())


@pytest.mark.slow
def test_without_names_all_there_are_are_compared(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(model, "defaults", Defaults(steps=2, guidance_scale=2.0))
    monkeypatch.setitem(editing.METHODS, "sdedit", SDEDIT)
    stages: list[Progress] = []
    comparison = drain(compare(model, Request(noise(), CAT, DOG)), stages.append)
    assert [start.inversion for start in comparison.starts] == list(inversion.METHODS)
    pairs = {(cell.start.inversion, cell.method) for cell in comparison.cells}
    assert pairs == {*((name, editing.COMPARED) for name in inversion.METHODS), ("straight", "sdedit")}
    overall = [progress for progress in stages if progress.stage == "comparing"]
    count = 2 * len(inversion.METHODS) + 1
    assert [progress.step for progress in overall] == list(range(count + 1))
    assert {progress.total for progress in overall} == {count}
    assert "null_text: optimising null text" in {progress.stage for progress in stages}
    cost = next(start.cost for start in comparison.starts if start.inversion == "null_text")
    assert cost is not None and cost.with_gradient > 0


@pytest.mark.slow
def test_a_generated_source_starts_from_its_own_run_and_from_its_inversions(tiny: Tiny) -> None:
    model = tiny()
    ways = {"seed": FAST, "ddim": FAST}
    comparison = compared(model, picture=None, seed=7, inversions=ways)
    source = from_seed(model, CAT, seed=7, steps=3, guidance_scale=3.0)
    assert comparison.picture == source.image(model)
    own, inverted = comparison.cells
    assert own.result is not None and inverted.result is not None
    assert torch.equal(own.result.trajectory, edit(model, source, DOG, method=editing.COMPARED).trajectory)
    again = invert(model, source.image(model), CAT, method="ddim", options=FAST)
    assert torch.equal(
        inverted.result.trajectory, edit(model, again, DOG, method=editing.COMPARED).trajectory
    )
    assert own.start.cost is not None and own.start.cost.rows == 3 * 2
    with pytest.raises(OptionsError, match="'seed' is no inversion of a picture"):
        compared(model, inversions=["seed"])


def test_an_inversion_alone_makes_a_picture_with_its_own_steps(tiny: Tiny) -> None:
    model = tiny()
    comparison = compared(model, picture=None, seed=7, inversions={"direct": FAST})
    assert comparison.picture == from_seed(model, CAT, seed=7, steps=3, guidance_scale=3.0).image(model)
    assert [start.inversion for start in comparison.starts] == ["direct"]


@pytest.mark.slow
def test_words_are_looked_for_under_the_name_that_a_prompt_has_for_them(tiny: Tiny) -> None:
    comparison = compared(tiny(), DOG, NIGHT, words=["cat", "dog", "beach", "night"], inversions=ONE)
    assert comparison.looks[DOG] == [Look("cat", "dog"), Look("beach", "beach")]
    assert comparison.looks[NIGHT] == [Look("cat", "cat"), Look("beach", "beach"), Look(None, "night")]
    assert set(comparison.heatmaps) == {"cat", "beach"}
    dog, night = comparison.cells
    assert set(dog.heatmaps) == {"dog", "beach"} and set(night.heatmaps) == {"cat", "beach", "night"}
    assert dog.result is not None and dog.heatmaps["dog"] == dog.result.heatmap("dog")
    plain = compared(tiny(), DOG, NIGHT, inversions=ONE)
    assert comparison.grid().height > plain.grid().height and comparison.grid().width == plain.grid().width
    with pytest.raises(PromptError, match="no 'tree'"):
        compared(tiny(), words=["tree"])


def test_one_that_fails_does_not_lose_the_others(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from wordbrush.inversion import ddim

    def broken(*_: Any) -> Generator[Progress, None, None]:
        yield Progress("inverting", 1, 3)
        raise NumericsError("the latents are not finite after step 2 of 3")

    monkeypatch.setattr(ddim, "invert", broken)
    model = tiny()
    hooks = dict(model.denoiser.unet._forward_hooks)
    comparison = compared(model, words=["cat"])
    direct, failed = comparison.cells
    assert direct.result is not None and failed.result is None
    assert comparison.failures == (failed,) and "not finite after step 2" in failed.failure
    assert "failed: the latents are not finite" in comparison.table()
    assert comparison.grid().width > 3 * 256 and model.denoiser.unet._forward_hooks == hooks


def test_a_method_that_fails_in_torch_is_a_failure_too(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from wordbrush.editing.prompt_to_prompt import method as prompt_to_prompt

    def broken(*_: Any) -> Generator[Progress, None, None]:
        yield Progress("editing", 1, 3)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(prompt_to_prompt, "edit", broken)
    assert [cell.failure for cell in compared(tiny()).cells] == ["RuntimeError: out of memory"] * 2


def test_what_one_target_cannot_have_stands_in_its_cells_and_what_none_can_is_an_error(tiny: Tiny) -> None:
    asked = {"inversions": ONE, "methods": {"prompt_to_prompt": {"word_edit": "replace"}}}
    dog, night = compared(tiny(), DOG, NIGHT, **asked).cells
    assert dog.result is not None and night.result is None and "stands alone" in night.failure
    with pytest.raises(PromptError, match="stands alone"):
        compared(tiny(), NIGHT, **asked)


def test_a_known_truth_is_measured_against(tiny: Tiny) -> None:
    truth, mask = noise(seed=1), np.zeros((64, 64), np.uint8)
    mask[20:50, 10:40] = 255  # twice the model's size
    known = [Truth(truth, Image.fromarray(mask))]
    comparison = compared(tiny(), distance=Absolute(), truths=known, inversions=ONE)
    (cell,) = comparison.cells
    outside = np.ones((32, 32), bool)
    outside[10:25, 5:20] = False
    assert cell.image is not None
    assert cell.scores["truth_psnr"] == psnr(cell.image, truth)
    assert cell.scores["truth_distance"] == Absolute().distances([cell.image], [truth])[0]
    # Where the mask's edge is resampled it may fall a pixel to either side.
    assert cell.scores["outside_psnr"] == pytest.approx(psnr(cell.image, noise(), outside), abs=0.2)
    source, true = comparison.references
    assert source.scores["psnr"] == true.scores["truth_psnr"] == math.inf
    assert source.scores["truth_psnr"] == true.scores["psnr"] == psnr(truth, noise())
    with pytest.raises(ImageError, match="all white"):
        compared(tiny(), truths=[Truth(mask=Image.new("L", (32, 32), 255))])
    with pytest.raises(OptionsError, match="one truth for each of 2 targets, got 1"):
        compared(tiny(), DOG, NIGHT, truths=known)


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"inversions": ["null-test"]}, r"no inversion method 'null-test'; did you mean 'null-text'"),
        ({"methods": ["prompt-to-promt"]}, r"did you mean 'prompt-to-prompt'"),
        ({"inversions": {"direct": {"stepps": 3}}}, r"unknown option 'stepps'; did you mean 'steps'"),
        ({"inversions": []}, "at least one inversion method"),
    ],
)
def test_what_is_asked_for_wrongly_is_told_before_any_work(
    told: dict[str, Any], error: str, tiny: Tiny
) -> None:
    with pytest.raises(OptionsError, match=error):
        next(compare(tiny(), Request(noise(), CAT, DOG, **told)))


def test_the_table_has_the_clips_cosines_and_its_name(tiny: Tiny) -> None:
    clip = load_clip()
    comparison = compared(tiny(), clip=clip, inversions=ONE)
    (cell,) = comparison.cells
    expected = float(clip.images([cell.image])[0] @ clip.texts([DOG])[0])
    assert cell.scores["clip"] == pytest.approx(expected, abs=1e-6)
    assert "| CLIP to target (pocket) ↑ |" in comparison.table()
    rows = list(csv.DictReader(io.StringIO(comparison.comma_separated())))
    assert [row["method"] for row in rows] == ["source", "prompt-to-prompt"]
    assert float(rows[1]["clip"]) == cell.scores["clip"]
    assert "target" not in rows[1] and "distance" not in rows[1]  # there is one target, and no distance


def test_a_clip_without_a_name_is_none(tiny: Tiny) -> None:
    with pytest.raises(ModelError):
        load_judges("", tiny())


@pytest.mark.slow
def test_many_ways_go_on_in_further_lines(tiny: Tiny) -> None:
    comparison = compared(tiny(), inversions={name: FAST for name in list(inversion.METHODS)[:4]})
    wide = Comparison(**{**vars(comparison), "cells": comparison.cells * 3})
    assert wide.grid().width == 6 * (256 + 16) + 16
    assert wide.grid().height > 2.5 * comparison.grid().height  # 12 edits, 5 in a line beside the source


# The command line -------------------------------------------------------------------------------------------

Run = Callable[..., tuple[int, str, str]]
STEPS = ("--steps", "2", "--guidance-scale", "2")
PICTURE = ("photo.png", "--source", CAT, "--target", DOG)
TWO = ("--inversion", "direct", "--inversion", "ddim", *STEPS)


@pytest.fixture
def run(
    tiny: Tiny,
    saved: Callable[[Model, Path], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """run(…) → exit code, stdout and stderr of `wordbrush compare …` beside photo.png, on the tiny model."""
    folder = saved(tiny(), tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    noise().save("photo.png")

    def run(*tokens: str) -> tuple[int, str, str]:
        code = main(["compare", *tokens, "--model", str(folder)])
        return code, *capsys.readouterr()

    return run


@pytest.mark.slow
def test_compare_writes_a_grid_a_table_and_every_edit(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(*PICTURE, *TWO, "--word", "cat", "--out", "out/")
    assert code == 0, err
    edits = [f"a-dog-on-a-beach.{way}.prompt-to-prompt.png" for way in ("direct", "ddim")]
    assert {path.name for path in Path("out").iterdir()} == {"grid.png", "table.md", "table.csv", *edits}
    for name in edits:
        made = read_provenance(Path("out") / name)
        assert (made["method"], made["targets"], made["source"]["method"]) == (
            "prompt_to_prompt",
            [DOG],
            name.split(".")[1],
        )
        assert main(["replay", f"out/{name}"]) == 0
        assert capsys.readouterr().out == f"out/{name}  every pixel is the same\n"
    assert load("out/grid.png").width > 3 * 256
    assert Path("out/table.md").read_text().count("| prompt-to-prompt |") == 2
    assert out.count(" prompt-to-prompt ") == 2 and out.endswith(f"out/grid.png  {CAT} → {DOG}\n")
    assert "no CLIP judges this model's pictures" in err


@pytest.mark.slow
def test_compare_from_a_seed_and_in_json(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ways = ("--inversion", "seed", "--inversion", "direct", *STEPS)
    code, out, err = run(
        "--seed", "3", "--source", CAT, "--target", DOG, "--target", NIGHT, *ways, "--out", "o/", "--json"
    )
    assert code == 0, err
    told = json.loads(out, parse_constant=pytest.fail)  # no Infinity, no NaN
    assert told["failures"] == [] and len(told["rows"]) == 2 * 3
    for name in ["source.png", *(f"{t}.{w}.prompt-to-prompt.png" for t in STEMS for w in ("seed", "direct"))]:
        assert main(["replay", f"o/{name}"]) == 0
        assert "every pixel is the same" in capsys.readouterr().out


STEMS = ("a-dog-on-a-beach", "a-cat-on-a-beach-at-night")


def test_a_full_disk_leaves_not_even_the_source(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []

    def fills_up(file: int) -> None:
        flushed.append(file)
        if len(flushed) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = set(Path().iterdir())
    monkeypatch.setattr(os, "fsync", fills_up)
    code, _, err = run("--seed", "1", "--source", CAT, "--target", DOG, "--out", "o/", *TWO)
    assert code == 2 and "No space left" in err
    assert set(Path().iterdir()) == before


def test_options_come_from_a_file_too(run: Run) -> None:
    Path("how.toml").write_text("steps = 1\nself_replace_steps = 0.1\n")
    code, _, err = run(*PICTURE, "--inversion", "direct", "--option-file", "how.toml", "--out", "o/")
    assert code == 0, err
    made = read_provenance("o/a-dog-on-a-beach.direct.prompt-to-prompt.png")
    assert made["options"] == {"self_replace_steps": 0.1} and made["source"]["steps"] == 1


def test_an_edit_that_fails_is_told_at_the_end_and_the_others_are_there(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wordbrush.inversion import ddim

    def broken(*_: Any) -> Generator[Progress, None, None]:
        yield Progress("inverting", 1, 3)
        raise NumericsError("the latents are not finite")

    monkeypatch.setattr(ddim, "invert", broken)
    code, out, err = run(*PICTURE, *TWO, "--out", "o/")
    assert code == 2 and "grid.png" in out
    assert "error: 1 of 2 edits failed, the others are in o: a dog on a beach (ddim, prompt-to-prompt)" in err
    assert {path.name for path in Path("o").glob("a-*")} == {"a-dog-on-a-beach.direct.prompt-to-prompt.png"}
    code, out, err = run(*PICTURE, "--inversion", "ddim", *STEPS, "--out", "none/")
    assert (code, out) == (2, "") and "every edit failed, and nothing was written" in err
    assert not Path("none").exists()


@pytest.mark.parametrize(
    ("tokens", "error"),
    [
        ((*PICTURE, "--inversion", "direkt", "--out", "o/"), "did you mean 'direct'"),
        ((*PICTURE, "--method", "prompt-to-promt", "--out", "o/"), "did you mean 'prompt-to-prompt'"),
        ((*PICTURE, "--inversion", "direct", "--word", "tree", "--out", "o/"), "has no 'tree'"),
        ((*PICTURE, "--out", "photo.png"), "expected --out FOLDER/"),
        ((*PICTURE, "--out", "photo.png/"), "photo.png is a file, not a folder"),
        ((*PICTURE, "--seed", "3", "--out", "o/"), "a picture file, or --seed N to generate one, got both"),
        (("--source", CAT, "--target", DOG, "--out", "o/"), "or --seed N to generate one, got neither"),
        (("--seed", "1", "--target", DOG, "--out", "o/"), "expected --source to say what to generate"),
        (("photo.png", "--target", DOG, "--out", "o/"), "expected a prompt that says what photo.png shows"),
        ((*PICTURE, "--inversion", "seed", "--out", "o/"), "is for pictures that --seed N generates"),
        ((*PICTURE, "--truth", "a.png", "--truth", "b.png", "--out", "o/"), "--truth once for each of 1"),
        ((*PICTURE, "--stepps", "3", "--out", "o/"), "--stepps"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(tokens: tuple[str, ...], error: str, run: Run) -> None:
    code, out, err = run(*tokens)
    assert (code, out) == (2, "") and error in err, err
    assert not Path("o").exists()


def test_an_input_is_never_written_over(run: Run) -> None:
    Path("o").mkdir()
    noise().save("o/source.png")
    noise().save("o/a-dog-on-a-beach.direct.prompt-to-prompt.png")
    picture = ("o/a-dog-on-a-beach.direct.prompt-to-prompt.png", *PICTURE[1:])
    code, _, err = run(*picture, *TWO, "--out", "o/")
    assert code == 2 and "is an input and would be overwritten" in err


def test_every_prompt_of_a_comparison_counts_for_its_chunks() -> None:
    ways: Any = {"direct": {"negative_prompt": "a tree"}, "ddim": {}}
    edits: Any = {"prompt_to_prompt": {"negative_prompt": "a house"}}
    asked = Request(noise(), CAT, [DOG, NIGHT], inversions=ways, methods=edits).checked()
    assert asked.prompts == [CAT, DOG, NIGHT, "a tree", "", "a house"]
