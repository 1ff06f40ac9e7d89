"""PIE-Bench: its format there and back, what each quirk of the released harness does, and runs that are cut."""

import csv
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from transformers import CLIPImageProcessorPil, ConvNextConfig, ConvNextModel

from wordbrush.cli.commands.evaluate import pie as evaluate_pie
from wordbrush.cli.options.setup import Setup
from wordbrush.errors import ImageError, InputError, OptionsError, OutputError
from wordbrush.evaluation.contender import Contender
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.metrics import pixels
from wordbrush.evaluation.metrics.perceptual import Lpips
from wordbrush.evaluation.metrics.pixels import PSNR_LIMIT
from wordbrush.evaluation.pie import format as pie_format
from wordbrush.evaluation.pie import report as pie_tables
from wordbrush.evaluation.pie.format import (
    PieCase,
    decode,
    encode,
    from_pocket,
    read,
    write,
    write_pocket,
)
from wordbrush.evaluation.pie.metrics import METRICS, bordered, load_judges, scored
from wordbrush.evaluation.pie.options import PRESETS, Options
from wordbrush.evaluation.pie.run import PieBench, from_folder, settings
from wordbrush.images import load, read_provenance
from wordbrush.model import Model
from wordbrush.progress import drain

Tiny = Callable[..., Model]
HONEST, RELEASED = Options(), Options(**PRESETS["released"])
DIRECT = Contender("prompt_to_prompt", "direct", {}, {"steps": 2})
SIDE = 32


@pytest.fixture(scope="module")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Judges:
    """The shipped CLIP and a tiny random encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4)
    ConvNextModel(config).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=size).save_pretrained(folder)
    return load_judges(Options(encoder=str(folder)), device="cpu")


def small(case: PieCase) -> PieCase:
    """A case at the tiny models' size."""
    mask = np.asarray(Image.fromarray(case.mask).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return replace(case, mask=mask, content=case.picture.resize((SIDE, SIDE)))


@pytest.fixture(scope="module")
def world() -> list[PieCase]:
    return [small(case) for case in from_pocket(10, seed=1)]


@pytest.fixture
def folder(tmp_path: Path, world: list[PieCase]) -> Path:
    write(tmp_path / "pie", world)
    return tmp_path / "pie"


def grey(level: int, side: int = SIDE) -> Image.Image:
    return Image.new("RGB", (side, side), (level,) * 3)


def case_of(mask: np.ndarray, level: int = 100) -> PieCase:
    content = grey(level, mask.shape[0])
    return PieCase("1", "1.png", "a [cat]", "a [dog]", "", "1", ("cat", "dog"), mask, content)


def half(side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), dtype=bool)
    mask[: side // 2] = True
    return mask


# The format -------------------------------------------------------------------------------------------------

masks = arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))


@given(masks)
def test_a_mask_comes_back_from_its_runs(mask: np.ndarray) -> None:
    assert np.array_equal(decode(encode(mask), *mask.shape), mask)


@given(masks)
def test_runs_are_as_few_as_can_be_and_count_the_mask(mask: np.ndarray) -> None:
    runs = encode(mask)
    starts, lengths = runs[::2], runs[1::2]
    assert sum(lengths) == mask.sum()
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    assert all(end < start for end, start in zip(ends, starts[1:], strict=False))


def test_runs_go_row_by_row() -> None:
    assert encode(np.array([[0, 1, 1], [1, 0, 1]], dtype=bool)) == [1, 3, 5, 1]


def test_a_run_beyond_the_canvas_is_refused_or_cut() -> None:
    with pytest.raises(InputError, match=r"a run of 4 from 10 leaves the canvas of 4 × 3 = 12 pixels"):
        decode([10, 4], 3, 4)
    assert decode([10, 4], 3, 4, cut=True).ravel().tolist() == [False] * 10 + [True] * 2


@pytest.mark.parametrize("runs", [[1], [-1, 2], [1, -2]])
def test_what_is_no_run_is_refused(runs: list[int]) -> None:
    with pytest.raises(InputError, match="expected"):
        decode(runs, 3, 4)


