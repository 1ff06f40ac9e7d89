"""Long prompts, from their encoding to their edits, on tiny models of every shape; each chunk is also done by hand."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPTokenizer

import oracle
import reference
from wordbrush import api, changes, images
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.errors import OptionsError, PromptError, SourceError
from wordbrush.model import Model
from wordbrush.model.text import TextEncoder
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.replaying import replay
from wordbrush.sampling import sample
from wordbrush.source import Source, own_model
from wordbrush.word_map import word_map
from wordbrush.words import align

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]

# The context of the tiny models is 32 tokens: 30 of words. These words fill the first chunk but for one token, and
# "lasagne" takes five.
FIRST = ("a", "cat", "on", "a", "beach", *("near", "a", "cat") * 8)
SECOND = ("lasagne", "and", "a", "dog", "at", "night")
PROMPT = " ".join((*FIRST, *SECOND))
SWAPPED = PROMPT.replace("dog", "teapot")  # of two tokens
DOG, BEACH = 32 + 1 + 5 + 2, 5  # where the words are


def by_hand(tokenizer: Any, *chunks: tuple[str, ...]) -> torch.Tensor:
    """The ids of each chunk's words, one row each, word by word."""
    rows: list[list[int]] = []
    for words in chunks:
        own = [i for word in words for i in tokenizer(word, add_special_tokens=False).input_ids]
        row = [tokenizer.bos_token_id, *own, tokenizer.eos_token_id]
        rows.append(row + [tokenizer.pad_token_id] * (32 - len(row)))
    return torch.tensor(rows)


# Encoding ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_each_chunk_is_encoded_alone(shape: str, tiny: Tiny, tokenizer: CLIPTokenizer) -> None:
    model = tiny(shape, torch.float64).with_chunks(3)
    embeds = model.encode_text([PROMPT, "a cat"])
    for row, chunks in enumerate(((FIRST, SECOND, ()), (("a", "cat"), (), ()))):
        hidden: list[torch.Tensor] = []
        for one in by_hand(tokenizer, *chunks):
            with torch.no_grad():
                out = [encoder(one[None], output_hidden_states=True) for encoder in model.text.encoders]
            # SDXL reads the last layer but one of both.
            layers = [o.hidden_states[-2] for o in out] if shape == "sdxl" else [out[0].last_hidden_state]
            hidden.append(torch.cat(layers, -1))
            if shape == "sdxl" and len(hidden) == 1:
                assert embeds.pooled is not None
                torch.testing.assert_close(
                    embeds.pooled[row : row + 1], out[1].text_embeds, atol=1e-12, rtol=0
                )
        torch.testing.assert_close(embeds.hidden[row : row + 1], torch.cat(hidden, 1), atol=1e-12, rtol=0)
    assert embeds.hidden.shape[1] == model.tokens == 96
    assert (embeds.pooled is None) == (shape != "sdxl")


def test_each_tokenizer_pads_as_its_own_does(tiny: Tiny, tokenizer: CLIPTokenizer) -> None:
    other = copy.deepcopy(tokenizer)
    other.pad_token = "!"
    encoders = tiny("sdxl", torch.float64).text.encoders
    text = TextEncoder(encoders, (tokenizer, other), chunks=2)
    given: list[torch.Tensor] = []

    def note(_: Any, arguments: tuple[torch.Tensor]) -> None:
        given.append(arguments[0])

    hooks = [each.register_forward_pre_hook(note) for each in encoders]
    with torch.no_grad():
        text.encode([PROMPT])
    for hook in hooks:
        hook.remove()
    assert other.pad_token_id not in (tokenizer.pad_token_id, None)
    for ids, own in zip(given, (tokenizer, other), strict=True):
        assert torch.equal(ids, by_hand(own, FIRST, SECOND))


