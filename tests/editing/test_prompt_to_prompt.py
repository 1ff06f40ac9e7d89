"""Whole edits against the explicit-map oracle, and what an edit promises its user."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import oracle
import reference
from wordbrush.editing.prompt_to_prompt import method as prompt_to_prompt
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.errors import NumericsError, OptionsError, PromptError, SourceError
from wordbrush.model import Model, TextEmbeds
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.result import Result
from wordbrush.source import Source
from wordbrush.states import Trajectory
from wordbrush.words import align

SOURCE = ("a", "cat", "on", "a", "beach")
PUBLISHED = {"self_replace_steps": 0.4, "blend_start": 0.2, "blend_threshold": 0.3, "spare_threshold": 0.3}
Tiny, Seeded = Callable[..., Model], Callable[..., Source]


@dataclass(frozen=True)
class Target:
    """A target as a reader sees it: its words, and which of them are the source's (by index) or stand for them."""

    words: tuple[str, ...]
    same: tuple[tuple[int, int], ...]
    swaps: tuple[tuple[int, int], ...] = ()

    @property
    def prompt(self) -> str:
        return " ".join(self.words)


def swap(word: str) -> Target:
    return Target(("a", word, "on", "a", "beach"), ((0, 0), (2, 2), (3, 3), (4, 4)), ((1, 1),))


DOG, TEAPOT, FOX = swap("dog"), swap("teapot"), swap("fox")
NIGHT = Target((*SOURCE, "at", "night"), tuple((i, i) for i in range(5)))
DOG_AT_NIGHT = Target(("a", "dog", "on", "a", "beach", "at", "night"), DOG.same)
A_CAT = Target(("a", "cat"), ((0, 0), (1, 1)))
A_BEACH = Target(("a", "beach"), ((0, 0), (4, 1)))


def window(steps: float | tuple[float, float]) -> tuple[float, float]:
    return steps if isinstance(steps, tuple) else (0.0, steps)


def control(
    model: Model, targets: Sequence[Target], source: Source, options: Mapping[str, Any]
) -> oracle.Control:
    """The oracle's control for the same options, from the words as given by hand."""
    settings = Options(**(PUBLISHED | options))
    tokenizer, length, steps = model.text.tokenizers[0], model.tokens, source.steps
    latent_size = (source.trajectory.shape[-2], source.trajectory.shape[-1])
    before = oracle.spans(tokenizer, SOURCE)

    def tokens(words: Sequence[str], of: Sequence[str]) -> list[int]:
        where = oracle.spans(tokenizer, of)
        return [t for i, word in enumerate(of) if word in words for t in where[i]]

    def indicator(words: Sequence[str], of: Sequence[str]) -> torch.Tensor:
        column = torch.zeros(length, dtype=torch.float64)
        column[tokens(words, of)] = 1
        return column

    edits: list[oracle.CrossEdit] = []
    for target in targets:
        after = oracle.spans(tokenizer, target.words)
        taken_out = target == A_BEACH
        usual = settings.cross_replace_steps if settings.cross_replace_steps is not None else 0.8
        unasked = taken_out and settings.cross_replace_steps is None
        held = (
            {"beach", *settings.reweight} if unasked else ()
        )  # the only word of A_BEACH that names something
        own = dict.fromkeys(held, usual) | settings.word_steps
        spans = [(tokens([word], target.words), window(w)) for word, w in own.items()]
        fractions = 0.0 if unasked else usual
        edit = oracle.CrossEdit(oracle.word_alphas(steps, length, window(fractions), spans))
        is_swap = len(target.same) + len(target.swaps) == len(target.words) == len(SOURCE)
        if settings.word_edit == "replace" or (settings.word_edit == "auto" and is_swap):
            edit.mapper = oracle.replace_mapper(before, after, target.same + target.swaps, length)
        else:
            edit.refine = oracle.refine_mapper(before, after, target.same, length)
        edit.weights = torch.ones(length, dtype=torch.float64)
        for word, weight in settings.reweight.items():
            edit.weights[tokens([word], target.words)] = weight
        edits.append(edit)

    grid = MAPS[model.name, latent_size]
    start, stop = window(settings.self_replace_steps)
    blend: oracle.Blend | None = None
    if settings.local_blend != "off":
        words: list[tuple[torch.Tensor, torch.Tensor] | None] = []
        for target in targets:
            if settings.local_blend != "auto":
                chosen = settings.local_blend
            else:
                chosen = tuple(SOURCE[i] for i, _ in target.swaps) + tuple(
                    target.words[j] for _, j in target.swaps
                )
                if target == A_BEACH:
                    chosen = ("cat",)
            pair = (indicator(chosen, SOURCE), indicator(chosen, target.words))
            words.append(pair if chosen else None)
        spared = () if settings.spare == "auto" else settings.spare
        spare = [(indicator(spared, SOURCE), indicator(spared, t.words)) for t in targets]
        blend = oracle.Blend(
            words,
            spare,
            grid[0] * grid[1],
            grid,
            int(settings.blend_start * steps),
            settings.blend_threshold,
            settings.spare_threshold,
        )
    limit = grid[0] * grid[1] if settings.self_limit is None else settings.self_limit
    layers = len(model.denoiser.unet.attn_processors)
    return oracle.Control(edits, layers, (int(start * steps), int(stop * steps)), limit, blend)


