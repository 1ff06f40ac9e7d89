"""A learned word is one word for all that reads prompts, whatever it is called and however many vectors it has."""

from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import wordbrush
from teaching import concept
from wordbrush import changes
from wordbrush.concept import Use, applied
from wordbrush.errors import PromptError, UnlearnedError
from wordbrush.model import Model
from wordbrush.words import Words, align

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]
PROMPT = "a photo of <my-cat> on a beach"


@pytest.fixture(scope="session")
def taught(tiny: Tiny) -> Callable[..., Model]:
    """taught("sd1", 2): a tiny model that has learned "<my-cat>", in two vectors, and "<b>"."""

    def make(shape: str = "sd1", vectors: int = 1, dtype: torch.dtype = torch.float32) -> Model:
        base = tiny(shape, dtype)
        uses = [Use(concept(base, vectors=vectors)), Use(concept(base, ("<b>",), seed=1))]
        return applied(base, uses)

    return make


def named(words: Words) -> list[tuple[str, int]]:
    """The words with their numbers of tokens."""
    return [(word.text, word.stop - word.start) for word in words.words]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("vectors", [1, 3])
def test_a_learned_word_is_one_word_of_its_vectors(
    shape: str, vectors: int, taught: Callable[..., Model]
) -> None:
    model = taught(shape, vectors)
    for number, encoder in enumerate(model.text.encoders):
        found = model.text._read(number, "a photo of <my-cat>, <b>")
        own = found.find("<my-cat>")[0]
        assert named(found) == [
            *(("a", 1), ("photo", 1), ("of", 1), ("<my-cat>", vectors), (",", 1)),
            ("<b>", 1),
        ]
        rows = encoder.get_input_embeddings().weight.shape[0]
        assert found.ids[own.start : own.stop] == tuple(range(rows, rows + vectors))
        assert found.find("<b>")[0].is_learned and found.ids[found.find("<b>")[0].start] == rows + vectors
        assert not found.words[0].is_learned


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("<MY-CAT> sits", ["<MY-CAT>", "sits"]),
        ("<my-cat>'s hat.", ["<my-cat>", "'s", "hat", "."]),
        ('"<my-cat>"!', ['"', "<my-cat>", '"', "!"]),
        ("<my-cat><my-cat>", ["<my-cat>", "<my-cat>"]),
        ("red<my-cat>", ["red", "<my-cat>"]),
        ("猫<my-cat>", ["猫", "<my-cat>"]),
        ("(<my-cat>)", ["(", "<my-cat>", ")"]),
        ("  <my-cat>\n", ["<my-cat>"]),
        ("<my-cat>,<b>", ["<my-cat>", ",", "<b>"]),
    ],
)
def test_capitals_and_what_stands_beside_it(
    prompt: str, expected: list[str], taught: Callable[..., Model]
) -> None:
    words = taught("sd1", 2).read(prompt)
    assert [word.text for word in words.words] == expected
    for word in words.words:
        assert (word.stop - word.start == 2) == (word.key == "<my-cat>") or not word.is_learned


def test_names_of_any_script_and_without_brackets(tiny: Tiny) -> None:
    base = tiny()
    names = ("<café>", "sks-thing", "<猫さん>", "<my-cat>-2", "<my-cat>")
    model = wordbrush.apply(base, concept(base, names))
    for name in names:
        (word,) = (each for each in model.read(f"a {name} on a beach").words if each.is_learned)
        assert word.text == name and word.names_something
    assert [word.is_learned for word in model.read("<cafe\u0301> here").words] == [True, False]
    assert not any(word.is_learned for word in model.read("sks-things and sks").words)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            ["<my-cat>", "<MY-cat>", "<b>", "a", "cat", "teapot", ",", "!", "'s", "on", "🐈", "night"]
        ),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([" ", "  ", "\n"]),
)
def test_learned_words_stand_where_they_are_written(
    taught: Callable[..., Model], pieces: Sequence[str], gap: str
) -> None:
    """With a plain word in their place, every other word is read as before, and at the tokens that follow from it."""
    model = taught("sd1", 2)
    found = model.read(gap.join(pieces))
    plain = model.base.read(gap.join("cat" if piece[0] == "<" else piece for piece in pieces))
    assert len(found.words) == len(plain.words)
    moved = 0
    for own, other in zip(found.words, plain.words, strict=True):
        assert own.start == other.start + moved
        if own.is_learned:
            moved += (own.stop - own.start) - 1
        else:
            assert own.text == other.text
            assert found.ids[own.start : own.stop] == plain.ids[other.start : other.stop]


