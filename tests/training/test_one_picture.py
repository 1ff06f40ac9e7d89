"""What an edit learns of one picture: kept soundly, found again, gone on with after a kill, and the model untouched."""

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from wordbrush import from_seed, invert
from wordbrush.errors import NumericsError, OutputError
from wordbrush.files import sole
from wordbrush.images import to_image
from wordbrush.model import Conditioning, Model
from wordbrush.options import parse
from wordbrush.progress import Progress, drain
from wordbrush.source import Source
from wordbrush.training import one_picture
from wordbrush.training.one_picture import Learned, tuned
from wordbrush.training.options import OnePictureOptions

Tiny = Callable[..., Model]
CAT = "a cat on a beach"
SHORT: Mapping[str, Any] = {"tuning_steps": 4, "tuning_rate": 1e-3, "tuning_batch": 2}
SHAPES = ["sd1", "sd2", "sdxl"]


def photo(seed: int = 4, size: tuple[int, int] = (32, 32)) -> Image.Image:
    pixels = torch.rand(3, size[1], size[0], generator=torch.Generator().manual_seed(seed))
    return to_image(pixels * 2 - 1)


def steps(
    model: Model, source: Source, text: str = CAT, **told: Any
) -> Generator[Progress, None, tuple[Model, Learned]]:
    own = {name: told.pop(name) for name in ("train_text_encoder", "patches") if name in told}
    return tuned(model, source, text, parse(OnePictureOptions, {**SHORT, **told}), **own)