# The grid whose maps are read, for each model and latent size in use: worked out by hand from the UNets' shapes.
MAPS = {
    ("tiny SD1", (16, 16)): (16, 16),
    ("tiny SD1", (32, 32)): (16, 16),
    ("tiny SD1", (16, 24)): (16, 24),
    ("tiny SD2", (16, 16)): (16, 16),
    ("tiny SD2", (15, 9)): (15, 9),
    ("tiny SDXL", (16, 16)): (8, 8),
    ("tiny SDXL", (13, 22)): (7, 11),
}


def run(model: Model, source: Source, targets: Sequence[Target], options: Mapping[str, Any]) -> list[Result]:
    loop = reference.prompt_to_prompt(model, source, [t.prompt for t in targets], parse(Options, options))
    return drain(loop)


def compare(model: Model, source: Source, targets: Sequence[Target], options: Mapping[str, Any]) -> None:
    """The package's whole edit is the oracle's, at every step, masks included."""
    results = run(model, source, targets, options)
    explicit = control(model, targets, source, options)
    path, masks = oracle.edit(
        model,
        source.z_T,
        [" ".join(SOURCE), *(t.prompt for t in targets)],
        explicit,
        steps=source.steps,
        guidance_scale=options.get("guidance_scale", source.guidance_scale),
        null=source.null,
        pinned=source.trajectory,
    )
    for i, result in enumerate(results):
        assert result.trajectory.dtype == torch.float64
        torch.testing.assert_close(result.trajectory, path[:, i + 1], atol=1e-10, rtol=0)
        assert (result.trajectory[-1] - source.trajectory[-1]).abs().max() > 1e-3, "nothing was edited"
        if masks:
            mask = masks[-1][i]
            assert result.report.edited_share == pytest.approx(float(mask.double().mean()), abs=1e-6)
            outside = (result.trajectory[-1] == source.trajectory[-1]).all(0, keepdim=True)
            assert torch.equal(~outside, mask)
    if masks and explicit.blend is not None and any(w is not None for w in explicit.blend.words):
        shares = [float(m.double().mean()) for m, w in zip(masks[-1], explicit.blend.words, strict=True) if w]
        assert all(0.02 < share < 0.98 for share in shares), f"masks that say nothing: {shares}"


