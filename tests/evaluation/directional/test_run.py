"""InstructPix2Pix's curve: what is swept, what a point is, runs that are cut, and the plot."""

import csv
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field

from wordbrush import images, inversion
from wordbrush.backbones import Clip, load_clip
from wordbrush.cli.commands.evaluate import directional as evaluate_directional
from wordbrush.cli.options.setup import Setup
from wordbrush.errors import InputError, OptionsError, OutputError
from wordbrush.evaluation.contender import Contender
from wordbrush.evaluation.directional.cases import DirectionalCase, from_pocket, read
from wordbrush.evaluation.directional.curve import columns, points, table
from wordbrush.evaluation.directional.plot import plot
from wordbrush.evaluation.directional.run import TRUTH, Curves, Sweep, papers_sweep
from wordbrush.evaluation.results.tables import comma_separated
from wordbrush.model import Model
from wordbrush.options import Options
from wordbrush.progress import drain

Tiny = Callable[..., Model]
DIRECT = Contender("prompt_to_prompt", "direct", {}, {"steps": 2})


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(device="cpu")


@pytest.fixture(scope="module")
def cases() -> list[DirectionalCase]:
    return from_pocket(3, seed=1)


def row(case: str, direction: float | None, kept: float, **other: Any) -> Mapping[str, Any]:
    return {
        "curve": "c",
        "option": "o",
        "value": "1",
        "case": case,
        "group": case,
        "image_similarity": kept,
        "directional_similarity": direction,
        "caption_similarity": 0.5,
        **other,
    }


# Cases ------------------------------------------------------------------------------------------------------