def test_a_folder_comes_back_as_it_was_written(folder: Path, world: list[PieCase]) -> None:
    again = read(folder)
    assert len(again) == len(world)
    for before, after in zip(world, again, strict=True):
        assert np.array_equal(before.mask, after.mask)
        assert np.array_equal(np.asarray(before.picture), np.asarray(after.picture))
        for name in ("name", "original_prompt", "editing_prompt", "type_id", "blended_words", "instruction"):
            assert getattr(before, name) == getattr(after, name)


def test_brackets_are_stripped_from_both_prompts(world: list[PieCase]) -> None:
    assert any("[" in case.editing_prompt for case in world)
    assert not any(set("[]") & set(case.source_prompt + case.target_prompt) for case in world)
    assert case_of(half()).target_prompt == "a dog"


def test_blended_words_are_the_thing_that_was_swapped() -> None:
    swaps = [case for case in from_pocket(60, seed=2) if case.blended_words and case.type == "change object"]
    assert swaps
    for case in swaps:
        before, after = case.blended_words or ("", "")
        assert before in case.source_prompt.split() and after in case.target_prompt.split()
        assert f"{before}]" in case.original_prompt and f"{after}]" in case.editing_prompt


def spoil(folder: Path, **entry: Any) -> str:
    """Change the first entry of a mapping; returns its id."""
    path = folder / "mapping_file.json"
    mapping: dict[str, dict[str, Any]] = json.loads(path.read_text())
    name = next(iter(mapping))
    mapping[name] |= entry
    path.write_text(json.dumps({name: {k: v for k, v in mapping[name].items() if v is not None}}))
    return name


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"image_path": "no/such.jpg"}, "expected its picture at .*such.jpg, and there is none"),
        (
            {"image_path": "../../secret.png"},
            "expected image_path to be below .*annotation_images, got '../../",
        ),
        ({"image_path": ""}, "expected image_path to be below"),
        ({"mask": [0, SIDE * SIDE + 1]}, "malformed: a run of 1025 from 0 leaves the canvas of 32 × 32"),
        ({"mask": [0]}, "malformed: expected pairs"),
        ({"mask": "0 4"}, "expected the mask to be a list of whole numbers, got '0 4'"),
        ({"mask": [0, 1.5]}, "expected the mask to be a list of whole numbers"),
        ({"mask": None}, "expected 'mask'"),
        ({"editing_type_id": "10"}, 'expected an editing_type_id of "0" to "9", got \'10\''),
        ({"editing_type_id": 1}, "expected 'editing_type_id' to be text, got 1"),
        ({"blended_word": "cat"}, "expected blended_word to be empty or two words"),
        ({"original_prompt": None}, "expected 'original_prompt'"),
    ],
)
def test_a_wrong_entry_is_named(folder: Path, entry: dict[str, Any], message: str) -> None:
    name = spoil(folder, **entry)
    with pytest.raises(InputError, match=f"entry {name}.*{message}"):
        read(folder)


def test_a_mapping_cannot_name_a_place_to_write(
    folder: Path, tmp_path: Path, judges: Judges, tiny: Tiny
) -> None:
    case = read(folder)[0]
    pictures = folder / "annotation_images"
    before = (pictures / case.image_path).read_bytes()
    linked = tmp_path / "out" / "edits" / "run" / "away"
    linked.parent.mkdir(parents=True)
    for link in (pictures / "away", linked):
        link.symlink_to(tmp_path)
    absolute, climbing = str(pictures / case.image_path), f"../annotation_images/{case.image_path}"
    for path in (absolute, climbing, "away/x.png"):
        named = replace(case, image_path=path)
        spoil(folder, image_path=path)
        for refused in (
            lambda: read(folder),
            lambda named=named: write(folder, [named]),
            lambda named=named: from_folder(pictures, [named]),
            lambda named=named: drain(
                PieBench([named], judges, HONEST, tmp_path / "out").edit(tiny(), DIRECT, "run")
            ),
        ):
            with pytest.raises(InputError, match="expected image_path to be below"):
                refused()
    assert (pictures / case.image_path).read_bytes() == before


