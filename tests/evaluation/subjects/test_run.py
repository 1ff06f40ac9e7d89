"""Subjects rendered from the built-in world's held-out sprites, so that it is known who is who and what was copied."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import ConvNextConfig, ConvNextImageProcessorPil, ConvNextModel

from wordbrush import images
from wordbrush.cli.commands.evaluate.judging import Judging
from wordbrush.cli.commands.evaluate.subjects import subjects as command
from wordbrush.errors import ImageError, InputError
from wordbrush.evaluation.judges.judges import Judges
from wordbrush.evaluation.subjects import report as subjects_report
from wordbrush.evaluation.subjects import run as subjects
from wordbrush.evaluation.subjects.format import Subject, read
from wordbrush.evaluation.subjects.protocols import Name, Rules, Seen, among
from wordbrush.evaluation.subjects.published import PUBLISHED, Setting
from wordbrush.evaluation.subjects.run import Results, evaluate
from wordbrush.filenames import words
from wordbrush.pocket import Scene, Thing, render
from wordbrush.pocket.vocabulary import HELD_OUT, PLACES
from wordbrush.progress import drain

SUBJECTS = {"poodle": "live", "tractor": "object", "palm": "object"}
PROMPTED = ("beach", "snow", "forest")
PHOTOGRAPHED = ("city", "meadow", "room", "desert")
PICTURES = 2

LISTING = """
method = "{method}"
token = "sks"

[prompts]
live = {prompts}
object = {prompts}
"""


def picture(name: str, place: str, seed: int, x: float = 0.5) -> Image.Image:
    return render(Scene((Thing(name, size="large", x=x),), place, place_seed=seed))


def save(pictures: Sequence[Image.Image], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, each in enumerate(pictures):
        each.save(folder / f"{i:02}.png")


def perfect(name: str, place: str, seed: int) -> Image.Image:
    return picture(name, place, seed, x=0.35 + 0.1 * (seed % 4))


def bad(name: str, place: str, seed: int) -> Image.Image:
    """Another subject altogether."""
    names = list(SUBJECTS)
    return perfect(names[(names.index(name) + 1) % len(names)], place, seed)


def text_only(name: str, place: str, seed: int) -> Image.Image:
    """What the prompt says without its token: any thing of that class."""
    return perfect(HELD_OUT[name][1], place, seed)


def copying(name: str, place: str, seed: int) -> Image.Image:
    return picture(name, PHOTOGRAPHED[seed % len(PHOTOGRAPHED)], 0)


def made(folder: Path, method: Callable[[str, str, int], Image.Image]) -> Path:
    """A folder in which a method has painted three subjects in three places, twice each."""
    prompts = [f"a {{token}} {{class}} {PLACES[place]}" for place in PROMPTED]
    listing = LISTING.format(method=method.__name__, prompts=json.dumps(prompts))
    for name, kind in SUBJECTS.items():
        listing += f'\n[[subjects]]\nname = "{name}"\nclass = "{HELD_OUT[name][1]}"\nkind = "{kind}"\n'
        save([picture(name, place, 0) for place in PHOTOGRAPHED], folder / "real" / name)
        for i, place in enumerate(PROMPTED):
            pictures = [method(name, place, PICTURES * i + k) for k in range(PICTURES)]
            save(pictures, folder / "generated" / name / str(i))
    (folder / "subjects.toml").write_text(listing)
    return folder


@pytest.fixture(scope="session")
def random_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder: enough to check numbers with, and blind to what is what."""
    folder = tmp_path_factory.mktemp("encoder")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1] * 4)).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 64}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def judges(random_encoder: Path) -> Judges:
    return Judges.load(encoder=str(random_encoder), device="cpu")


@pytest.fixture(scope="session")
def shipped() -> Judges:
    return Judges.load(device="cpu")


@pytest.fixture(scope="session")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("painted") / "perfect", perfect)


@pytest.fixture
def folder(tmp_path: Path, painted: Path) -> Path:
    """A perfect method's pictures, to be changed as a test likes."""
    return shutil.copytree(painted, tmp_path / "perfect")


def scored(folder: Path, judges: Judges, out: Path, rules: Rules | None = None, *protocols: Name) -> Results:
    wanted = protocols or ("dreambooth",)
    return drain(evaluate(read(folder), judges, out, protocols=wanted, rules=rules or Rules()))


