"""Models with concepts: what they compute, what they share with their base, and what they refuse."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import CLIPTokenizer

import wordbrush
from teaching import VALUE, attended, changes, concept, word
from wordbrush.concept import Base, Placeholder, Use, applied, doubts
from wordbrush.concept.weights import Difference, Full, LowRank, Shut, merged, tensors
from wordbrush.errors import ConceptError, OptionsError, UnlearnedError
from wordbrush.model import Model
from wordbrush.model.sharing import PlaceholderEmbedding
from wordbrush.progress import drain
from wordbrush.sampling import sample

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
PROMPT = "a photo of <my-cat>, on a beach"


def weights(model: Model) -> dict[str, Tensor]:
    return {
        f"{part}.{name}": own
        for part, network in model.networks.items()
        for name, own in network.named_parameters()
    }


@pytest.fixture(scope="session")
def pocket() -> Model:
    return Model.load("pocket", device="cpu", dtype="float32")


# Strength ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [LowRank, Difference, Full, Shut])
def test_weights_at_strength_0_are_the_base(shape: str, kind: type, tiny: Tiny) -> None:
    base = tiny(shape)
    model = applied(base, [Use(concept(base, (), weights=kind), 0.0)])
    assert model.hash == base.hash and model.base is base
    before = weights(base)
    assert all(own.data_ptr() == before[name].data_ptr() for name, own in weights(model).items())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_word_at_strength_0_is_what_it_was_before(shape: str, dtype: torch.dtype, tiny: Tiny) -> None:
    base = tiny(shape, dtype)
    model = applied(base, [Use(concept(base), 0.0)])
    found, expected = (
        each.encode_text([f"a photo of {it}, on a beach"])
        for each, it in ((model, "<my-cat>"), (base, "cat"))
    )
    assert torch.equal(found.hidden, expected.hidden)
    if expected.pooled is not None:
        assert found.pooled is not None and torch.equal(found.pooled, expected.pooled)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_whole_weights_at_strength_1_are_as_they_were_trained(
    shape: str, dtype: torch.dtype, tiny: Tiny
) -> None:
    base = tiny(shape, dtype)
    own = concept(base, (), weights=Full)
    found = weights(applied(base, [Use(own)]))
    for name, change in own.weights.items():
        assert isinstance(change, Full)
        assert torch.equal(found[name], change.weight.to(dtype)), name


@settings(max_examples=20, deadline=None)
@given(st.floats(-10, 10))
def test_what_a_word_means_goes_along_a_line(tiny: Tiny, strength: float) -> None:
    base = tiny()
    own = concept(base, vectors=2)
    found = applied(base, [Use(own, strength)]).text.encoders[0].get_input_embeddings().vectors
    learned = own.placeholders["<my-cat>"]
    assert learned.initial is not None
    line = learned.initial[0] + strength * (learned.vectors[0] - learned.initial[0])
    torch.testing.assert_close(found.detach(), line, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.permutations(range(3)), st.lists(st.floats(-3, 3), min_size=3, max_size=3))
def test_the_order_of_concepts_does_not_matter(tiny: Tiny, order: list[int], strengths: list[float]) -> None:
    base = tiny("sdxl")
    uses = [
        Use(concept(base, ("<a>",), weights=LowRank, seed=1), strengths[0]),
        Use(concept(base, ("<b>",), weights=Full, vectors=2, seed=2), strengths[1]),
        Use(concept(base, (), weights=Difference, seed=3), strengths[2]),
    ]
    one, two = applied(base, uses), applied(base, [uses[i] for i in order])
    for name, own in weights(one).items():
        if "token_embedding.vectors" not in name:
            torch.testing.assert_close(weights(two)[name], own, rtol=1e-4, atol=1e-4)
    prompt = "a <a> and <b> on a beach"
    torch.testing.assert_close(one.encode_text([prompt]).hidden, two.encode_text([prompt]).hidden)


def test_applying_one_after_the_other_is_applying_both(tiny: Tiny) -> None:
    base = tiny()
    one, two = (concept(base, (name,), weights=LowRank, seed=i) for i, name in enumerate(("<a>", "<b>")))
    together = wordbrush.apply(base, one, two, strength=[0.5, 2.0])
    in_turn = wordbrush.apply(wordbrush.apply(base, one, strength=0.5), two, strength=2.0)
    assert in_turn.hash == together.hash and in_turn.base is base
    assert [each.strength for each in in_turn.concepts] == [0.5, 2]
    assert wordbrush.apply(in_turn.base, one).hash == wordbrush.apply(base, one).hash
    assert wordbrush.apply(base.with_chunks(2), one).chunks == 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_things_are_shut_together(dtype: torch.dtype, tiny: Tiny) -> None:
    """Concepts of Cones: entries that any of them shuts are 0, all others the base's; the order does not matter."""
    base = tiny("sd1", dtype)
    own = [concept(base, (), weights=Shut, seed=seed) for seed in range(3)]
    before, after = weights(base), weights(wordbrush.apply(base, *own))
    for name, weight in before.items():
        places = {
            int(i) for each in own if name in each.weights for i in tensors(each.weights[name])["indices"]
        }
        union = torch.tensor(sorted(places), dtype=torch.int64)
        assert torch.equal(after[name].flatten(), weight.flatten().index_fill(0, union, 0)), name
    assert wordbrush.apply(base, *own).hash == wordbrush.apply(base, *own[::-1]).hash != base.hash