def test_what_nobody_has_taught_is_an_error_that_names_it(taught: Callable[..., Model]) -> None:
    for model, prompt, token in (
        (taught().base, PROMPT, "<my-cat>"),
        (taught(), "a <my-dog> and <my-cat>", "<my-dog>"),
        (taught(), "<my-cat>s and <lora>", "<lora>"),
    ):
        with pytest.raises(UnlearnedError, match=f"got '{token}', which a concept teaches") as error:
            model.read(prompt)
        assert error.value.token == token
    assert taught().read("1 < 2 > 0").words


def test_find_and_its_hint(taught: Callable[..., Model]) -> None:
    words = taught("sd1", 2).read("a <my-cat> and a cat, <MY-CAT>")
    assert [word.text for word in words.find("<my-cat>")] == ["<my-cat>", "<MY-CAT>"]
    assert [word.text for word in words.find("cat")] == ["cat"]
    assert [word.text for word in words.find("a <my-cat>")] == ["a", "<my-cat>"]
    assert words.indicator(["<my-cat>"]).sum() == 4
    with pytest.raises(PromptError, match="did you mean '<my-cat>'"):
        words.find("my-cat")


def test_a_long_prompt_keeps_a_word_in_one_chunk(taught: Callable[..., Model]) -> None:
    model = taught("sdxl", 5)
    prompt = "a cat and " * 9 + "<my-cat> on a beach"
    with pytest.raises(PromptError, match="expected a prompt of at most 30 tokens"):
        model.read(prompt)
    longer = model.for_prompts([prompt])
    words = longer.read(prompt)
    (own,) = words.find("<my-cat>")
    assert longer.chunks == 2 and longer.concepts == model.concepts and longer.uses == model.uses
    assert own.stop - own.start == 5 and own.start == words.chunks[1].start
    assert longer.encode_text([prompt]).hidden.shape == (1, 64, 56)
    alone = model.encode_text(["<my-cat> on a beach"]).hidden
    torch.testing.assert_close(longer.encode_text([prompt]).hidden[:, 32:], alone)


def test_a_word_of_more_vectors_than_the_context_is_refused(tiny: Tiny) -> None:
    model = wordbrush.apply(tiny(), concept(tiny(), vectors=31))
    with pytest.raises(PromptError, match="expected words of at most 30 tokens, got '<my-cat>' of 31"):
        model.read("<my-cat>")


def test_alignment_swaps_it_as_one_word(taught: Callable[..., Model]) -> None:
    model = taught("sd1", 3)
    alignment = align(model.read("a photo of cat on a beach"), model.read(PROMPT))
    assert alignment.describe() == "a photo of [cat → <my-cat>] on a beach" and alignment.is_one_to_one
    (cat,), (own,) = alignment.source.find("cat"), alignment.target.find("<my-cat>")
    row = alignment.replace_matrix[cat.start]
    assert torch.equal(row[own.start : own.stop], torch.full((3,), 1 / 3)) and row.sum() == 1
    beach = alignment.source.find("beach")[0].start, alignment.target.find("beach")[0].start
    assert alignment.replace_matrix[beach] == 1


