"""What networks compute with a concept, to compare ours with the tools whose files are read and written."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from wordbrush.concept import Concept, Use, applied
from wordbrush.concept.weights import tensors
from wordbrush.model import Model


def output(unet: Any) -> Tensor:
    """What a UNet computes for fixed input."""
    draw = torch.Generator().manual_seed(3)
    width = unet.config.cross_attention_dim
    added: dict[str, Any] = {}
    if unet.config.addition_embed_type:
        added["added_cond_kwargs"] = {
            "text_embeds": torch.randn(1, 32, generator=draw),
            "time_ids": torch.full((1, 6), 16.0),
        }
    with torch.no_grad():
        return unet(
            torch.randn(1, 4, 16, 16, generator=draw),
            500,
            encoder_hidden_states=torch.randn(1, 32, width, generator=draw),
            **added,
        ).sample


def encoded(encoder: Any) -> Tensor:
    """What a text encoder computes for fixed input."""
    with torch.no_grad():
        return encoder(torch.arange(32)[None] + 20).last_hidden_state


def changed(model: Model, concept: Concept) -> Model:
    """The model with the concept, checked to differ from the base by far more than any rounding."""
    taught = applied(model, [Use(concept)])
    for name, own in taught.networks.items():
        if any(each.startswith(f"{name}.") for each in concept.weights):
            look = output if name == "unet" else encoded
            assert (look(own) - look(model.networks[name])).abs().max() > 0.02 * look(own).abs().max(), name
    return taught


def randomised(module: torch.nn.Module, pattern: Callable[[str], bool] = lambda name: True) -> None:
    """Fill trained weights: fresh ones change nothing."""
    draw = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if pattern(name):
                weight.copy_(torch.randn(weight.shape, generator=draw) * 0.15)


def same(a: Concept, b: Concept) -> None:
    """Bit for bit the same words and weights."""
    assert list(a.placeholders) == list(b.placeholders)
    for token in a.placeholders:
        for own, other in zip(a.placeholders[token].vectors, b.placeholders[token].vectors, strict=True):
            torch.testing.assert_close(own, other, rtol=0, atol=0)
    assert set(a.weights) == set(b.weights)
    for name, change in a.weights.items():
        assert type(change) is type(b.weights[name])
        own, other = tensors(change), tensors(b.weights[name])
        assert own.keys() == other.keys()
        for key in own:
            torch.testing.assert_close(own[key], other[key], rtol=0, atol=0)


def close(a: Tensor, b: Tensor) -> None:
    """Equal but for the rounding of float32."""
    torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-4 * float(b.abs().max()))