def test_an_edit_never_takes_the_place_of_a_picture_or_of_another_edit(
    folder: Path, tmp_path: Path, judges: Judges, tiny: Tiny
) -> None:
    cases = read(folder)[:2]
    bench = PieBench(cases, judges, HONEST, tmp_path / "out")
    (tmp_path / "out" / "edits").mkdir(parents=True)
    (tmp_path / "out" / "edits" / "run").symlink_to(folder / "annotation_images")
    with pytest.raises(OutputError, match="is an input and would be overwritten"):
        drain(bench.edit(tiny(), DIRECT, "run"))
    same = [
        replace(case, image_path=f"same.{kind}") for case, kind in zip(cases, ("png", "jpg"), strict=True)
    ]
    with pytest.raises(OutputError, match=f"'{cases[0].name}' and '{cases[1].name}' would both be written"):
        drain(replace(bench, cases=same).edit(tiny(), DIRECT, "other"))


def test_a_pipe_and_a_huge_picture_are_refused(folder: Path) -> None:
    picture = folder / "annotation_images" / read(folder)[0].image_path
    picture.unlink()
    Image.new("1", (7000, 6000)).save(picture)
    with pytest.raises(ImageError, match="at most 40 megapixels, got 7000 × 6000"):
        read(folder)
    picture.unlink()
    os.mkfifo(picture)
    with pytest.raises(ImageError, match="expected its picture at"):
        read(folder)


def test_a_damaged_picture_and_no_mapping_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected PIE-Bench's folder"):
        read(tmp_path / "nowhere")
    (folder / "annotation_images" / read(folder)[0].image_path).write_bytes(b"no picture")
    with pytest.raises(ImageError, match="is not a readable picture"):
        read(folder)


def test_cases_may_not_share_a_name_or_hold_another_mask(tmp_path: Path, world: list[PieCase]) -> None:
    with pytest.raises(InputError, match="its own name"):
        write(tmp_path, [world[0], world[0]])
    with pytest.raises(InputError, match="expected a mask of the picture's size 32 × 32, got 8 × 8"):
        write(tmp_path, [replace(world[0], mask=half(8))])
    assert not list(tmp_path.glob("*.json"))


# The quirks -------------------------------------------------------------------------------------------------


def test_presets_are_every_quirk_or_none() -> None:
    assert all(not value for name, value in HONEST if isinstance(value, bool))
    assert all(value for name, value in RELEASED if isinstance(value, bool))


def test_background_scores_over_the_background_alone(judges: Judges) -> None:
    # 100 became 110 in the background and anything at all in the edited half.
    made = np.full((SIDE, SIDE, 3), 110, dtype=np.uint8)
    made[half()] = 7
    row = scored(judges, case_of(half()), Image.fromarray(made), HONEST)
    error = (10 / 255) ** 2
    assert row["mse"] == pytest.approx(error)
    assert row["psnr"] == pytest.approx(-10 * math.log10(error))


def test_the_whole_canvas_flatters_by_the_share_of_the_mask(judges: Judges) -> None:
    rng = np.random.default_rng(0)
    made = Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
    for rows in (8, 16, 24):
        mask = np.zeros((SIDE, SIDE), dtype=bool)
        mask[:rows] = True
        share = 1 - rows / SIDE
        honest = scored(judges, case_of(mask), made, HONEST)
        flattered = scored(judges, case_of(mask), made, Options(whole_canvas=True))
        assert flattered["mse"] == pytest.approx(honest["mse"] * share)
        assert flattered["psnr"] == pytest.approx(honest["psnr"] - 10 * math.log10(share))
        assert flattered["ssim"] > honest["ssim"]
        assert flattered["distance"] < honest["distance"]
        for untouched in ("structure", "clip_whole", "clip_edited"):
            assert flattered[untouched] == honest[untouched]