def test_the_empty_prompt_has_as_many_tokens(tiny: Tiny) -> None:
    null = tiny("sd1").with_chunks(2).encode_text([""])
    assert null.hidden.shape == (1, 64, 24) and null.hidden.any()
    null = tiny("sdxl").with_chunks(2).encode_text([""])
    assert null.hidden.shape == (1, 64, 56) and not null.hidden.any()
    assert null.pooled is not None and not null.pooled.any()


# The model --------------------------------------------------------------------------------------------------


def test_a_model_of_more_chunks_is_another_value_of_the_same_parts(tiny: Tiny) -> None:
    model = tiny("sd1")
    two = model.with_chunks(2)
    assert (model.chunks, two.chunks, model.tokens, two.tokens) == (1, 2, 32, 64)
    assert two.denoiser is model.denoiser and two.autoencoder is model.autoencoder
    assert two.text.encoders is model.text.encoders
    assert model.with_chunks(1) is model and two.with_chunks(1).hash == model.hash
    hashes = [model.with_chunks(chunks).hash for chunks in (1, 2, 3)]
    assert len({*hashes}) == 3 and [model.chunks_of(each) for each in hashes] == [1, 2, 3]
    assert two.chunks_of(model.hash) == 1 and model.chunks_of(tiny("sd2").hash) is None


def test_an_ordinary_models_hash_is_what_it_was() -> None:
    model = Model.load("pocket")
    assert model.hash.startswith("a1a681be4ca2") and model.with_chunks(2).with_chunks(1).hash == model.hash


def test_a_short_prompts_embeds_are_what_they_were(tiny: Tiny, tokenizer: CLIPTokenizer) -> None:
    model = tiny("sd1")
    with torch.no_grad():
        plain = model.text.encoders[0](by_hand(tokenizer, FIRST)).last_hidden_state
    found = model.for_prompts([" ".join(FIRST), ""])
    assert found is model and torch.equal(found.encode_text([" ".join(FIRST)]).hidden, plain)


def test_as_many_chunks_as_the_longest_prompt_needs(tiny: Tiny) -> None:
    model = tiny("sd1")
    assert [model.for_prompts(prompts).chunks for prompts in ([], [""], ["a cat", PROMPT])] == [1, 1, 2]
    assert model.with_chunks(5).for_prompts([PROMPT]).chunks == 2
    assert model.for_prompts(["cat " * 480]).chunks == 16
    with pytest.raises(
        PromptError, match="at most 16 chunks of 30 tokens, got 481: shorten it; from 'cat' on"
    ):
        model.for_prompts(["cat " * 481])
    with pytest.raises(
        PromptError, match=r"at most 30 tokens, got 39: .* 2 chunks \(--long-prompt, model\.with_"
    ):
        model.encode_text([PROMPT])


@pytest.mark.parametrize("chunks", [0, -1, 17])
def test_a_number_of_chunks_out_of_range_is_named(chunks: int, tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=f"expected 1 to 16 chunks of the context, got {chunks}"):
        tiny("sd1").with_chunks(chunks)


# Pictures, edits and maps -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tiny: Tiny) -> Callable[[str], tuple[Model, Source]]:
    """made("sd1"): the model with two chunks, and a source of the long prompt."""
    kept: dict[str, tuple[Model, Source]] = {}

    def make(shape: str) -> tuple[Model, Source]:
        if shape not in kept:
            model = tiny(shape, torch.float64).for_prompts([PROMPT, SWAPPED])
            loop = sample(model, PROMPT, 7, steps=4, guidance_scale=5.0, negative_prompt="a dog")
            kept[shape] = model, drain(loop)
        return kept[shape]

    return make


Made = Callable[[str], tuple[Model, Source]]