def means(results: Results, key: str, name: Name = "dreambooth") -> float:
    return float(np.mean([row[key] for row in results.rows[name]]))


# Who wins ---------------------------------------------------------------------------------------------------

METHODS = (perfect, bad, text_only, copying)


def compared(tmp_path: Path, judges: Judges) -> dict[str, Results]:
    return {
        method.__name__: scored(
            made(tmp_path / method.__name__, method), judges, tmp_path / "out" / method.__name__
        )
        for method in METHODS
    }


@pytest.mark.slow
def test_who_paints_the_subject_beats_who_paints_another_and_the_words_alone_win_by_words(
    tmp_path: Path, judges: Judges
):
    results = compared(tmp_path, judges)
    assert means(results["perfect"], "clip_i") > means(results["bad"], "clip_i") + 0.05
    by_words = {name: means(each, "clip_t") for name, each in results.items()}
    assert max(by_words, key=by_words.__getitem__) == "text_only"
    assert by_words["perfect"] > by_words["copying"], "a copy stays where it was photographed"


@pytest.mark.slow
def test_by_the_shipped_encoder_fidelity_tells_methods_apart_and_copies_are_flagged(
    tmp_path: Path, shipped: Judges
):
    results = compared(tmp_path, shipped)
    assert means(results["perfect"], "dino") > means(results["bad"], "dino") + 0.05
    assert means(results["perfect"], "dino") > means(results["text_only"], "dino")
    assert {row["copying"] for row in results["copying"].rows["dreambooth"]} == {1.0}
    # Whoever paints the very subject is as like the real pictures as they are like each other, and may be suspected by
    # a hair; what tells a copy is that some real picture is nearer to it than one with another place can be.
    nearest = {name: [row["nearest"] for row in each.rows["dreambooth"]] for name, each in results.items()}
    assert min(nearest["copying"]) > 0.999 > 0.98 > max(nearest["perfect"])


def test_copies_score_above_the_real_pictures_and_are_flagged(tmp_path: Path, judges: Judges):
    results = scored(made(tmp_path / "copies", copying), judges, tmp_path / "out")
    for row in results.rows["dreambooth"]:
        assert row["dino"] > row["real_dino"]
        assert row["copying"] == 1
        assert row["nearest"] == pytest.approx(1, abs=1e-6)
    text = subjects_report.text(results)
    assert "Copying suspected of 3 of 3 subjects (poodle, tractor, palm)" in text
    assert "| suspected |" in text
    # Where pictures count as like themselves a perfect copy ties with them, and is flagged all the same.
    lenient = scored(tmp_path / "copies", judges, tmp_path / "lenient", Rules(self_pairs="included"))
    for row, strict in zip(lenient.rows["dreambooth"], results.rows["dreambooth"], strict=True):
        assert row["real_dino"] > strict["real_dino"]
        assert row["copying"] == 1


# The numbers, against plain loops in float64 ----------------------------------------------------------------


def opened(folder: Path) -> list[Image.Image]:
    return [images.load(path) for path in sorted(folder.glob("*.png"))]


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.sqrt(one @ one) / np.sqrt(other @ other))


def vectors(network: object, pictures: list[Image.Image]) -> np.ndarray:
    return network.images(pictures).double().numpy()  # type: ignore[attr-defined]


def pairs(one: np.ndarray, other: np.ndarray) -> list[float]:
    return [cosine(a, b) for a in one for b in other]


