"""LEDITS++ against its equations, written again in float64 with explicit attention maps, and what it makes of words."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import oracle
from wordbrush import edit, from_seed, invert
from wordbrush.editing.ledits_pp.concepts import concepts
from wordbrush.editing.ledits_pp.method import above
from wordbrush.editing.ledits_pp.options import Options
from wordbrush.errors import OptionsError, PromptError
from wordbrush.evaluation.bench.cases import split
from wordbrush.model import Model
from wordbrush.options import parse
from wordbrush.schedule import Level, training_alphas_cumprod
from wordbrush.words import align

Tiny = Callable[..., Model]
CAT, DOG = "a cat on a beach", "a dog on a beach"


def mean(z: Tensor, clean: list[Tensor], levels: list[Level], order: int) -> Tensor:
    """μ of SDE-DPM-Solver++ as its paper writes it, with λ = log(signal / sigma). levels: of the step before, of this
    one and of the next; clean: what was predicted before each step, order: 1 or 2M."""
    before, here, to = levels
    if to.sigma == 0:
        return to.signal * clean[-1]
    lam = [math.log(level.signal / level.sigma) for level in levels]
    h, data = lam[2] - lam[1], clean[-1]
    if order == 2 and before is not here:
        r = (lam[1] - lam[0]) / h
        data = (1 + 1 / (2 * r)) * clean[-1] - 1 / (2 * r) * clean[-2]
    return to.sigma / here.sigma * math.exp(-h) * z + to.signal * (1 - math.exp(-2 * h)) * data


def highest(x: Tensor, share: float) -> Tensor:
    """1 at and above the quantile, linear between two values as numpy's."""
    return (x >= float(np.quantile(x.numpy(), share))).double()


@dataclass
class Asked:
    """A concept: its text, the words of that and of the reference that say where it is, and its numbers."""

    text: str
    words: list[str]
    before: list[str]
    direction: int
    scale: float
    threshold: float
    warmup: float = 0.0


class Explicit:
    """The method's equations once more."""

    def __init__(self, model: Model, levels: list[Level], reference: str, order: int) -> None:
        self.model, self.levels, self.order = model, levels, order
        self.reference = reference
        self.rows, self.kept = 0, list[Tensor]()

    def around(self, i: int) -> list[Level]:
        """The levels of a step and the one before, which the first and the last step do not read."""
        first = 0 < i < len(self.levels) - 2
        return [self.levels[i - 1] if first else self.levels[i], self.levels[i], self.levels[i + 1]]

    def eps(self, z: Tensor, i: int, text: str) -> tuple[Tensor, list[Tensor]]:
        self.kept.clear()
        self.rows += 1
        said = oracle.predict(self.model, z, self.levels[i].t, self.model.encode_text([text]))
        return said, list(self.kept)

    def clean(self, z: Tensor, eps: Tensor, i: int) -> Tensor:
        return (z - self.levels[i].sigma * eps) / self.levels[i].signal

    def edited(self, path: list[Tensor], asked: list[Asked], positions: int) -> Tensor:
        unet = self.model.denoiser.unet
        before = dict(unet.attn_processors)

        def see(maps: Tensor, is_cross: bool) -> Tensor:
            if is_cross and maps.shape[2] == positions:
                self.kept.append(maps[0].clone())
            return maps

        noises: list[Tensor] = []
        seen: list[Tensor] = []
        steps = len(self.levels) - 1
        try:
            unet.set_attn_processor(oracle.ExplicitAttention(see))  # type: ignore[arg-type]
            for i in range(steps):
                seen.append(self.clean(path[i], self.eps(path[i], i, self.reference)[0], i))
                noises.append(path[i + 1] - mean(path[i], seen, self.around(i), self.order))
            z = path[0]
            seen.clear()
            for i in range(steps):
                base, own = self.eps(z, i, self.reference)
                guided = base
                for one in asked:
                    if i / steps >= one.warmup:
                        said, its = self.eps(z, i, one.text)
                        psi = one.direction * (said - base)
                        heat = self.heat(its, one.text, one.words, z)
                        heat = heat + self.heat(own, self.reference, one.before, z)
                        looks = F.interpolate(highest(heat, one.threshold), size=z.shape[-2:])
                        where = looks * highest(psi.abs().sum(1, keepdim=True), one.threshold)
                        guided = guided + one.scale * where * psi
                seen.append(self.clean(z, guided, i))
                z = mean(z, seen, self.around(i), self.order) + noises[i]
            return z
        finally:
            unet.set_attn_processor(before)

    def heat(self, maps: list[Tensor], text: str, words: list[str], z: Tensor) -> Tensor:
        """The maps of some words, averaged over heads and layers and blurred; 0 without words."""
        height, width = z.shape[-2:]
        stacked = torch.cat(maps)
        while height * width > stacked.shape[1]:
            height, width = (height + 1) // 2, (width + 1) // 2
        heat = torch.zeros(1, 1, height, width).double()
        if words:
            every = oracle.spans(self.model.text.tokenizers[0], text.split())
            tokens = [token for word in words for token in every[text.split().index(word)]]
            heat = stacked[:, :, tokens].sum(-1).mean(0).view(1, 1, height, width)
        across = torch.tensor([math.exp(-0.5 * (x / 0.5) ** 2) for x in (-1, 0, 1)]).double()
        kernel = across[:, None] * across / across.sum() ** 2
        return F.conv2d(F.pad(heat, (1, 1, 1, 1), mode="reflect"), kernel[None, None])


