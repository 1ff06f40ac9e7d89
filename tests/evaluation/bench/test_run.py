"""The bench: what it measures, and that a run that is stopped anywhere ends as if it had not been."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reference import counting
from wordbrush.cli import main
from wordbrush.errors import OutputError, PromptError
from wordbrush.evaluation.bench import report as bench_report
from wordbrush.evaluation.bench.cases import ADDED, KINDS, UNCHANGED, split
from wordbrush.evaluation.bench.run import BOUNDS, KEPT_SOURCE, SOURCE, TRUTH, Bench, pasted
from wordbrush.evaluation.bench.scores import columns, crop
from wordbrush.evaluation.contender import Contender
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.metrics.pixels import PSNR_LIMIT
from wordbrush.images import load
from wordbrush.model import Model
from wordbrush.pocket import caption
from wordbrush.progress import drain
from wordbrush.provenance import pixel_hash
from wordbrush.replaying import replay
from wordbrush.request import EditRequest

STEPS = {"steps": 3}
DIRECT = Contender("prompt_to_prompt", "direct", {}, STEPS)
DDIM = Contender("prompt_to_prompt", "ddim", {}, STEPS)
TIMED = ("seconds", "processor_seconds")


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges.load(reader=True)


@pytest.fixture
def at(tiny: Callable[..., Model], judges: Judges) -> Callable[..., Bench]:
    def make(out: Path, count: int = 10, **changes: Any) -> Bench:
        return replace(Bench(tiny("sd1"), split(5, count), judges, out, 5), **changes)

    return make


def lasting(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows without what no two runs share."""
    return [{key: value for key, value in row.items() if key not in TIMED} for row in rows]


@pytest.mark.slow
def test_a_run_has_a_row_for_every_case_of_everyone(tmp_path: Path, at: Callable[..., Bench]) -> None:
    bench = at(tmp_path)
    rows = drain(bench.run([DIRECT, DDIM]))
    labels = [*BOUNDS, DIRECT.label, pasted(DIRECT.label), DDIM.label, pasted(DDIM.label)]
    assert [(row["method"], row["case"]) for row in rows] == [
        (label, case.name) for label in labels for case in bench.cases
    ]
    lines = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    assert lasting(lines) == lasting(rows)
    assert all(bench.path(DDIM.label, case).is_file() for case in bench.cases)
    for row in rows:
        if (
            row["method"] == DIRECT.label
        ):  # three steps up, and down the targets that change, beside their source
            assert row["inversion_rows"] == 3 / 5 and row["gradient_rows"] == 0
            scene = [case for case in bench.cases if case.scene == row["scene"]]
            changing = sum(case.kind != UNCHANGED for case in scene)
            edited = 5 * (row["unet_rows"] - row["inversion_rows"]) / 3
            assert 2 * changing - 1e-9 <= edited <= 2 * changing + 1 + 1e-9


@pytest.mark.slow
def test_the_bounds_are_what_they_are_called(tmp_path: Path, at: Callable[..., Bench]) -> None:
    rows = drain(at(tmp_path).run([]))
    scores = {label: [row for row in rows if row["method"] == label] for label in BOUNDS}
    assert np.mean([row["success"] for row in scores[TRUTH]]) >= 0.8
    for source, truth in zip(scores[SOURCE], scores[TRUTH], strict=True):
        if source["kind"] == ADDED:  # the words leave its place open: there is no one truth
            assert truth["truth_psnr"] is None and source["kept_psnr"] == PSNR_LIMIT > truth["kept_psnr"] > 30
            continue
        assert truth["kept_psnr"] is None
        assert truth["truth_psnr"] == PSNR_LIMIT and truth["truth_distance"] == pytest.approx(0, abs=1e-6)
        assert source["outside_psnr"] in (None, PSNR_LIMIT) and source["structure"] == pytest.approx(
            0, abs=1e-6
        )
        if source["kind"] == "nothing changed":
            assert source["success"] == truth["success"] and source["identity_psnr"] == PSNR_LIMIT
        else:
            assert (
                source["success"] == 0
                and source["truth_psnr"] < PSNR_LIMIT
                and source["identity_psnr"] is None
            )
            assert source["inside_mse"] > 0 == truth["inside_mse"]
    # A random autoencoder keeps nothing, and says so.
    assert np.mean([row["truth_psnr"] for row in scores[KEPT_SOURCE] if row["kind"] != ADDED]) < 20


@pytest.mark.slow
def test_stopped_anywhere_it_ends_as_if_it_had_not_been(tmp_path: Path, at: Callable[..., Bench]) -> None:
    whole = drain(at(tmp_path / "whole", 6).run([DIRECT]))  # a scene and a bit of another
    for stop in (1, 2, 5, 9):
        out = tmp_path / f"stopped-{stop}"
        steps = at(out, 6).run([DIRECT])
        for _ in islice(steps, stop):
            pass
        steps.close()
        for name in ("edits.jsonl", "results.jsonl"):  # as a kill would leave the line it was writing
            if (out / name).exists():
                with open(out / name, "a") as file:
                    file.write('{"method": "dir')
        assert lasting(drain(at(out, 6).run([DIRECT]))) == lasting(whole), stop
        found = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
        assert lasting(found) == lasting(whole)