# Sharing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_what_no_concept_changes_is_the_bases_own(shape: str, tiny: Tiny) -> None:
    base = tiny(shape)
    own = concept(base, weights=LowRank)
    model = applied(base, [Use(own)])
    before, after = weights(base), weights(model)
    for name, weight in before.items():
        is_changed = name in own.weights
        assert (after[name].data_ptr() == weight.data_ptr()) != is_changed, name
    new = after.keys() - before.keys()
    assert len(new) == len(model.text.encoders) and all(
        name.endswith("token_embedding.vectors") for name in new
    )
    assert model.autoencoder is base.autoencoder


def test_the_embedding_table_is_not_copied(tiny: Tiny) -> None:
    base = tiny("sdxl")
    model = applied(base, [Use(concept(base, vectors=3))])
    for own, theirs in zip(model.text.encoders, base.text.encoders, strict=True):
        table = own.get_input_embeddings()
        assert (
            isinstance(table, PlaceholderEmbedding) and table.weight is theirs.get_input_embeddings().weight
        )
        assert table.vectors.shape[0] == 3 and table.num_embeddings == table.weight.shape[0] + 3
        assert not isinstance(theirs.get_input_embeddings(), PlaceholderEmbedding)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_base_is_untouched_and_works_beside_it(shape: str, tiny: Tiny) -> None:
    base = tiny(shape, torch.float64)
    kept = {name: own.clone() for name, own in weights(base).items()}
    hash, size = base.hash, len(base.text.tokenizers[0])
    plain = drain(sample(base, "a cat on a beach", 3, steps=4)).trajectory
    model = applied(base, [Use(concept(base, weights=Full, vectors=2))])
    taught = drain(sample(model, "<my-cat> on a beach", 3, steps=4)).trajectory
    runs = [sample(base, "a cat on a beach", 3, steps=4), sample(model, "<my-cat> on a beach", 3, steps=4)]
    found: list[Tensor] = []
    while len(found) < 2:  # in turn, step by step
        for run in runs:
            try:
                next(run)
            except StopIteration as end:
                found.append(end.value.trajectory)
    assert torch.equal(found[0], plain) and torch.equal(found[1], taught) and not torch.equal(plain, taught)
    assert all(torch.equal(own, kept[name]) for name, own in weights(base).items())
    assert base.hash == hash != model.hash and len(base.text.tokenizers[0]) == size
    with pytest.raises(UnlearnedError):
        base.read("<my-cat>")


def test_edits_of_base_and_taught_model_do_not_meet(tiny: Tiny) -> None:
    base = tiny()
    model = applied(base, [Use(concept(base, weights=LowRank))])
    source = wordbrush.from_seed(base, "a cat on a beach", steps=3)
    taught = wordbrush.from_seed(model, "<my-cat> on a beach", steps=3)
    first = wordbrush.edit(base, source, "a dog on a beach").trajectory
    wordbrush.edit(model, taught, "a dog on a beach")
    assert torch.equal(wordbrush.edit(base, source, "a dog on a beach").trajectory, first)


def test_training_the_vectors_moves_no_other_row(tiny: Tiny) -> None:
    base = tiny()
    model = applied(base, [Use(concept(base))])
    table = model.text.encoders[0].get_input_embeddings()
    table.vectors.requires_grad_(True)
    model.encode_text([PROMPT], gradients=True).hidden.sum().backward()
    assert table.vectors.grad is not None and table.vectors.grad.abs().sum() > 0
    assert table.weight.grad is None and base.text.encoders[0].get_input_embeddings().weight.grad is None


# Bit for bit what transformers computes ---------------------------------------------------------------------


