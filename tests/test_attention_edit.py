"""Edits as values: their algebra, and what each of them makes the UNet compute."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reference import predict_eps
from wordbrush.attention_edit import (
    AttentionEdit,
    EditedAttention,
    gate,
    keep,
    refine,
    replace,
    reweight,
    window,
)
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.recording import Reads
from wordbrush.words import align

Tiny = Callable[..., Model]
LAWS = settings(deadline=None, max_examples=40)
N = 5  # tokens


@st.composite
def edits(draw: st.DrawFn) -> AttentionEdit:
    """Any edit at all: any A and B, over one step or several."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    steps = draw(st.sampled_from([1, 3]))
    return AttentionEdit(
        torch.randn(steps, N, N, generator=generator), torch.randn(steps, N, generator=generator)
    )


def same(a: AttentionEdit, b: AttentionEdit) -> bool:
    return all(
        torch.allclose(x, y, atol=1e-6) for i in range(3) for x, y in zip(a.at(i), b.at(i), strict=True)
    )


@LAWS
@given(edit=edits())
def test_a_gate_shut_keeps_and_a_gate_open_edits(edit: AttentionEdit) -> None:
    assert same(gate(edit, torch.zeros(3, N)), keep(N))
    assert same(gate(edit, torch.ones(3, N)), edit)
    assert same(gate(keep(N), torch.rand(3, N)), keep(N))


@LAWS
@given(edit=edits(), seed=st.integers(0, 1000))
def test_weights_multiply(edit: AttentionEdit, seed: int) -> None:
    c, d = torch.randn(2, N, generator=torch.Generator().manual_seed(seed))
    assert same(reweight(edit, torch.ones(N)), edit)
    assert torch.equal(reweight(keep(N), c).B[0], c)  # the target's own maps are weighted too
    assert same(reweight(reweight(edit, c), d), reweight(edit, c * d))


@LAWS
@given(edit=edits(), seed=st.integers(0, 1000))
def test_gates_of_gates_multiply(edit: AttentionEdit, seed: int) -> None:
    a, b = torch.rand(2, 3, N, generator=torch.Generator().manual_seed(seed))
    assert same(gate(gate(edit, a), b), gate(edit, a * b))


def test_edits_of_the_same_prompt_are_exact(tiny: Tiny) -> None:
    words = tiny("sd1").read("a cat on a beach")
    length = words.length
    for edit in (replace(align(words, words)), refine(align(words, words))):
        assert torch.equal(edit.A, torch.eye(length)[None]) and torch.equal(edit.B, torch.zeros(1, length))


def test_windows_round_like_the_released_code() -> None:
    """⌊f (n + 1)⌋: of 50 steps, 0.8 ends after 40, 0.5 after 25, and 1 edits all."""
    assert window(3, 50, (0.0, 0.8)).sum(0).tolist() == [40] * 3
    assert window(3, 50, (0.0, 1.0)).sum(0).tolist() == [50] * 3
    assert window(3, 50, (0.0, 0.0)).sum() == 0
    part = window(3, 50, (0.2, 0.5))[:, 0].nonzero().flatten().tolist()
    assert part == list(range(10, 25))
    word = torch.tensor([0.0, 1.0, 0.0])
    alpha = window(3, 10, (0.0, 0.5), [(word, (0.8, 1.0))])
    assert alpha[:, 0].nonzero().flatten().tolist() == [0, 1, 2, 3, 4]
    assert alpha[:, 1].nonzero().flatten().tolist() == [8, 9]