OFF: dict[str, Any] = {"local_blend": "off"}
KINDS: dict[str, tuple[tuple[Target, ...], dict[str, Any]]] = {
    "replace": ((DOG,), {**OFF, "cross_replace_steps": 1.0, "self_replace_steps": 0.0}),
    "replace, unequal tokens": ((TEAPOT,), OFF),
    "refine, words added": ((NIGHT,), OFF),
    "refine, words deleted": ((A_CAT,), {**OFF, "cross_replace_steps": 0.6}),
    "words taken out": ((A_BEACH,), {"blend_threshold": 0.7}),
    "words taken out, one weighted": ((A_BEACH,), {"reweight": {"a": 2.0}, "blend_threshold": 0.7}),
    "refine, a word swapped": ((DOG,), {**OFF, "word_edit": "refine"}),
    "reweight after replace": ((DOG,), {**OFF, "reweight": {"beach": 3.0, "dog": -1.0}}),
    "reweight after refine": ((NIGHT,), {**OFF, "reweight": {"night": 4.0, "cat": 0.0}}),
    "windows": ((DOG,), {**OFF, "cross_replace_steps": (0.2, 0.7), "self_replace_steps": (0.3, 0.9)}),
    "words' own windows": (
        (NIGHT,),
        {**OFF, "cross_replace_steps": 0.9, "word_steps": {"cat": 0.3, "beach": (0.5, 1.0), "night": 1.0}},
    ),
    "one word's object only": (
        (DOG_AT_NIGHT,),
        {**OFF, "cross_replace_steps": 0.0, "word_steps": {"beach": 1.0}, "self_replace_steps": 0.0},
    ),
    "self-attention alone": ((DOG,), {**OFF, "cross_replace_steps": 0.0, "self_replace_steps": 0.8}),
    "self-attention, small sites": ((DOG,), {**OFF, "self_replace_steps": 1.0, "self_limit": 64}),
    "self-attention, every site": ((NIGHT,), {**OFF, "self_replace_steps": 1.0, "self_limit": 10**6}),
    "blend": ((DOG,), {"blend_threshold": 0.7}),
    "blend, from the first step": ((DOG,), {"blend_threshold": 0.6, "blend_start": 0.0}),
    "blend, late": ((TEAPOT,), {"blend_threshold": 0.6, "blend_start": 0.7, "cross_replace_steps": 0.5}),
    "blend, spared": (
        (DOG,),
        {"local_blend": ("cat", "dog"), "blend_threshold": 0.5, "spare": ("beach",), "spare_threshold": 0.8},
    ),
    "blend after refine, a target's word": ((NIGHT,), {"local_blend": ("night",), "blend_threshold": 0.75}),
    "guidance of its own": ((DOG,), {**OFF, "guidance_scale": 2.0}),
    "no guidance": ((DOG,), {"guidance_scale": 1.0, "blend_threshold": 0.7}),
    "everything": (
        (DOG_AT_NIGHT,),
        {
            "cross_replace_steps": (0.1, 0.9),
            "word_steps": {"beach": 0.5},
            "self_replace_steps": 0.5,
            "reweight": {"night": 2.0, "a": 0.5},
            "local_blend": ("cat", "dog", "night"),
            "blend_threshold": 0.7,
            "spare": ("beach",),
            "spare_threshold": 0.9,
        },
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_edit_equals_the_explicit_maps(kind: str, tiny: Tiny, seeded: Seeded) -> None:
    targets, options = KINDS[kind]
    compare(tiny("sd1", torch.float64), seeded("sd1"), targets, options)


@pytest.mark.parametrize(
    ("shape", "latent_size", "steps"),
    [
        ("sd1", (16, 24), 4),
        ("sd1", (32, 32), 2),
        ("sd2", (16, 16), 4),
        ("sd2", (15, 9), 4),
        ("sdxl", (16, 16), 4),
        ("sdxl", (13, 22), 4),
    ],
    ids=str,
)
def test_every_shape_equals_the_explicit_maps(
    shape: str, latent_size: tuple[int, int], steps: int, tiny: Tiny, seeded: Seeded
) -> None:
    targets, options = KINDS["everything"]
    compare(tiny(shape, torch.float64), seeded(shape, steps=steps, latent_size=latent_size), targets, options)


FOUR = (DOG, NIGHT, TEAPOT, A_BEACH)
FOUR_OPTIONS: dict[str, Any] = {
    "cross_replace_steps": 0.7,
    "word_steps": {"night": 0.3, "dog": (0.1, 0.4)},
    "reweight": {"beach": 2.0, "teapot": 1.5},
    "blend_threshold": 0.7,
    "spare": ("beach",),
    "spare_threshold": 0.95,
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_four_targets_equal_the_explicit_maps(shape: str, tiny: Tiny, seeded: Seeded) -> None:
    compare(tiny(shape, torch.float64), seeded(shape), FOUR, FOUR_OPTIONS)


@pytest.mark.slow
def test_four_targets_in_one_batch_are_four_edits_in_any_order(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    together = run(model, source, FOUR, FOUR_OPTIONS)
    shuffled = run(model, source, FOUR[::-1], FOUR_OPTIONS)[::-1]
    for target, one, other in zip(FOUR, together, shuffled, strict=True):
        options = dict(FOUR_OPTIONS)
        for name in ("word_steps", "reweight"):  # alone, a target must have the words it is asked about
            options[name] = {w: v for w, v in options[name].items() if w in target.words}
        (alone,) = run(model, source, [target], options)
        torch.testing.assert_close(one.trajectory, other.trajectory, atol=1e-10, rtol=0)
        torch.testing.assert_close(one.trajectory, alone.trajectory, atol=1e-10, rtol=0)
        assert one.report.words == other.report.words == alone.report.words
        assert one.report.edited_share == other.report.edited_share == alone.report.edited_share
    finals = torch.stack([r.trajectory[-1] for r in together])
    assert all((finals[i] - finals[j]).abs().max() > 1e-3 for i in range(4) for j in range(i))


SAME = Target(SOURCE, tuple((i, i) for i in range(5)))


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("kind", ["replace", "refine"])
def test_the_same_prompt_gives_the_source(kind: str, shape: str, tiny: Tiny, seeded: Seeded) -> None:
    source = seeded(shape)
    (result,) = run(tiny(shape, torch.float64), source, [SAME], {"word_edit": kind})
    assert torch.equal(result.trajectory, source.trajectory) and result.report.unet_rows == 0
    assert any("say the same" in notice for notice in result.report.notices)


# What a step computes ---------------------------------------------------------------------------------------


class Calls:
    """Records what each call of a UNet was given."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.latents: list[torch.Tensor] = []
        self.hidden: list[torch.Tensor] = []
        forward = model.denoiser.unet.forward

        def recorded(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            self.latents.append(sample)
            self.hidden.append(kwargs["encoder_hidden_states"])
            return forward(sample, *args, **kwargs)

        monkeypatch.setattr(model.denoiser.unet, "forward", recorded)

    @property
    def rows(self) -> list[int]:
        return [len(sample) for sample in self.latents]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(
    ("options", "with_source"),
    [
        # ⌊0.6·(10+1)⌋ = 6 cross steps, ⌊0.4·10⌋ = 4 self steps
        ({**OFF, "cross_replace_steps": 0.6, "self_replace_steps": 0.4}, range(6)),
        ({**OFF, "cross_replace_steps": 0.1, "self_replace_steps": (0.2, 0.5)}, (0, 2, 3, 4)),
        ({**OFF, "cross_replace_steps": 0.0, "self_replace_steps": 1.0, "self_limit": 0}, ()),
        ({**OFF, "cross_replace_steps": 0.0, "self_replace_steps": 0.0}, ()),
        ({"local_blend": ("cat",), "cross_replace_steps": 0.1, "self_replace_steps": 0.0}, range(10)),
    ],
)
def test_the_source_is_computed_only_while_it_is_read(
    n: int,
    options: dict[str, Any],
    with_source: Sequence[int],
    tiny: Tiny,
    seeded: Seeded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=10)
    calls = Calls(model, monkeypatch)
    results = run(model, source, (DOG, TEAPOT, FOX)[:n], options)
    assert calls.rows == [2 * n + (i in with_source) for i in range(10)]
    assert results[0].report.unet_rows == sum(calls.rows)
    # And what the rows hold: n without text, the source with its text and its known latents, n with theirs.
    null, text = model.encode_text([""]).hidden, model.encode_text([" ".join(SOURCE)]).hidden
    for i, (latents, hidden) in enumerate(zip(calls.latents, calls.hidden, strict=True)):
        assert torch.equal(hidden[:n], null.expand(n, -1, -1))
        assert not any(torch.equal(row, null[0]) for row in hidden[n:])
        if i in with_source:
            assert torch.equal(hidden[n], text[0])
            assert torch.equal(latents[n], source.trajectory[i])
        assert torch.equal(latents[:n], latents[-n:])


def test_without_guidance_there_are_no_unconditional_rows(
    tiny: Tiny, seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=10)
    calls = Calls(model, monkeypatch)
    run(model, source, (DOG, TEAPOT), {**OFF, "guidance_scale": 1.0, "cross_replace_steps": 0.5})
    assert calls.rows == [3] * 5 + [2] * 5  # ⌊0.5·11⌋ = 5


class Operations(TorchDispatchMode):
    """The names of all operations that torch runs."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_no_attention_map_is_built(tiny: Tiny, seeded: Seeded) -> None:
    """No softmax is taken outside of the fused kernel, in the heaviest edit there is."""
    model, source = tiny("sd1"), seeded("sd1")
    source = replace(
        source,
        states=Trajectory(source.trajectory.float()),
        null=TextEmbeds(source.null.hidden.float()),
        model_hash=model.hash,
    )
    targets, options = KINDS["everything"]
    with Operations() as operations:
        run(model, source, targets, options)
    assert not [name for name in operations.names if "softmax" in name]
    assert any("scaled_dot_product" in name for name in operations.names)


# What an edit leaves behind ---------------------------------------------------------------------------------


def prediction(model: Model) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(1, 4, 16, 16, generator=generator, dtype=torch.float64)
    return reference.predict_eps(model, z, 500, model.encode_text(["a cat on a beach"]))


@pytest.mark.parametrize("steps", [0, 1, 3, None])
def test_an_edit_finished_or_not_leaves_the_model_as_it_was(
    steps: int | None, tiny: Tiny, seeded: Seeded
) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    processors, before = dict(model.denoiser.unet.attn_processors), prediction(model)
    loop = reference.prompt_to_prompt(model, source, [DOG.prompt], Options())
    for _ in loop if steps is None else range(steps):
        if steps is not None:
            next(loop)
    loop.close()
    assert model.denoiser.unet.attn_processors == processors
    assert torch.equal(prediction(model), before)


def test_an_error_in_mid_edit_leaves_the_model_as_it_was(
    tiny: Tiny, seeded: Seeded, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    processors, before = dict(model.denoiser.unet.attn_processors), prediction(model)
    broken = source.trajectory.clone()
    broken[3] = torch.nan  # read by the source's row of step 3, of which the fused kernel makes zeros
    with pytest.raises(NumericsError, match="step 4 of 6"):
        run(model, replace(source, states=Trajectory(broken)), [DOG], {})
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(prompt_to_prompt, "watched", lambda *_, **__: 1 / 0)
        run(model, source, [DOG], {})
    assert model.denoiser.unet.attn_processors == processors
    assert torch.equal(prediction(model), before)


def test_the_result_says_what_was_done(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    (result,) = run(model, source, [DOG], {"blend_threshold": 0.7})
    report = json.loads(json.dumps(result.report.as_json()))
    assert report["words"] == "a [cat → dog] on a beach"
    assert report["word_edit"] == "replace" and report["local_blend"] == ["cat", "dog"]
    assert report["notices"] == []
    assert result.image.size == result.source_image.size == (32, 32)
    assert result.trajectory.shape == source.trajectory.shape
    assert torch.equal(result.trajectory[0], source.trajectory[0])
    heat = result.word_map("dog")
    assert heat.shape == (16, 16) and 0 <= heat.min() and heat.max() == pytest.approx(1)
    assert result.heatmap("dog").size == (32, 32)


def test_an_empty_mask_is_told(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    (result,) = run(model, source, [DOG], {"blend_threshold": 1.0, "blend_start": 0.0})
    assert result.report.edited_share == 0
    assert any("mask is empty" in notice for notice in result.report.notices)
    assert torch.equal(result.trajectory, source.trajectory)


def test_the_kind_is_chosen_by_the_words(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=1)
    results = run(model, source, [DOG, TEAPOT, NIGHT, A_BEACH], {})
    assert [r.report.details["word_edit"] for r in results] == ["replace", "replace", "refine", "refine"]
    blended = [["cat", "dog"], ["cat", "teapot"], [], ["cat"]]
    assert [r.report.details["local_blend"] for r in results] == blended


def test_only_things_are_blended_by_articles_and_places_are_not(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=1)

    def blended(target: str) -> list[list[str]]:
        planned = prompt_to_prompt._planned(
            align(model.read("a cat on a beach"), model.read(target)), Options()
        )
        words = prompt_to_prompt._blend_words(planned, Options(), source).edited
        return [[word.text for word in side] for side in words]

    assert blended("the cat on a beach") == blended("the cat in the forest") == [[], []]
    assert blended("a dog on a beach") == [["cat"], ["dog"]]
    assert blended("a cat and a dog on a beach") == [[], []]  # it may be anywhere


def test_the_thing_that_is_described_is_blended_by_where_it_stands_not_by_its_text(
    tiny: Tiny, seeded: Seeded
) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=1)
    alignment = align(model.read("a red cat and a red dog"), model.read("a red cat and a blue dog"))
    planned = prompt_to_prompt._planned(alignment, Options())
    before, after = prompt_to_prompt._blend_words(planned, Options(), source).edited
    assert [word.start for word in before] == [word.start for word in after] == [6, 7]
    assert [word.text for word in after] == ["blue", "dog"]


# What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reweight": {"bech": 2.0}}, "did you mean 'beach'"),
        ({"word_steps": {"dgo": 0.4}}, "did you mean 'dog'"),
        ({"word_steps": {"cat": 0.4}}, "has no 'cat'"),  # words are looked up in the target
        ({"local_blend": ("horse",)}, "has no 'horse'"),
        ({"spare": ("sky",)}, "has no 'sky'"),
        ({"word_edit": "replace"}, None),
    ],
)
def test_a_word_that_is_nowhere_is_an_error(
    options: dict[str, Any], said: str | None, tiny: Tiny, seeded: Seeded
) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=1)
    if said is None:
        run(model, source, [DOG], options)  # the control: nothing wrong here
        with pytest.raises(PromptError, match="use a refine edit"):
            run(model, source, [NIGHT], options)
    else:
        with pytest.raises(PromptError, match=said):
            run(model, source, [DOG], options)


def test_no_blend_words_means_no_blend(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    (none,), (off,) = (run(model, source, [DOG], {"local_blend": choice}) for choice in ((), "off"))
    assert torch.equal(none.trajectory, off.trajectory)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"cross_replace_step": 0.4}, "did you mean 'cross_replace_steps'"),
        ({"cross_replace_steps": 1.2}, r"'cross_replace_steps'.*0 to 1.*got 1.2"),
        ({"self_replace_steps": -0.5}, r"'self_replace_steps'.*0 to 1"),
        ({"cross_replace_steps": (0.8, 0.2)}, "in order"),
        ({"word_steps": {"dog": 7.0}}, r"word_steps.dog.*0 to 1"),
        ({"self_limit": -1}, "self_limit"),
        ({"reweight": {"dog": float("nan")}}, "reweight.dog"),
        ({"guidance_scale": float("inf")}, "guidance_scale"),
        ({"blend_threshold": 1.5}, "blend_threshold"),
        ({"word_edit": "swap"}, "'replace' or 'refine'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionsError, match=said):
        parse(Options, options)


def test_no_target_and_too_long_a_target_are_errors(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1", steps=1)
    with pytest.raises(PromptError, match="at least one target"):
        run(model, source, [], {})
    with pytest.raises(PromptError, match="from 'beach beach' on"):
        drain(reference.prompt_to_prompt(model, source, [" ".join(["beach"] * 32)], Options()))


def test_a_source_of_another_model_is_refused(tiny: Tiny, seeded: Seeded) -> None:
    with pytest.raises(SourceError, match="another model"):
        run(tiny("sd2", torch.float64), seeded("sd1"), [DOG], {})
