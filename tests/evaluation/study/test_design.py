"""A study's folder: what is read, and what is said of what is wrong."""

from collections.abc import Callable
from pathlib import Path

import pytest

from wordbrush.errors import ImageError, InputError, OptionsError, OutputError
from wordbrush.evaluation.study.design import (
    QUESTIONS,
    NewItem,
    Question,
    Settings,
    Study,
    check_pictures,
    load,
    write_study,
)
from wordbrush.progress import drain

from .conftest import METHODS, picture

Make = Callable[..., Study]


def rewrite(study: Study, old: str, new: str) -> Path:
    path = study.folder / "study.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return study.folder


def test_what_is_written_is_read(make: Make):
    study = make("rating", items=2, seed=5, raters_per_item=4, contact='"Ann" \\ <ann@example.org>\n\x7f')
    assert load(study.folder).settings == study.settings
    assert study.settings.questions == QUESTIONS["rating"]
    assert study.settings.contact == '"Ann" \\ <ann@example.org>\n\x7f'
    assert list(study.items) == ["item-0", "item-1"]
    item = study.items["item-1"]
    assert item.prompt == "a tiger number 1 <b>next</b> to a mirror"
    assert item.originals == (study.folder / "items" / "item-1" / "source.png",)
    assert set(item.pictures) == set(METHODS)
    drain(check_pictures(study))


def test_a_study_is_written_by_hand_in_four_lines(make: Make):
    study = make("choice", references=2)
    (study.folder / "study.toml").write_text(
        'title = "Mine"\nkind = "choice"\nmethods = ["text2live", "prompt-to-prompt"]\nquestions = ["prompt"]\n'
        "attention_checks = 0"
    )
    found = load(study.folder)
    assert found.settings.questions == (QUESTIONS["choice"][1],)
    assert len(found.items["item-0"].originals) == 2


def test_questions_of_ones_own(make: Make):
    study = make("rating", items=1, attention_checks=0)
    rewrite(study, 'id = "realism"', 'id = "beauty"\nhigh = "a masterpiece"')
    assert load(study.folder).settings.questions[2] == Question(
        id="beauty",
        text="How realistic does the edited picture look?",
        about="picture",
        low="not at all",
        high="a masterpiece",
    )


def test_all_that_is_to_be_judged(make: Make):
    assert len(make("rating", items=2).units) == 2 * 3
    assert len(make("choice", items=2).units) == 2 * 3
    assert len(make("ranking", items=2).units) == 2
    ours = make("choice", items=2, methods=("a", "b", "c", "d"), against="b", attention_checks=0)
    assert {shown for _, shown in ours.units} == {frozenset({"b", other}) for other in "acd"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("title =", "titel =", "unknown option 'titel'; did you mean 'title'?"),
        (
            'kind = "rating"',
            'kind = "rate"',
            "option 'kind': expected 'rating', 'choice' or 'ranking', got 'rate'",
        ),
        ('"vqgan-clip"', '"text2live"', "expected each method once"),
        ('"vqgan-clip"', '"a/b"', "not 'a/b'"),
        ('"vqgan-clip"', '"source"', "not 'source'"),
        ('"vqgan-clip"', '"reference-1"', "not 'reference-1'"),
        ('"vqgan-clip"', '"vqgan-clap"', "vqgan-clap.png; did you mean 'vqgan-clip'?"),
        ("title =", "against = 'text2live'\ntitle =", "only allowed in a choice"),
        ("title =", "seed = -1\ntitle =", "option 'seed': expected greater than or equal to 0, got -1"),
        (
            "title =",
            "questions = ['realsm']\ntitle =",
            "no rating question 'realsm'; did you mean 'realism'?",
        ),
        ("title =", "questions = ['realism']\ntitle =", "expected 0, or a question about the source"),
        (
            "title =",
            "questions = [{id = 'x', txt = 'y'}]\ntitle =",
            "unknown option 'txt'; did you mean 'text'?",
        ),
        ("title =", "questions = ['text', 'text']\ntitle =", "expected each question once"),
        ("title =", "title", "is not a TOML file"),
    ],
)
def test_what_is_wrong_in_the_settings_is_told(make: Make, old: str, new: str, said: str):
    study = make("rating", items=2)
    text = (study.folder / "study.toml").read_text().split("\n[[questions]]")[0]
    (study.folder / "study.toml").write_text(text)
    rewrite(study, old, new)
    with pytest.raises(InputError) as error:
        load(study.folder)
    assert said in str(error.value)
    assert str(study.folder) in str(error.value)


def test_a_choice_needs_two(make: Make):
    with pytest.raises(ValueError, match="at least two methods for a choice"):
        make("choice", methods=("one",))
    with pytest.raises(ValueError, match="one of the methods; did you mean 'text2live'"):
        make("choice", against="text2lie")


def test_what_is_missing_is_told(make: Make, tmp_path: Path):
    with pytest.raises(InputError, match="there is none at"):
        load(tmp_path / "nowhere")
    with pytest.raises(OptionsError, match="study.toml: No such file"):
        load(tmp_path)
    study = make("rating", items=3)
    item = study.folder / "items" / "item-1"
    (item / "text2live.png").rename(item / "text2life.png")
    with pytest.raises(ImageError, match=r"text2live.png; did you mean 'text2life'\?"):
        load(study.folder)
    (item / "text2life.png").rename(item / "text2live.png")
    (item / "source.png").rename(item / "sauce.png")
    with pytest.raises(
        ImageError, match="source.png or .*reference-1.png, since a question is about the original"
    ):
        load(study.folder)
    (item / "sauce.png").rename(item / "source.png")
    (item / "item.toml").write_text('promt = "a tiger"')
    with pytest.raises(OptionsError, match="item.toml: unknown option 'promt'; did you mean 'prompt'"):
        load(study.folder)
    (item / "item.toml").unlink()
    with pytest.raises(InputError, match='expected prompt = "…" in '):
        load(study.folder)


def test_a_folder_without_items(make: Make):
    study = make("rating", items=2)
    (study.folder / "items").rename(study.folder / "elements")
    with pytest.raises(InputError, match="expected a folder for each item in .*items, got none"):
        load(study.folder)


def test_checks_need_two_different_originals(make: Make):
    with pytest.raises(InputError, match="at least two different originals"):
        make("rating", items=1)


def test_a_damaged_picture_is_found_before_a_rater_is(make: Make):
    study = make("rating", items=2)
    path = study.items["item-1"].pictures["text2live"]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ImageError, match="text2live.png"):
        drain(check_pictures(study))


def test_a_study_is_never_written_over_another(make: Make):
    study = make("rating", items=2)
    with pytest.raises(OutputError, match="already contains a study"):
        write_study(study.folder, study.settings, [])


def test_a_study_is_written_whole_or_not_at_all(tmp_path: Path):
    settings = Settings.model_validate({"title": "x", "kind": "rating", "methods": ("a",)})

    def items():
        yield NewItem("one", "a cat", {"a": picture(1)}, source=picture(2))
        raise RuntimeError("the model ran out of memory")

    with pytest.raises(RuntimeError):
        write_study(tmp_path / "study", settings, items())
    assert not (tmp_path / "study").exists()