def test_dreambooths_scores(folder: Path, judges: Judges, tmp_path: Path):
    bare = folder / "generated" / "poodle" / "_class"
    save([picture("dog", "city", 5), picture("dog", "street", 6), picture("dog", "moon", 7)], bare)
    row = scored(folder, judges, tmp_path / "out").rows["dreambooth"][0]

    made_of = [opened(folder / "generated" / "poodle" / str(i)) for i in range(3)]
    everything = [each for group in made_of for each in group]
    real = opened(folder / "real" / "poodle")
    of_real, of_made = vectors(judges.encoder, real), vectors(judges.encoder, everything)
    assert row["dino"] == pytest.approx(np.mean(pairs(of_made, of_real)), abs=1e-6)
    assert row["nearest"] == pytest.approx(
        np.mean([max(pairs(each[None], of_real)) for each in of_made]), abs=1e-6
    )
    assert row["pres"] == pytest.approx(
        np.mean(pairs(vectors(judges.encoder, opened(bare)), of_real)), abs=1e-6
    )
    among_real = [cosine(a, b) for a, b in combinations(of_real, 2)]
    assert row["real_dino"] == pytest.approx(np.mean(among_real), abs=1e-6)

    clip_made, clip_real = vectors(judges.clip, everything), vectors(judges.clip, real)
    assert row["clip_i"] == pytest.approx(np.mean(pairs(clip_made, clip_real)), abs=1e-6)
    words = [f"a dog {PLACES[place]}" for place in PROMPTED]
    texts = judges.clip.texts(words).double().numpy()
    by_prompt = [cosine(clip_made[PICTURES * i + k], texts[i]) for i in range(3) for k in range(PICTURES)]
    assert row["clip_t"] == pytest.approx(np.mean(by_prompt), abs=1e-6)

    spreads = [
        np.mean([judges.distance.distances([a], [b])[0] for a, b in combinations(group, 2)])
        for group in made_of
    ]
    assert row["div"] == pytest.approx(np.mean(spreads), rel=1e-4)