def oracle(model: Model, own: Placeholder, number: int, prompt: str) -> Any:
    """What transformers makes of a prompt with tokens added to copies of its tokenizer and its text encoder."""
    base = model.base
    tokenizer, encoder = copy.deepcopy((base.text.tokenizers[number], base.text.encoders[number]))
    names = [f"<my-cat-{i}>" for i in range(own.count)]
    rows = encoder.get_input_embeddings().weight.shape[0]
    assert tokenizer.add_tokens(names) == own.count
    encoder.resize_token_embeddings(rows + own.count, mean_resizing=False)
    ids = [rows + i for i in range(own.count)]
    encoder.get_input_embeddings().weight.data[rows:] = own.vectors[number]
    for module in encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = tokenizer.eos_token_id
    text = prompt.replace("<my-cat>", " ".join(names))
    read = tokenizer(text, padding="max_length", max_length=base.text.context, return_tensors="pt").input_ids
    added = {tokenizer.convert_tokens_to_ids(name): row for name, row in zip(names, ids, strict=True)}
    read = torch.tensor([[added.get(int(each), int(each)) for each in read[0]]])
    return encoder(read, output_hidden_states=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("vectors", [1, 2, 5])
@pytest.mark.parametrize(
    "prompt", [PROMPT, "<my-cat>", "a <my-cat>'s hat", "<my-cat> and <my-cat>!", "a\n<my-cat>  b"]
)
@pytest.mark.parametrize("end", [None, 2])
def test_each_encoder_computes_what_transformers_does(
    shape: str, vectors: int, prompt: str, end: int | None, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """end: what an old config says of the end token, for which transformers pools at the largest id."""
    base = tiny(shape)
    for module in (each for encoder in base.text.encoders for each in encoder.modules()):
        if end is not None and hasattr(module, "eos_token_id"):
            monkeypatch.setattr(module, "eos_token_id", end)
    own = concept(base, vectors=vectors)
    model = applied(base, [Use(own)])
    found = model.encode_text([prompt])
    expected = [
        oracle(model, own.placeholders["<my-cat>"], i, prompt) for i in range(len(base.text.encoders))
    ]
    if len(expected) == 1:
        assert torch.equal(found.hidden, expected[0].last_hidden_state)
        return
    assert torch.equal(found.hidden, torch.cat([each.hidden_states[-2] for each in expected], dim=-1))
    assert found.pooled is not None and torch.equal(found.pooled, expected[1].text_embeds)
    for number, (encoder, theirs) in enumerate(zip(model.text.encoders, expected, strict=True)):
        ids = torch.tensor([model.text._read(number, prompt).ids])
        assert torch.equal(encoder(ids).last_hidden_state, theirs.last_hidden_state)


def test_an_old_config_alone_would_pool_at_the_learned_word(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above is worth something: without the end token's id the pooled embedding is another."""
    base = tiny("sdxl")
    model = applied(base, [Use(concept(base))])
    right = model.encode_text([PROMPT]).pooled
    for module in model.text.encoders[1].modules():
        if hasattr(module, "eos_token_id"):
            monkeypatch.setattr(module, "eos_token_id", 2)
    wrong = model.encode_text([PROMPT]).pooled
    assert right is not None and wrong is not None and not torch.equal(right, wrong)


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), -10.5, 11.0])
def test_strengths_have_limits(strength: Any, tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match="option 'strength': expected"):
        wordbrush.apply(tiny(), concept(tiny()), strength=strength)


def test_a_strength_for_each_or_one_for_all(tiny: Tiny) -> None:
    own = concept(tiny())
    with pytest.raises(OptionsError, match="expected one strength, or one for each of 1 concepts, got 2"):
        wordbrush.apply(tiny(), own, strength=[1.0, 2.0])


def test_two_concepts_with_one_word_and_one_concept_twice(tiny: Tiny) -> None:
    base = tiny()
    own = concept(base)
    with pytest.raises(ConceptError, match="expected each concept once, got a concept in memory"):
        wordbrush.apply(base, own, own, strength=0.5)
    with pytest.raises(ConceptError, match="expected each concept once"):
        wordbrush.apply(wordbrush.apply(base, own), concept(base))
    with pytest.raises(ConceptError, match="words of their own, got two with '<My-Cat>': rename one"):
        wordbrush.apply(base, own, concept(base, ("<My-Cat>",), seed=1))


@pytest.mark.parametrize("kind", [Full, Difference, Shut])
def test_what_means_nothing_on_another_base_is_refused_there(kind: type, tiny: Tiny) -> None:
    own = replace(concept(tiny(), (), weights=kind), base=Base(name="another", hash="1" * 64))
    with pytest.raises(ConceptError, match="expected another .base 111111111111….*got tiny SD1"):
        applied(tiny(), [Use(own)])
    unknown = replace(own, base=Base())
    assert doubts(tiny(), unknown) == [
        "a photo of a sks cat does not say which model it was trained on: it may not work on tiny SD1"
    ]
    assert applied(tiny(), [Use(unknown)]).concepts