def edited(model: Model, source: Source, target: str, options: dict[str, Any]) -> Any:
    (result,) = drain(reference.prompt_to_prompt(model, source, [target], parse(Options, options)))
    return result


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["replace", "refine"])
def test_equal_captions_return_the_source(kind: str, shape: str, made: Made) -> None:
    """A weight of 1 asks for nothing, but has everything computed."""
    model, source = made(shape)
    options = {"word_edit": kind, "reweight": {"dog": 1.0}, "cross_replace_steps": 1.0, "local_blend": "off"}
    result = edited(model, source, PROMPT, options)
    assert result.report.unet_rows > 0
    torch.testing.assert_close(result.trajectory, source.trajectory, atol=1e-10, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_swap_in_the_second_chunk_equals_the_explicit_maps(shape: str, made: Made) -> None:
    """The new word's map is the old word's: the columns are written down by hand."""
    model, source = made(shape)
    mapper = torch.eye(64, dtype=torch.float64)  # the first chunk stays
    mapper[32:] = 0
    for i in range(32, DOG):  # the opening token, "lasagne and a"
        mapper[i, i] = 1
    mapper[DOG, DOG : DOG + 2] = 1 / 2
    for i in range(DOG + 1, 64):  # "at night", the end token and the padding
        mapper[i, min(i + 1, 63)] = 1
    assert torch.equal(align(model.read(PROMPT), model.read(SWAPPED)).replace_matrix.double(), mapper)

    alphas = oracle.word_alphas(4, 64, (0.0, 0.8), [])
    grid = (8, 8) if shape == "sdxl" else (16, 16)
    before, after = torch.zeros(2, 64, dtype=torch.float64)
    before[DOG], after[DOG : DOG + 2] = 1, 1
    nothing = torch.zeros(64, dtype=torch.float64)
    blend = oracle.Blend([(before, after)], [(nothing, nothing)], grid[0] * grid[1], grid, 1, 0.85)
    layers = len(model.denoiser.unet.attn_processors)
    control = oracle.Control([oracle.CrossEdit(alphas, mapper)], layers, (0, 1), grid[0] * grid[1], blend)
    path, masks = oracle.edit(
        model,
        source.z_T,
        [PROMPT, SWAPPED],
        control,
        steps=4,
        guidance_scale=5.0,
        null=source.null,
        pinned=source.trajectory,
    )
    options = {
        "cross_replace_steps": 0.8,
        "self_replace_steps": 0.4,
        "blend_start": 0.25,
        "blend_threshold": 0.85,
    }
    result = edited(model, source, SWAPPED, options)
    torch.testing.assert_close(result.trajectory, path[:, 1], atol=1e-10, rtol=0)
    assert torch.equal(result.mask, masks[-1][0, 0]) and not result.mask.all()
    assert (result.trajectory[-1] - source.trajectory[-1]).abs().max() > 1e-3, "nothing was edited"
    assert result.report.words.endswith("lasagne and a [dog → teapot] at night")


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
@pytest.mark.parametrize(("word", "token"), [("dog", DOG), ("beach", BEACH)])
def test_a_words_map_is_read_in_its_chunk(word: str, token: int, shape: str, made: Made) -> None:
    model, source = made(shape)
    grid = (8, 8) if shape == "sdxl" else (16, 16)
    kept: list[torch.Tensor] = []

    class Watching(oracle.Control):
        def __call__(self, maps: torch.Tensor, is_cross: bool) -> torch.Tensor:
            if is_cross and maps.shape[2] == grid[0] * grid[1]:
                kept.append(maps[0, :, :, token].mean(0))
            return maps

    before: Any = dict(model.denoiser.unet.attn_processors)
    model.denoiser.unet.set_attn_processor(oracle.ExplicitAttention(Watching([], 0)))
    text = model.encode_text([PROMPT])
    for i in range(4):
        with torch.no_grad():
            oracle.predict(model, source.trajectory[i : i + 1], source.schedule.levels[i].t, text)
    model.denoiser.unet.set_attn_processor(before)
    heat = torch.stack(kept).mean(0).view(1, 1, *grid)
    heat = F.interpolate(heat, (16, 16), mode="bilinear")[0, 0]
    expected = (heat - heat.min()) / (heat.max() - heat.min())
    ours = word_map(model, PROMPT, word, source.trajectory, source.schedule)
    torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=0)