def noised(z_0: Tensor, levels: list[Level], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    path = [z_0]
    for level in levels[-2::-1]:
        noise = torch.randn(z_0.shape, generator=generator).double()
        path.insert(0, level.signal * z_0 + level.sigma * noise)
    return path


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "size", "order"),
    [
        ("sd1", (32, 32), 2),
        pytest.param("sd1", (32, 32), 1, marks=pytest.mark.slow),
        pytest.param("sd2", (48, 32), 2, marks=pytest.mark.slow),
        pytest.param("sdxl", (32, 48), 2, marks=pytest.mark.slow),
    ],
)
def test_it_is_its_equations(shape: str, size: tuple[int, int], order: int, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = from_seed(model, CAT, steps=5, height=size[0], width=size[1])
    levels = list(source.schedule.late(0.2, training_alphas_cumprod(model.schedule_config)).levels)
    path = noised(source.z_0, levels, 5)
    told: dict[str, Any] = {"start": 0.2, "solver_order": order, "redraw_seed": 5}
    told |= {"edit_guidance_scale": 4.0, "edit_threshold": 0.6}
    positions = model.map_positions(source.latent_size)

    own = {"word_guidance": {"cat": 2.0}, "word_thresholds": {"cat": 0.3}, "word_warmups": {"cat": 0.3}}
    result = edit(model, source, DOG, method="ledits_pp", options={**told, **own})
    assert result.report.details["concepts"] == ["+ dog ×4 above 0.6 from 0", "− cat ×2 above 0.3 from 0.3"]
    asked = [Asked("dog", ["dog"], [], 1, 4.0, 0.6), Asked("cat", ["cat"], [], -1, 2.0, 0.3, 0.3)]
    alone = Explicit(model, levels, "", order)
    z = alone.edited(path, asked, positions)
    torch.testing.assert_close(result.trajectory[-1:], z, rtol=1e-7, atol=1e-7)
    assert result.report.unet_rows == alone.rows

    both = "a dog on a beach at night"
    in_captions = {
        "concept_text": "caption",
        "word_guidance": {"night": 1.5},
        "word_thresholds": {"night": 0.2},
    }
    result = edit(model, source, both, method="ledits_pp", options={**told, **in_captions})
    asked = [
        Asked(DOG, ["dog"], ["cat"], 1, 4.0, 0.6),
        Asked("a cat on a beach at night", ["night"], [], 1, 1.5, 0.2),
    ]
    beside = Explicit(model, levels, CAT, order)
    z = beside.edited(path, asked, positions)
    torch.testing.assert_close(result.trajectory[-1:], z, rtol=1e-7, atol=1e-7)
    assert result.report.unet_rows == beside.rows == 5 + 3 * 5


@pytest.mark.parametrize(("steps", "order"), [(1, 2), (5, 1), (5, 2)])
def test_concepts_of_scale_0_lead_back_to_the_picture(steps: int, order: int, tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = from_seed(model, CAT, steps=steps)
    for told in ({}, {"concept_text": "caption"}, {"start": 0.999}):
        options = {"edit_guidance_scale": 0.0, "solver_order": order, **told}
        result = edit(model, source, DOG, method="ledits_pp", options=options)
        torch.testing.assert_close(result.trajectory[-1:], source.z_0, rtol=1e-9, atol=1e-9)


def test_the_words_say_which_concepts(tiny: Tiny) -> None:
    model = tiny()

    def found(target: str, source: str = "a red cat next to a dog on a beach", **told: Any) -> list[str]:
        options = parse(Options, {"edit_guidance_scale": 5.0, **told})
        (every,) = concepts(model, [align(model.read(source), model.read(target))], options)
        return [f"{each.name} {each.scale:g} {each.threshold:g} {each.warmup:g}" for each in every]

    assert found("a red cat next to a horse on a beach") == ["+ horse 5 0.9 0", "− dog 5 0.9 0"]
    assert found("a red cat on a beach") == ["− dog 5 0.9 0"]
    assert found("a red cat next to a blue dog on a beach") == ["+ blue dog 5 0.9 0"]
    assert found("a cat next to a dog on a beach") == ["− red cat 5 0.9 0"]
    assert found("a red cat next to a dog in a forest") == ["+ forest 5 0 0", "− beach 5 0 0"]
    assert found("a cat under a dog", "a cat on a dog") == [
        "+ a cat under a dog 5 0 0",
        "− a cat on a dog 5 0 0",
    ]
    several = found("a blue cat next to a horse on a beach at night", edit_warmup=0.1)
    assert {*several} == {"+ night 5 0 0.1", "+ horse 5 0.9 0.1", "+ blue cat 5 0.9 0.1", "− dog 5 0.9 0.1"}
    own = found(
        "a red cat next to a horse on a beach",
        add=("horse", "sunglasses"),
        remove="nothing",
        word_guidance={"horse": 9.0},
        word_thresholds={"sunglasses": 0.95},
        word_warmups={"sunglasses": 0.2},
    )
    assert own == ["+ horse 9 0.9 0", "+ sunglasses 5 0.95 0.2"]
    assert found("a red cat next to a dog on a beach") == []


def test_each_concept_may_have_a_caption_of_its_own(tiny: Tiny) -> None:
    model = tiny()

    def found(target: str, source: str = "a red cat next to a dog on a beach") -> list[tuple[str, ...]]:
        options = parse(Options, {"edit_guidance_scale": 5.0, "concept_text": "caption"})
        (every,) = concepts(model, [align(model.read(source), model.read(target))], options)
        texts = ([word.text for word in words] for each in every for words in (each.before, each.about))
        assert [each.direction for each in every] == [1] * len(every)
        looks = list(map(" ".join, texts))
        return [(each.name, each.prompt.prompt, *looks[2 * i : 2 * i + 2]) for i, each in enumerate(every)]

    horse = ("dog → horse", "a red cat next to a horse on a beach", "dog", "horse")
    assert found("a red cat next to a horse on a beach") == [horse]
    night = ("+ night", "a red cat next to a dog on a beach at night", "", "night")
    assert found("a red cat next to a horse on a beach at night") == [horse, night]
    assert found("a red cat on a beach") == [("− dog", "a red cat on a beach", "dog", "")]
    blue = "a red cat next to a blue dog on a beach"
    assert found(blue) == [("dog → blue dog", blue, "dog", "blue dog")]
    assert [entry[1:] for entry in found("a cat under a dog", "a cat on a dog")] == [
        ("a cat under a dog", "", "")
    ]
    moved = "a mosaic of a cat in the snow"  # the alignment takes the first "a" of one for that of the other
    assert {entry[1] for entry in found(moved, CAT)} == {moved}


def test_captions_that_say_the_same_change_nothing(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    result, other = edit(model, source, [CAT, DOG], method="ledits_pp")
    assert torch.equal(result.trajectory, source.trajectory) and result.report.edited_share == 0
    assert "no concept" in result.report.notices[0]
    assert not torch.equal(other.trajectory[-1:], source.z_0) and not other.report.notices
    alone = edit(model, source, CAT, method="ledits_pp")
    assert alone.report.unet_rows == 0
    (whole,) = edit(model, source, [DOG], method="ledits_pp", options={"start": 1.0})
    assert torch.equal(whole.trajectory, source.trajectory) and "strength 0" in whole.report.notices[0]
    named = edit(model, source, CAT, method="ledits_pp", options={"add": ["sunglasses"]})
    assert not torch.equal(named.trajectory[-1:], source.z_0) and not named.report.notices
    assert [name for name, _ in named.shown_maps()] == ["+ sunglasses"]


@pytest.mark.slow
def test_every_option_does_something(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=4)

    def made(**told: Any) -> Tensor:
        return edit(model, source, DOG, method="ledits_pp", options=told).trajectory[-1]

    plain = made()
    assert torch.equal(plain, made(edit_guidance_scale=5.0, concept_text="alone", edit_threshold=0.9))
    assert torch.equal(plain, made(add=("dog",), remove=("cat",)))
    for told in (
        {"add": ("horse",)},
        {"remove": "nothing"},
        {"concept_text": "caption"},
        {"edit_guidance_scale": 3.0},
        {"word_guidance": {"dog": 3.0}},
        {"edit_threshold": 0.5},
        {"word_thresholds": {"cat": 0.5}},
        {"edit_warmup": 0.5},
        {"word_warmups": {"dog": 0.5}},
        {"implicit_masks": "attention"},
        {"implicit_masks": "difference"},
        {"implicit_masks": "none"},
        {"solver_order": 1},
        {"start": 0.5},
        {"redraw_seed": 1},
    ):
        assert not torch.equal(plain, made(**told)), told


def test_outside_of_a_mask_the_picture_is_put_back(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=3)
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 24))
    result = edit(model, source, DOG, method="ledits_pp", mask=mask)
    assert result.mask is not None and 0 < result.report.edited_share < 1
    end, kept = result.trajectory[-1], ~result.mask
    torch.testing.assert_close(end[:, kept], source.z_0[0][:, kept], atol=1e-5, rtol=1e-5)
    assert all(not heat[~result.mask].any() for heat in result.maps.values())


def test_a_quantile_leaves_its_share_alone() -> None:
    maps = torch.arange(100.0).view(1, 1, 10, 10)
    assert int(above(maps, 0.9, (10, 10)).sum()) == 10 and bool(above(maps, 0.0, (10, 10)).all())
    assert above(maps, 0.5, (20, 30)).shape == (1, 1, 20, 30)


def test_what_does_not_work_is_said(tiny: Tiny) -> None:
    model = tiny()
    source = from_seed(model, CAT, steps=2)

    def told(**options: Any) -> None:
        edit(model, source, DOG, method="ledits_pp", options=options)

    with pytest.raises(PromptError, match="expected a word of one of the concepts"):
        told(word_guidance={"beach": 2.0})
    with pytest.raises(PromptError, match="concept's words"):
        told(add=("",))
    with pytest.raises(OptionsError, match="expected 'alone' beside concepts that are named"):
        told(add=("sunglasses",), concept_text="caption")
    with pytest.raises(OptionsError, match="solver_order"):
        told(solver_order=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["change object", "change colour", "change place"])
def test_edits_are_nearer_to_the_rendered_truth_than_the_picture(kind: str) -> None:
    model = Model.load("pocket", device="cpu")
    for one in split(555, 2, kind):
        source = invert(model, one.picture, one.source_prompt, method="straight")
        result = edit(model, source, one.target_prompt, method="ledits_pp")
        ours = np.asarray(result.image, float)
        off = [
            float(np.abs(ours - np.asarray(picture, float)).mean()) for picture in (one.picture, one.truth)
        ]
        assert off[1] < off[0], one.name
