"""On the built-in model a training does what it is for: the thing appears, measured against its true renderings by a
network that no training reads."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

import wordbrush
from wordbrush.backbones import load_encoder
from wordbrush.model import Model
from wordbrush.pocket import Scene, Thing, render

pytestmark = pytest.mark.slow

MOON, SNOW = "{} on the moon", "{} in the snow"
PLACES = {MOON: "moon", SNOW: "snow"}


@pytest.fixture(scope="module")
def pocket() -> Model:
    return Model.load("pocket")


@pytest.fixture(scope="module")
def koala(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pictures of a thing that the model has never seen, in other places than the prompts'."""
    folder = tmp_path_factory.mktemp("koala")
    for i, place in enumerate(("beach", "forest", "street", "desert", "mountains")):
        thing = Thing("koala", size="large", x=0.36 + 0.07 * i, y=0.6, flip=i % 2 == 1)
        render(Scene((thing,), place, place_seed=40 + i)).save(folder / f"{i}.png")
    return folder


def nearness(model: Model, word: str) -> float:
    """The mean cosine, by the encoder in DINO's role, of what a model draws with true renderings of the prompt."""
    encoder = load_encoder()
    scores: list[float] = []
    for prompt, place in PLACES.items():
        made = [wordbrush.generate(model, prompt.format(word), seed=seed, steps=16) for seed in range(2)]
        true = [render(Scene((Thing("koala", size="large", x=x),), place, place_seed=5)) for x in (0.4, 0.6)]
        scores.append(float((encoder.images(made) @ encoder.images(true).T).mean()))
    return sum(scores) / len(scores)


def pixels(pictures: Sequence[Image.Image]) -> list[bytes]:
    return [picture.tobytes() for picture in pictures]


def test_a_thing_is_learned_by_low_rank(pocket: Model, koala: Path) -> None:
    """It appears, the more so the larger the strength; at 0 nothing of it does."""
    concept = wordbrush.train(pocket, koala, "lora", options={"prompt": "a sks bear"})
    near = [nearness(wordbrush.apply(pocket, concept, strength=s), "a sks bear") for s in (0.0, 0.5, 1.0)]
    assert near[0] < near[1] < near[2] and near[2] > near[0] + 0.25
    assert near[0] == pytest.approx(nearness(pocket, "a sks bear"))


def test_a_thing_is_learned_by_shifts(pocket: Model, koala: Path) -> None:
    """SVDiff: as above; and half of it and half of it again are the whole."""
    concept = wordbrush.train(pocket, koala, "svdiff", options={"prompt": "a sks bear"})
    near = [nearness(wordbrush.apply(pocket, concept, strength=s), "a sks bear") for s in (0.0, 0.5, 1.0)]
    assert near[0] < near[1] < near[2] and near[2] > near[0] + 0.15


def test_a_thing_is_drawn_by_shutting(pocket: Model, koala: Path) -> None:
    """Cones: nothing but zeros, a tenth of the cross-attention's keys and values."""
    concept = wordbrush.train(pocket, koala, "cones", options={"prompt": "a sks bear"})
    assert {change.kind for change in concept.weights.values()} == {"shut"}
    assert nearness(wordbrush.apply(pocket, concept), "a sks bear") > nearness(pocket, "a sks bear") + 0.2


def test_a_word_is_learned_and_nothing_else_changes(pocket: Model, koala: Path) -> None:
    """Textual Inversion: the word is nearer to the thing than its class is; other prompts draw what they drew."""
    options = {"token": "<koala>", "init": "a bear"}
    concept = wordbrush.train(pocket, koala, "textual_inversion", options=options)
    learned = wordbrush.apply(pocket, concept)
    assert nearness(learned, "<koala>") > nearness(pocket, "a bear") + 0.1
    before, after = (
        [wordbrush.generate(each, MOON.format("a bear"), seed=seed, steps=4) for seed in range(2)]
        for each in (pocket, learned)
    )
    assert pixels(before) == pixels(after)
    asleep = wordbrush.apply(pocket, concept, strength=0.0)
    drawn = [wordbrush.generate(asleep, MOON.format("<koala>"), seed=seed, steps=4) for seed in range(2)]
    assert pixels(drawn) == pixels(before)


def test_what_is_read_from_the_text_is_learned(pocket: Model, koala: Path) -> None:
    """Custom Diffusion: the word makes the class look more like the thing; the word alone, its class left out, too."""
    options = {"token": "<koala>", "class_prompt": "a bear"}
    learned = wordbrush.apply(pocket, wordbrush.train(pocket, koala, "custom_diffusion", options=options))
    assert nearness(learned, "a <koala> bear") > nearness(pocket, "a bear") + 0.1


def test_a_class_is_preserved(pocket: Model, koala: Path, tmp_path: Path) -> None:
    """DreamBooth: the thing is learned, and with its class's pictures the class stays nearer to what it was; in a saved
    source the class is swapped for the thing."""
    told = {"prompt": "a sks bear", "class_pictures": 8}
    alone = wordbrush.train(pocket, koala, "dreambooth", options=told)
    kept = wordbrush.train(pocket, koala, "dreambooth", options={**told, "class_prompt": "a bear"})
    base = nearness(pocket, "a bear")
    with_prior, without = (wordbrush.apply(pocket, each) for each in (kept, alone))
    assert nearness(with_prior, "a sks bear") > base + 0.2
    assert nearness(with_prior, "a bear") < nearness(without, "a bear")
    learned = wordbrush.apply(pocket, kept.save(tmp_path / "koala.concept"))
    bear = render(Scene((Thing("bear", size="large"),), "beach", place_seed=50))
    source = wordbrush.invert(learned, bear, "a bear on a beach")
    source.save(tmp_path / "bear.source")
    loaded = wordbrush.Source.load(tmp_path / "bear.source", learned)
    edited = wordbrush.edit(learned, loaded, "a sks bear on a beach").image
    encoder = load_encoder()
    (swapped, before, true) = encoder.images(
        [edited, bear, render(Scene((Thing("koala", size="large"),), "beach", place_seed=50))]
    )
    assert float(swapped @ true) > float(before @ true)
