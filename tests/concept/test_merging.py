"""Merged concepts: what their words mean, what other text does, and what cannot be merged."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import wordbrush
from teaching import concept, customised
from wordbrush.concept import Base, Concept, Use, applied
from wordbrush.concept.merging import Merged, Spanned, merge, world
from wordbrush.concept.portrait import Portrait
from wordbrush.concept.weights import Difference, Full, LowRank
from wordbrush.errors import ConceptError, OptionsError, PromptError
from wordbrush.model import Model
from wordbrush.progress import Progress, drain

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]
TARGETS = ("<my-cat> cat", "photo of a <my-cat> cat", "<my-dog> dog", "photo of a <my-dog> dog")
CAPTIONS = world()[:80]


def two(model: Model, kind: type = Full) -> list[Concept]:
    return [
        customised(model, f"<my-{noun}>", noun, kind=kind, seed=i) for i, noun in enumerate(("cat", "dog"))
    ]


def merged(
    model: Model, concepts: list[Concept], captions: list[str] = CAPTIONS, **told: list[str]
) -> Merged:
    return drain(merge(model, concepts, captions, **told))


def features(model: Model, prompt: str) -> Tensor:
    """Of the learned word's tokens and all that follow, with the end token."""
    read = model.read(prompt)
    first = min([word.start for word in read.words if word.is_learned])
    return model.encode_text([prompt]).hidden[0, first : read.chunks[0].stop + 1].double()


def everything(model: Model) -> Tensor:
    """All that attention reads of the captions, with start tokens and padding, and of as many empty prompts."""
    hidden: Tensor = model.encode_text([*CAPTIONS, *[""] * len(CAPTIONS)]).hidden
    return hidden.double().flatten(0, 1)


def weights(model: Model) -> dict[str, Tensor]:
    return {
        name: own.double()
        for name, own in model.weights.items()
        if ".attn2.to_k" in name or ".attn2.to_v" in name
    }


# The equations ----------------------------------------------------------------------------------------------


def solved(weight: Tensor, captions: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """The minimiser of ‖(W − W₀)·C_regᵀ‖² with W·Cᵀ = V, as one linear system with Lagrange's multipliers."""
    square = captions.T @ captions
    zeros = torch.zeros(len(rows), len(rows), dtype=rows.dtype)
    system = torch.cat([torch.cat([square, rows.T], 1), torch.cat([rows, zeros], 1)])
    found = cast(Tensor, torch.linalg.solve(system, torch.cat([square @ weight.T, values.T])))
    return found[: weight.shape[1]].T


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 24), st.integers(1, 12), st.integers(0, 40), st.floats(-3, 3))
def test_the_solution_solves_the_system(seed: int, width: int, count: int, more: int, spread: float) -> None:
    count = min(count, width)
    stretched = 10 ** (spread * torch.rand(width, generator=torch.Generator().manual_seed(seed)).double())
    captions, rows = drawn(seed, width + more, width) * stretched, drawn(seed + 1, count, width) * stretched
    weight, values = drawn(seed + 2, 7, width), drawn(seed + 3, 7, count)
    spanned = Spanned.of(captions)
    if torch.linalg.cond(captions) > 1e4 or torch.linalg.cond(spanned.seen(rows)) > 1e4:
        return
    found = weight + (values - weight @ rows.T) @ spanned.dual(rows)
    assert (found @ rows.T - values).norm() <= 1e-10 * values.norm()
    torch.testing.assert_close(
        spanned.seen(found), spanned.seen(solved(weight, captions, rows, values)), rtol=1e-6, atol=1e-6
    )


def test_the_solution_is_the_papers() -> None:
    captions, rows, weight, values = drawn(0, 50, 16), drawn(1, 5, 16), drawn(2, 7, 16), drawn(3, 7, 5)
    d = rows @ torch.inverse(captions.T @ captions)
    v = (values - weight @ rows.T) @ torch.inverse(d @ rows.T)
    found = weight + (values - weight @ rows.T) @ Spanned.of(captions).dual(rows)
    torch.testing.assert_close(found, weight + v @ d, rtol=1e-10, atol=1e-10)


