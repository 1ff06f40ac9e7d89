"""Rare words: which are drawn, and what is said of prompts that have none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import CLIPTokenizer

from wordbrush.concept import TrainingPicture
from wordbrush.errors import PromptError
from wordbrush.loading import Vocabulary
from wordbrush.model import Model
from wordbrush.training.pictures import Pictures
from wordbrush.training.rare_tokens import candidates, doubts, drawn

Tiny = Callable[..., Model]


@pytest.fixture(scope="session")
def pocket() -> Model:
    return Model.load("pocket", device="cpu")


def with_tokenizer(model: Model, tokenizer: Any) -> Model:
    """A model of this shape whose second text encoder has a tokenizer of its own."""
    return Model(
        unet=model.denoiser.unet,
        vae=model.autoencoder.vae,
        text_encoders=list(model.text.encoders),
        tokenizers=[model.text.tokenizers[0], tokenizer],
        schedule_config=model.schedule_config,
    )


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_rare_words_are_whole_short_and_come_back_as_their_own_token(tiny: Tiny, length: int) -> None:
    model = tiny("sdxl")
    found = candidates(model, length)
    table = model.text.tokenizers[0].get_vocab()
    assert [each.id for each in found] == sorted(each.id for each in found)
    for each in found:
        assert len(each.text) <= length and each.text.isalpha() and each.text.islower()
        assert table[f"{each.text}</w>"] == each.id >= 0.8 * len(table)
        (ids,) = {tuple(own(f"a {each.text} cat")["input_ids"][1:-1]) for own in model.text.tokenizers}
        assert ids == (table["a</w>"], each.id, table["cat</w>"])
    texts = {each.text for each in found}
    assert ("sks" in texts) == (length >= 3)
    assert not texts & {"the", "on", "to", "xx", "A", "Z"}


def test_a_word_that_another_tokenizer_splits_is_none(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sdxl")
    before = {each.text for each in candidates(model)}
    model.text.tokenizers[0].save_pretrained(tmp_path)
    data = json.loads((tmp_path / "tokenizer.json").read_text())
    data["model"]["merges"] = [
        pair for pair in data["model"]["merges"] if "".join(pair).replace(" ", "") != "sks</w>"
    ]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    other: Any = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(other("sks", add_special_tokens=False)["input_ids"]) > 1
    assert before - {each.text for each in candidates(with_tokenizer(model, other))} == {"sks"}


def test_words_of_the_models_own_are_never_drawn_nor_their_pieces(pocket: Model, tiny: Tiny) -> None:
    assert pocket.vocabulary is not None
    tokenizer = pocket.text.tokenizers[0]
    pieces = {id for word in pocket.vocabulary.known for id in tokenizer(word)["input_ids"]}
    found = candidates(pocket)
    assert len(found) >= 20 and not {each.id for each in found} & pieces
    without = {each.text for each in candidates(tiny("sd1"))} - {each.text for each in found}
    assert {"owl", "pig", "red", "pot"} <= without  # three words, and a piece of "teapot"


def test_draws_follow_the_seed_and_never_repeat(pocket: Model) -> None:
    first = drawn(pocket, 10, seed=1)
    assert first == drawn(pocket, 10, seed=1) != drawn(pocket, 10, seed=2)
    assert len({each.id for each in first}) == 10
    assert drawn(pocket, 5, seed=1) == first[:5]
    everything = drawn(pocket, 10_000)
    assert sorted(everything, key=lambda each: each.id) == candidates(pocket)


def told(
    model: Model,
    prompt: str,
    class_prompt: str = "",
    *,
    captions: tuple[str, ...] = ("",),
    wants: bool = False,
) -> list[str]:
    records = tuple(TrainingPicture(name=f"{k}.png", sha256="") for k in range(len(captions)))
    found = Pictures((Image.new("RGB", (8, 8)),) * len(captions), records, captions)
    return doubts(model, prompt, class_prompt, found, wants_class=wants)


@pytest.mark.parametrize(
    ("prompt", "class_prompt"),
    [
        ("a sks cat", "a cat"),
        ("a photo of a sks cat", "a cat"),
        ("A SKS cat, on a beach", "a photo of a cat"),
        ("a sks cat", ""),
        ("sks", ""),
    ],
)
def test_nothing_is_said_of_a_prompt_with_a_rare_word(pocket: Model, prompt: str, class_prompt: str) -> None:
    assert told(pocket, prompt, class_prompt) == []


@pytest.mark.parametrize(
    ("prompt", "class_prompt", "said"),
    [
        ("a cat", "a cat", "no word of its own"),
        ("a red cat", "a cat", "pocket knows 'red', and"),
        ("a cat", "", "pocket knows 'cat', and"),
        ("a xxy5syt00 cat", "a cat", "'xxy5syt00' is 9 tokens"),
        ("a sks cat", "a dog", "no word in common"),
    ],
)
def test_what_is_said_of_prompts(pocket: Model, prompt: str, class_prompt: str, said: str) -> None:
    (notice,) = told(pocket, prompt, class_prompt)
    assert said in notice


def test_without_a_list_of_words_the_place_in_the_table_decides(tiny: Tiny) -> None:
    model = tiny("sd1")
    assert model.vocabulary is None
    assert told(model, "a sks thing", "a thing") == []
    (notice,) = told(model, "a big cat", "a cat")  # its id is 682 of 985
    assert "tiny SD1 knows 'big', and" in notice


def test_a_missing_class_is_told_where_it_matters(pocket: Model) -> None:
    assert told(pocket, "a sks cat") == []
    (notice,) = told(pocket, "a sks cat", wants=True)
    assert "without --class-prompt nothing keeps the class" in notice
    assert told(pocket, "a sks cat", "a cat", wants=True) == []


def test_captions_without_the_rare_word_are_named(pocket: Model) -> None:
    captions = ("a sks cat on a beach", "a cat in a forest", "", "A SKS cat")
    (notice,) = told(pocket, "a sks cat", "a cat", captions=captions)
    assert "captions of 1.png do not have 'sks'" in notice


def test_a_caption_that_does_not_fit_is_named(pocket: Model) -> None:
    with pytest.raises(PromptError, match=r"caption of 1\.png: .*"):
        told(pocket, "a sks cat", captions=("a sks cat", "cat " * 200))


def test_a_models_own_list_counts_not_its_table(pocket: Model) -> None:
    own = pocket.with_chunks(1)
    assert isinstance(own.vocabulary, Vocabulary)
    (notice,) = told(own, "an owl bird", "a bird")  # "owl" is late in the table
    assert "pocket knows 'owl', and" in notice