@pytest.mark.slow
def test_an_edit_can_be_made_again_wherever_its_folder_went(
    tmp_path: Path, at: Callable[..., Bench], tiny: Callable[..., Model]
) -> None:
    drain(at(tmp_path / "before").run([DIRECT]))
    moved = at((tmp_path / "before").rename(tmp_path / "after"))
    for case in moved.cases[3:6]:  # the last of one scene's batch and the first of the next
        again = replay(moved.path(DIRECT.label, case), model=tiny("sd1"))
        assert again.differences == ()
        assert pixel_hash(again.image) == pixel_hash(moved.picture(DIRECT.label, case))


@pytest.mark.slow
def test_the_true_mask_is_an_upper_bound_with_a_name_of_its_own(
    tmp_path: Path, at: Callable[..., Bench], tiny: Callable[..., Model]
) -> None:
    """Every case has its own mask, so they are edited one by one; the records name the masks, and find them again."""
    told = replace(DIRECT, true_mask=True)
    assert told.label == f"{DIRECT.label}, true mask"
    bench = at(tmp_path, 5)
    rows = drain(bench.run([DIRECT, told]))
    assert {row["method"] for row in rows} == {
        *BOUNDS,
        *(DIRECT.label, told.label, pasted(DIRECT.label), pasted(told.label)),
    }
    masked = [case for case in bench.cases if case.mask.any()]
    for case in masked:
        picture, own = (
            np.asarray(image, int) for image in (bench.picture(pasted(told.label), case), case.picture)
        )
        assert (picture[~case.mask] == own[~case.mask]).all()
        white = np.asarray(load(tmp_path / "masks" / f"{case.name}.png"))[:, :, 0]
        assert np.array_equal(white > 127, case.mask)
    again = replay(bench.path(pasted(told.label), masked[0]), model=tiny("sd1"))
    assert again.differences == ()
    assert any(
        pixel_hash(bench.picture(told.label, case)) != pixel_hash(bench.picture(DIRECT.label, case))
        for case in masked
    )
    assert "an upper bound" in bench_report.tables(bench, rows, "")
    without = [row for row in rows if "true mask" not in row["method"]]
    assert "an upper bound" not in bench_report.tables(bench, without, "")


@pytest.mark.slow
def test_what_is_there_is_not_made_again(
    tmp_path: Path, at: Callable[..., Bench], tiny: Callable[..., Model]
) -> None:
    bench = at(tmp_path, 6)
    drain(bench.run([DIRECT]))
    with counting(tiny("sd1")) as spent:
        drain(bench.run([DIRECT]))
        assert spent.rows == 0
        bench.path(DIRECT.label, bench.cases[0]).unlink()
        drain(bench.run([DIRECT]))
        changing = sum(case.kind != UNCHANGED for case in bench.cases[:5])
        # The scene of the lost picture, all its five cases; two steps of three read the source.
        assert 3 + 3 * 2 * changing < spent.rows <= 3 + 3 * (2 * changing + 1)


@pytest.mark.slow
def test_other_judges_judge_the_same_edits_anew(
    tmp_path: Path, at: Callable[..., Bench], tiny: Callable[..., Model], judges: Judges
) -> None:
    before = drain(at(tmp_path, 5).run([DIRECT]))
    harsh = replace(judges, clip=replace(judges.clip, name="another"))
    with counting(tiny("sd1")) as spent:
        after = drain(at(tmp_path, 5, judges=harsh).run([DIRECT]))
    assert spent.rows == 0
    assert all(old["judged"] != new["judged"] for old, new in zip(before, after, strict=True))


def test_judges_in_a_folder_are_known_by_their_weights(tmp_path: Path, judges: Judges) -> None:
    weights = tmp_path / "model.safetensors"
    hashes: set[str] = set()
    for content in (b"a CLIP", b"the same CLIP, trained on"):
        weights.write_bytes(content)
        hashes.add(replace(judges, clip=replace(judges.clip, name=str(tmp_path))).hash)
    assert len(hashes | {judges.hash}) == 3


@pytest.mark.slow
def test_more_cases_go_on_from_fewer(tmp_path: Path, at: Callable[..., Bench]) -> None:
    fewer = drain(at(tmp_path, 5).run([DIRECT]))
    more = drain(at(tmp_path, 6).run([DIRECT]))
    first = [row for row in more if row["case"] in {row["case"] for row in fewer}]
    assert first == fewer


@pytest.mark.slow
def test_another_model_or_other_options_are_another_bench(
    tmp_path: Path, at: Callable[..., Bench], tiny: Callable[..., Model]
) -> None:
    drain(at(tmp_path, 5).run([DIRECT]))
    with pytest.raises(OutputError, match="another model"):
        drain(at(tmp_path, 5, model=tiny("sd2")).run([DIRECT]))
    with pytest.raises(OutputError, match="other options"):
        drain(at(tmp_path, 5).run([replace(DIRECT, options={"self_replace_steps": 0.1})]))
    with pytest.raises(OutputError, match="another seed"):
        drain(at(tmp_path, 5, seed=6).run([DIRECT]))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(OutputError, match=r"run\.json: expected JSON"):
        drain(at(tmp_path, 5).run([DIRECT]))


