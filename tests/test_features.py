"""What residual blocks add, opened for one call of the network at a time."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from wordbrush.features import blocks, install
from wordbrush.model import Conditioning, Model

Tiny = Callable[..., Model]
BLOCK = "up_blocks.1.resnets.1"


def asked(model: Model, features: Any = None) -> Tensor:
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    text = Conditioning(model.encode_text(["a cat", "a dog"]))
    with torch.no_grad():
        return model.predict(
            latents.to(model.dtype), model.schedule(4).levels[1], text, features=features, step=1
        ).noise


def test_a_block_is_changed_for_the_call_alone(tiny: Tiny) -> None:
    model = tiny()
    before = asked(model)
    seen: list[tuple[str, int]] = []

    def look(name: str, step: int, added: Tensor) -> Tensor:
        seen.append((name, step))
        return added

    assert torch.equal(asked(model, look), before), "what is given back as it is changes nothing"
    names = [f"up_blocks.{i}.resnets.{j}" for i in range(3) for j in range(2)]
    assert seen == [(name, 1) for name in names]

    def cut(name: str, step: int, added: Tensor) -> Tensor:
        return torch.zeros_like(added) if name == BLOCK else added

    cut_off = asked(model, cut)
    assert not torch.equal(cut_off, before) and torch.equal(asked(model), before)
    with torch.no_grad():  # what the block adds is its last convolution and nothing else
        layer = model.denoiser.unet.get_submodule(BLOCK).conv2
        kept = {name: weight.clone() for name, weight in layer.named_parameters()}
        for weight in layer.parameters():
            weight.zero_()
        silent = asked(model)
        layer.load_state_dict(kept)
    assert torch.equal(silent, cut_off)


def test_a_call_within_a_call_has_its_own_features(tiny: Tiny) -> None:
    model = tiny()
    alone, zeroed = asked(model), asked(model, lambda name, step, added: added * 0)
    inner: list[Tensor] = []

    def nested(name: str, step: int, added: Tensor) -> Tensor:
        if not inner:
            inner.append(asked(model))
        return added * 0

    assert torch.equal(asked(model, nested), zeroed) and torch.equal(inner[0], alone)


def test_an_error_in_it_leaves_nothing(tiny: Tiny) -> None:
    model = tiny()
    before = asked(model)

    def fail(name: str, step: int, added: Tensor) -> Tensor:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        asked(model, fail)
    assert torch.equal(asked(model), before)


def test_twice_is_as_good_as_once(tiny: Tiny) -> None:
    unet = tiny().denoiser.unet
    install(unet)
    for up in unet.up_blocks:
        assert all(len(block.conv2._forward_hooks) == 1 for block in up.resnets)


@pytest.mark.parametrize(("shape", "first", "count"), [("sd1", "up_blocks.1", 4), ("sdxl", "up_blocks.0", 2)])
def test_blocks_are_those_with_attention(shape: str, first: str, count: int, tiny: Tiny) -> None:
    model = tiny(shape)
    found = blocks(model.denoiser.unet)
    assert len(found) == count and found[0].name == f"{first}.resnets.0"
    assert all(".attn1" in name for block in found for name in block.self_attention)
    assert len(found[0].self_attention) == (1 if shape == "sd1" else 2)
    assert model.denoiser.decoder_blocks(0.0) == found and model.denoiser.decoder_blocks(1.0) == ()