def test_custom_diffusions_scores(folder: Path, judges: Judges, tmp_path: Path):
    dogs, leaked = folder / "category" / "dog", folder / "generated" / "poodle" / "_category"
    save([picture("dog", place, 3) for place in PHOTOGRAPHED], dogs)
    save([picture("poodle", place, 4) for place in PHOTOGRAPHED], leaked)
    results = scored(folder, judges, tmp_path / "out", Rules(kid_subset=4), "custom-diffusion")
    row = results.rows["custom-diffusion"][0]
    everything = [each for i in range(3) for each in opened(folder / "generated" / "poodle" / str(i))]
    real = opened(folder / "real" / "poodle")
    clip_made = vectors(judges.clip, everything)
    texts = judges.clip.texts([f"a dog {PLACES[place]}" for place in PROMPTED]).double().numpy()
    cosines = [cosine(clip_made[n], texts[n // PICTURES]) for n in range(len(clip_made))]
    assert row["text_alignment"] == pytest.approx(2.5 * np.mean([max(c, 0) for c in cosines]), abs=1e-6)
    assert row["image_alignment"] == pytest.approx(
        np.mean(pairs(clip_made, vectors(judges.clip, real))), abs=1e-6
    )
    of_encoder = pairs(vectors(judges.encoder, everything), vectors(judges.encoder, real))
    assert row["image_alignment_dino"] == pytest.approx(np.mean(of_encoder), abs=1e-6)

    # With subsets as large as the sets there is one subset, and MMD² has its closed form.
    one, other = vectors(judges.encoder, opened(leaked)), vectors(judges.encoder, opened(dogs))

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T + 1) ** 3

    n = len(one)
    within = sum((k.sum() - np.trace(k)) / (n * (n - 1)) for k in (kernel(one, one), kernel(other, other)))
    assert row["kid"] == pytest.approx(1e3 * (within - 2 * kernel(one, other).mean()), rel=1e-3, abs=1e-3)
    # The other subjects' categories are not there, which is no zero.
    assert results.rows["custom-diffusion"][1]["kid"] is None
    text = subjects_report.text(results)
    assert "×10³, subsets of 4: 1 of 3 subjects have it" in text
    assert "0–4 of 500 real pictures of the category" in text


def test_textual_inversions_scores(folder: Path, judges: Judges, tmp_path: Path):
    own = folder / "generated" / "poodle"
    save([picture("poodle", "moon", 8), picture("poodle", "street", 9)], own / "_photo")
    for i, place in enumerate(PROMPTED[:2]):
        save([picture("dog", place, i)], own / "_prompt_only" / str(i))
    results = scored(folder, judges, tmp_path / "out", None, "textual-inversion")
    row = results.rows["textual-inversion"][0]
    real = vectors(judges.clip, opened(folder / "real" / "poodle"))
    texts = judges.clip.texts([f"a dog {PLACES[place]}" for place in PROMPTED]).double().numpy()
    groups = [vectors(judges.clip, opened(own / str(i))) for i in range(3)]
    without = [vectors(judges.clip, opened(own / "_prompt_only" / str(i))) for i in range(2)]

    def spoken(groups: list[np.ndarray]) -> tuple[float, float]:
        first = [cosine(group.mean(0), text) for group, text in zip(groups, texts, strict=False)]
        later = [np.mean([cosine(v, t) for v in group]) for group, t in zip(groups, texts, strict=False)]
        return float(np.mean(first)), float(np.mean(later))

    photos = vectors(judges.clip, opened(own / "_photo"))
    assert row["reconstruction"] == pytest.approx(np.mean(pairs(photos, real)), abs=1e-6)
    assert (row["editability"], row["editability_of_code"]) == pytest.approx(spoken(groups), abs=1e-6)
    assert row["editability"] > row["editability_of_code"]
    assert row["image_only_reconstruction"] == pytest.approx(
        np.mean([cosine(a, b) for a, b in combinations(real, 2)]), abs=1e-6
    )
    image_only = (row["image_only_editability"], row["image_only_editability_of_code"])
    assert image_only == pytest.approx(spoken([real] * 3), abs=1e-6)
    prompt_only = (row["prompt_only_editability"], row["prompt_only_editability_of_code"])
    assert prompt_only == pytest.approx(spoken(without), abs=1e-6)
    assert row["prompt_only_reconstruction"] == pytest.approx(
        np.mean([pair for group in without for pair in pairs(group, real)]), abs=1e-6
    )
    # The two reference points lie where the paper says: all of the subject, or all of the words.
    assert row["image_only_reconstruction"] > row["prompt_only_reconstruction"]
    assert row["prompt_only_editability"] > row["image_only_editability"]
    text = subjects_report.text(results)
    assert "image only: the real pictures, self-pairs excluded" in text
    assert "prompt only: without the token" in text
    assert "1 of 3 subjects have it; it needs pictures in generated/<subject>/_photo" in text


@given(st.integers(1, 6), st.integers(0, 999))
def test_pictures_among_themselves(count: int, seed: int):
    unit = torch.nn.functional.normalize(
        torch.randn(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1
    )
    every = [[float(a @ b) for b in unit] for a in unit]
    assert among(unit, "included") == pytest.approx(np.mean(every))
    others = [every[i][k] for i in range(count) for k in range(count) if i != k]
    found = among(unit, "excluded")
    assert found is None if count == 1 else found == pytest.approx(np.mean(others))


# Words ------------------------------------------------------------------------------------------------------


def subject(token: str, prompts: Sequence[str] = ()) -> Subject:
    return Subject("mine", "dog", "live", token, (), tuple(prompts), ())


@pytest.mark.parametrize(
    ("token", "prompt", "text"),
    [
        ("sks", "a {token} {class} in the snow", "a dog in the snow"),
        ("<my-dog>", "photo of a <my-dog> {class}, floating", "photo of a dog, floating"),
        ("S*", "A photo of S*", "A photo of"),
        ("S*", "S* in the snow", "in the snow"),
        ("", "a {token} {class} in the snow", "a dog in the snow"),
        ("class", "a class {class} of classes", "a dog of classes"),
        ("dog", "a {token} {class} and a dogma", "a dog and a dogma"),
    ],
)
def test_the_token_is_taken_out_of_a_prompt_and_nothing_else(token: str, prompt: str, text: str):
    assert subject(token).text(prompt) == text


def test_the_token_can_stay():
    assert subject("sks").text("a {token} {class}", with_token=True) == "a sks dog"
    with pytest.raises(InputError, match="'mine' has no token to keep"):
        subject("").text("a {token} {class}", with_token=True)


def test_a_token_that_stays_changes_what_clip_reads(folder: Path, judges: Judges, tmp_path: Path):
    without = scored(folder, judges, tmp_path / "without")
    kept = scored(folder, judges, tmp_path / "kept", Rules(text="with-token"))
    row = kept.rows["dreambooth"][0]
    texts = judges.clip.texts([f"a sks dog {PLACES[place]}" for place in PROMPTED]).double().numpy()
    cosines = [
        cosine(v, texts[i])
        for i in range(3)
        for v in vectors(judges.clip, opened(folder / "generated" / "poodle" / str(i)))
    ]
    assert row["clip_t"] == pytest.approx(np.mean(cosines), abs=1e-6)
    assert row["clip_t"] != without.rows["dreambooth"][0]["clip_t"]
    assert row["clip_i"] == without.rows["dreambooth"][0]["clip_i"]
    assert "with their token" in subjects_report.text(kept)


# What the tables say ----------------------------------------------------------------------------------------


def test_shortfalls_stand_in_the_table(folder: Path, judges: Judges, tmp_path: Path):
    (folder / "generated" / "tractor" / "1" / "01.png").unlink()
    shutil.rmtree(folder / "generated" / "tractor" / "2")
    shutil.rmtree(folder / "generated" / "palm")
    text = subjects_report.text(scored(folder, judges, tmp_path / "out"))
    head = text.split("By subject:")[0]
    assert "| 2 of 30 | 2–3 of 25 | 1–2 of 4 |" in head
    assert "No pictures of palm: left out." in head
    assert (
        "Not the paper's counts: 2 of 30 subjects, 2–3 of 25 prompts a subject, 1–2 of 4 pictures a prompt."
        in head
    )
    assert "| tractor | " in text and "| 2 of 25 | 1–2 of 4 |" in text


def test_no_score_of_another_network_bears_a_published_name(folder: Path, judges: Judges, tmp_path: Path):
    results = scored(
        folder, judges, tmp_path / "out", None, "dreambooth", "custom-diffusion", "textual-inversion"
    )
    heads = [line for line in subjects_report.text(results).splitlines() if "(pocket CLIP)" in line]
    tables = [line for line in heads if line.startswith("|")]
    assert len(tables) == 6
    for line in tables:
        titles = [cell for cell in line.split("|") if "(" in cell]
        assert len(titles) >= 3 and all("-role (" in title for title in titles), line


def test_published_names_are_for_the_published_networks(tmp_path: Path, folder: Path, judges: Judges):
    results = scored(folder, judges, tmp_path / "out")
    known = Results(
        results.folder,
        "openai/clip-vit-base-patch32",
        "facebook/dino-vits16",
        "lpips-alex",
        results.rules,
        results.rows,
        (),
    )
    head = subjects_report.text(known).split("By subject:")[0]
    for title in (
        "| DINO (facebook/dino-vits16) ↑ |",
        "| CLIP-T (openai/clip-vit-base-patch32) ↑ |",
        "| DIV (lpips-alex) ↑ |",
    ):
        assert title in head


def test_every_number_of_the_papers_is_told_apart_from_ours(folder: Path, judges: Judges, tmp_path: Path):
    results = scored(folder, judges, tmp_path / "out", None, "dreambooth", "custom-diffusion")
    text = subjects_report.text(results)
    assert "| DreamBooth, Stable Diffusion | 0.668 | 0.803 | 0.305 |" in text
    assert "| Custom Diffusion | 0.795 | 0.775 | 20.96 |" in text
    assert "None of these rows can be compared with ours: data DreamBooth, here the folder's own" in text
    for name in results.rows:
        for row in PUBLISHED[name].rows:
            assert row.comparable(subjects_report.setting(name, results)).startswith("no: ")
            assert set(row.scores) <= {column.key for column in PUBLISHED[name].columns}


def test_what_agrees_with_a_paper_is_comparable_as_far_as_the_paper_tells():
    same = Setting("DreamBooth", "clip-vit-base-patch32", "dino-vits16", 30, 25, 4)
    (row,) = [row for row in PUBLISHED["dreambooth"].rows if row.method == "DreamBooth, Stable Diffusion"]
    assert row.comparable(same) == "as far as the paper reports; not reported: CLIP, sampler"
    fewer = Setting("DreamBooth", "clip-vit-base-patch32", "dino-vits16", 30, 25, "3–4")
    assert row.comparable(fewer).startswith("no: pictures a prompt 4, here 3–4;")


def test_the_tables_are_written_as_they_are_shown(folder: Path, judges: Judges, tmp_path: Path):
    results = scored(folder, judges, tmp_path / "out", None, "dreambooth", "textual-inversion")
    written = subjects_report.write(results, tmp_path / "out")
    assert sorted(path.name for path in written) == [
        "dreambooth-published.csv",
        "dreambooth-subjects.csv",
        "dreambooth.csv",
        "subjects.md",
        "textual-inversion-subjects.csv",
        "textual-inversion.csv",
    ]
    assert (tmp_path / "out" / "subjects.md").read_text() == subjects_report.text(results)
    ours, real = csv.DictReader((tmp_path / "out" / "dreambooth.csv").read_text().splitlines())
    assert ours["who"] == "perfect" and real["who"] == "real pictures, self-pairs excluded"
    assert float(ours["dino"]) == pytest.approx(means(results, "dino"))
    assert float(ours["dino_low"]) <= float(ours["dino"]) <= float(ours["dino_high"])
    assert ours["dino_count"] == "3"
    assert float(real["dino"]) == pytest.approx(means(results, "real_dino"))
    assert (ours["pres"], real["clip_t"]) == ("", "")


# Going on ---------------------------------------------------------------------------------------------------


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_rows(
    folder: Path, judges: Judges, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = scored(folder, judges, tmp_path / "whole")
    steps = evaluate(read(folder), judges, tmp_path / "out", protocols=["dreambooth"])
    stages = [next(steps) for _ in range(8)]  # the second subject is being looked at
    steps.close()
    kept = (tmp_path / "out" / subjects.RESULTS).read_text()
    assert kept.count("\n") == 1
    assert {step.stage for step in stages} == {"looking at pictures", "comparing pictures"}
    assert all(0 < step.step <= step.total for step in stages)
    # As a kill leaves it: the second row half written.
    (tmp_path / "out" / subjects.RESULTS).write_text(kept + '{"subject": "trac')

    looked: list[Path] = []
    look = Seen.look
    monkeypatch.setattr(Seen, "look", lambda self, paths: (looked.extend(paths), look(self, paths))[1])
    again = scored(folder, judges, tmp_path / "out")
    assert again.rows == whole.rows
    assert again.notices == []
    assert not any("poodle" in path.parts for path in looked)

    looked.clear()
    assert scored(folder, judges, tmp_path / "out").rows == whole.rows
    assert not looked, "nothing is left to do"


@pytest.mark.parametrize("change", ["another picture", "another rule"])
def test_rows_of_other_pictures_or_rules_are_made_anew(
    change: str, folder: Path, judges: Judges, tmp_path: Path
):
    before = scored(folder, judges, tmp_path / "out")
    rules, anew = Rules(), 3
    if change == "another picture":
        picture("robot", "moon", 1).save(folder / "generated" / "palm" / "0" / "00.png")
        anew = 1
    else:
        rules = Rules(self_pairs="included")
    after = scored(folder, judges, tmp_path / "out", rules)
    assert after.rows == scored(folder, judges, tmp_path / "fresh", rules).rows
    changed = [a != b for a, b in zip(after.rows["dreambooth"], before.rows["dreambooth"], strict=True)]
    assert changed.count(True) == anew and changed[-1]
    (notice,) = after.notices
    assert notice.startswith(f"{anew} rows of ")


def test_a_folder_that_was_moved_keeps_its_rows(folder: Path, judges: Judges, tmp_path: Path):
    before = scored(folder, judges, tmp_path / "out")
    moved = folder.rename(tmp_path / "elsewhere")
    after = scored(moved, judges, tmp_path / "out")
    assert (after.rows, after.notices) == (before.rows, [])


# Other layouts ----------------------------------------------------------------------------------------------

BENCHMARK = """Classes

subject_name,class
poodle,dog
bear_plushie,stuffed animal

Prompts

Object Prompts

prompt_list = [
'a {0} {1} on a table'.format(unique_token, class_token),
'a soft {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} in a boat'.format(unique_token, class_token),
"a {0} {1} at the king's table".format(unique_token, class_token)
]
"""


def test_dreambooths_own_files_are_read(tmp_path: Path):
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "prompts_and_classes.txt").write_text(BENCHMARK)
    for name in ("poodle", "bear_plushie"):
        save([picture("poodle", "city", 0)], tmp_path / "dataset" / name)
    save([picture("poodle", "city", 1)], tmp_path / "generated" / "bear_plushie" / "a-soft-stuffed-animal")
    folder = read(tmp_path)
    assert folder.data == "DreamBooth"
    assert folder.absent == ("poodle",)
    (bear,) = folder.subjects
    assert (bear.kind, bear.class_word) == ("object", "stuffed animal")
    texts = [bear.text(prompt) for prompt in bear.prompts]
    assert texts == ["a stuffed animal on a table", "a soft stuffed animal"]
    assert [len(paths) for paths in bear.made] == [0, 1]

    save([picture("poodle", "city", 1)], tmp_path / "generated" / "poodle" / "01")
    poodle = read(tmp_path).subjects[0]
    assert poodle.kind == "live"
    assert [poodle.text(prompt) for prompt in poodle.prompts][1] == "a dog at the king's table"
    assert [len(paths) for paths in poodle.made] == [0, 1]

    # The same with what else is to be said, and the files elsewhere.
    (tmp_path / "dataset").rename(tmp_path / "theirs")
    (tmp_path / "subjects.toml").write_text('dataset = "theirs"\ntoken = "sks"\nsampler = "DDIM"\n')
    folder = read(tmp_path)
    assert (folder.sampler, folder.data, folder.subjects[0].token) == ("DDIM", "DreamBooth", "sks")


def test_a_subject_of_dreambooths_file_is_no_path(tmp_path: Path):
    (tmp_path / "dataset").mkdir()
    listing = tmp_path / "dataset" / "prompts_and_classes.txt"
    listing.write_text(BENCHMARK.replace("subject_name,class\n", "subject_name,class\n../../x,dog\n"))
    with pytest.raises(InputError, match=r"expected a subject's name and class, got '\.\./\.\./x,dog'"):
        read(tmp_path)


def test_custom_concept_101s_samples_are_read(folder: Path):
    own = folder / "generated" / "poodle"
    shutil.rmtree(own)
    save([picture("poodle", "city", i) for i in range(3)], own / "samples")
    told = {"00": "a sks dog in a city", "01": "sks dog, sitting", "02": "a sks dog in a city"}
    (own / "prompts.json").write_text(json.dumps(told))
    poodle = read(folder).subjects[0]
    assert [poodle.text(prompt) for prompt in poodle.prompts] == ["a dog in a city", "dog, sitting"]
    assert [[path.stem for path in paths] for paths in poodle.made] == [["00", "02"], ["01"]]


def test_a_listing_may_be_json_and_folders_may_be_words(folder: Path):
    (folder / "subjects.toml").unlink()
    listing = {
        "subjects": [
            {
                "name": "poodle",
                "class": "dog",
                "token": "<p>",
                "prompts": [f"a {{token}} {{class}} {PLACES[place]}" for place in PROMPTED],
            }
        ]
    }
    (folder / "subjects.json").write_text(json.dumps(listing))
    for name in ("tractor", "palm"):
        shutil.rmtree(folder / "generated" / name)
    own = folder / "generated" / "poodle"
    (own / "0").rename(own / "a dog on a beach")
    (own / "1").rename(own / "a-p-dog-in-the-snow")
    (poodle,) = read(folder).subjects
    assert [len(paths) for paths in poodle.made] == [2, 2, 2]
    assert poodle.made[0][0].parent.name == "a dog on a beach"


@pytest.mark.slow
@given(st.text())
def test_a_slug_is_a_folders_name_and_stays_one(text: str):
    assert words(words(text)) == words(text)
    assert "/" not in words(text) and not words(text).startswith((".", "_", "-"))


# What is wrong ----------------------------------------------------------------------------------------------

ONE = '[[subjects]]\nname = "poodle"\nclass = "dog"\n'


@pytest.mark.parametrize(
    ("listing", "message"),
    [
        ("", r"at least one \[\[subjects\]\], got none"),
        ("subjects = 3", "'subjects': expected a list, got 3"),
        ("= 3", "is not a TOML file"),
        ('[[subjects]]\nname = "poodle"', "'subjects.0.class' is missing"),
        (ONE + 'kidn = "live"', "unknown key 'subjects.0.kidn'; did you mean 'kind'"),
        (ONE + 'kind = "beast"', "'subjects.0.kind': expected 'live' or 'object', got 'beast'"),
        ('metod = "x"\n' + ONE, "unknown key 'metod'; did you mean 'method'"),
        (ONE.replace("poodle", "../poodle"), "'subjects.0.name': expected to match pattern"),
        (ONE + 'real = "../elsewhere"', "expected 'real' to be below .*, got '../elsewhere'"),
        (ONE + 'category = "/etc"', "expected a category's folder to be below .*, got '/etc'"),
        (ONE.replace('"dog"', '"../../dog"'), "expected a category's folder to be below"),
        ('dataset = "../theirs"', "expected 'dataset' to be below"),
        (ONE + ONE, "expected each subject once, got 'poodle' again"),
        ('dataset = "dataset"\n' + ONE, "either a dataset or subjects and prompts, got both"),
        ('dataset = "dataset"', "expected DreamBooth's prompts_and_classes.txt"),
        (ONE + 'prompts = ["a {tokn} dog", "b", "c"]', r"\{token\} and \{class\} as the only .*got \{tokn\}"),
        (ONE + 'prompts = ["a dog", "a {token} dog", "c"]', "expected each prompt once, got 'a-dog' again"),
        (
            ONE + 'prompts = ["a dog", "b"]',
            "2 belongs to none of the 2 prompts of 'poodle'; they count from 0",
        ),
        (
            ONE + 'real = "nowhere"\nprompts = ["a", "b", "c"]',
            "pictures of 'poodle' itself, and there are none",
        ),
    ],
)
def test_a_wrong_listing_is_told(listing: str, message: str, folder: Path):
    for name in ("tractor", "palm"):
        shutil.rmtree(folder / "generated" / name)
    (folder / "subjects.toml").write_text(listing)
    with pytest.raises(InputError, match=message) as caught:
        read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("generated/palm", "generated/plam", "plam belongs to no subject; did you mean 'palm'"),
        (
            "generated/palm/0",
            "generated/palm/on-a-beech",
            "belongs to none of the 3 prompts of 'palm'; did you mean 'a-tree-on-a-beach'",
        ),
        ("generated/palm/0", "generated/palm/_clas", "no such special folder; did you mean '_class'"),
        ("generated/palm/0", "generated/palm/01", "are in another folder as well"),
        ("generated/palm/0/00.png", "generated/palm/00.png", "belongs to no prompt"),
        ("generated", "created", "expected generated pictures at .*, and there are none"),
        ("subjects.toml", "subjects.txt", "subjects.toml, or DreamBooth's files at .*; got neither"),
        ("real/palm", "real/plam", "expected pictures of 'palm' itself"),
    ],
)
def test_a_wrong_folder_is_told(old: str, new: str, message: str, folder: Path):
    (folder / old).rename(folder / new)
    with pytest.raises(InputError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("[]", "expected a prompt for each picture's name"),
        ("{", "prompts.json: expected JSON"),
        ('{"0": "a sks dog"}', "00.png has no prompt in prompts.json; did you mean '0'"),
    ],
)
def test_wrong_samples_are_told(told: str, message: str, folder: Path):
    own = folder / "generated" / "poodle"
    shutil.rmtree(own)
    save([picture("poodle", "city", 0)], own / "samples")
    (own / "prompts.json").write_text(told)
    with pytest.raises(InputError, match=message):
        read(folder)


