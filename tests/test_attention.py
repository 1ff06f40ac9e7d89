"""The opened attention: bitwise the model's own when nothing is edited, gone without a trace when closed."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from wordbrush.attention import Heads, Site, attending, column_maps, plain
from wordbrush.errors import ModelError
from wordbrush.model import Model

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]


def predict(model: Model, size: tuple[int, int] = (16, 16), step: int = 0) -> torch.Tensor:
    z = torch.randn(2, 4, *size, generator=torch.Generator().manual_seed(3)).to(model.dtype)
    return model.predict_eps(z, 401, model.encode_text(["a cat", "a dog on a beach"]), step=step)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(16, 16), (11, 18)], ids=str)
def test_plain_is_bitwise_the_models_own(
    shape: str, dtype: torch.dtype, size: tuple[int, int], tiny: Tiny
) -> None:
    model = tiny(shape, dtype)
    before = predict(model, size)
    with attending(model, plain):
        opened = predict(model, size)
        again = predict(model, size, step=1)  # now with the text's keys and values kept from before
    assert torch.equal(opened, before) and torch.equal(again, before)
    assert torch.equal(predict(model, size), before)


@pytest.mark.parametrize("shape", SHAPES)
def test_leaving_restores_the_model_even_after_an_error(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    processors, before = dict(model.unet.attn_processors), predict(model)

    def nothing(site: Site, step: int, heads: Heads) -> torch.Tensor:
        return torch.zeros_like(heads.query())

    with pytest.raises(ZeroDivisionError), attending(model, nothing):
        assert not torch.equal(predict(model), before)
        _ = 1 / 0

    def fails(site: Site, step: int, heads: Heads) -> torch.Tensor:
        raise RuntimeError("in the middle of the UNet")

    with pytest.raises(RuntimeError, match="in the middle"), attending(model, fails):
        predict(model)
    assert model.unet.attn_processors == processors
    assert torch.equal(predict(model), before)


def test_contexts_do_not_nest(tiny: Tiny) -> None:
    model = tiny("sd1")
    with attending(model, plain):
        with pytest.raises(ModelError, match="close that context first"), attending(model, plain):
            pass
        opened = predict(model)  # the outer one is still open, and works
    assert torch.equal(opened, predict(model))


def test_sites_know_their_grid(tiny: Tiny) -> None:
    """Odd sizes are rounded up on the way down, as the UNet's convolutions do."""
    seen: list[tuple[Site, int]] = []

    def watching(site: Site, step: int, heads: Heads) -> torch.Tensor:
        assert heads.query().shape[2] == site.positions
        seen.append((site, step))
        return plain(site, step, heads)

    model = tiny("sd1")
    with attending(model, watching):
        predict(model, (15, 18), step=4)
    grids = {(site.height, site.width) for site, _ in seen}
    assert grids == {(15, 18), (8, 9), (4, 5)}
    assert {step for _, step in seen} == {4}
    assert len(seen) == len(model.unet.attn_processors) == len({site.name for site, _ in seen})
    assert sum(site.is_cross for site, _ in seen) == len(seen) / 2
    assert all((".attn2" in site.name) == site.is_cross for site, _ in seen)


def test_new_text_in_an_open_context_is_read(tiny: Tiny) -> None:
    """Keys and values of the text are kept between steps; other text must not meet those."""
    model = tiny("sd1", torch.float64)
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    texts = [model.encode_text([prompt]) for prompt in ("a cat", "a dog", "a cat")]
    alone = [model.predict_eps(z, 401, text) for text in texts]
    with attending(model, plain):
        opened = [model.predict_eps(z, 401, text, step=i) for i, text in enumerate(texts)]
    assert all(torch.equal(a, b) for a, b in zip(alone, opened, strict=True))
    assert not torch.equal(alone[0], alone[1])


def test_text_is_projected_once_while_it_stays(tiny: Tiny) -> None:
    model = tiny("sd1")
    calls: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, layer in model.unet.named_modules()
        if "attn2.to_k" in name or "attn2.to_v" in name
    ]
    text = model.encode_text(["a cat"])
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    with attending(model, plain):
        for step in range(3):
            model.predict_eps(z, 401, text, step=step)
    for hook in hooks:
        hook.remove()
    assert len(calls) == len(set(calls)) == len(hooks)


def test_gradients_flow_through_the_text_in_an_open_context(tiny: Tiny) -> None:
    """An optimised embedding changes in place from step to step: nothing of it may be kept."""
    model = tiny("sd1", torch.float64)
    text = model.encode_text(["a cat"])
    hidden = text.hidden.clone().requires_grad_()
    z = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    with attending(model, plain):
        for step in range(2):
            loss = model.predict_eps(z, 401, type(text)(hidden, text.pooled), step=step).square().mean()
            (grad,) = torch.autograd.grad(loss, [hidden])
            assert grad.abs().max() > 0
            with torch.no_grad():
                hidden += 1
    closed = model.predict_eps(z, 401, type(text)(hidden, text.pooled)).square().mean()
    assert closed != loss


@pytest.mark.parametrize("k", [1, 3])
def test_columns_are_those_of_the_explicit_map(k: int, tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    errors: list[float] = []

    def compare(site: Site, step: int, heads: Heads) -> torch.Tensor:
        if site.is_cross:
            columns = torch.rand(2, model.tokens, k, generator=torch.Generator().manual_seed(1)).double()
            ours = column_maps(plain(site, step, heads.with_values(columns)), site, k)
            scores = heads.query() @ heads.key().transpose(2, 3) / heads.channels**0.5
            maps = scores.softmax(-1).mean(1) @ columns  # rows positions k
            theirs = maps.transpose(1, 2).unflatten(2, (site.height, site.width))
            errors.append(float((ours - theirs).abs().max()))
        return plain(site, step, heads)

    with attending(model, compare):
        predict(model, (16, 11))
    assert errors and max(errors) < 1e-12


def test_rows_are_projected_on_demand(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    layer = model.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1")
    hidden = torch.randn(5, 16, layer.to_q.in_features, dtype=torch.float64)
    heads = Heads(layer, hidden, hidden, {})
    rows: list[int] = []
    hook = layer.to_q.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    some, again, every = heads.query(slice(1, 3)), heads.query(slice(1, 3)), heads.query()
    hook.remove()
    assert rows == [2, 5] and torch.equal(some, again)
    torch.testing.assert_close(some, every[1:3], atol=1e-14, rtol=0)
    assert heads.key(slice(0, 1)).shape == (1, layer.heads, 16, heads.channels)
    assert heads.value(slice(4, 5)).shape == (1, layer.heads, 16, heads.channels)
    attended = heads.attend(heads.query(), heads.key(), heads.value())
    assert torch.equal(attended, F.scaled_dot_product_attention(heads.query(), heads.key(), heads.value()))


def test_other_kinds_of_attention_are_refused(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("sd1")
    before = predict(model)
    layer = model.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    monkeypatch.setattr(layer, "norm_cross", torch.nn.LayerNorm(24))
    with pytest.raises(ModelError, match=r"mid_block.*norm_cross"), attending(model, plain):
        pass
    monkeypatch.undo()
    assert not model.is_attended and torch.equal(predict(model), before)