def test_what_the_words_ask_for_is_read_in_all_chunks(made: Made) -> None:
    model, _ = made("sd1")
    assert changes.read(align(model.read(PROMPT), model.read(SWAPPED))).kind == "swap"


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
@pytest.mark.parametrize("method", api.inversion_methods())
def test_every_inversion_takes_a_long_prompt(method: str, shape: str, tiny: Tiny, tmp_path: Path) -> None:
    """And what it makes is saved, loaded and edited; the null embeddings have the tokens of the text."""
    model = tiny(shape, torch.float64).with_chunks(2)
    picture = api.generate(model, "a cat", steps=1)
    options = {"steps": 2}
    if method != "negative_prompt":  # which has one already
        options |= {"negative_prompt": "night " * 35}
    source = api.invert(model, picture, PROMPT, method=method, options=options)
    assert source.null.hidden.shape[1] == 64
    source.save(tmp_path / "a.source")
    loaded = Source.load(tmp_path / "a.source", model)
    ours, again = (api.edit(model, each, SWAPPED).trajectory for each in (source, loaded))
    assert torch.equal(ours, again) and torch.isfinite(ours).all()


# Sources and records ----------------------------------------------------------------------------------------


def test_a_source_belongs_to_its_number_of_chunks(made: Made, tiny: Tiny, tmp_path: Path) -> None:
    model, source = made("sd1")
    source.save(tmp_path / "two.source")
    one = tiny("sd1", torch.float64)
    said = r"prompts in 1 chunk of the text.*got one with 2: use model\.with_chunks\(2\), .* --long-prompt, or invert"
    for use in (lambda: Source.load(tmp_path / "two.source", one), lambda: api.edit(one, source, "a dog")):
        with pytest.raises(SourceError, match=said):
            use()
    with pytest.raises(SourceError, match="another model"):
        Source.load(tmp_path / "two.source", tiny("sd2", torch.float64))
    drain(sample(one, "a cat", 7, steps=1)).save(tmp_path / "one.source")
    with pytest.raises(
        SourceError, match=r"in 3 chunks.*got one with 1: .*with_chunks\(1\).* no --long-prompt"
    ):
        Source.load(tmp_path / "one.source", one.with_chunks(3))
    assert own_model(tmp_path / "two.source", one).hash == model.hash
    assert own_model(tmp_path / "one.source", model).chunks == 1
    assert own_model(tmp_path / "two.source", tiny("sd2")) is tiny("sd2")
    (tmp_path / "none.source").write_bytes(b"no source")
    with pytest.raises(SourceError, match="damaged or no wordbrush source"):
        own_model(tmp_path / "none.source", one)
    with pytest.raises(SourceError, match="there is no source file"):
        own_model(tmp_path / "gone.source", one)


def test_a_source_with_another_models_embeddings_is_damaged(made: Made, tiny: Tiny, tmp_path: Path) -> None:
    model, source = made("sd1")
    short = replace(source, null=tiny("sd1", torch.float64).encode_text([""]))
    short.save(tmp_path / "a.source")
    with pytest.raises(
        SourceError, match=r"is damaged: expected null.hidden .* \(1, 64, 24\), got .*\(1, 32, 24\)"
    ):
        Source.load(tmp_path / "a.source", model)


def test_a_replay_encodes_in_as_many_chunks(tiny: Tiny, tmp_path: Path) -> None:
    """A short prompt in three chunks is another picture than in one, and made again as it was."""
    model = tiny("sd1")
    for chunks in (1, 3):
        image = api.generate(model.with_chunks(chunks), "a cat", steps=2)
        record = images.read_provenance(image)["model"]
        assert record.get("chunks", 1) == chunks and ("chunks" in record) == (chunks > 1)
        assert record["hash"] == model.with_chunks(chunks).hash
        for given in (model, model.with_chunks(2)):
            assert replay(image, model=given).differences == ()
    long, short = (api.generate(model.with_chunks(chunks), "a cat", steps=2).tobytes() for chunks in (3, 1))
    assert long != short