def test_samples_need_to_know_their_token_and_stand_alone(folder: Path):
    own = folder / "generated" / "poodle"
    (own / "prompts.json").write_text('{"00": "a sks dog"}')
    with pytest.raises(InputError, match="all pictures of prompts have to be in samples/"):
        read(folder)
    for i in range(3):
        shutil.rmtree(own / str(i))
    save([picture("poodle", "city", 0)], own / "samples")
    assert read(folder).subjects[0].made[0][0].stem == "00"
    listing = folder / "subjects.toml"
    listing.write_text(listing.read_text().replace('token = "sks"', ""))
    with pytest.raises(InputError, match="say in subjects.toml what the token is"):
        read(folder)


def test_no_folder_is_told(tmp_path: Path):
    with pytest.raises(InputError, match="expected a folder of subjects, and there is none at"):
        read(tmp_path / "nothing")


def test_a_damaged_picture_is_named_and_rows_before_it_are_kept(folder: Path, judges: Judges, tmp_path: Path):
    (folder / "generated" / "tractor" / "1" / "00.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match="tractor/1/00.png"):
        scored(folder, judges, tmp_path / "out")
    assert (tmp_path / "out" / subjects.RESULTS).read_text().count("\n") == 1


# The command ------------------------------------------------------------------------------------------------


def test_the_command(folder: Path, random_encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out"
    assert (
        command(
            folder,
            out=str(out),
            judging=Judging(encoder=str(random_encoder)),
            protocol=["dreambooth"],
            device="cpu",
        )
        == 0
    )
    shown = capsys.readouterr().out
    assert (out / "subjects.md").read_text() in shown
    assert str(out / "dreambooth.csv") in shown
    assert (
        command(folder, out=str(out), judging=Judging(encoder=str(random_encoder)), device="cpu", json=True)
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert [row["protocol"] for row in told["rows"]] == [
        name for name in ("dreambooth", "custom-diffusion", "textual-inversion") for _ in range(3)
    ]
    assert len(told["files"]) == 9


def test_help_need_not_wait_for_torch():
    code = "import sys, wordbrush.cli.commands.evaluate.subjects; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