def test_the_whole_canvas_agrees_with_torchmetrics_as_the_released_harness_uses_it(judges: Judges) -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    rng = np.random.default_rng(1)
    source, made = (rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(2))
    mask = rng.random((SIDE, SIDE)) < 0.3
    case = replace(case_of(mask), content=Image.fromarray(source))
    row = scored(judges, case, Image.fromarray(made), Options(whole_canvas=True, forced_border=True))
    keep = ~bordered(mask)[..., None]
    one, other = (
        torch.from_numpy(picture.astype(np.float64) / 255 * keep).permute(2, 0, 1)[None]
        for picture in (made, source)
    )
    assert row["psnr"] == pytest.approx(peak_signal_noise_ratio(one, other, data_range=1.0).item(), rel=1e-6)
    # When the table was published, torchmetrics left the outermost five pixels out of its mean.
    _, each = structural_similarity_index_measure(one, other, data_range=1.0, return_full_image=True)
    assert row["ssim"] == pytest.approx(each[..., 5:-5, 5:-5].mean().item(), rel=1e-4)


def test_the_forced_border_takes_the_outermost_pixels_out_of_the_background(judges: Judges) -> None:
    empty = np.zeros((SIDE, SIDE), dtype=bool)
    assert bordered(empty).sum() == 4 * SIDE - 4 and not empty.any()
    made = np.full((SIDE, SIDE, 3), 100, dtype=np.uint8)
    made[bordered(empty)] = 0
    row = scored(judges, case_of(empty), Image.fromarray(made), HONEST)
    assert row["mse"] == pytest.approx((100 / 255) ** 2 * (4 * SIDE - 4) / SIDE**2)
    framed = scored(judges, case_of(empty), Image.fromarray(made), Options(forced_border=True))
    assert framed["mse"] == 0 and framed["psnr"] == PSNR_LIMIT
    # Without a mask nothing is edited, and CLIP has nothing to look at; with the border it sees a frame.
    assert math.isnan(row["clip_edited"]) and not math.isnan(framed["clip_edited"])


def test_a_mask_that_is_full_but_for_its_border_is_full_with_it(judges: Judges) -> None:
    inner = ~bordered(np.zeros((SIDE, SIDE), dtype=bool))
    assert scored(judges, case_of(inner), grey(7), HONEST)["mse"] > 0
    assert math.isnan(scored(judges, case_of(inner), grey(7), Options(forced_border=True))["mse"])


def test_full_masks_have_no_background_or_are_dropped(judges: Judges) -> None:
    full = np.ones((SIDE, SIDE), dtype=bool)
    for options in (HONEST, RELEASED):
        row = scored(judges, case_of(full), grey(7), options)
        missing = {name for name in METRICS if math.isnan(row[name])}
        assert missing == {"psnr", "distance", "mse", "ssim"}
        assert row["clip_edited"] == pytest.approx(row["clip_whole"], abs=1e-4)
    dropped = scored(judges, case_of(full), grey(7), Options(full_masks="drop"))
    assert all(math.isnan(dropped[name]) for name in METRICS)
    kept = scored(judges, case_of(half()), grey(7), Options(full_masks="drop"))
    assert kept == scored(judges, case_of(half()), grey(7), HONEST)


def test_structure_sees_values_255_times_too_large(judges: Judges, world: list[PieCase]) -> None:
    case, made = world[0], world[-1].picture
    plain, loud = (
        scored(judges, case, made, Options(structure_0_to_255=on))["structure"] for on in (False, True)
    )
    cells = judges.encoder.cells([made, case.picture], values_0_to_255=True).double()
    unit = cells / cells.norm(dim=-1, keepdim=True)
    one, other = unit @ unit.transpose(1, 2)
    assert loud == pytest.approx(((one - other) ** 2).mean().item(), rel=1e-4)
    assert loud != pytest.approx(plain, rel=1e-2)


