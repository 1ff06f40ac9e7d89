"""Ways to teach subjects of the built-in world: the world, the work, the claims and the papers' rows."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from wordbrush import images, training
from wordbrush.cli.commands.evaluate.subjects import subjects as command
from wordbrush.concept import Concept
from wordbrush.errors import InputError, OptionsError, OutputError
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.results.statistics import Interval
from wordbrush.evaluation.study.app import create_app
from wordbrush.evaluation.study.design import check_pictures
from wordbrush.evaluation.study.store import Store
from wordbrush.evaluation.subjects import format
from wordbrush.evaluation.subjects.pocket import claims, gallery, making, report, two, variants, world
from wordbrush.evaluation.subjects.pocket.claims import CLAIMS, Claim, findings, verdict
from wordbrush.evaluation.subjects.pocket.making import Bench, Counts, make, parts
from wordbrush.evaluation.subjects.pocket.scores import BY_JUDGE, REAL, Scores, masked, score
from wordbrush.evaluation.subjects.pocket.variants import ALL, BASE, TRUTH, VARIANTS, Variant
from wordbrush.evaluation.subjects.pocket.world import CHOOSING, OTHERS, REPORTED, Subject
from wordbrush.evaluation.subjects.published import PUBLISHED, TWO
from wordbrush.files import sole
from wordbrush.model import Model
from wordbrush.pocket.vocabulary import HELD_OUT, HELD_OUT_LOOKS, NAMES
from wordbrush.progress import Progress, drain

EVERYBODY = (*CHOOSING, *REPORTED)
TINY = Counts(pictures=2, category=4, bare=2, steps=8, training=0.02, class_pictures=1)
TAUGHT = ("textual-inversion", "dreambooth-no-prior")


# The world --------------------------------------------------------------------------------------------------


def test_twelve_subjects_that_no_training_had_six_to_choose_by_and_six_to_report():
    assert len(CHOOSING) >= 6 and len(REPORTED) >= 6
    assert len({subject.name for subject in EVERYBODY}) == len(EVERYBODY)
    for role in (CHOOSING, REPORTED):
        assert {subject.kind for subject in role} == {"live", "object"}
        assert any(subject.class_word == subject.sprite for subject in role), "a noun that was trained"
        assert any(subject.look for subject in role)
        assert len({subject.class_word for subject in role}) == len(role)
    for subject in EVERYBODY:
        assert subject.sprite in HELD_OUT or subject.look in HELD_OUT_LOOKS
        assert subject.class_word in NAMES and subject.wrong in NAMES
        assert subject.wrong != subject.class_word
        assert subject.class_word[0] not in "aeiou", "the prompts say 'a'"


@pytest.mark.parametrize("subject", EVERYBODY, ids=lambda subject: subject.name)
def test_a_subjects_pictures_and_truths_are_rendered_alike_each_time(subject: Subject):
    pictures = subject.pictures()
    assert [each.tobytes() for each in pictures] == [each.tobytes() for each in subject.pictures()]
    assert len({each.tobytes() for each in pictures}) == 5
    mask = subject.mask()
    assert 0.03 < mask.mean() < 0.4
    nobody = world.render(
        replace(subject.scenes()[0], things=(world.Thing("ball", size="small", x=0.95, y=0.05),))
    )
    changed = (np.asarray(pictures[0]) != np.asarray(nobody)).any(-1)
    assert changed[mask].mean() > 0.95, "the mask is where the subject is"
    assert 4 <= len(subject.prompts) <= 6
    assert {"recontext", "style", "property"} <= {prompt.kind for prompt in subject.prompts}
    for prompt in subject.prompts:
        assert prompt.text.count("{token} {class}") == 1
        assert prompt.place not in {scene.place for scene in subject.scenes()}
        one, other = (prompt.truths(subject, 2, first)[0].tobytes() for first in (0, 50))
        assert one == prompt.truths(subject, 1)[0].tobytes() and one != other


def test_pictures_of_a_category_are_never_those_that_it_is_measured_by():
    (subject, *_) = REPORTED
    drawn = [subject.category(split, 20) for split in ("real", "asked", "learning")]
    kept = [{picture.tobytes() for picture, _ in shown} for shown in drawn]
    assert not (kept[0] & kept[1] | kept[1] & kept[2] | kept[0] & kept[2])
    assert all(subject.class_word in caption.split() for shown in drawn for _, caption in shown)


def test_prompts_of_others_name_no_subjects_class():
    classes = {subject.class_word for subject in EVERYBODY}
    assert not classes & {word for prompt in OTHERS for word in prompt.split()}


def test_a_subject_of_another_role_is_told():
    assert [each.name for each in world.subjects("reported", ["goat", "poodle"])] == ["poodle", "goat"]
    with pytest.raises(
        OptionsError, match="no subject 'pooddle' among the reported ones; did you mean 'poodle'"
    ):
        world.subjects("reported", ["pooddle"])


# The ways ---------------------------------------------------------------------------------------------------


def test_each_way_speaks_of_a_subject_in_its_own_words(tmp_path: Path):
    poodle, text = REPORTED[0], "a purple {token} {class} in a city"
    said = {variant.key: variant.prompt(text, poodle) for variant in (BASE, *VARIANTS)}
    assert said["base"] == "a purple dog in a city"
    assert said["dreambooth"] == "a purple sks dog in a city"
    assert said["dreambooth-no-noun"] == "a purple sks in a city"
    assert said["dreambooth-wrong-noun"] == "a purple sks boat in a city"
    assert said["custom-diffusion"] == "a purple <poodle> dog in a city"
    inverted = next(variant for variant in VARIANTS if variant.key == "textual-inversion")
    assert inverted.prompt("a {token} {class} on the moon", poodle) == "<poodle> on the moon"
    custom = next(variant for variant in VARIANTS if variant.key == "custom-diffusion")
    assert custom.told(poodle, tmp_path)["class_folder"] == str(tmp_path / "class")


def test_what_a_way_is_told_are_options_of_its_training(tmp_path: Path):
    for variant in variants.known().values():
        if variant.method in training.METHODS:
            fields = training.METHODS[variant.method].options().model_fields
            assert variant.told(REPORTED[0], tmp_path).keys() <= fields.keys(), variant.key


def test_ways_are_chosen_by_name(monkeypatch: pytest.MonkeyPatch):
    assert [way.key for way in variants.chosen(["lora", "dreambooth"])] == ["dreambooth", "lora"]
    assert {"textual-inversion", "lora", "dreambooth"} <= {way.key for way in variants.chosen(None)}
    with pytest.raises(OptionsError, match="no way 'loar' to teach a subject; did you mean 'lora'"):
        variants.chosen(["loar"])
    monkeypatch.delitem(dict(training.METHODS), "lora")
    monkeypatch.setattr(training, "METHODS", {"dreambooth": training.METHODS["dreambooth"]})
    assert {way.method for way in variants.known().values()} <= {"dreambooth", *training.AT_ONCE}


@cache
def pocket() -> Model:
    return Model.load("pocket", device="cpu")


# Claims -----------------------------------------------------------------------------------------------------


def synthetic(
    rows: Mapping[str, Sequence[float | None]], key: str = "dino", **read: frozenset[str]
) -> Scores:
    """Scores of this key, of each way for each subject."""
    subjects = REPORTED[: max(map(len, rows.values()))]
    bench = Bench(pocket(), Path(), subjects, VARIANTS)
    found = {
        way: {subject.name: {key: value} for subject, value in zip(subjects, values, strict=False)}
        for way, values in rows.items()
    }
    judges = {"CLIP": "pocket", "encoder": "pocket", "distance": "pocket", "reader": "pocket"}
    return Scores(bench, judges, found, read)


@pytest.mark.parametrize(
    ("better", "which", "expected"),
    [
        ((0.5, 0.6, 0.7, 0.8), "high", claims.YES),
        ((0.5, 0.6, 0.7, 0.8), "low", claims.OTHERWISE),
        ((0.1, 0.2, 0.3, 0.1), "low", claims.YES),
        ((0.9, 0.3, 0.5, 0.41), "high", claims.MEAN),
        ((0.1, 0.5, 0.3, 0.41), "high", claims.NOT),
        ((0.9,), "high", claims.ONE),
        ((), "high", claims.NOTHING),
    ],
)
def test_a_claim_holds_where_all_of_the_interval_is_on_its_side(
    better: Sequence[float], which: Any, expected: str
):
    worse = [0.4] * len(better)
    scores = synthetic({"dreambooth": better, "lora": worse, "base": (0.0,)})
    (found,) = findings(scores, [Claim("dreambooth", "lora", "dino", which, "somebody")])
    assert found.verdict == expected
    sign = 1 if which == "high" else -1
    assert found.by.count == len(better)
    if better:
        assert found.by.mean == pytest.approx(sign * np.mean([a - 0.4 for a in better]))


def test_differences_are_of_one_subject_with_itself():
    """Subjects that differ far more than the ways do: only pairs show it."""
    scores = synthetic({"dreambooth": (0.11, 0.91, 0.51, 0.32), "lora": (0.1, 0.9, 0.5, 0.31)})
    (found,) = findings(scores, [Claim("dreambooth", "lora", "dino", "high", "")])
    assert found.verdict == claims.YES and found.by.mean == pytest.approx(0.01)
    scores = synthetic({"dreambooth": (0.11, None, 0.51, 0.32), "lora": (0.1, 0.9, 0.5, None)})
    (found,) = findings(scores, [Claim("dreambooth", "lora", "dino", "high", "")])
    assert found.by.count == 2, "a subject without its pair takes no part"


def test_why_a_claim_was_not_measured_is_told():
    claim = Claim("dreambooth", "elite", "clip_i", "high", "")
    (found,) = findings(synthetic({"dreambooth": (0.1, 0.2)}, "clip_i"), [claim])
    assert (found.verdict, found.why) == (claims.NOTHING, "elite not made")
    rows = {"dreambooth": (0.1, 0.2), "elite": (None, None)}
    (found,) = findings(synthetic(rows, "clip_i", elite=masked(["clip"])), [claim])
    assert found.why == "elite read the judge"


def test_no_number_has_no_verdict():
    assert verdict(Interval(np.nan, np.nan, np.nan, 0)) == claims.NOTHING


def test_claims_are_of_ways_and_scores_that_there_are():
    ways = {way.key for way in (BASE, *VARIANTS)} | set(two.WAYS)
    known = frozenset().union(*BY_JUDGE.values())
    for claim in CLAIMS:
        assert {claim.better, claim.worse} <= ways
        assert claim.score in known


# The papers' rows, and judges that were read ----------------------------------------------------------------


def test_every_row_of_the_papers_has_ours_or_the_reason_why_not():
    known = {way.key for way in (TRUTH, BASE, *VARIANTS)} | set(two.WAYS) | {REAL}
    for table in (*PUBLISHED.values(), TWO):
        for row in table.rows:
            assert bool(row.ours) != bool(row.without), row.method
            assert not row.ours or row.ours in known, row.ours


def test_every_row_of_the_papers_stands_in_the_tables_beside_ours():
    text = report.text(synthetic({"dreambooth": (0.123, 0.123), "base": (0.1, 0.2)}))
    beside = {
        "DreamBooth": PUBLISHED["dreambooth"],
        "Custom Diffusion": PUBLISHED["custom-diffusion"],
        "two concepts": TWO,
    }
    assert not PUBLISHED["textual-inversion"].rows
    for title, table in beside.items():
        (part,) = [
            part
            for part in text.split("\n## ")
            if part.startswith(f"The papers' rows beside ours: {title}\n")
        ]
        for row in table.rows:
            (line,) = [
                line
                for line in part.splitlines()
                if line.startswith(f"| {row.method} |") and f"| {row.source} |" in line
            ]
            for column in table.columns:
                if column.key in row.scores:
                    assert f"| {row.scores[column.key]:.{column.digits}f} |" in line
            if row.ours == "dreambooth" and "dino" in row.scores:
                assert "| 0.123 ± 0.000 |" in line and "| DreamBooth |" in line
            elif row.without:
                assert row.without in line
            elif row.ours not in ("dreambooth", "base"):
                assert "| not made |" in line
    assert "data DreamBooth, here the built-in world" in text


def test_no_score_of_ours_bears_a_published_name():
    text = report.text(synthetic({"dreambooth": (0.1, 0.2), "base": (0.1, 0.2)}))
    (head,) = [line for line in text.splitlines() if line.startswith("| in the paper | DINO")]
    assert "| DINO, paper ↑ | DINO-role (pocket encoder) ↑ |" in head


def test_judges_that_a_method_read_say_nothing_of_it():
    rows = {"dreambooth": (0.1, 0.2), "elite": (None, None)}
    text = report.text(synthetic(rows, "clip_i", elite=masked(["clip"])))
    (line,) = [line for line in text.splitlines() if line.startswith("| ELITE, one picture |")][:1]
    assert f"| {report.MARKED} |" in line
    assert f"{report.MARKED}: ELITE, one picture read that judge" in text
    assert masked(["clip"]) == {"clip_i", "clip_t", "text_alignment", "image_alignment"}
    assert masked([]) == frozenset()


def test_what_a_method_reads_is_in_the_table_of_trainings(monkeypatch: pytest.MonkeyPatch):
    way = Variant("mine", "Mine", "lora")
    monkeypatch.setattr(training, "READS", {"lora": frozenset({"clip"})}, raising=False)
    assert way.reads == {"clip"}
    monkeypatch.setattr(training, "READS", {}, raising=False)
    assert way.reads == frozenset()


# The work, with the shipped model ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def model() -> Model:
    return pocket()


@pytest.fixture(scope="session")
def judges() -> Judges:
    return Judges.load(reader=True, device="cpu")


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordbrush.training.run._SAMPLE_STEPS", 1)


def bench_of(model: Model, folder: Path, names: Sequence[str] = TAUGHT, count: int = 2) -> Bench:
    return Bench(model, folder, REPORTED[:count], variants.chosen(names), TINY)


@pytest.fixture(scope="session")
def made(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """Two subjects by two ways, and both in one picture."""
    bench = bench_of(model, tmp_path_factory.mktemp("made"))
    assert drain(make(bench, [*parts(bench), *two.parts(bench)])) == []
    return bench


@pytest.fixture(scope="session")
def scored(made: Bench, judges: Judges) -> Scores:
    return drain(score(made, judges))


@pytest.mark.slow
def test_the_truth_scores_above_the_model_as_it_was(scored: Scores):
    for key in ("near", "dino", "clip_i"):
        for true, base in zip(scored.of("truth", key), scored.of("base", key), strict=True):
            assert true is not None and base is not None and true > base, key
    assert scored.of("truth", "scene") == [1.0, 1.0]
    assert all(value is not None and value < 0.98 for value in scored.of("truth", "nearest")), "no copies"
    assert scored.of(REAL, "dino") == scored.of("truth", "real_dino")
    for key in ("near", "text_alignment", "image_alignment"):
        (true,), (base,) = scored.of("two-truth", key), scored.of("two-base", key)
        assert true is not None and base is not None
        assert true > base or key == "text_alignment"


@pytest.mark.slow
def test_a_new_word_moves_nothing_else_and_whole_weights_do(scored: Scores):
    assert scored.of("textual-inversion", "drift") == pytest.approx([0.0, 0.0], abs=1e-6)
    assert scored.of("textual-inversion", "kid") == scored.of("base", "kid")
    for key in ("drift", "class_drift"):
        assert all(value is not None and value > 2e-6 for value in scored.of("dreambooth-no-prior", key))
    assert scored.of("base", "drift") == [None, None]


@pytest.mark.slow
def test_the_folders_are_read_by_the_format_that_everybody_may_write(made: Bench):
    folder = format.read(made.place(variants.known()["dreambooth-no-prior"]))
    assert [subject.name for subject in folder.subjects] == ["poodle", "alarm-clock"]
    poodle = folder.subjects[0]
    assert poodle.token == "sks" and poodle.class_word == "dog"
    assert [len(paths) for paths in poodle.made] == [2] * 5
    assert (len(poodle.real), len(poodle.class_made), len(poodle.category_made)) == (5, 2, 4)
    assert len(poodle.category_real) == 16


@pytest.mark.slow
def test_everything_is_written(made: Bench, scored: Scores, tmp_path: Path):
    written = report.write(scored, tmp_path)
    assert all(path.stat().st_size for path in written)
    text = (tmp_path / "subjects.md").read_text()
    for title in (
        "Subject and prompt",
        "prior preservation",
        "two concepts in one picture",
        "What the papers claim",
    ):
        assert title in text
    assert "good for trying this, not for a figure" in text
    assert images.load(tmp_path / "plot.png").width > 800
    rows = list(csv.DictReader(io.StringIO((tmp_path / "scores.csv").read_text())))
    assert {row["way"] for row in rows} >= {"truth", "base", *TAUGHT, "two-words", "real"}
    sheets = gallery.write(made, tmp_path / "gallery")
    assert sorted(path.stem for path in sheets) == [
        "alarm-clock",
        "poodle",
        "poodle-and-alarm-clock",
        "swaps",
    ]
    assert all(path.stat().st_size <= 300_000 and path.read_bytes()[8:12] == b"WEBP" for path in sheets)


@pytest.mark.slow
def test_a_method_that_read_a_judge_has_no_score_by_it(
    made: Bench, judges: Judges, scored: Scores, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "READS", {"dreambooth": frozenset({"clip"})}, raising=False)
    again = drain(score(made, judges))
    row, before = (each.rows["dreambooth-no-prior"]["poodle"] for each in (again, scored))
    assert before.keys() - row.keys() == masked(["clip"])
    assert again.rows["textual-inversion"] == scored.rows["textual-inversion"]
    text = report.text(again)
    assert f"{report.MARKED}: DreamBooth, without the prior loss read that judge" in text


@pytest.mark.slow
def test_a_study_of_the_pictures_is_served(made: Bench, tmp_path: Path):
    study = gallery.write_choices(made, tmp_path / "study")
    drain(check_pictures(study))
    assert study.settings.kind == "choice"
    assert [question.id for question in study.settings.questions] == ["subject", "prompt"]
    assert len(study.items) == 10 and study.items["poodle-0"].prompt == "a dog on the moon"
    assert len(study.items["poodle-0"].originals) == 5
    with Store(study.answers, "choice") as store:
        browser = TestClient(create_app(study, store))
        page = browser.get("/")
        assert page.status_code == 200 and "Which picture is it?" in page.text
    with pytest.raises(OutputError, match="already contains a study"):
        gallery.write_choices(made, tmp_path / "study")
    alone = replace(made, variants=made.variants[:1])
    with pytest.raises(InputError, match="at least two ways to teach"):
        gallery.write_choices(alone, tmp_path / "another")


@pytest.mark.slow
def test_what_was_stopped_goes_on_and_ends_with_the_same_bytes(made: Bench, model: Model, tmp_path: Path):
    bench = bench_of(model, tmp_path, TAUGHT, 1)
    way = variants.known()["dreambooth-no-prior"]
    done: dict[Path, int] = {}
    for seen in make(bench, parts(bench)):
        if (
            seen.stage == "training"
            and "boot" in str(bench.note(way, REPORTED[0]))
            and bench.is_made(TRUTH, REPORTED[0])
        ):
            done = {path: path.stat().st_mtime_ns for path in bench.place(TRUTH).rglob("*.png")}
            break
    assert done and not bench.is_made(way, REPORTED[0])
    assert drain(make(bench, parts(bench))) == []
    assert {path: path.stat().st_mtime_ns for path in done} == done, "what is made is not made again"
    for variant in bench.all:
        for path in (made.place(variant) / "generated" / "poodle").rglob("*.png"):
            own = bench.place(variant) / path.relative_to(made.place(variant))
            assert own.read_bytes() == path.read_bytes(), own
    again = [step for step in make(bench, parts(bench)) if step.stage != "parts"]
    assert again == [], "nothing is left to do"


@pytest.mark.slow
def test_two_processes_share_the_work_and_other_counts_are_other_work(model: Model, tmp_path: Path):
    bench = bench_of(model, tmp_path, ["textual-inversion"], 1)
    held = bench.note(BASE, REPORTED[0])
    held.parent.mkdir(parents=True)
    with sole(held.with_name(f".{held.stem}.lock")):
        assert drain(make(bench, parts(bench)[:2])) == ["poodle: the model as it was, the class alone"]
    assert bench.is_made(TRUTH, REPORTED[0]) and not bench.is_made(BASE, REPORTED[0])
    both = replace(bench, subjects=REPORTED[:2])
    waiting = [part for part in two.parts(both) if part.says.endswith("both words")]
    assert drain(make(both, waiting)) == ["poodle+alarm-clock: Textual Inversion, both words"], (
        "not before each is taught"
    )
    more = replace(bench, counts=replace(TINY, pictures=1))
    assert not more.is_made(TRUTH, REPORTED[0])
    drain(make(more, parts(more)[:1]))
    assert len(list((bench.place(TRUTH) / "generated" / "poodle" / "0").iterdir())) == 1


@pytest.mark.slow
def test_a_concept_is_kept_and_other_pictures_do_not_train_it_again(made: Bench):
    way = variants.known()["textual-inversion"]
    path = made.place(way) / "poodle.concept"
    assert list(Concept.load(path).placeholders) == ["<poodle>"]
    assert made.cost(way, REPORTED[0])["gradient_rows"] > 0
    more = replace(made, counts=replace(TINY, steps=4))
    seen: list[Progress] = []
    drain(making.taught(more, way, REPORTED[0]), seen.append)
    assert seen == []
    other = replace(made, counts=replace(TINY, training=0.5))
    assert other.learned(way, REPORTED[0]) != made.learned(way, REPORTED[0])


# The command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "a folder of subjects or --from-pocket, one of the two"),
        ({"folder": Path("a"), "from_pocket": "reported"}, "a folder of subjects or --from-pocket"),
        ({"folder": Path("a"), "quick": True}, "only --from-pocket makes pictures: leave --quick out"),
        ({"folder": Path("a"), "method": ["lora"], "steps": 3}, "leave --method, --steps out"),
        ({"from_pocket": "reported", "kid_subset": 4}, "leave --kid-subset out"),
        ({"from_pocket": "reported", "method": ["loar"]}, "did you mean 'lora'"),
        ({"from_pocket": "reported", "subject": ["koala"]}, "no subject 'koala' among the reported ones"),
    ],
)
def test_flags_without_effect_are_refused(given: dict[str, Any], message: str, tmp_path: Path):
    folder = (given.pop("folder"),) if "folder" in given else ()
    with pytest.raises(OptionsError, match=message):
        command(*folder, out=str(tmp_path / "out"), **given)


@pytest.mark.slow
def test_the_command_makes_scores_and_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(making, "QUICK", TINY)
    monkeypatch.setattr(world, "REPORTED", REPORTED[:1])
    asked: dict[str, Any] = {
        "from_pocket": "reported",
        "method": list(TAUGHT),
        "quick": True,
        "device": "cpu",
    }
    assert command(out=str(tmp_path / "out"), study=tmp_path / "study", json=True, **asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["missing"] == [] and set(told["scores"]) >= {"truth", "base", *TAUGHT}
    assert (tmp_path / "out" / "gallery" / "poodle.webp").exists()
    assert (tmp_path / "study" / "items" / "poodle-0" / "textual-inversion.png").exists()
    with pytest.raises(OutputError, match="already contains a study"):
        command(out=str(tmp_path / "out"), study=tmp_path / "study", **asked)
    assert command(out=str(tmp_path / "out"), json=True, **asked) == 0
    assert json.loads(capsys.readouterr().out)["scores"] == told["scores"]


def test_all_ways_of_the_figures_are_in_the_gallery_or_an_ablation():
    assert {way.key for way in VARIANTS if way.shows == ALL} >= {
        "textual-inversion",
        "dreambooth",
        "lora",
        "custom-diffusion",
        "svdiff",
        "cones",
        "elite",
    }
