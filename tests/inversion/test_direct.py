"""Direct inversion: the source's row is the picture, exactly."""

from collections.abc import Callable

import pytest
import torch

import reference
from wordbrush.denoise import noise_up
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.images import to_image
from wordbrush.inversion import direct
from wordbrush.model import Conditioning, Model
from wordbrush.options import SolvedOptions
from wordbrush.progress import drain

Tiny = Callable[..., Model]


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_the_source_reconstructs_the_autoencoders_picture_exactly(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    source = drain(direct.invert(model, image, "a cat", SolvedOptions(steps=3)))
    z_0 = model.encode_image(image)
    assert torch.equal(source.trajectory[-1:], z_0)
    assert source.image(model).tobytes() == to_image(model.decode(z_0)[0]).tobytes()
    *_, last = noise_up(model, z_0, Conditioning(model.encode_text(["a cat"])), model.schedule(3))
    assert torch.equal(source.z_T, last.latents)
    assert torch.equal(source.null.hidden, model.encode_text([""]).hidden)


def test_it_costs_one_row_a_step(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("sd1")
    rows: list[int] = []
    forward = model.denoiser.unet.forward

    def counted(sample: torch.Tensor, *args: object, **kwargs: object) -> object:
        rows.append(len(sample))
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(model.denoiser.unet, "forward", counted)
    drain(direct.invert(model, torch.zeros(1, 3, 32, 32), "a cat", SolvedOptions(steps=5)))
    assert rows == [1] * 5


def test_outside_of_the_blend_an_edit_is_the_picture_bit_by_bit(tiny: Tiny) -> None:
    model = tiny("sd1")
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1
    source = drain(direct.invert(model, image, "a cat on a beach", SolvedOptions(steps=4)))
    options = Options(blend_threshold=0.75)
    (result,) = drain(reference.prompt_to_prompt(model, source, ["a dog on a beach"], options))
    assert 0.02 < result.report.edited_share < 0.98
    untouched = (result.trajectory[-1] == model.encode_image(image)[0]).all(0)
    assert float(untouched.float().mean()) == pytest.approx(1 - result.report.edited_share)
