"""pix2pix-zero against its algorithm with explicit maps in float64, and against rendered truth."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from reference import counting
from wordbrush import edit, from_seed, invert, record
from wordbrush.attention import Heads, Site
from wordbrush.editing.pix2pix_zero.direction import Direction
from wordbrush.editing.pix2pix_zero.held_maps import MapDistance, maps
from wordbrush.editing.pix2pix_zero.method import plan
from wordbrush.editing.pix2pix_zero.options import Options
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.images import to_image
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.options import parse
from wordbrush.request import EditRequest
from wordbrush.result import Result
from wordbrush.source import Source

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"
CATS, DOGS = (
    ["a cat", "a photo of a cat", "a small cat in the snow"],
    ["a dog", "a photo of a dog in a room"],
)


def photo(height: int = 32, width: int = 32) -> Image.Image:
    return to_image(torch.rand(3, height, width, generator=torch.Generator().manual_seed(4)) * 2 - 1)


def made(model: Model, source: Source, target: str = DOG, **told: Any) -> Result:
    return edit(model, source, target, method="pix2pix_zero", options=told)


# The algorithm, written again ---------------------------------------------------------------------------------


class Explicit:
    """Attention by explicit maps, all of which are kept."""

    def __init__(self) -> None:
        self.maps: list[Tensor] = []

    def __call__(self, site: Site, step: int, heads: Heads) -> Tensor:
        scores = torch.einsum("nhpd,nhtd->nhpt", heads.query(), heads.key()) / math.sqrt(heads.channels)
        found = torch.softmax(scores, -1)
        if site.is_cross:
            self.maps.append(found)
        return torch.einsum("nhpt,nhtd->nhpd", found, heads.value())


def algorithm(
    model: Model, source: Source, text: TextEmbeds, pairs: list[tuple[int, int]], scale: float, rate: float
) -> Tensor:
    """Algorithm 1: the first pass keeps every map of the source, the second descends to them and steps.

    pairs: which column of the target is held to which of the source.
    """
    caption = Conditioning(model.encode_text([source.prompt]))
    levels, kept, said = source.schedule.levels, list[list[Tensor]](), list[Tensor]()
    for i in range(source.steps):
        explicit = Explicit()
        said.append(model.predict(source.states.at(i), levels[i], caption, attend=explicit, step=i).noise)
        kept.append(explicit.maps)
    ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
    z = source.z_T
    for i in range(source.steps):
        here, to = levels[i], levels[i + 1]
        with torch.enable_grad():
            own, explicit = z.clone().requires_grad_(), Explicit()
            model.predict(own, here, Conditioning(text), attend=explicit, step=i)
            distances = [
                ((found[..., ours] - reference[..., theirs]) ** 2).sum() / found.shape[1]
                for found, reference in zip(explicit.maps, kept[i], strict=True)
            ]
            (gradient,) = torch.autograd.grad(torch.stack(distances).sum(), own)
        z = z - rate * gradient
        eps = model.predict(z, here, Conditioning(text)).noise
        if source.method == "straight":
            noise = source.states.known(z)
            assert noise is not None
            guided = noise.noise + scale * (eps - said[i])
        else:
            null = model.predict(z, here, Conditioning(source.null)).noise
            guided = null + scale * (eps - null)
        z = to.signal * (z - here.sigma * guided) / here.signal + to.sigma * guided
    return z


CASES = [
    pytest.param("sd1", "seed", (32, 32)),
    pytest.param("sd2", "seed", (48, 32), marks=pytest.mark.slow),
    pytest.param("sdxl", "straight", (32, 48), marks=pytest.mark.slow),
    pytest.param("sd1", "direct", (32, 32), marks=pytest.mark.slow),
]


@torch.no_grad()
@pytest.mark.parametrize(("shape", "kind", "size"), CASES)
def test_it_is_its_algorithm(shape: str, kind: str, size: tuple[int, int], tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    if kind == "seed":
        source = from_seed(model, CAT, steps=2, height=size[0], width=size[1])
    else:
        source = invert(model, photo(*size), CAT, method=kind, options={"steps": 2})
    targets = [DOG, "a red cat on a beach"]
    told = {"attention_guidance": 3.0, "guidance_scale": 2.5}
    results = edit(model, source, targets, method="pix2pix_zero", options=told)
    everything = [(j, j) for j in range(model.tokens)]
    # "red" is new and held to nothing; the words after it stand one place later, as does what follows them.
    shifted = [(0, 0), (1, 1)] + [(j + 1, j) for j in range(2, 6)] + [(7, 6)] + [(j, j) for j in range(8, 32)]
    for result, pairs in zip(results, (everything, shifted), strict=True):
        text = model.encode_text([result.prompt])
        expected = algorithm(model, source, text, pairs, 2.5, 3.0)
        torch.testing.assert_close(result.trajectory[-1:], expected, rtol=1e-8, atol=1e-8)
    free = edit(model, source, targets, method="pix2pix_zero", options={**told, "attention_guidance": 0})
    for result, other in zip(results, free, strict=True):
        assert (result.trajectory[-1] - other.trajectory[-1]).abs().max() > 1e-3


def test_the_distance_and_its_gradient_are_those_of_explicit_maps() -> None:
    drawn = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn, dtype=torch.float64)

    query, key = rand(2, 3, 5, 4).requires_grad_(), rand(2, 3, 7, 4)
    reference, held = rand(2, 3, 5, 7).softmax(-1), (rand(2, 1, 1, 7) > 0).double()
    distance = cast(Tensor, MapDistance.apply(query, key, reference, held))
    weights = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (ours,) = torch.autograd.grad((weights * distance).sum(), query)
    explicit = torch.softmax(query @ key.mT / 2, -1)
    plain = ((explicit * held - reference) ** 2).sum((2, 3)).mean(1)
    (theirs,) = torch.autograd.grad((weights * plain).sum(), query)
    torch.testing.assert_close(distance, plain)
    torch.testing.assert_close(ours, theirs)
    assert maps(query.half(), key.half()).dtype == torch.float32


# Directions ---------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_a_direction_is_a_difference_of_means_and_a_value(shape: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(shape, torch.float64)
    found = Direction.of(model, CATS, DOGS)
    mean = [
        torch.stack([model.encode_text([each]).hidden[0] for each in own]).mean(0) for own in (CATS, DOGS)
    ]
    torch.testing.assert_close(found.hidden[0], mean[1] - mean[0])
    assert (found.pooled is None) == (shape == "sd1")
    found.save(tmp_path / "a.direction")
    again = Direction.load(tmp_path / "a.direction", model)
    assert torch.equal(again.hidden, found.hidden)
    text = model.encode_text([CAT])
    led = again.applied(text, 2.0)
    torch.testing.assert_close(led.hidden - text.hidden, 2 * (mean[1] - mean[0])[None])
    if text.pooled is not None and led.pooled is not None:
        assert not torch.equal(led.pooled, text.pooled)


@pytest.mark.slow
def test_sentences_their_file_and_their_saved_direction_are_one_edit(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    (tmp_path / "cats.txt").write_text("\n".join([*CATS, ""]))
    Direction.of(model, CATS, DOGS).save(tmp_path / "a.direction")
    lists = made(model, source, source_sentences=CATS, target_sentences=DOGS)
    file = made(model, source, source_sentences=str(tmp_path / "cats.txt"), target_sentences=DOGS)
    saved = made(model, source, direction=str(tmp_path / "a.direction"))
    assert torch.equal(lists.trajectory, file.trajectory) and torch.equal(lists.trajectory, saved.trajectory)
    assert not torch.equal(lists.trajectory, made(model, source).trajectory)
    assert lists.report.details["direction"] == "2 sentences"


def test_directions_that_do_not_fit_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)
    Direction.of(tiny("sd2"), CATS, DOGS).save(tmp_path / "other.direction")
    Direction.of(model.with_chunks(2), CATS, DOGS).save(tmp_path / "long.direction")
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "none.direction").write_bytes(b"no direction")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"source_sentences": CATS}, "got none in target_sentences"),
        ({"source_sentences": CATS, "target_sentences": DOGS, "direction": "x"}, "got both"),
        ({"direction": str(tmp_path / "other.direction")}, "of another model"),
        ({"direction": str(tmp_path / "long.direction")}, "over 32 tokens"),
        ({"direction": str(tmp_path / "none.direction")}, "expected a direction"),
        ({"direction": str(tmp_path / "missing.direction")}, "cannot read"),
        ({"source_sentences": str(tmp_path / "empty.txt"), "target_sentences": DOGS}, "got none"),
        ({"attention_guidance": -1.0}, "attention_guidance"),
    ]
    for told, said in wrong:
        with pytest.raises(OptionsError, match=said):
            made(model, source, **told)
    with pytest.raises(OptionsError, match="expected one target"):
        told = {"source_sentences": CATS, "target_sentences": DOGS}
        edit(model, source, [DOG, CAT], method="pix2pix_zero", options=told)
    with pytest.raises(PromptError):
        made(model, source, source_sentences=CATS, target_sentences=["dog " * 99])
    with pytest.raises(PromptError):
        made(model, source, DOG + " dog" * 100)


# Options ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_each_option_does_something_and_rows_are_counted(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    usual = made(model, source)
    told: dict[str, Any]
    for told in (
        {"attention_guidance": 1.0},
        {"attention_until": 0.4},
        {"held_maps": "source"},
        {"direction_scale": 0.5},
        {"sentences": "endings"},
        {"guidance_scale": 2.0},
        {"start": 0.3},
    ):
        assert not torch.equal(made(model, source, **told).trajectory, usual.trajectory), told
    with counting(model) as passed:
        rows = made(model, source, attention_until=0.4).report.unet_rows
    # The source's row and the target's for the maps in one step of three, and two rows in each step.
    assert rows == passed.rows == 2 + 3 * 2 and passed.with_gradient == 1


def test_sentences_end_in_many_ways_after_what_changes(tiny: Tiny) -> None:
    targets = ("a dog on a beach", "a red cat on a beach", "a cat on a beach at night")
    swap, colour, light = plan(tiny(), EditRequest(targets, parse(Options, {"sentences": "endings"}), CAT))
    assert swap.sentences is not None and colour.sentences is not None and light.sentences is not None
    assert list(zip(*swap.sentences, strict=True))[:2] == [
        ("a cat", "a dog"),
        ("a cat on a beach", "a dog on a beach"),
    ]
    assert ("a cat in a forest", "a red cat in a forest") in list(zip(*colour.sentences, strict=True))
    assert (
        light.sentences[1][0] == "a cat on a beach at night" and light.sentences[0][0] == "a cat on a beach"
    )


def test_without_a_change_the_straight_path_leads_back(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = invert(model, photo(), CAT, method="straight", options={"steps": 3})
    for told in ({"direction_scale": 0.0}, {}):
        result = made(model, source, DOG if told else CAT, **told)
        torch.testing.assert_close(result.trajectory[-1:], source.z_0, rtol=1e-9, atol=1e-9)


def test_strength_goes_from_the_source_to_the_whole_edit(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    nothing, whole = (
        edit(model, source, DOG, method="pix2pix_zero", strength=strength) for strength in (0.0, 1.0)
    )
    assert torch.equal(nothing.trajectory[-1:], source.z_0) and nothing.report.unet_rows == 0
    assert nothing.report.notices and torch.equal(whole.trajectory, made(model, source).trajectory)


def test_outside_of_a_mask_the_picture_is_put_back(tiny: Tiny) -> None:
    model = tiny()
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    source = invert(model, photo(), CAT, method="straight", options={"steps": 3})
    result = edit(model, source, DOG, method="pix2pix_zero", mask=mask)
    assert result.mask is not None and 0 < result.report.edited_share < 1
    for i, z in enumerate(result.trajectory):
        assert torch.equal(z[:, ~result.mask], source.states.at(i)[0][:, ~result.mask])
    assert not torch.equal(result.trajectory[-1:], source.z_0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["straight", "direct", "edict", "edit_friendly"])
def test_a_recording_saves_the_sources_rows_and_changes_nothing(kind: str, tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    skip = {} if kind in ("straight", "direct") else {"skip": 0.0}
    source = invert(model, photo(), CAT, method=kind, options={"steps": 3, **skip})
    plain = made(model, source)
    assert torch.isfinite(plain.trajectory).all()
    if kind == "edict":  # cannot be recorded
        return
    recorded = made(model, record(model, source, precision="full"))
    torch.testing.assert_close(recorded.trajectory, plain.trajectory, rtol=1e-9, atol=1e-9)
    assert recorded.report.unet_rows < plain.report.unet_rows


@pytest.mark.slow
def test_held_maps_keep_more_of_rendered_scenes() -> None:
    """The claim of the paper's figure 7: without cross-attention guidance the structure is lost."""
    model = Model.load("pocket", device="cpu")
    off: dict[float, list[float]] = {0.0: [], 1.0: []}
    for one in split(555, 3, "change object"):
        for rate, found in off.items():
            result = edit(
                model,
                one.picture,
                one.target_prompt,
                prompt=one.source_prompt,
                method="pix2pix_zero",
                options={"attention_guidance": rate},
            )
            truth = np.asarray(one.truth, float)
            found.append(float(np.square(np.asarray(result.rendering, float) - truth).mean()))
    assert np.mean(off[1.0]) < 0.8 * np.mean(off[0.0])
