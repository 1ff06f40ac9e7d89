"""Attention as an argument of a call: without one, bitwise the untouched network's; afterwards, nothing is left."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0

from reference import level, predict_eps
from wordbrush.attention import Attend, Heads, Site, TextCache, column_maps, plain
from wordbrush.errors import ModelError
from wordbrush.model import Conditioning, Model

Tiny = Callable[..., Model]
SHAPES = ["sd1", "sd2", "sdxl"]


def noise(model: Model, size: tuple[int, int] = (16, 16), rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, 4, *size, generator=torch.Generator().manual_seed(3)).to(model.dtype)


def predict(
    model: Model, size: tuple[int, int] = (16, 16), attend: Attend | None = None, step: int = 0
) -> torch.Tensor:
    text = model.encode_text(["a cat", "a dog on a beach"])
    return predict_eps(model, noise(model, size), 401, text, attend, step)


def untouched(model: Model) -> Model:
    """The same weights in a network that never met our processor."""
    unet = copy.deepcopy(model.denoiser.unet)
    unet.set_attn_processor(AttnProcessor2_0())
    other = copy.copy(model)
    other.denoiser = copy.copy(model.denoiser)
    object.__setattr__(other.denoiser, "unet", unet)
    object.__setattr__(other.denoiser, "_unlike", "it is untouched")  # so nothing is passed to its attention
    return other


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [(16, 16), (11, 18)], ids=str)
def test_without_attend_or_with_plain_it_is_bitwise_the_untouched_network(
    shape: str, dtype: torch.dtype, size: tuple[int, int], tiny: Tiny
) -> None:
    model = tiny(shape, dtype)
    expected = predict(untouched(model), size)
    conditioning = Conditioning(model.encode_text(["a cat", "a dog on a beach"]))
    for attend in (None, plain, None):  # from the second call on with the text's keys and values kept
        assert torch.equal(predict_eps(model, noise(model, size), 401, conditioning, attend), expected)
    assert len(conditioning.cache) == len(model.denoiser.unet.attn_processors) / 2


@pytest.mark.parametrize("shape", SHAPES)
def test_a_call_leaves_nothing_behind_even_after_an_error(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    processors, before = dict(model.denoiser.unet.attn_processors), predict(model)

    def nothing(site: Site, step: int, heads: Heads) -> torch.Tensor:
        return torch.zeros_like(heads.query())

    assert not torch.equal(predict(model, attend=nothing), before)
    assert torch.equal(predict(model), before)

    def fails(site: Site, step: int, heads: Heads) -> torch.Tensor:
        raise RuntimeError("in the middle of the UNet")

    with pytest.raises(RuntimeError, match="in the middle"):
        predict(model, attend=fails)
    assert model.denoiser.unet.attn_processors == processors
    assert torch.equal(predict(model), before)


def test_sites_know_their_grid(tiny: Tiny) -> None:
    """Odd sizes are rounded up on the way down, as the UNet's convolutions do."""
    seen: list[tuple[Site, int]] = []

    def watching(site: Site, step: int, heads: Heads) -> torch.Tensor:
        assert heads.query().shape[2] == site.positions
        seen.append((site, step))
        return plain(site, step, heads)

    model = tiny("sd1")
    predict(model, (15, 18), watching, step=4)
    grids = {(site.height, site.width) for site, _ in seen}
    assert grids == {(15, 18), (8, 9), (4, 5)}
    assert {step for _, step in seen} == {4}
    assert len(seen) == len(model.denoiser.unet.attn_processors) == len({site.name for site, _ in seen})
    assert sum(site.is_cross for site, _ in seen) == len(seen) / 2
    assert all((".attn2" in site.name) == site.is_cross for site, _ in seen)


def count_projections(model: Model) -> tuple[list[str], Callable[[], None]]:
    calls: list[str] = []
    hooks = [
        layer.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, layer in model.denoiser.unet.named_modules()
        if "attn2.to_k" in name or "attn2.to_v" in name
    ]
    return calls, lambda: [hook.remove() for hook in hooks] and None


@pytest.mark.parametrize("attend", [None, plain])
def test_text_is_projected_once_while_it_stays(attend: Attend | None, tiny: Tiny) -> None:
    model = tiny("sd1")
    calls, remove = count_projections(model)
    cat, dog = (Conditioning(model.encode_text([prompt])) for prompt in ("a cat", "a dog"))
    for step in range(3):
        for conditioning in (cat, dog):
            predict_eps(model, noise(model, rows=1), 401, conditioning, attend, step)
    remove()
    assert len(calls) == 2 * len(set(calls)) == 2 * len(model.denoiser.unet.attn_processors)


