"""Masks as users give them: what is read, and what is refused."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from wordbrush import api, masks
from wordbrush.errors import ImageError
from wordbrush.masks import Mask
from wordbrush.model import Model

Tiny = Callable[..., Model]


@pytest.mark.parametrize("alpha", [0, 254])
def test_a_mask_with_transparent_pixels_could_mean_either(alpha: int) -> None:
    layer = Image.new("RGBA", (4, 4), "white")
    layer.putpixel((0, 0), (255, 255, 255, alpha))
    with pytest.raises(
        ImageError, match="transparent pixels, which could mean either: the picture; put black"
    ):
        Mask.of(layer)


def test_an_alpha_channel_that_is_opaque_says_nothing() -> None:
    layer = Image.new("RGBA", (4, 4), "black")
    layer.putpixel((0, 0), (255, 255, 255, 255))
    assert Mask.of(layer).shares.sum() == 255


def test_a_mask_outside_of_what_the_model_sees_is_refused(tiny: Tiny) -> None:
    """A source that was made for one mask, edited with another."""
    model = tiny("sd1")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    left, right = np.zeros((200, 200), bool), np.zeros((200, 200), bool)
    left[:20, :20], right[-20:, -20:] = True, True
    source = api.invert(model, picture, "a cat", options={"steps": 1}, mask=left)
    said = r"expected white in what the model sees of the picture, 40 × 40 pixels at \(0, 0\), got a mask that is black"
    with pytest.raises(ImageError, match=said):
        api.edit(model, source, "a dog", mask=right)
    assert api.edit(model, source, "a dog", mask=left).image.size == (200, 200)


def test_a_mask_of_another_size_than_what_the_model_sees(tiny: Tiny) -> None:
    model = tiny("sd1")
    mask = np.zeros((60, 90), bool)
    mask[:, :45] = True
    source = api.invert(model, Image.new("RGB", (90, 60), "grey"), "a cat", options={"steps": 1})
    shares = masks.read(mask).shares(model, source)
    assert shares is not None and shares.shape == (60, 90)
    assert masks.seen(shares, source, model).shape[-2:] == source.size(model)