def batch(model: Model, prompts: list[str]) -> tuple[torch.Tensor, TextEmbeds]:
    """[null | source | targets] rows, the targets' latents shared between their halves."""
    generator = torch.Generator().manual_seed(5)
    n = len(prompts) - 1
    targets = torch.randn(n, 4, 16, 16, generator=generator, dtype=model.dtype)
    source = torch.randn(1, 4, 16, 16, generator=generator, dtype=model.dtype)
    null = model.encode_text([""]).expand(n)
    return torch.cat([targets, source, targets]), TextEmbeds.concat([null, model.encode_text(prompts)])


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("gated", [False, True])
def test_keep_is_bitwise_the_models_own(gated: bool, shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    z, text = batch(model, ["a cat", "a dog", "a fox"])
    edit = keep(model.tokens)
    if gated:
        words = model.read("a cat")
        edit = gate(replace(align(words, words)), torch.zeros(4, model.tokens))
    attention = EditedAttention([edit, edit], steps=4, also=lambda _: Reads(prediction=True))
    assert attention.rows(0).count == 5
    before = predict_eps(model, z, 601, text)
    conditioning = Conditioning(text)
    for step in range(2):
        assert torch.equal(predict_eps(model, z, 601, conditioning, attention, step), before)


def test_no_edit_touches_the_other_rows(tiny: Tiny) -> None:
    """Null and source rows come out of an edited batch as out of a plain one (up to the fused kernel's batching)."""
    model = tiny("sd1", torch.float64)
    z, text = batch(model, ["a cat", "a dog", "a fox"])
    edit = replace(align(model.read("a cat"), model.read("a dog")))
    attention = EditedAttention([edit, edit], steps=4, self_window=(0, 4), self_limit=10**6)
    before = predict_eps(model, z, 601, text)
    edited = predict_eps(model, z, 601, text, attention)
    torch.testing.assert_close(edited[:3], before[:3], atol=1e-12, rtol=0)
    assert (edited[3:] - before[3:]).abs().max() > 1e-3


def projected_rows(
    model: Model, attention: EditedAttention, text: TextEmbeds, z: torch.Tensor
) -> dict[str, int]:
    """How many rows each kind of projection computed in one call, per layer."""
    rows: dict[str, set[int]] = {}
    counts: dict[str, int] = {}
    hooks = []
    for name, layer in model.denoiser.unet.named_modules():
        if name.endswith((".to_q", ".to_k", ".to_v")):
            kind = ".".join(name.split(".")[-2:])

            def count(
                _: object, inputs: tuple[torch.Tensor], __: object, name: str = name, kind: str = kind
            ) -> None:
                counts[name] = counts.get(name, 0) + len(inputs[0])
                rows.setdefault(kind, set())

            hooks.append(layer.register_forward_hook(count))
    predict_eps(model, z, 601, text, attention)
    for hook in hooks:
        hook.remove()
    for name, total in counts.items():
        rows[".".join(name.split(".")[-2:])].add(total)
    assert all(len(totals) == 1 for totals in rows.values()), rows
    return {kind: totals.pop() for kind, totals in rows.items()}


def test_what_an_edit_does_not_read_is_not_computed(tiny: Tiny) -> None:
    """Replacing and injecting, the targets' queries and self keys are nowhere projected: 3 rows of 5, not 5."""
    model = tiny("sd1")
    z, text = batch(model, ["a cat", "a dog", "a fox"])
    edit = replace(align(model.read("a cat"), model.read("a dog")))
    every_site = {"self_window": (0, 4), "self_limit": 10**6}
    rows = projected_rows(model, EditedAttention([edit, edit], steps=4, **every_site), text, z)
    assert rows["attn2.to_q"] == rows["attn1.to_q"] == rows["attn1.to_k"] == 3
    assert rows["attn1.to_v"] == 5
    assert rows["attn2.to_k"] == rows["attn2.to_v"] == 5
    refined = refine(align(model.read("a cat"), model.read("a cat on a beach")))
    rows = projected_rows(model, EditedAttention([refined, refined], steps=4), text, z)
    # Now the targets' own maps are read, once each.
    assert rows["attn2.to_q"] == 5 and rows["attn1.to_q"] == 5


def test_edited_values_follow_the_text_and_the_step(tiny: Tiny) -> None:
    """Values kept from one step must not serve another text or another phase of the edit."""
    model = tiny("sd1", torch.float64)
    words = model.read("a cat")
    alpha = torch.zeros(4, model.tokens)
    alpha[0], alpha[2] = 1, 0.5
    edit = gate(replace(align(words, model.read("a dog"))), alpha)
    texts = [batch(model, ["a cat", "a dog"]), batch(model, ["a cat", "a fox"])]
    one = EditedAttention([edit], steps=4, also=lambda _: Reads(prediction=True))
    reused = [Conditioning(text) for _, text in texts]
    kept = [
        predict_eps(model, texts[i % 2][0], 601, reused[i % 2], one, step)
        for i, step in enumerate((0, 0, 0, 2, 1, 0))
    ]
    for i, step in enumerate((0, 0, 0, 2, 1, 0)):
        another = EditedAttention([edit], steps=4, also=lambda _: Reads(prediction=True))
        fresh = predict_eps(model, texts[i % 2][0], 601, texts[i % 2][1], another, step)
        assert torch.equal(kept[i], fresh)