def weights(model: Model) -> list[bytes]:
    return [each.detach().numpy().tobytes() for _, each in sorted(model.weights.items())]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_model_stays_as_it_is_and_another_one_knows_the_picture(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    source = invert(model, photo(), CAT, options={"steps": 2})
    before, hash_before = weights(model), model.hash
    seen: list[Progress] = []
    other, found = drain(steps(model, source, tuning_steps=12, tuning_rate=1e-2), seen.append)
    assert weights(model) == before and model.hash == hash_before != other.hash
    assert found.rows == 24 == sum(each.rows for each in seen) == sum(each.gradient_rows for each in seen)
    assert not any(each.requires_grad for each in other.denoiser.unet.parameters())
    assert other.text.encoders[0] is model.text.encoders[0]
    # Its loss on noise that it has not seen is lower than the model's.
    batch, _ = one_picture.Views(model, source, seed=99).batch(0, 16)
    text = Conditioning(model.encode_text([CAT]).expand(16))
    with torch.no_grad():
        errors = [float(one_picture.losses(each, batch, text).mean()) for each in (model, other)]
    assert errors[1] < 0.97 * errors[0]


def test_the_text_encoder_learns_if_asked_for(tiny: Tiny) -> None:
    model = tiny()
    other, _ = drain(steps(model, from_seed(model, CAT, steps=2), train_text_encoder=True))
    assert not torch.equal(other.encode_text([CAT]).hidden, model.encode_text([CAT]).hidden)


@pytest.mark.slow
def test_it_is_learned_once_for_a_source_and_again_for_what_decides_it(tiny: Tiny) -> None:
    model = tiny()
    source = invert(model, photo(), CAT, options={"steps": 2})
    keys = set[str]()
    first, found = drain(steps(model, source))
    again, same = drain(steps(model, source))
    assert same.rows == 0 and same.key == found.key and weights(again) == weights(first)
    for told in (
        {"text": "a dog"},
        {"tuning_steps": 3},
        {"tuning_seed": 1},
        {"tuning_rate": 2e-3},
        {"patches": 0.5},
    ):
        _, other = drain(steps(model, source, **told))
        keys.add(other.key)
        assert other.rows > 0
    _, other = drain(steps(model, invert(model, photo(5), CAT, options={"steps": 2})))
    assert len({*keys, found.key, other.key}) == 7
    _, alike = drain(steps(model, invert(model, photo(), "a dog", method="straight")))
    assert alike.key == found.key, "the inversion decides nothing of it"
    _, other = drain(steps(tiny("sd1", torch.float64), from_seed(tiny("sd1", torch.float64), CAT, steps=2)))
    assert other.key != found.key


@pytest.mark.slow
def test_it_is_kept_in_a_folder_for_any_other_process(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()

    def made() -> tuple[Model, Learned]:
        source = invert(model, photo(), CAT, options={"steps": 2})
        return drain(steps(model, source, tuned_in=str(tmp_path / "kept")))

    first, found = made()
    (folder,) = (tmp_path / "kept").iterdir()
    assert [each.name for each in folder.iterdir()] == ["learned.safetensors"]
    again, same = made()
    assert (found.rows, same.rows) == (8, 0) and weights(again) == weights(first)
    # What is damaged is said, passed over, and learned again.
    content = bytearray((folder / "learned.safetensors").read_bytes())
    content[-9] ^= 1
    (folder / "learned.safetensors").write_bytes(content)
    again, mended = made()
    assert mended.rows == 8 and "damaged" in mended.notices[0] and weights(again) == weights(first)
    assert made()[1].rows == 0
    with sole(folder / ".lock"), pytest.raises(OutputError, match="another process"):
        made()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_and_ends_with_the_same_bytes(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one_picture, "_CHECKPOINT_EVERY", 1)
    model = tiny()
    source = invert(model, photo(), CAT, options={"steps": 2})
    whole, _ = drain(steps(model, source, tuned_in=str(tmp_path / "whole")))
    killed = steps(model, source.made_of("photo.png"), tuned_in=str(tmp_path / "killed"))
    for _ in range(3):  # two steps are done, and their checkpoints written
        next(killed)
    killed.close()
    resumed, found = drain(steps(model, source.made_of("photo.png"), tuned_in=str(tmp_path / "killed")))
    assert found.rows == 4 and weights(resumed) == weights(whole)
    contents = [next(each.rglob("learned*")).read_bytes() for each in sorted(tmp_path.iterdir())]
    assert contents[0] == contents[1]


def test_a_loss_that_is_no_number_is_an_error(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    with pytest.raises(NumericsError, match="finite"):
        drain(steps(model, source, tuning_rate=1.0, tuning_steps=400))


@pytest.mark.parametrize("size", [(32, 32), (64, 32)])
def test_parts_of_a_picture_say_where_they_are(size: tuple[int, int], tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2, width=size[0], height=size[1])
    views = one_picture.Views(model, source, seed=0, patches=0.4)
    batch, boxes = views.batch(0, 24)
    assert len(set(boxes)) > 4 and one_picture.WHOLE in {views._box(0)}
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        assert right - left == pytest.approx(bottom - top) and right - left >= 0.4
    # As many pixels as the model was made for, in the picture's own aspect.
    assert batch.latents.shape[-1] / batch.latents.shape[-2] == pytest.approx(size[0] / size[1], rel=0.2)
    again, _ = one_picture.Views(model, source, seed=0, patches=0.4).batch(1, 12)
    assert torch.equal(again.noise, batch.noise[12:]) and torch.equal(again.latents, batch.latents[12:])


def test_a_position_of_zeros_says_nothing_and_any_other_tells_parts_apart(tiny: Tiny) -> None:
    model = tiny()
    text = model.encode_text([CAT]).expand(2)
    boxes = [one_picture.WHOLE, (0.0, 0.5, 0.5, 1.0)]
    nothing = torch.zeros(32, text.hidden.shape[-1])
    assert torch.equal(one_picture.placed(text, boxes, nothing).hidden, text.hidden)
    matrix = torch.randn(nothing.shape, generator=torch.Generator().manual_seed(0))
    added = one_picture.placed(text, boxes, matrix).hidden - text.hidden
    # The features, written out: sin and cos of π 2^k times each corner.
    for row, box in zip(added, boxes, strict=True):
        angles = torch.tensor([torch.pi * 2**k * corner for corner in box for k in range(4)])
        expected = torch.cat([angles.sin(), angles.cos()]) @ matrix
        torch.testing.assert_close(row, expected.expand_as(row), rtol=1e-4, atol=1e-4)
