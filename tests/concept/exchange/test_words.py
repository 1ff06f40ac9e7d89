"""Learned words: files as other tools have them are read, and files of ours are read by diffusers."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from foreign import same
from wordbrush.concept import Use, applied, exchange
from wordbrush.errors import ConceptError
from wordbrush.model import Model

Tiny = Callable[..., Model]
L, G = torch.randn(2, 24), torch.randn(2, 32)

ONE = {
    "learned_embeds.safetensors": ({"<cat>": L}, "<cat>"),
    "flat.safetensors": ({"<new1>": L[0]}, "<new1>"),
    "my cat.safetensors": ({"emb_params": L}, "<my-cat>"),
    "star.safetensors": ({"string_to_param.*": L, "string_to_token.*": torch.tensor(265)}, "<star>"),
    "named.safetensors": ({"string_to_param.<dog>": L}, "<dog>"),
    "starred.safetensors": ({"*": L}, "<starred>"),
}


@pytest.mark.parametrize("name", ONE)
def test_words_for_one_text_encoder(tiny: Tiny, tmp_path: Path, name: str) -> None:
    tensors, token = ONE[name]
    save_file(tensors, tmp_path / name)
    concept = exchange.read(tmp_path / name, tiny("sd1"))
    assert (list(concept.placeholders), concept.prompt, concept.method) == (
        [token],
        token,
        "textual_inversion",
    )
    assert concept.base.hash == "" and concept.placeholders[token].initial is None
    (vectors,) = concept.placeholders[token].vectors
    assert vectors.shape[1] == 24 and torch.equal(vectors[0], L[0])
    model = applied(tiny("sd1"), [Use(concept)])
    assert len(model.read(f"a {token} on a beach").words) == 5


TWO: dict[str, dict[str, dict[str, Tensor]]] = {
    "clip": {"cat.safetensors": {"clip_l": L, "clip_g": G}},
    "two files": {"cat.safetensors": {"<cat>": L}, "cat_2.safetensors": {"<cat>": G}},
    "bundled": {"cat.safetensors": {"bundle_emb.<cat>.clip_l": L, "bundle_emb.<cat>.clip_g": G}},
}


@pytest.mark.parametrize("kind", TWO)
def test_words_for_two_text_encoders(tiny: Tiny, tmp_path: Path, kind: str) -> None:
    for name, tensors in TWO[kind].items():
        save_file(tensors, tmp_path / name)
    for name in TWO[kind]:
        concept = exchange.read(tmp_path / name, tiny("sdxl"))
        assert list(concept.placeholders) == ["<cat>"]
        for own, other in zip(concept.placeholders["<cat>"].vectors, (L, G), strict=True):
            assert torch.equal(own, other)


def test_a_second_file_that_is_missing_is_said(tiny: Tiny, tmp_path: Path) -> None:
    save_file({"<cat>": L}, tmp_path / "learned_embeds.safetensors")
    with pytest.raises(ConceptError, match="learned_embeds_2"):
        exchange.read(tmp_path / "learned_embeds.safetensors", tiny("sdxl"))


@pytest.mark.parametrize(
    "tensors", [{"emb_params": torch.randn(2, 768)}, {"<cat>": torch.randn(2, 768)}, {"a.b": L}]
)
def test_what_fits_no_text_encoder_is_refused(tiny: Tiny, tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, tmp_path / "cat.safetensors")
    with pytest.raises(ConceptError, match=r"24 numbers|1 tensors of"):
        exchange.read(tmp_path / "cat.safetensors", tiny("sd1"))


@pytest.mark.parametrize("to", ["diffusers", "a1111"])
def test_diffusers_reads_ours(tiny: Tiny, pipeline: Callable[[str], Any], tmp_path: Path, to: str) -> None:
    save_file({"<cat>": L}, tmp_path / "learned_embeds.safetensors")
    concept = exchange.read(tmp_path / "learned_embeds.safetensors", tiny("sd1"))
    (file,) = exchange.write(concept, tmp_path / "ours" / "cat.safetensors", tiny("sd1"), to=to)
    reader = pipeline("sd1")
    # A1111's files have no name for the word but the file's; diffusers would call it "emb_params".
    reader.load_textual_inversion(file, token="<cat>" if to == "a1111" else None)
    ids = [reader.tokenizer.convert_tokens_to_ids(token) for token in ("<cat>", "<cat>_1")]
    assert torch.equal(reader.text_encoder.get_input_embeddings().weight[ids], L)
    same(exchange.read(file, tiny("sd1")), concept)
    # The same prompt has the same embeds.
    prompt = reader.maybe_convert_prompt("a <cat> on a beach", reader.tokenizer)
    taught = applied(tiny("sd1"), [Use(concept)])
    ids = reader.tokenizer(prompt, padding="max_length", max_length=32, return_tensors="pt").input_ids
    with torch.no_grad():
        theirs = reader.text_encoder(ids).last_hidden_state
    end = int((ids[0] == reader.tokenizer.eos_token_id).nonzero()[0])
    ours = taught.encode_text(["a <cat> on a beach"]).hidden
    torch.testing.assert_close(ours[:, : end + 1], theirs[:, : end + 1], rtol=1e-4, atol=1e-5)


def test_diffusers_reads_two_files_of_ours(
    tiny: Tiny, pipeline: Callable[[str], Any], tmp_path: Path
) -> None:
    save_file({"clip_l": L, "clip_g": G}, tmp_path / "cat.safetensors")
    concept = exchange.read(tmp_path / "cat.safetensors", tiny("sdxl"))
    files = exchange.write(concept, tmp_path / "learned_embeds.safetensors", tiny("sdxl"), to="diffusers")
    assert [file.name for file in files] == ["learned_embeds.safetensors", "learned_embeds_2.safetensors"]
    reader = pipeline("sdxl")
    for file, number, vectors in zip(files, ("", "_2"), (L, G), strict=True):
        encoder, tokenizer = (getattr(reader, name + number) for name in ("text_encoder", "tokenizer"))
        reader.load_textual_inversion(file, text_encoder=encoder, tokenizer=tokenizer)
        ids = [tokenizer.convert_tokens_to_ids(token) for token in ("<cat>", "<cat>_1")]
        assert torch.equal(encoder.get_input_embeddings().weight[ids], vectors)
    same(exchange.read(files[0], tiny("sdxl")), concept)
    (file,) = exchange.write(concept, tmp_path / "x" / "cat.safetensors", tiny("sdxl"), to="a1111")
    assert {key: own.shape for key, own in load_file(file).items()} == {"clip_l": (2, 24), "clip_g": (2, 32)}
    same(exchange.read(file, tiny("sdxl")), concept)


def test_renamed_and_initialised(tiny: Tiny, tmp_path: Path) -> None:
    save_file({"emb_params": L}, tmp_path / "x.safetensors")
    model = tiny("sd1")
    concept = exchange.renamed(exchange.read(tmp_path / "x.safetensors", model), "<my-cat>")
    assert (list(concept.placeholders), concept.prompt) == (["<my-cat>"], "<my-cat>")
    table = model.text.encoders[0].get_input_embeddings().weight
    tokenizer = model.text.tokenizers[0]
    for word in ("cat", "catdog", "catdogcat"):
        rows = table[torch.tensor(tokenizer(word, add_special_tokens=False)["input_ids"])]
        (before,) = exchange.initialised(concept, word, model).placeholders["<my-cat>"].initial or ()
        torch.testing.assert_close(before, rows if len(rows) == 2 else rows.mean(0).expand(2, -1))
    with pytest.raises(ConceptError, match="strength 1"):
        applied(model, [Use(concept, 0.5)])
    applied(model, [Use(exchange.initialised(concept, "cat", model), 0.5)])


def test_renaming_takes_one_word(tiny: Tiny, tmp_path: Path) -> None:
    save_file({"<a>": L, "<b>": L + 1}, tmp_path / "x.safetensors")
    with pytest.raises(ConceptError, match="got 2 words: '<a>', '<b>'"):
        exchange.renamed(exchange.read(tmp_path / "x.safetensors", tiny("sd1")), "<c>")


def test_words_and_weights_make_files_of_both(tiny: Tiny, tmp_path: Path) -> None:
    layer = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    weights = {f"{layer}.lora.down.weight": torch.ones(2, 24), f"{layer}.lora.up.weight": torch.ones(16, 2)}
    save_file({**weights, "bundle_emb.<cat>.emb_params": L}, tmp_path / "both.safetensors")
    model = tiny("sd1")
    concept = exchange.read(tmp_path / "both.safetensors", model)
    assert concept.method == "lora" and list(concept.placeholders) == ["<cat>"] and len(concept.weights) == 1
    for to in ("kohya", "diffusers"):
        folder = tmp_path / to
        files = exchange.write(concept, folder / "own.safetensors", model, to=to)
        assert [file.name for file in files] == ["own.safetensors", "cat.safetensors"]
        read = [exchange.read(file, model) for file in files]
        assert (len(read[0].weights), list(read[1].placeholders)) == (1, ["<cat>"])
    with pytest.raises(ConceptError, match="use --to kohya"):
        exchange.write(concept, tmp_path / "own.safetensors", model, to="a1111")
    with pytest.raises(ConceptError, match="another name"):
        exchange.write(concept, tmp_path / "cat.safetensors", model, to="kohya")
    exchange.write(concept, tmp_path / "own.concept", model)
    same(exchange.read(tmp_path / "own.concept", model), concept)


def test_a_word_cannot_lead_to_another_folder(tiny: Tiny, tmp_path: Path) -> None:
    token = f"<..{os.sep}..{os.sep}evil>"
    save_file({token: L, "<b>": L + 1}, tmp_path / "x.safetensors")
    concept = exchange.read(tmp_path / "x.safetensors", tiny("sd1"))
    files = exchange.files(concept, tmp_path / "out" / "x.safetensors", tiny("sd1"), to="diffusers")
    assert {file.parent for file in files} == {tmp_path / "out"}