@pytest.mark.parametrize(
    ("source", "target", "kind"),
    [
        ("a cat on a beach", "<my-cat> on a beach", "swap"),
        ("a cat on a beach", "a <my-cat> on a beach", "swap"),
        ("<my-cat> on a beach", "<b> on a beach", "swap"),
        ("<my-cat> on a beach", "a dog on a beach", "swap"),
        ("a beach", "<my-cat> on a beach", "add"),
        ("<my-cat> on a beach", "a beach", "remove"),
        ("<my-cat> on a beach", "a red <my-cat> on a beach", "recolour"),
        ("a cat on a beach", "a cat on <b>", "place"),
        ("a cat on <b>", "a cat on a beach", "place"),
        ("a cat at night", "a cat at <b>", "light"),
        ("a photo of a cat", "a <b> of a cat", "style"),
        ("a photo of a cat", "a photo of a cat in the style of <b>", "style"),
        ("<my-cat> on a beach", "<my-cat> on a beach at night", "light"),
        ("a cat on a beach", "<my-cat> on a meadow", "several"),
    ],
)
def test_the_kind_of_change_follows_from_what_it_replaces(
    source: str, target: str, kind: str, taught: Callable[..., Model]
) -> None:
    model = taught("sd1", 2)
    found = changes.read(align(model.read(source), model.read(target)))
    assert found.kind == kind, found.reason


def test_the_lexicon_says_nothing_of_a_learned_word(tiny: Tiny) -> None:
    model = wordbrush.apply(tiny(), concept(tiny(), ("night", "running")))
    found = changes.read(align(model.read("a cat on a beach"), model.read("a night on a beach")))
    assert found.kind == "swap"
    assert changes.things(model.read("a dog running"))[0].text == "running"


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("vectors", [1, 3])
def test_edits_maps_and_masks_take_it_as_a_word(
    shape: str, vectors: int, taught: Callable[..., Model]
) -> None:
    model = taught(shape, vectors)
    source = wordbrush.from_seed(model, "a photo of a cat on a beach", steps=3)
    for options in (
        {},
        {"local_blend": ["<my-cat>"]},
        {"reweight": {"<my-cat>": 2.0}},
        {"word_steps": {"<MY-CAT>": 0.5}},
    ):
        result = wordbrush.edit(model, source, PROMPT, options=options)
        assert result.report.words == "a photo of [a cat → <my-cat>] on a beach"
        assert result.report.details["change"] == "swap"
    own = wordbrush.from_seed(model, PROMPT, steps=3)
    kept = wordbrush.edit(model, own, "a photo of <my-cat> on a meadow", keep_words="<my-cat>")
    assert kept.heatmap("<my-cat>").size == kept.image.size
    assert wordbrush.edit(model, own, "a photo of <b> on a beach", mask_words=["<my-cat>"]).mask is not None
    assert wordbrush.heatmap(model, own.image(model), PROMPT, "<my-cat>").size == own.image(model).size
    (checked,) = wordbrush.check_edit(model, PROMPT, ["a photo of a dog on a beach"])
    assert checked.words == "a photo of [<my-cat> → a dog] on a beach"


def test_reweighting_it_moves_all_of_its_tokens(taught: Callable[..., Model]) -> None:
    model = taught("sd1", 3, torch.float64)
    source = wordbrush.from_seed(model, PROMPT, steps=3)
    plain = wordbrush.edit(model, source, f"{PROMPT} at night", options={"local_blend": "off"})
    more = wordbrush.edit(
        model, source, f"{PROMPT} at night", options={"local_blend": "off", "reweight": {"<my-cat>": 5.0}}
    )
    assert not torch.equal(plain.trajectory, more.trajectory)


def test_the_words_of_a_concept_are_not_strange() -> None:
    base = Model.load("pocket", device="cpu")
    own = concept(base)
    model = wordbrush.apply(base, own)
    assert model.strange("<my-cat> on a beach") == "" == model.strange("a <MY-CAT> on a beach")
    assert "'unicorn'" in model.strange("<my-cat> and a unicorn")
    sks = wordbrush.apply(base, concept(base, ()))
    assert "sks" in base.strange("a sks cat") and sks.strange("a sks cat") == ""