def test_gradients_flow_through_the_text_and_nothing_of_it_is_kept(tiny: Tiny) -> None:
    """An optimised embedding changes in place from step to step."""
    model = tiny("sd1", torch.float64)
    text = model.encode_text(["a cat"])
    hidden = text.hidden.clone().requires_grad_()
    conditioning = Conditioning(type(text)(hidden, text.pooled))
    losses: list[float] = []
    for step in range(2):
        loss = predict_eps(model, noise(model, rows=1), 401, conditioning, plain, step).square().mean()
        (grad,) = torch.autograd.grad(loss, [hidden])
        assert grad.abs().max() > 0
        losses.append(loss.item())
        with torch.no_grad():
            hidden += 1
    fresh = Conditioning(type(text)(hidden.detach().clone(), text.pooled))
    assert losses[0] != losses[1] and not conditioning.cache
    later = predict_eps(model, noise(model, rows=1), 401, conditioning).detach()
    assert torch.equal(later, predict_eps(model, noise(model, rows=1), 401, fresh))


def test_kept_projections_do_not_outlive_the_weights_or_the_text(tiny: Tiny) -> None:
    """A step of training, and an embedding that is written to in place, are seen at once."""
    model = copy.deepcopy(tiny("sd1", torch.float64))
    text = model.encode_text(["a cat"])
    conditioning, z = Conditioning(text), noise(model, rows=1)

    def agree() -> bool:
        fresh = Conditioning(type(text)(text.hidden.clone(), text.pooled))
        return torch.equal(predict_eps(model, z, 401, conditioning), predict_eps(model, z, 401, fresh))

    assert agree() and conditioning.cache
    layer = model.denoiser.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2")
    with torch.no_grad():
        layer.to_k.weight += 1
        assert agree()
        text.hidden.add_(1)
        assert agree()
    layer.to_v.requires_grad_(True)
    predict_eps(model, z, 401, conditioning).square().mean().backward()
    assert layer.to_v.weight.grad is not None and layer.to_v.weight.grad.abs().max() > 0


def test_models_that_share_layers_share_no_projections(tiny: Tiny) -> None:
    """A model with other projections in one layer beside its base, on one conditioning."""
    base = tiny("sd1", torch.float64)
    other = copy.deepcopy(base)
    name = "mid_block.attentions.0.transformer_blocks.0.attn2"
    for path, layer in base.denoiser.unet.named_modules():
        if path.endswith("attn2") and path != name:  # share all but one
            parent, _, child = path.rpartition(".")
            setattr(other.denoiser.unet.get_submodule(parent), child, layer)
    with torch.no_grad():
        other.denoiser.unet.get_submodule(name).to_v.weight += 1
    conditioning, z = Conditioning(base.encode_text(["a cat"])), noise(base, rows=1)
    alone = [predict_eps(model, z, 401, base.encode_text(["a cat"])) for model in (base, other)]
    shared = [predict_eps(model, z, 401, conditioning) for model in (base, other, base, other)]
    assert torch.equal(shared[0], alone[0]) and torch.equal(shared[2], alone[0])
    assert torch.equal(shared[1], alone[1]) and torch.equal(shared[3], alone[1])
    assert not torch.equal(alone[0], alone[1])


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

    predict(model, (16, 11), compare)
    assert errors and max(errors) < 1e-12


def test_rows_are_projected_on_demand(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    layer = model.denoiser.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1")
    hidden = torch.randn(5, 16, layer.to_q.in_features, dtype=torch.float64)
    heads = Heads(layer, hidden, hidden, TextCache())
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


def test_other_kinds_of_attention_are_refused(tiny: Tiny) -> None:
    """A network with such a layer predicts as ever; it is an edit of its attention that is refused."""
    model, z = tiny("sd1"), noise(tiny("sd1"))
    before = predict(model)
    unet = copy.deepcopy(model.denoiser.unet)
    unet.set_attn_processor(AttnProcessor2_0())
    unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2").norm_cross = torch.nn.Identity()
    other = Model(
        unet=unet,
        vae=model.autoencoder.vae,
        text_encoders=model.text.encoders,
        tokenizers=model.text.tokenizers,
        schedule_config=model.schedule_config,
    )
    assert all(isinstance(each, AttnProcessor2_0) for each in unet.attn_processors.values())
    conditioning = Conditioning(model.encode_text(["a cat", "a dog"]))
    with pytest.raises(ModelError, match=r"cannot be edited.*mid_block.*norm_cross"):
        other.predict(z, level(model, 401), conditioning, attend=plain)
    assert torch.equal(predict(model), before)