@pytest.mark.slow
def test_what_a_method_cannot_edit_is_the_source_and_says_why(
    tmp_path: Path, at: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    from wordbrush.editing.prompt_to_prompt import method as prompt_to_prompt

    whole = drain(at(tmp_path / "whole", 5).run([DIRECT]))
    edit = prompt_to_prompt.edit

    def refusing(model: Model, request: EditRequest) -> Any:
        if any("dragon" in target for target in request.targets):
            raise PromptError("no dragons")
        return edit(model, request)

    monkeypatch.setattr(prompt_to_prompt, "edit", refusing)
    bench = at(tmp_path / "refused", 5)
    one = bench.cases[1]
    monkeypatch.setattr(
        type(one), "target_prompt", property(lambda case: "a dragon" if case == one else caption(case.target))
    )
    rows = drain(bench.run([DIRECT]))
    errors = {row["case"]: row["error"] for row in rows if row["method"] == DIRECT.label}
    assert errors == {case.name: "no dragons" if case == one else None for case in bench.cases}
    by_case = {row["case"]: row for row in rows if row["method"] == DIRECT.label}
    assert by_case[one.name]["success"] == 0
    for row in (row for row in whole if row["method"] == DIRECT.label and row["case"] != one.name):
        assert by_case[row["case"]]["truth_psnr"] == pytest.approx(row["truth_psnr"], abs=0.05)
    assert "could not edit 1 cases" in bench_report.tables(bench, rows, "")


@pytest.mark.slow
def test_the_report_has_every_score_and_every_kind(tmp_path: Path, at: Callable[..., Bench]) -> None:
    bench = at(tmp_path)
    rows = drain(bench.run([DIRECT]))
    text = drain(bench_report.report(bench, rows, "wordbrush evaluate bench --count 10"))
    assert (tmp_path / "table.md").read_text() == text
    for kind in KINDS:
        assert f"| {kind} |" in text
        for order in ("worst", "random"):
            page = load(tmp_path / "sheets" / DIRECT.label / f"{kind.replace(' ', '-')}-{order}.jpg")
            assert page.width > 4 * 128
    with open(tmp_path / "table.csv") as file:
        table = {line["method"]: line for line in csv.DictReader(file)}
    assert list(table) == [*BOUNDS, DIRECT.label, pasted(DIRECT.label)]
    # What is pasted back keeps the picture's own pixels, and is scored by itself.
    assert float(table[pasted(DIRECT.label)]["outside_psnr"]) > float(table[DIRECT.label]["outside_psnr"])
    assert set(columns("")) <= set(table[SOURCE])
    own = [
        row["truth_psnr"]
        for row in rows
        if row["method"] == DIRECT.label and row["kind"] not in (ADDED, UNCHANGED)
    ]
    assert float(table[DIRECT.label]["truth_psnr"]) == pytest.approx(np.mean(own))
    # Giving the source back keeps everything, and the table says that such a score can be gamed.
    gamed = next(line for line in text.splitlines() if line.startswith("| MSE outside"))
    assert "the source wins" in gamed


def test_the_edited_region_is_seen_whole_and_near() -> None:
    picture = split(5, 1)[0].picture
    mask = np.zeros((128, 128), dtype=bool)
    assert crop(picture, mask) is picture
    mask[100:110, 5:15] = True
    assert crop(picture, mask).size == (64, 64)
    mask[2:110, 5:15] = True
    near = crop(picture, mask)
    assert near.size == (108, 108)
    assert np.array_equal(np.asarray(near), np.asarray(picture)[2:110, 0:108])


@pytest.mark.slow
def test_the_command_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench"
    command = [
        "evaluate",
        "bench",
        "--count",
        "2",
        "--steps",
        "2",
        "--inversion",
        "direct",
        "--method",
        "prompt-to-prompt",
        "--out",
        str(out),
    ]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["cases"] == 2 and set(told["means"]) == {*BOUNDS, DIRECT.label, pasted(DIRECT.label)}
    shutil.rmtree(out / "sheets")
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert DIRECT.label in shown and (out / "sheets" / DIRECT.label).is_dir()
    assert "--steps 2 --out DIR`" in (out / "table.md").read_text()
    assert main([*command, "--dtype", "float32"]) == 0
    assert "--dtype float32 --steps 2 --out DIR`" in (out / "table.md").read_text()
    (out / "run.json").write_text('{"of": "something else"}')
    assert main(command) == 2
    assert "was not written by the bench" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--count", "0"], "count"),
        (["--inversion", "dirct"], "direct"),
        (["--method", "ddim"], "--inversion ddim"),
        (["--lpips", "alex"], "together"),
        (["--stps", "3"], "--stps"),
    ],
)
def test_mistakes_are_told_before_any_work(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "bench", "--out", str(tmp_path / "bench"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "bench").exists()