def test_cases_are_read_from_lines_of_json(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    lines = [
        {"picture": "a.png", "input": "a cat", "output": "a dog"},
        {"picture": "a.png", "input": "a cat", "output": "a fox", "instruction": "make it a fox"},
    ]
    (tmp_path / "cases.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    one, two = read(tmp_path / "cases.jsonl")
    assert (one.input_caption, one.output_caption, one.instruction) == ("a cat", "a dog", None)
    assert two.instruction == "make it a fox" and one.group == two.group and one.name != two.name
    assert one.picture.size == (32, 32)


def test_a_line_ends_where_json_says(tmp_path: Path) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    line = '{"picture": "a.png", "input": "a\u2028cat", "output": "a\x85dog"}'
    (tmp_path / "cases.jsonl").write_text(f"{line}\r\n{line}\n")
    assert [case.output_caption for case in read(tmp_path / "cases.jsonl")] == ["a\x85dog"] * 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"picture": "a.png"', "line 1: expected JSON, got"),
        ("[]", "line 1: expected keys and values"),
        ('{"picture": "a.png", "input": "x"}', "expected 'output' to be text, got None"),
        ('{"picture": "a.png", "input": " ", "output": "y"}', "expected 'input' to be text, got ' '"),
        (
            '{"picture": "b.png", "input": "x", "output": "y"}',
            "expected a picture at .*b.png, and there is none",
        ),
        ('{"picture": "/etc/a.png", "input": "x", "output": "y"}', "line 1: expected 'picture' to be below"),
        ('{"picture": "x/../a.png", "input": "x", "output": "y"}', "line 1: expected 'picture' to be below"),
        ('{"picture": "a.png", "input": "x", "outptu": "y"}', "unknown key 'outptu'; did you mean 'output'"),
        ("", "expected at least one case"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    (tmp_path / "cases.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "cases.jsonl")
    with pytest.raises(InputError, match="cannot read .*none.jsonl"):
        read(tmp_path / "none.jsonl")


# What is swept ----------------------------------------------------------------------------------------------


def test_an_option_that_both_have_is_told_to_both() -> None:
    assert Sweep(DIRECT, "c", "guidance_scale", ()).at("4") == replace(
        DIRECT, inversion_options={"steps": 2, "guidance_scale": 4.0}, options={"guidance_scale": 4.0}
    )
    assert Sweep(DIRECT, "c", "self_replace_steps", ()).at("0.5") == replace(
        DIRECT, options={"self_replace_steps": 0.5}
    )


def test_wrong_sweeps_are_refused() -> None:
    with pytest.raises(
        OptionsError, match="neither direct nor prompt_to_prompt has 'self_replace'.*self_replace_steps"
    ):
        Sweep(DIRECT, "c", "self_replace", ()).at("1")
    with pytest.raises(OptionsError, match="option 'blend_start': expected less than or equal to 1, got '2'"):
        Sweep(DIRECT, "c", "blend_start", ()).at("2")
    with pytest.raises(OptionsError, match="option 'steps' is swept: leave its own value 2 out"):
        Sweep(DIRECT, "c", "steps", ()).at("3")


def test_the_papers_values_are_for_methods_that_have_its_option(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionsError, match="has no image_guidance_scale: say what to sweep"):
        papers_sweep(DIRECT)

    class Instructed(Options):
        image_guidance_scale: float = Field(1.5, description="how much of the picture stays")

    monkeypatch.setattr("wordbrush.editing.prompt_to_prompt.options.Options", Instructed)
    option, values = papers_sweep(DIRECT)
    assert option == "image_guidance_scale"
    assert [float(value) for value in values] == pytest.approx(np.arange(1.0, 2.21, 0.2))


# Points -----------------------------------------------------------------------------------------------------


def test_a_point_is_both_means_over_the_same_cases() -> None:
    rows = [row("a", 0.2, 0.9), row("b", 0.4, 0.7), row("c", None, 0.1), row("d", math.nan, 0.1)]
    (point,) = points(rows)
    assert (point.directional.count, point.image.count) == (2, 2)
    assert point.directional.mean == pytest.approx(0.3) and point.image.mean == pytest.approx(0.8)


def test_captions_that_are_too_alike_are_left_out() -> None:
    rows = [row("a", 0.2, 0.9), row("b", 0.4, 0.7, caption_similarity=0.97)]
    assert points(rows, most_alike=0.95)[0].directional.mean == pytest.approx(0.2)
    assert points(rows)[0].directional.count == 2
    assert points([row("b", 0.4, 0.7, caption_similarity=0.97)], most_alike=0.9) == []


def test_edits_of_one_picture_are_drawn_together() -> None:
    alone = [row(str(i), i / 10, 0.5) for i in range(8)]
    paired = [{**one, "group": str(i // 2)} for i, one in enumerate(alone)]
    (by_case,), (by_picture,) = points(alone), points(paired)
    assert by_picture.directional.mean == pytest.approx(by_case.directional.mean)
    width = [point.directional.high - point.directional.low for point in (by_case, by_picture)]
    assert width[1] > width[0]


# Runs -------------------------------------------------------------------------------------------------------


def test_a_row_is_the_papers_two_cosines(
    cases: list[DirectionalCase], clip: Clip, tiny: Tiny, tmp_path: Path
) -> None:
    curves = Curves(cases[:1], clip, tmp_path)
    drain(curves.sweep(tiny(), Sweep(DIRECT, "c", "self_replace_steps", ("0.5",))))
    (one,) = curves.rows()
    made = images.load(curves.path("c", "0.5", cases[0]))
    before, after = clip.images([images.fit(cases[0].picture, 32, 32), made]).double()
    said, wanted = clip.texts([cases[0].input_caption, cases[0].output_caption]).double()
    direction = torch.nn.functional.cosine_similarity(after - before, wanted - said, dim=0)
    assert one["image_similarity"] == pytest.approx((before @ after).item(), abs=1e-5)
    assert one["directional_similarity"] == pytest.approx(direction.item(), abs=1e-4)
    assert one["caption_similarity"] == pytest.approx((said @ wanted).item(), abs=1e-5)


@pytest.mark.slow
def test_a_sweep_that_was_cut_goes_on_and_ends_with_the_same_rows(
    cases: list[DirectionalCase], clip: Clip, tiny: Tiny, tmp_path: Path
) -> None:
    values = ("0", "1")
    whole = Curves(cases, clip, tmp_path / "whole")
    seen: list[tuple[int, int]] = []
    drain(
        whole.sweep(tiny(), Sweep(DIRECT, "c", "self_replace_steps", values)),
        lambda p: seen.append((p.step, p.total)),
    )
    assert seen == [(i, 2 * len(cases)) for i in range(1, 2 * len(cases) + 1)]

    cut = Curves(cases, clip, tmp_path / "cut")
    steps = cut.sweep(tiny(), Sweep(DIRECT, "c", "self_replace_steps", values))
    next(steps), next(steps), next(steps)
    steps.close()
    path = tmp_path / "cut" / "results.jsonl"
    path.write_text(path.read_text()[:-9])
    kept = cut.path("c", "1", cases[0]).stat().st_mtime_ns
    drain(cut.sweep(tiny(), Sweep(DIRECT, "c", "self_replace_steps", values)))
    assert cut.rows() == whole.rows()
    assert cut.path("c", "1", cases[0]).stat().st_mtime_ns == kept


@pytest.mark.slow
def test_one_inversion_serves_all_values_that_leave_it_as_it_is(
    cases: list[DirectionalCase], clip: Clip, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = inversion.METHODS["direct"].load()
    inverted: list[str] = []
    original = module.invert

    def counted(model: Model, image: torch.Tensor, prompt: str, options: Any) -> Any:
        inverted.append(prompt)
        return original(model, image, prompt, options)

    monkeypatch.setattr(module, "invert", counted)
    curves = Curves(cases[:1], clip, tmp_path)
    drain(curves.sweep(tiny(), Sweep(DIRECT, "a", "self_replace_steps", ("0", "0.5", "1"))))
    assert len(inverted) == 1
    drain(curves.sweep(tiny(), Sweep(DIRECT, "b", "guidance_scale", ("1", "2"))))
    assert len(inverted) == 3
    assert {point.curve for point in points(curves.rows())} == {"a", "b"}


def test_a_curve_with_other_settings_is_refused(
    cases: list[DirectionalCase], clip: Clip, tiny: Tiny, tmp_path: Path
) -> None:
    curves = Curves(cases[:1], clip, tmp_path)
    drain(curves.sweep(tiny(), Sweep(DIRECT, "c", "self_replace_steps", ("0",))))
    other = replace(DIRECT, options={"word_edit": "refine"})
    with pytest.raises(OutputError, match="holds c with another model, CLIP, options or pictures"):
        drain(curves.sweep(tiny(), Sweep(other, "c", "self_replace_steps", ("0",))))


def test_the_truth_goes_where_the_words_go(clip: Clip, tiny: Tiny, tmp_path: Path) -> None:
    curves = Curves(from_pocket(20, seed=5), clip, tmp_path)
    model = tiny()
    unchanged = replace(
        curves, cases=[replace(case, truth=case.picture) for case in curves.cases], out=tmp_path / "b"
    )
    drain(curves.add_truth(model))
    drain(unchanged.add_truth(model))
    (truth,), (stayed,) = points(curves.rows()), points(unchanged.rows())
    assert truth.curve == TRUTH and truth.directional.low > 0
    assert truth.directional.mean > stayed.directional.mean and truth.image.mean < stayed.image.mean


@pytest.mark.slow
def test_the_command_sweeps_plots_and_adds_curves(
    clip: Clip,
    tiny: Tiny,
    tmp_path: Path,
    saved: Callable[[Model, Path], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup = Setup(model=str(saved(tiny(), tmp_path / "tiny")), device="cpu")
    out = tmp_path / "out"
    for way in ("direct", "ddim"):
        evaluate_directional.directional(
            out=str(out),
            pocket=2,
            inversion=[way],
            sweep="self-replace-steps=0,1",
            setup=setup,
            given={"steps": "2"},
        )
    lines = list(csv.DictReader((out / "points.csv").read_text().splitlines()))
    names = [f"{way}+prompt-to-prompt" for way in ("direct", "ddim")]
    assert {(line["curve"], line["value"]) for line in lines} == {
        (TRUTH, ""), *((name, value) for name in names for value in "01")
    }  # fmt: skip
    assert (out / "curve.png").is_file()
    assert "directional similarity by pocket" in capsys.readouterr().out


def test_the_command_refuses_what_does_not_fit(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    with pytest.raises(OptionsError, match="expected a file of cases or --pocket N"):
        evaluate_directional.directional(out=out, given={})
    with pytest.raises(OptionsError, match="expected --sweep OPTION=VALUE,VALUE,…, got 'steps'"):
        evaluate_directional.directional(out=out, pocket=1, sweep="steps", given={})
    with pytest.raises(OptionsError, match="has no image_guidance_scale"):
        evaluate_directional.directional(out=out, pocket=1, given={})


# Plot and table ---------------------------------------------------------------------------------------------


def curve(name: str, shift: float) -> list[Mapping[str, Any]]:
    return [
        row(
            str(case),
            shift + value / 10 + case / 50,
            0.9 - value / 10 + case / 40,
            curve=name,
            value=str(value),
        )
        for value in range(4)
        for case in range(5)
    ]


def test_the_plot_has_every_curve_in_its_own_colour(tmp_path: Path) -> None:
    rows = [*curve("direct", 0), *curve("ddim", 0.3), row("1", 0.9, 0.9, curve=TRUTH, value="", option="")]
    plot(points(rows), tmp_path / "curve.png", "pocket")
    picture = np.asarray(images.load(tmp_path / "curve.png")).reshape(-1, 3)
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00), (0x22, 0x25, 0x2B)):
        assert (picture == colour).all(1).sum() > 50
    assert not (picture == (0x00, 0x9E, 0x73)).all(1).any()  # there is no third curve
    assert picture.mean() > 200  # paper, mostly


def test_the_same_points_make_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        plot(points(curve("direct", 0)), tmp_path / name, "pocket")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_nothing_to_plot_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one point to plot"):
        plot(points([row("a", None, 0.5)]), tmp_path / "curve.png", "pocket")
    assert not list(tmp_path.iterdir())


def test_the_table_names_the_clip_and_has_both_intervals() -> None:
    drawn = points(curve("direct", 0))
    lines = list(csv.DictReader(comma_separated(table(drawn, "x/vit-b"), columns("x/vit-b")).splitlines()))
    assert [line["value"] for line in lines] == ["0", "1", "2", "3"]
    assert float(lines[1]["directional_similarity_by_vit-b"]) == pytest.approx(drawn[1].directional.mean)
    assert float(lines[1]["image_similarity_by_vit-b_low"]) == pytest.approx(drawn[1].image.low)