def test_no_other_weight_that_keeps_the_words_is_nearer() -> None:
    captions, rows, weight, values = drawn(0, 50, 16), drawn(1, 5, 16), drawn(2, 7, 16), drawn(3, 7, 5)
    spanned = Spanned.of(captions)
    change = (values - weight @ rows.T) @ spanned.dual(rows)
    beside = torch.eye(16, dtype=torch.float64) - torch.pinverse(rows) @ rows
    for seed in range(20):
        other = change + 1e-3 * drawn(seed, 7, 16) @ beside
        torch.testing.assert_close(other @ rows.T, change @ rows.T)
        assert (other @ captions.T).norm() > (change @ captions.T).norm()
    assert spanned.size(change) == pytest.approx(float((captions @ change.T).norm()))


# Models -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Full, Difference, LowRank])
@pytest.mark.parametrize("shape", SHAPES)
def test_each_word_keeps_its_keys_and_values(shape: str, kind: type, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    concepts = two(model, kind)
    found = merged(model, concepts)
    assert found.targets == TARGETS and found.error < 1e-10
    both = applied(model, [Use(found.concept)])
    for prompt, own in zip(TARGETS, (concepts[0], concepts[0], concepts[1], concepts[1]), strict=True):
        alone = applied(model, [Use(own)])
        rows = features(alone, prompt)
        torch.testing.assert_close(features(both, prompt), rows, rtol=1e-12, atol=1e-12)
        for name, weight in weights(both).items():
            values = rows @ weights(alone)[name].T
            assert (rows @ weight.T - values).norm() <= 1e-10 * values.norm(), name


@pytest.mark.parametrize("shape", SHAPES)
def test_the_weights_are_those_of_the_system(shape: str, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    concepts = two(model)
    learned = applied(model, [Use(replace(each, weights={})) for each in concepts])
    captions = everything(model)
    if shape != "sdxl":  # a LayerNorm without shift: the features are in a plane through 0, which these span
        captions = torch.cat([captions, torch.ones(1, captions.shape[1], dtype=torch.float64)])
    rows = torch.cat([features(learned, each) for each in TARGETS])
    found = weights(applied(model, [Use(merged(model, concepts).concept)]))
    for name, weight in weights(model).items():
        changed = [weight + own.weights[name].delta(weight) for own in concepts]
        values = torch.cat([features(learned, each) @ changed[i // 2].T for i, each in enumerate(TARGETS)]).T
        expected = solved(weight, captions, rows, values)
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_concept_alone_keeps_its_words_too(shape: str, tiny: Tiny) -> None:
    found = merged(tiny(shape), two(tiny(shape))[:1])
    assert found.error < 1e-5 and found.changed < found.alone[0]
    assert found.concept.prompt == "photo of a <my-cat> cat"


def test_what_other_text_does_is_measured(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    concepts = two(model)
    found = merged(model, concepts)
    captions = everything(model)
    before = weights(model)

    def moved(own: Concept) -> float:
        after = weights(applied(model, [Use(own)]))
        lengths = [(captions @ (after[name] - before[name]).T).square().sum() for name in before]
        return float(
            (sum(lengths) / sum((captions @ own.T).square().sum() for own in before.values())) ** 0.5
        )

    assert found.changed == pytest.approx(moved(found.concept), rel=1e-6)
    assert found.alone == pytest.approx([moved(each) for each in concepts], rel=1e-6)


@pytest.mark.slow
@settings(max_examples=5, deadline=None)
@given(st.permutations(range(3)))
def test_the_order_of_concepts_does_not_matter(tiny: Tiny, order: list[int]) -> None:
    model = tiny("sdxl", torch.float64)
    concepts = [*two(model), customised(model, "<my-fox>", "fox", seed=5)]
    one, other = (merged(model, each).concept for each in (concepts, [concepts[i] for i in order]))
    for name, weight in model.weights.items():
        if name in one.weights:
            torch.testing.assert_close(one.weights[name].delta(weight), other.weights[name].delta(weight))
    assert one.weights.keys() == other.weights.keys() and one.placeholders.keys() == other.placeholders.keys()


def test_the_base_stays_as_it_is(tiny: Tiny) -> None:
    model = tiny("sdxl")
    before = {name: own.clone() for name, own in model.weights.items()}
    hash = model.hash
    merged(model, two(model))
    assert model.hash == hash and all(torch.equal(own, before[name]) for name, own in model.weights.items())


def test_equal_inputs_make_equal_files(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sd1")
    for name in ("one", "two"):
        merged(model, two(model)).concept.save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_merged_concept_says_what_it_is_of(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sd1")
    one, other = two(model)
    one = replace(one, previews=(b"1",)).save(tmp_path / "cat.concept")
    found = merged(model, [one, replace(other, previews=(b"2",))]).concept.save(tmp_path / "both.concept")
    read = Concept.load(tmp_path / "both.concept")
    assert read.method == "merged" and read.prompt == "photo of a <my-cat> cat and a <my-dog> dog"
    assert read.base == Base(name=model.name, hash=model.base_hash) and read.previews == (b"1", b"2")
    assert read.options["merged"] == ["cat.concept", other.prompt] and read.options["captions"] == len(
        CAPTIONS
    )
    assert read.options["sha256"] == [one.record.sha256, replace(other, previews=(b"2",)).record.sha256]
    assert read.options["targets"] == list(TARGETS) and read.record == found.record
    assert all(isinstance(each, LowRank) and each.rank == 12 for each in read.weights.values())
    assert applied(model, [Use(read, 0.0)]).hash != applied(model, [Use(read)]).hash
    assert wordbrush.generate(wordbrush.apply(model, read), read.prompt, steps=1).size == (32, 32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype, tiny: Tiny) -> None:
    model = tiny("sd1", dtype)
    found = merged(model, two(model))
    assert found.error < 1e-5
    assert {own.up.dtype for own in found.concept.weights.values() if isinstance(own, LowRank)} == {
        torch.float32
    }
    whole = merged(tiny("sd1"), two(tiny("sd1")))
    assert found.changed == pytest.approx(whole.changed, rel=0.1)


def test_words_alone_are_kept_beside_changed_weights(tiny: Tiny) -> None:
    model = tiny("sd1")
    word = replace(concept(model, ("<a>",), seed=3), prompt="a photo of <a>")
    found = merged(model, [two(model)[0], word])
    assert found.error < 1e-5 and found.concept.prompt == "photo of a <my-cat> cat and <a>"
    assert found.targets[2:] == ("<a>", "a photo of <a>")


def test_a_likeness_is_not_lost_in_silence(tiny: Tiny) -> None:
    model = tiny("sd1")
    one, other = two(model)
    portrait = Portrait(0.8, {})
    with pytest.raises(
        ConceptError, match="whose word brings a likeness of its thing: apply it beside the others"
    ):
        merged(model, [one, replace(other, portraits={next(iter(other.placeholders)): portrait})])


def test_a_weight_that_one_of_them_changes_is_the_bases_in_the_other(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    one, other = two(model)
    keys = {name: own for name, own in one.weights.items() if ".to_k." in name}
    found = merged(model, [replace(one, weights=keys), other]).concept
    rows = features(applied(model, [Use(found)]), TARGETS[0])
    for name, weight in model.weights.items():
        if name in other.weights.keys() - keys.keys():
            change = found.weights[name].delta(weight)
            assert (rows @ change.T).norm() <= 1e-10 * (rows @ weight.T).norm()


def test_vectors_are_all_kept(tiny: Tiny) -> None:
    model = tiny("sd1")
    several = replace(
        concept(model, ("<a>",), vectors=3), prompt="photo of a <a> cat", weights=two(model)[0].weights
    )
    found = merged(model, [several])
    assert found.error < 1e-5 and found.concept.placeholders["<a>"].count == 3
    assert {own.rank for own in found.concept.weights.values() if isinstance(own, LowRank)} == {2 * 5}


def test_other_targets(tiny: Tiny) -> None:
    model = tiny("sd1")
    targets = ["<my-dog> on a beach", "a <MY-CAT>", "a <MY-CAT>"]
    found = merged(model, two(model), targets=targets)
    assert found.targets == ("a <MY-CAT>", "<my-dog> on a beach") and found.error < 1e-5
    assert {own.rank for own in found.concept.weights.values() if isinstance(own, LowRank)} == {2 + 5}


def test_repeated_rows_count_once(tiny: Tiny) -> None:
    model = tiny("sd1")
    targets = ["a <my-cat> cat", "a <my-cat> cat on a beach", "a <my-dog> dog"]
    found = merged(model, two(model), targets=targets)
    assert {own.rank for own in found.concept.weights.values() if isinstance(own, LowRank)} == {3 + 4 + 3}
    assert found.error < 1e-5


@pytest.mark.slow
def test_what_several_concepts_share_is_left_to_the_captions() -> None:
    # The built-in model's end token does not know what a short caption was about.
    model = Model.load("pocket", device="cpu", dtype="float32")
    concepts = [customised(model, f"<my-{each}>", each, seed=i) for i, each in enumerate(("cat", "vase"))]
    found = drain(merge(model, concepts))
    assert (found.captions, found.rank, found.width) == (400, 255, 256) and found.error < 1e-5
    ranks = {own.rank for own in found.concept.weights.values() if isinstance(own, LowRank)}
    assert ranks == {10} and found.changed < min(found.alone)


@pytest.mark.slow
def test_what_says_nothing_hardly_changes() -> None:
    """The empty prompt and the padding: pictures would be noise if words alone were asked to stay."""
    model = Model.load("pocket", device="cpu", dtype="float32")
    concepts = [customised(model, f"<my-{each}>", each, seed=i) for i, each in enumerate(("cat", "vase"))]
    both = applied(model, [Use(drain(merge(model, concepts)).concept)])
    before, after = weights(model), weights(both)

    def moved(rows: Tensor) -> float:
        change = sum(float((rows @ (after[name] - before[name]).T).square().sum()) for name in before)
        return (change / sum(float((rows @ own.T).square().sum()) for own in before.values())) ** 0.5

    word = moved(features(both, TARGETS[0]))
    for prompt in ("", "a dog on a beach"):
        padding = model.encode_text([prompt]).hidden[0, model.read(prompt).chunks[0].stop :].double()
        assert moved(padding) < word / 4


def test_it_says_how_far_it_is(tiny: Tiny) -> None:
    seen: list[Progress] = []
    drain(merge(tiny("sd1"), two(tiny("sd1")), CAPTIONS), seen.append)
    assert [each.stage for each in seen] == ["reading captions"] * 3 + ["merging"] * len(
        two(tiny("sd1"))[0].weights
    )
    assert all(each.step <= each.total for each in seen) and seen[2].step == seen[2].total == len(CAPTIONS)


# The verb ---------------------------------------------------------------------------------------------------


def test_the_verb_takes_files(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sd1")
    paths = [tmp_path / f"{i}.concept" for i in range(2)]
    concepts = [each.save(path) for each, path in zip(two(model), paths, strict=True)]
    (tmp_path / "captions.txt").write_text("\n".join(["", *CAPTIONS, ""]))
    seen: list[Progress] = []
    found = wordbrush.merge(model, paths, tmp_path / "captions.txt", on_progress=seen.append)
    assert found.record.sha256 == wordbrush.merge(model, concepts, CAPTIONS).record.sha256 and seen


# What cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_too_few_captions(shape: str, tiny: Tiny) -> None:
    width = 56 if shape == "sdxl" else 23
    with pytest.raises(
        OptionsError, match=rf"tiny SD.+, {width} directions, got \d+ from 2 captions: give more"
    ):
        merged(tiny(shape), two(tiny(shape)), CAPTIONS[:2])


def test_many_equal_captions_are_few(tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match="from 500 captions"):
        merged(tiny("sd1"), two(tiny("sd1")), ["a cat on a beach"] * 500)


def test_captions_that_lack_what_the_words_need(tiny: Tiny) -> None:
    caption = "a small red cat and a large blue dog on a beach near a green tree under a white house at night"
    assert merged(tiny("sd1"), two(tiny("sd1")), [caption]).rank == 23  # 22 tokens and the end token
    model = copy.deepcopy(tiny("sd1"))
    with torch.no_grad():
        model.text.encoders[0].final_layer_norm.bias += 0.1  # now the plane does not go through 0
    assert merged(model, two(model)).rank == 24
    with pytest.raises(OptionsError, match="24 directions, got 23 from 1 captions"):
        merged(model, two(model), [caption])


@pytest.mark.parametrize("captions", [None, [], ["", "  "]])
def test_no_captions_for_another_model(captions: list[str] | None, tiny: Tiny) -> None:
    with pytest.raises(
        OptionsError, match=r"shall mean to tiny SD1 what they did, got none: give a text file"
    ):
        drain(merge(tiny("sd1"), two(tiny("sd1")), captions))


def test_captions_that_cannot_be_read_are_left_out_and_said(tiny: Tiny) -> None:
    model = tiny("sd1")
    found = merged(model, two(model), [*CAPTIONS, "a cat " * 50, "a (cat:1.5)", "<b>a cat</b>"])
    assert found.captions == len(CAPTIONS) and found.notices[0].startswith("3 of 83 captions are left out")
    assert found.concept.options["captions"] == len(CAPTIONS)
    with pytest.raises(OptionsError, match="got 0 from 0 captions"):
        merged(model, two(model), ["a cat " * 50])


def test_concepts_of_another_base(tiny: Tiny) -> None:
    model = tiny("sd1")
    one, other = two(model)
    away = replace(other, base=Base(name="another", hash="1" * 64))
    with pytest.raises(
        ConceptError, match=r"expected concepts of tiny SD1 .+ of another \(base 111111111111…\)"
    ):
        merged(model, [one, away])
    unknown = merged(model, [one, replace(other, base=Base())])
    assert "does not say which model" in unknown.notices[0]


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_other_weights(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    one, other = two(model)
    found = [
        name
        for name in model.weights
        if name.endswith((".attn2.to_q.weight", ".attn1.to_k.weight", "conv_in.bias", "fc1.weight"))
    ]
    assert any(name.startswith("text_encoder") for name in found)
    for name in found:
        more = {**other.weights, name: Difference(torch.zeros_like(model.weights[name]))}
        with pytest.raises(ConceptError, match=f"keys and values .+ with {name}: apply the concepts beside"):
            merged(model, [one, replace(other, weights=more)])
    absent = {"unet.attn2.to_k.weight": one.weights[min(one.weights)]}
    with pytest.raises(ConceptError, match="with unet.attn2.to_k.weight"):
        merged(model, [replace(one, weights=absent), other])


def test_a_concept_without_words_and_words_without_weights(tiny: Tiny) -> None:
    model = tiny("sd1")
    one, other = two(model)
    with pytest.raises(ConceptError, match="expected concepts with learned words"):
        merged(model, [one, replace(other, placeholders={})])
    with pytest.raises(ConceptError, match="got words alone"):
        merged(model, [replace(each, weights={}) for each in (one, other)])
    with pytest.raises(ConceptError, match="got words alone"):
        merged(model, [])


def test_one_word_of_two_concepts(tiny: Tiny) -> None:
    model = tiny("sd1")
    with pytest.raises(ConceptError, match=r"two with '<My-Cat>': rename one \(wordbrush convert --token\)"):
        merged(model, [two(model)[0], customised(model, "<My-Cat>", "cat", seed=7)])


def test_words_that_are_the_same_to_the_model(tiny: Tiny) -> None:
    model = tiny("sd1")
    one, other = two(model)
    same = replace(other, placeholders={"<my-dog>": one.placeholders["<my-cat>"]})
    with pytest.raises(ConceptError, match="expected words that differ, got '<my-cat>' and '<my-dog>'"):
        merged(model, [one, same])


def test_more_targets_than_the_text_has_directions(tiny: Tiny) -> None:
    model = tiny("sd1")
    targets = [
        "a <my-cat> on a beach at night in the snow",
        "<my-cat> in a red chair",
        "a <my-dog> in the snow",
        "<my-dog> and a cat",
    ]
    with pytest.raises(ConceptError, match=r"tokens are independent .+, got \d+ directions from 'a <my-cat>"):
        merged(model, two(model), targets=targets)


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["a cat"], "with those of 0"),
        (["<my-cat> and <my-dog>"], "with those of 2"),
        (["<nobody> cat"], "which a concept teaches"),
        ([""], "with those of 0"),
    ],
)
def test_targets_that_are_none(targets: list[str], said: str, tiny: Tiny) -> None:
    with pytest.raises(PromptError, match=said):
        merged(tiny("sd1"), two(tiny("sd1")), targets=targets)


def test_a_word_without_a_target(tiny: Tiny) -> None:
    model = tiny("sd1")
    one, other = two(model)
    with pytest.raises(ConceptError, match=r"none with '<my-dog>' of photo .+ \(--target '<my-dog> …'\)"):
        merged(model, [one, other], targets=["<my-cat> cat"])
    with pytest.raises(ConceptError, match="none with '<my-dog>'"):
        merged(model, [one, replace(other, prompt="a dog")])


def test_a_model_with_concepts(tiny: Tiny) -> None:
    model = tiny("sd1")
    one, other = two(model)
    with pytest.raises(OptionsError, match="expected a model without concepts"):
        merged(applied(model, [Use(one)]), [other])
    assert merged(model.with_chunks(2), [one, other]).error < 1e-5