def test_of_a_strip_the_right_most_panel_is_scored(judges: Judges, world: list[PieCase]) -> None:
    case, made = world[0], world[-1].picture
    strip = Image.new("RGB", (4 * SIDE, SIDE + 9))
    for i, panel in enumerate((grey(1), case.picture, grey(2), made)):
        strip.paste(panel, (i * SIDE, 9))
    assert scored(judges, case, strip, Options(rightmost_panel=True)) == scored(judges, case, made, HONEST)
    with pytest.raises(ImageError, match="rightmost_panel takes the last panel"):
        scored(judges, case, strip, HONEST)


def test_another_size_is_resampled_and_another_aspect_refused(judges: Judges) -> None:
    row = scored(judges, case_of(half()), grey(110, 2 * SIDE), HONEST)
    assert row["mse"] == pytest.approx((10 / 255) ** 2)
    with pytest.raises(ImageError, match="expected an edited picture of its source's aspect, 32 × 32"):
        scored(judges, case_of(half()), Image.new("RGB", (SIDE, SIDE // 2)), HONEST)


def test_equal_pictures_end_at_the_psnr_of_rounding(judges: Judges) -> None:
    row = scored(judges, case_of(half()), grey(100), HONEST)
    assert (row["psnr"], row["mse"], row["ssim"]) == (PSNR_LIMIT, 0, 1)
    rng = np.random.default_rng(0)
    values = rng.random((512, 512, 3)) * 255
    error = np.mean(((values - values.round()) / 255) ** 2)
    assert PSNR_LIMIT == pytest.approx(-10 * math.log10(error), abs=0.02)


def test_clip_sees_the_edited_part_on_black(judges: Judges, world: list[PieCase]) -> None:
    case = world[0]
    black = np.asarray(case.picture) * case.mask[..., None]
    seen = (
        judges.clip.images([black.astype(np.uint8), case.picture])
        @ judges.clip.texts([case.target_prompt, case.source_prompt]).T
    )
    row = scored(judges, case, case.picture, HONEST)
    assert row["clip_edited"] == pytest.approx(100 * max(seen[0, 0].item(), 0), abs=1e-3)
    assert row["clip_whole"] == pytest.approx(100 * max(seen[1, 0].item(), 0), abs=1e-3)
    assert row["clip_source"] == pytest.approx(100 * max(seen[1, 1].item(), 0), abs=1e-3)


# Protocols --------------------------------------------------------------------------------------------------


def test_the_released_protocol_is_what_the_table_was_made_with(tiny: Tiny) -> None:
    case = case_of(half())
    contender, notes = settings(tiny(), case, Contender("prompt_to_prompt", "direct"), "released")
    assert (contender.inversion_options, notes) == ({"steps": 50, "guidance_scale": 7.5}, [])
    assert contender.options == {
        "word_edit": "refine",
        "cross_replace_steps": 0.4,
        "self_replace_steps": 0.6,
        "self_limit": 1024,
        "blend_start": 0.2,
        "blend_threshold": 0.3,
        "local_blend": ["cat", "dog"],
        "reweight": {"dog": 2.0},
    }


def test_the_contenders_own_options_outweigh_the_protocol(tiny: Tiny) -> None:
    own = Contender("prompt_to_prompt", "direct", {"self_replace_steps": 0.1}, {"steps": 3})
    given, _ = settings(tiny(), case_of(half()), own, "released")
    assert given.inversion_options["steps"] == 3 and given.inversion_options["guidance_scale"] == 7.5
    assert given.options["self_replace_steps"] == 0.1 and given.options["word_edit"] == "refine"
    assert settings(tiny(), case_of(half()), own, "wordbrush") == (own, [])


def test_a_blended_word_that_is_in_no_prompt_is_left_out_and_told(tiny: Tiny) -> None:
    case = replace(case_of(half()), blended_words=("cat", "unicorn"))
    given, notes = settings(tiny(), case, DIRECT, "released")
    assert given.options["local_blend"] == ["cat"] and "reweight" not in given.options
    assert notes == ["blended word 'unicorn' is not in its prompt"]
    given, _ = settings(tiny(), replace(case, blended_words=None), DIRECT, "released")
    assert given.options["local_blend"] == "off" and "reweight" not in given.options


# Runs -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["wordbrush", "released"])
def test_a_run_edits_scores_and_reports(
    protocol: Any, folder: Path, tmp_path: Path, judges: Judges, tiny: Tiny
) -> None:
    cases = read(folder)
    bench = PieBench(cases, judges, HONEST, tmp_path / "out")
    seen: list[int] = []
    drain(bench.edit(tiny(), DIRECT, "run", protocol), lambda progress: seen.append(progress.step))
    assert seen == list(range(1, len(cases) + 1))
    rows = drain(bench.score("run"))
    assert [row["case"] for row in rows] == [case.name for case in cases]
    for row, case in zip(rows, cases, strict=True):
        assert row["error"] is None
        made = load(bench.path("run", case))
        if not case.mask.all():
            assert row["mse"] == pytest.approx(pixels.mse(made, case.picture, ~case.mask))
        record = read_provenance(bench.path("run", case))
        assert record["targets"] == [case.target_prompt]
        assert record["source"]["options"]["steps"] == 2
    report = pie_tables.Report(bench.rows(), cases, judges, HONEST, "honest")
    table = list(csv.DictReader(report.csv().splitlines()))
    assert table[0]["type"] == "all" and float(table[0]["cases"]) == len(cases)
    assert float(table[0]["clip_whole_by_pocket"]) == pytest.approx(
        np.mean([row["clip_whole"] for row in rows])
    )
    assert {line["type"] for line in table[1:]} == {case.type for case in cases}
    page = pie_tables.sheet(cases, bench.edited("run"), HONEST)
    assert page.width > page.height / 2


@pytest.mark.slow
def test_a_run_that_was_cut_goes_on_and_ends_with_the_same_rows(
    folder: Path, tmp_path: Path, judges: Judges, tiny: Tiny
) -> None:
    cases = read(folder)[:4]
    whole = PieBench(cases, judges, HONEST, tmp_path / "whole")
    drain(whole.edit(tiny(), DIRECT, "run"))
    wanted = drain(whole.score("run"))

    cut = PieBench(cases, judges, HONEST, tmp_path / "cut")
    steps = cut.edit(tiny(), DIRECT, "run")
    next(steps), next(steps)
    steps.close()
    lines = (tmp_path / "cut" / "edits.jsonl").read_text()
    (tmp_path / "cut" / "edits.jsonl").write_text(lines[:-20])  # killed while writing the second
    first = cut.path("run", cases[0]).stat().st_mtime_ns
    drain(cut.edit(tiny(), DIRECT, "run"))
    assert cut.path("run", cases[0]).stat().st_mtime_ns == first
    scoring = cut.score("run")
    next(scoring)
    scoring.close()
    assert drain(cut.score("run")) == wanted
    assert cut.rows() == whole.rows()


def test_an_edit_whose_picture_is_gone_is_made_again(
    folder: Path, tmp_path: Path, judges: Judges, tiny: Tiny
) -> None:
    cases = read(folder)[:1]
    bench = PieBench(cases, judges, HONEST, tmp_path / "out")
    drain(bench.edit(tiny(), DIRECT, "run"))
    rows = drain(bench.score("run"))
    bench.path("run", cases[0]).unlink()
    drain(bench.edit(tiny(), DIRECT, "run"))
    assert drain(bench.score("run")) == rows


def test_a_run_with_other_settings_is_refused(
    folder: Path, tmp_path: Path, judges: Judges, tiny: Tiny
) -> None:
    bench = PieBench(read(folder)[:1], judges, HONEST, tmp_path / "out")
    drain(bench.edit(tiny(), DIRECT, "run"))
    with pytest.raises(OutputError, match="holds run with another model, other options or other pictures"):
        drain(bench.edit(tiny(), replace(DIRECT, inversion_options={"steps": 3}), "run"))
    with pytest.raises(OptionsError, match="unknown option 'stepz'"):
        drain(bench.edit(tiny(), replace(DIRECT, inversion_options={"stepz": 3}), "other"))


def test_other_switches_score_the_same_edits_again(
    folder: Path, tmp_path: Path, judges: Judges, tiny: Tiny
) -> None:
    cases = read(folder)[:2]
    honest = PieBench(cases, judges, HONEST, tmp_path / "out")
    for run in ("one", "two"):
        drain(honest.edit(tiny(), DIRECT, run))
        drain(honest.score(run))
    assert honest.measured_otherwise() == []
    released = PieBench(cases, judges, RELEASED, tmp_path / "out")
    drain(released.score("one"))
    assert [row["run"] for row in released.rows()] == ["one"] * len(cases)
    assert released.measured_otherwise() == ["two"]
    assert len((tmp_path / "out" / "edits.jsonl").read_text().splitlines()) == 2 * len(cases)


def test_a_case_that_cannot_be_edited_says_why_and_the_others_go_on(
    folder: Path, tmp_path: Path, judges: Judges, tiny: Tiny
) -> None:
    cases = read(folder)[:2]
    long = replace(cases[0], editing_prompt=" ".join(["cat"] * 60))
    wide = replace(
        cases[1],
        name="wide",
        image_path="wide.png",
        content=Image.new("RGB", (48, SIDE)),
        mask=np.ones((SIDE, 48), bool),
    )
    bench = PieBench([long, cases[1], wide], judges, HONEST, tmp_path / "out")
    drain(bench.edit(tiny(), DIRECT, "run"))
    rows = drain(bench.score("run"))
    assert "at most 30 tokens, got 60" in rows[0]["error"] and rows[1]["error"] is None
    assert rows[2]["error"] == "the model makes pictures of 32 × 32, and this one is 48 × 32"
    text = pie_tables.Report(bench.rows(), bench.cases, judges, HONEST, "honest").summary()
    assert "run: 2 cases could not be edited and are in no mean" in text


def test_pictures_edited_elsewhere_are_scored(folder: Path, tmp_path: Path, judges: Judges) -> None:
    cases = read(folder)
    for case in cases:
        path = (tmp_path / "theirs" / case.image_path).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        case.picture.save(path)
    bench = PieBench(cases, judges, HONEST, tmp_path / "out")
    rows = drain(bench.score("theirs", from_folder(tmp_path / "theirs", cases)))
    assert all(row["structure"] == pytest.approx(0, abs=1e-9) for row in rows)
    assert {row["psnr"] for row in bench.rows()} <= {PSNR_LIMIT, None}
    path.unlink()
    with pytest.raises(ImageError, match=f"for each of {len(cases)} cases, 1 are missing, the first at"):
        from_folder(tmp_path / "theirs", cases)


# The command ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_edits_scores_and_adds_lines_to_its_tables(
    folder: Path,
    tmp_path: Path,
    judges: Judges,
    tiny: Tiny,
    saved: Callable[[Model, Path], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup = Setup(model=str(saved(tiny(), tmp_path / "tiny")), device="cpu")
    out, flags = tmp_path / "out", {"encoder": judges.encoder.name, "steps": "2"}
    code = evaluate_pie.pie(
        folder, out=str(out), inversion=["direct", "ddim"], count=3, preset="released", setup=setup,
        given=flags | {"forced_border": "false"},
    )  # fmt: skip
    assert code == 0
    assert "Preset: released, but `forced_border` off" in capsys.readouterr().out
    runs = ["direct+prompt-to-prompt", "ddim+prompt-to-prompt"]
    for run in runs:
        assert (out / f"{run}.sheet.png").is_file() and len(list((out / "edits" / run).rglob("*.png"))) == 3
    told = {"encoder": judges.encoder.name, "forced_border": "false"}
    evaluate_pie.pie(
        folder,
        out=str(out),
        edited=out / "edits" / runs[0],
        label="again",
        count=3,
        preset="released",
        given=told,
    )
    lines = {
        line["run"]: line
        for line in csv.DictReader((out / "table.csv").read_text().splitlines())
        if line["type"] == "all"
    }
    assert list(lines) == [*runs, "again"]
    assert {**lines["again"], "run": ""} == {**lines[runs[0]], "run": ""}


def test_the_command_refuses_what_does_not_fit(folder: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(OptionsError, match="--edited edits nothing: leave 'steps' out"):
        evaluate_pie.pie(folder, out=out, edited=folder, given={"steps": "2"})
    with pytest.raises(OptionsError, match="leave --inversion, --protocol out"):
        evaluate_pie.pie(folder, out=out, edited=folder, inversion=["ddim"], protocol="released", given={})
    with pytest.raises(OptionsError, match="--label names one run, and these are 2"):
        evaluate_pie.pie(folder, out=out, inversion=["direct", "ddim"], label="x", given={})
    with pytest.raises(OptionsError, match="is there already"):
        evaluate_pie.pie(folder, out=out, from_pocket=3, given={})


def test_cases_of_the_world_are_written_once_and_a_stopped_writing_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    write_pocket(folder, 2)
    mapping = folder / pie_format.MAPPING
    text, before = mapping.read_text(), mapping.stat().st_mtime_ns
    write_pocket(folder, 2)
    assert mapping.stat().st_mtime_ns == before
    mapping.unlink()
    write_pocket(folder, 2)
    assert mapping.read_text() == text
    with pytest.raises(OptionsError, match="is there already"):
        write_pocket(folder, 4)


# Tables -----------------------------------------------------------------------------------------------------


def test_the_published_table_is_there_and_marked(judges: Judges, world: list[PieCase]) -> None:
    by_name = {row["run"]: row for row in pie_tables.published()}
    assert len(by_name) == 11
    assert by_name["Direct Inversion + P2P"] == {
        "run": "Direct Inversion + P2P",
        **dict(zip(METRICS, (11.65, 27.22, 54.55, 32.86, 84.76, 25.02, 22.10), strict=True)),
    }
    text = pie_tables.Report([], world, judges, HONEST, "honest").markdown()
    assert "Published; comparable only with the same model, protocol, data, quirks and networks" in text
    assert (
        "`whole_canvas` is off and not on" in text
        and "CLIP is pocket and not openai/clip-vit-large-patch14" in text
    )


def test_columns_of_other_networks_cannot_be_mistaken(judges: Judges) -> None:
    ours = pie_tables.columns(judges)
    assert not any("LPIPS" in column.title or "lpips" in column.key for column in ours)
    assert [column.key for column in ours if "clip" in column.key] == [
        "clip_whole_by_pocket",
        "clip_edited_by_pocket",
    ]
    official = Judges(
        replace(judges.clip, name="/models/clip-vit-large-patch14"),
        replace(judges.encoder, name="facebook/dino-vitb8"),
        Lpips("squeeze", torch.nn.Sequential(), []),
    )
    assert [column.key for column in pie_tables.columns(official)] == [
        "structure",
        "background_psnr",
        "lpips_squeeze",
        "background_mse",
        "background_ssim",
        "clip_whole",
        "clip_edited",
    ]
    released = [replace(case_of(np.zeros((512, 512), bool)), name=str(i)) for i in range(700)]
    assert pie_tables.departures(RELEASED, official, released) == []
    assert len(pie_tables.departures(RELEASED, official, released[1:])) == 1


def test_one_picture_has_no_interval(judges: Judges, world: list[PieCase]) -> None:
    score = dict.fromkeys((*METRICS, "clip_source"), 0.5)
    rows = [
        {"run": "r", "case": name, "type": "random", "picture": picture, "error": None, **score}
        for name, picture in (("a", "p"), ("b", "p"))
    ]
    alone = pie_tables.Report(rows, world, judges, HONEST, "honest").summary()
    two = [*rows, {**rows[0], "case": "c", "picture": "q"}]
    several = pie_tables.Report(two, world, judges, HONEST, "honest").summary()
    assert "| 0.50 |" in alone and "0.50 ± 0.00" in several


def test_types_are_the_benchmarks() -> None:
    assert list(pie_format.TYPES) == [str(i) for i in range(10)]