def test_what_may_work_on_another_base_is_said(tiny: Tiny) -> None:
    own = concept(tiny(), weights=LowRank)
    assert doubts(tiny(), own) == []
    elsewhere = replace(own, base=Base(name="another", hash="1" * 64))
    (said,) = doubts(tiny(), elsewhere)
    assert said == "a photo of <my-cat> was trained on another, not on tiny SD1: it may not work as it did"
    assert applied(tiny(), [Use(elsewhere)]).concepts


def test_a_concept_of_another_kind_of_model_is_refused_by_name(tiny: Tiny) -> None:
    sd1, sdxl = tiny("sd1"), tiny("sdxl")
    with pytest.raises(
        ConceptError, match="expected vectors of '<my-cat>' for 2 text encoders.*got those for 1"
    ):
        applied(sdxl, [Use(concept(sd1))])
    with pytest.raises(ConceptError, match="expected vectors of '<my-cat>' for 1 text encoder, as.*for 2"):
        applied(sd1, [Use(concept(sdxl))])
    with pytest.raises(
        ConceptError, match="attn2.to_k.weight does not fit this model: expected weights of shape"
    ):
        applied(sdxl, [Use(concept(sd1, (), weights=LowRank))])
    missing = {f"text_encoder_2.{i}": Full(torch.zeros(1)) for i in range(7)}
    with pytest.raises(
        ConceptError, match="weights that tiny SD1 has, got text_encoder_2.0, .* and 2 more: the"
    ):
        applied(sd1, [Use(replace(concept(sd1, ()), weights=missing))])
    wide = concept(sd1, initial="dog")
    own = wide.placeholders["<my-cat>"]
    wide = replace(wide, placeholders={"<my-cat>": Placeholder((torch.zeros(1, 7),), own.initial)})
    with pytest.raises(ConceptError, match="expected vectors of 24 numbers.*got 7"):
        applied(sd1, [Use(wide)])
    name = next(iter(attended(sd1)))
    bad = replace(
        concept(sd1, ()), weights={name: LowRank(torch.zeros(2, 3), torch.zeros(5, 2), torch.tensor(1.0))}
    )
    with pytest.raises(ConceptError, match="does not fit this model: expected weights of shape"):
        applied(sd1, [Use(bad)])


def test_a_word_without_a_past_has_strength_1_alone(tiny: Tiny) -> None:
    own = word(tiny())
    unknown = replace(concept(tiny()), placeholders={"<my-cat>": Placeholder(own.vectors)})
    assert torch.equal(
        applied(tiny(), [Use(unknown)]).encode_text([PROMPT]).hidden,
        applied(tiny(), [Use(concept(tiny()))]).encode_text([PROMPT]).hidden,
    )
    with pytest.raises(ConceptError, match="expected strength 1 for '<my-cat>', got 0.5"):
        applied(tiny(), [Use(unknown, 0.5)])


# The base's name --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_a_base_is_known_in_whatever_type_it_is_loaded(shape: str, tiny: Tiny) -> None:
    assert len({tiny(shape, dtype).base_hash for dtype in [*DTYPES, torch.float64]}) == 1
    assert len({tiny(shape, dtype).hash for dtype in DTYPES}) == 3
    assert applied(tiny(shape), [Use(concept(tiny(shape), weights=Full))]).base_hash == tiny(shape).base_hash


def test_pocket_is_known_in_whatever_type_it_is_loaded(pocket: Model) -> None:
    for dtype in ("float16", "bfloat16"):
        assert Model.load("pocket", device="cpu", dtype=dtype).base_hash == pocket.base_hash


def test_another_sign_is_another_base(tokenizer: CLIPTokenizer) -> None:
    from conftest import sd1

    model = sd1(tokenizer)
    before = model.base_hash
    weight = next(iter(attended(model).values()))
    with torch.no_grad():
        weight[0, 0] *= -1
    changed = model.base_hash
    with torch.no_grad():
        weight[0, 0] *= -1
    assert changed != before == model.base_hash


def test_two_concepts_of_one_weight_add_up(tiny: Tiny) -> None:
    base = tiny()
    one, two = changes(base, LowRank, seed=1), changes(base, LowRank, seed=2)
    uses = [
        Use(concept(base, (), weights=LowRank, seed=i), strength) for i, strength in ((1, 0.5), (2, -1.0))
    ]
    found = weights(applied(base, uses))
    for name, weight in attended(base).items():
        assert torch.equal(found[name], merged(weight, [(one[name], 0.5), (two[name], -1.0)]))
    others = concept(base, ("<b>",), weights=LowRank, end=VALUE)
    both = weights(applied(base, [*uses, Use(others)]))
    assert all(torch.equal(both[name], found[name]) for name in attended(base))
    assert all(not torch.equal(both[name], own) for name, own in attended(base, VALUE).items())
