"""Several computations on one model at once: each gives the pixels it gives alone."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest
import torch

import reference
from wordbrush import edit, from_seed, heatmap, invert
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.images import to_image, to_tensor
from wordbrush.model import Model
from wordbrush.progress import Progress, drain
from wordbrush.sampling import sample
from wordbrush.source import Source

Tiny, Seeded = Callable[..., Model], Callable[..., Source]
T = TypeVar("T")
Run = Generator[Progress, None, T]
SWAP: tuple[str, Any] = ("a dog on a beach", Options(blend_threshold=0.7))
ADDED: tuple[str, Any] = ("a cat on a beach at night", Options(reweight={"night": 3.0}, local_blend="off"))


def in_turn(*runs: Run[Any]) -> list[Any]:
    """Advance each generator by one step in turn, until all have returned."""
    results: dict[int, Any] = {}
    while len(results) < len(runs):
        for i, run in enumerate(runs):
            if i not in results:
                try:
                    next(run)
                except StopIteration as end:
                    results[i] = end.value
    return [results[i] for i in range(len(runs))]


def edited(model: Model, source: Source, target: str, options: Any) -> Run[list[Any]]:
    return reference.prompt_to_prompt(model, source, [target], options)


@pytest.mark.parametrize("shape", ["sd1", "sd2", "sdxl"])
def test_two_edits_advanced_in_turn_give_the_pixels_of_serial_runs(
    shape: str, tiny: Tiny, seeded: Seeded
) -> None:
    model, source = tiny(shape, torch.float64), seeded(shape)
    serial = [drain(edited(model, source, *each))[0] for each in (SWAP, ADDED)]
    (swap,), (added,) = in_turn(edited(model, source, *SWAP), edited(model, source, *ADDED))
    assert torch.equal(swap.trajectory, serial[0].trajectory)
    assert torch.equal(added.trajectory, serial[1].trajectory)
    assert not torch.equal(swap.trajectory, added.trajectory)
    assert [each.report.unet_rows for each in (swap, added)] == [each.report.unet_rows for each in serial]


def test_a_paused_edit_beside_a_generation(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    (alone,) = drain(edited(model, source, *SWAP))
    picture = drain(sample(model, "a dog", 3, steps=4))
    paused = edited(model, source, *SWAP)
    for _ in range(3):
        next(paused)
    beside = drain(sample(model, "a dog", 3, steps=4))
    assert torch.equal(beside.trajectory, picture.trajectory)
    (resumed,) = drain(paused)
    assert torch.equal(resumed.trajectory, alone.trajectory)


def test_an_edit_given_up_half_way_leaves_nothing(tiny: Tiny, seeded: Seeded) -> None:
    model, source = tiny("sd1", torch.float64), seeded("sd1")
    picture = drain(sample(model, "a dog", 3, steps=2))
    left = edited(model, source, *SWAP)
    next(left)
    left.close()
    assert torch.equal(drain(sample(model, "a dog", 3, steps=2)).trajectory, picture.trajectory)


@pytest.mark.slow
def test_verbs_in_two_threads_give_the_pictures_of_serial_runs(tiny: Tiny) -> None:
    """Guidance scale 1 beside a guided run: other rows, other text, one model."""
    model = tiny("sd1", torch.float64)
    photo = to_image(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(4)) * 2 - 1)
    source = from_seed(model, "a cat on a beach", seed=7, steps=4)

    def unguided() -> torch.Tensor:
        return edit(model, source, "a dog on a beach", options={"guidance_scale": 1.0}).trajectory

    def generated() -> torch.Tensor:
        return from_seed(model, "a teapot", seed=1, steps=4).trajectory

    def inverted() -> torch.Tensor:
        options = {"steps": 2, "inner_steps": 2}
        return invert(model, photo, "a cat", method="null_text", options=options).trajectory

    def heated() -> torch.Tensor:
        return to_tensor(heatmap(model, photo, "a cat on a beach", "cat", options={"steps": 2}))

    def at_once() -> torch.Tensor:
        straight = {"inversion": "straight", "inversion_options": {"steps": 4}}
        return edit(
            model, photo, "a cat on a beach at night", prompt="a cat on a beach", **straight
        ).trajectory

    verbs = (unguided, generated, inverted, heated, at_once)
    serial = [verb() for verb in verbs]
    with ThreadPoolExecutor(5) as pool:
        for _ in range(2):
            for verb, future in zip(serial, [pool.submit(verb) for verb in verbs], strict=True):
                assert torch.equal(future.result(), verb)


def test_encoding_leaves_the_tokenizer_as_it_was(tiny: Tiny) -> None:
    """A fast tokenizer that is asked to pad pads for every thread, until another call changes it back: prompts that
    were read and encoded at the same time were sometimes read with padding, or encoded without."""
    text = tiny("sd1").text
    encoded = text.encode(["a cat on a beach", ""])
    for tokenizer in text.tokenizers:
        assert tokenizer.backend_tokenizer.padding is None
        assert tokenizer.backend_tokenizer.truncation is None
    assert encoded.hidden.shape[:2] == (2, text.tokens)
