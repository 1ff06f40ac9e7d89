"""Pictures made with concepts, made again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import wordbrush
from teaching import concept
from wordbrush import images, provenance
from wordbrush.concept import Concept, Use, applied
from wordbrush.concept.weights import LowRank
from wordbrush.errors import ConceptError, OptionsError
from wordbrush.model import Model

Tiny = Callable[..., Model]
PROMPT = "<my-cat> on a beach"


@pytest.fixture
def saved(tiny: Tiny, tmp_path: Path) -> Concept:
    return concept(tiny(), weights=LowRank).save(tmp_path / "concepts" / "my-cat.concept")


def made(model: Model, path: Path) -> Path:
    """A picture that was edited, in a file."""
    source = wordbrush.from_seed(model, PROMPT, steps=2)
    wordbrush.edit(model, source, "a dog on a beach").save(path)
    return path


def test_the_record_names_the_concepts(tiny: Tiny, saved: Concept, tmp_path: Path) -> None:
    model = wordbrush.apply(tiny(), saved, concept(tiny(), ("<b>",), seed=1), strength=[0.8, 1.0])
    record = provenance.read_record(made(model, tmp_path / "dog.png")).model
    assert record.hash == model.hash and record.concepts == model.concepts
    file, memory = record.concepts
    assert (file.path, file.sha256, file.strength) == (saved.record.path, saved.record.sha256, 0.8)
    assert memory.path is None and len(memory.sha256) == 64
    assert "concepts" not in images.read_provenance(wordbrush.generate(tiny(), "a cat", steps=1))["model"]


def test_a_picture_is_made_again_with_its_concepts(tiny: Tiny, saved: Concept, tmp_path: Path) -> None:
    base = tiny()
    model = wordbrush.apply(base, saved, strength=0.8)
    path = made(model, tmp_path / "dog.png")
    assert wordbrush.replay(path, model=base).differences == ()
    assert wordbrush.replay(path, model=model).differences == ()
    (tmp_path / "concepts" / "my-cat.concept").rename(tmp_path / "my-cat.concept")
    assert wordbrush.replay(path, model=base).differences == ()


def test_what_differs_is_said(tiny: Tiny, saved: Concept, tmp_path: Path) -> None:
    path = made(wordbrush.apply(tiny(), saved, strength=0.8), tmp_path / "dog.png")
    differences = wordbrush.replay(path, model=wordbrush.apply(tiny(), saved)).differences
    assert f"the concepts: {saved.record.path}=0.8 then, {saved.record.path} now" in differences
    assert any(each.startswith("the model:") for each in differences)
    plain = wordbrush.generate(tiny(), "a cat on a beach", steps=2)
    other = wordbrush.replay(plain, model=wordbrush.apply(tiny(), concept(tiny(), (), weights=LowRank)))
    assert "the concepts: none then, a concept in memory now" in other.differences
    assert not any("concepts" in each for each in wordbrush.replay(path, model=tiny("sd2")).differences)


def test_a_concept_that_is_missing_or_changed_is_named(tiny: Tiny, saved: Concept, tmp_path: Path) -> None:
    path = made(wordbrush.apply(tiny(), saved), tmp_path / "dog.png")
    sha = saved.record.sha256[:12]
    file = tmp_path / "concepts" / "my-cat.concept"
    concept(tiny(), seed=5).save(file)
    with pytest.raises(
        ConceptError, match=f"my-cat.concept has changed since: .*a concept that this picture.*{sha}…"
    ):
        wordbrush.replay(path, model=tiny())
    file.unlink()
    with pytest.raises(
        ConceptError, match=rf"expected .*my-cat.concept \(SHA-256 {sha}…\), a concept .* missing"
    ):
        wordbrush.replay(path, model=tiny())


def test_a_concept_in_memory_says_so(tiny: Tiny) -> None:
    model = wordbrush.apply(tiny(), concept(tiny()))
    picture = wordbrush.generate(model, PROMPT, steps=1)
    assert wordbrush.replay(picture, model=model).differences == ()
    with pytest.raises(
        ConceptError, match="expected the file of a concept .* but that was in memory, not in a file"
    ):
        wordbrush.replay(picture, model=tiny())


def test_a_concept_of_another_kind_of_model_is_refused(tiny: Tiny, saved: Concept, tmp_path: Path) -> None:
    path = made(wordbrush.apply(tiny(), saved), tmp_path / "dog.png")
    with pytest.raises(ConceptError, match="does not fit this model"):
        wordbrush.replay(path, model=tiny("sdxl"))


@pytest.mark.parametrize("strength", ["nan", 11, "much", [1], None])
def test_a_record_of_no_strength_is_damaged_or_refused(
    strength: Any, tiny: Tiny, saved: Concept, tmp_path: Path
) -> None:
    picture = wordbrush.generate(wordbrush.apply(tiny(), saved), PROMPT, steps=1)
    record = images.read_provenance(picture)
    record["model"]["concepts"][0]["strength"] = strength
    picture.info["wordbrush"] = json.dumps(record)
    with pytest.raises(OptionsError, match="strength"):
        wordbrush.replay(picture, model=tiny())


def test_a_long_prompt_with_a_concept_is_made_again(tiny: Tiny, saved: Concept) -> None:
    prompt = "a cat and " * 9 + PROMPT
    model = applied(tiny(), [Use(saved)]).for_prompts([prompt])
    picture: Image.Image = wordbrush.generate(model, prompt, steps=1)
    assert wordbrush.replay(picture, model=tiny()).differences == ()
