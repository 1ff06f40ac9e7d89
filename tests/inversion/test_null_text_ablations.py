"""The paper's ablations of null-text inversion: each does what the paper says."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import reference
from wordbrush import edit
from wordbrush.denoise import denoise
from wordbrush.errors import OptionsError
from wordbrush.evaluation.bench.cases import split
from wordbrush.guidance import ProximalGuidance, TextGuidance
from wordbrush.images import to_tensor
from wordbrush.inversion import ddim
from wordbrush.inversion.null_text import method as null_text
from wordbrush.inversion.null_text.options import ABLATIONS, Options
from wordbrush.model import Conditioning, Model, TextEmbeds
from wordbrush.options import SolvedOptions, parse
from wordbrush.progress import Progress, drain
from wordbrush.sampling import initial_latents
from wordbrush.source import Source
from wordbrush.states import ProximalPath

Tiny = Callable[..., Model]
PROMPT, OTHER = "a cat on a beach", "a red dog in a forest"


def picture() -> torch.Tensor:
    return torch.rand(1, 3, 32, 24, generator=torch.Generator().manual_seed(4)) * 2 - 1


def invert(model: Model, see: Callable[[Progress], object] = lambda _: None, **options: Any) -> Source:
    settings = parse(Options, {"steps": 4, "guidance_scale": 5.0, **options})
    return drain(null_text.invert(model, picture(), PROMPT, settings), see)


def pivots(model: Model) -> torch.Tensor:
    """The states that the autoencoder's bound has: those of the way up."""
    return invert(model, ablation="autoencoder").trajectory


def objective(model: Model, path: torch.Tensor, null: TextEmbeds, text: TextEmbeds) -> float:
    """The sum of equation (1) over the steps, each begun at its pivot, with explicit ᾱ."""
    schedule, total = model.schedule(4), 0.0
    bars = reference.alphas(schedule)
    for i, t in enumerate(reference.timesteps(schedule)):
        z = path[i : i + 1]
        with torch.no_grad():
            away = reference.predict_eps(model, z, t, null)
            eps = away + 5.0 * (reference.predict_eps(model, z, t, text) - away)
        landed = reference.ddim_step(z, eps, bars[i], bars[i + 1])
        total += float((landed - path[i + 1]).square().mean())
    return total


def walked(model: Model, source: Source, text: TextEmbeds) -> torch.Tensor:
    given = reference.conditions(text, source.null)
    states = denoise(model, source.z_T, given, source.schedule, TextGuidance(5.0))
    return torch.cat([source.z_T, *(step.latents for step in states)])


@pytest.mark.parametrize("shape", ["sd1", pytest.param("sd2", marks=pytest.mark.slow), "sdxl"])
def test_a_global_null_embedding_is_one_for_all_steps(shape: str, tiny: Tiny) -> None:
    model = tiny(shape, torch.float64)
    source = invert(model, ablation="global-null", inner_steps=4, early_stop=0.0)
    path, text, none = pivots(model), model.encode_text([PROMPT]), model.encode_text([""])
    assert len(source.null) == 1 and not torch.equal(source.null.hidden, none.hidden)
    assert objective(model, path, source.null, text) < objective(model, path, none, text)
    torch.testing.assert_close(walked(model, source, text), source.trajectory, atol=1e-11, rtol=0)
    # Its first iteration is Adam's: each element moves by the rate at most.
    once = invert(model, ablation="global-null", inner_steps=1, learning_rate=0.02, early_stop=1e9)
    assert float((once.null.hidden - none.hidden).abs().max()) <= 4 * 0.02


def test_a_pivotal_caption_learns_by_the_same_objective(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("sd1", torch.float64)
    learned: list[TextEmbeds] = []
    reconstruct = null_text.ablations.reconstruct

    def seen(model: Model, source: Source, text: Conditioning, scale: float) -> Any:
        learned.append(text.text)
        return reconstruct(model, source, text, scale)

    monkeypatch.setattr(null_text.ablations, "reconstruct", seen)
    source = invert(model, ablation="pivotal-caption", inner_steps=4, early_stop=0.0)
    path, text, none = pivots(model), model.encode_text([PROMPT]), model.encode_text([""])
    assert torch.equal(source.null.hidden, none.hidden)
    assert objective(model, path, none, learned[0]) < objective(model, path, none, text)
    torch.testing.assert_close(walked(model, source, learned[0]), source.trajectory, atol=1e-11, rtol=0)


def test_textual_inversion_lowers_the_training_loss_and_follows_its_seed(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("sd1", torch.float64)
    learned: list[TextEmbeds] = []
    reconstruct = null_text.ablations.reconstruct

    def seen(model: Model, source: Source, text: Conditioning, scale: float) -> Any:
        learned.append(text.text)
        return reconstruct(model, source, text, scale)

    monkeypatch.setattr(null_text.ablations, "reconstruct", seen)
    options = {"ablation": "textual-inversion", "inner_steps": 6, "learning_rate": 0.05, "steps": 3}
    first, again, other = (invert(model, **options, ablation_seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.trajectory, again.trajectory)
    assert not torch.equal(first.trajectory, other.trajectory)
    z_0, draw = model.encode_image(picture()), torch.Generator().manual_seed(9)
    noise = torch.randn(z_0.shape, generator=draw, dtype=torch.float64)

    def loss(text: TextEmbeds) -> float:
        total = 0.0
        for t in range(100, 1000, 200):
            level = reference.level(model, t)
            with torch.no_grad():
                said = reference.predict_eps(model, level.mix(z_0, noise), t, text)
            total += float((said - noise).square().mean())
        return total

    assert loss(learned[0]) < loss(model.encode_text([PROMPT]))
    assert torch.equal(first.null.hidden, model.encode_text([""]).hidden)


def test_random_pivots_are_the_picture_under_one_noise(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = invert(model, ablation="random-pivot", inner_steps=1, ablation_seed=3)
    bars = reference.alphas(source.schedule)
    z_0, eps = model.encode_image(picture()), initial_latents(model, 3, 32, 24)
    first = bars[0] ** 0.5 * z_0 + (1 - bars[0]) ** 0.5 * eps
    torch.testing.assert_close(source.z_T, first, atol=1e-12, rtol=0)
    assert len(source.null) == 4
    # Without a step of its own it is guided DDIM from there.
    plain = invert(model, ablation="random-pivot", inner_steps=0, ablation_seed=3)
    path = walked(model, plain, model.encode_text([PROMPT]))
    torch.testing.assert_close(path, plain.trajectory, atol=1e-11, rtol=0)


def test_another_caption_stands_for_the_prompt_in_the_inversion_alone(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    given = {"inner_steps": 2, "guidance_scale": 5.0, "steps": 4}
    source = invert(model, ablation="random-caption", ablation_caption=OTHER, **given)
    other = drain(null_text.invert(model, picture(), OTHER, parse(Options, given)))
    assert torch.equal(source.trajectory, other.trajectory)
    assert torch.equal(source.null.hidden, other.null.hidden)
    assert source.prompt == PROMPT and other.prompt == OTHER


def test_the_autoencoders_bound_is_the_encoded_picture(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    seen: list[Progress] = []
    source = invert(model, seen.append, ablation="autoencoder")
    assert torch.equal(source.z_0, model.encode_image(picture()))
    assert sum(progress.rows for progress in seen) == 4


@pytest.mark.parametrize("ablation", ["global-null", "pivotal-caption", "textual-inversion"])
def test_its_rows_are_the_unets(ablation: str, tiny: Tiny) -> None:
    model = tiny("sd1")
    seen: list[Progress] = []
    with reference.counting(model) as passed:
        invert(model, seen.append, ablation=ablation, inner_steps=2)
    assert sum(progress.rows for progress in seen) == passed.rows
    assert sum(progress.gradient_rows for progress in seen) == passed.with_gradient == 8


def test_a_round_that_is_near_enough_is_the_last(tiny: Tiny) -> None:
    seen: list[Progress] = []
    invert(tiny("sd1"), seen.append, ablation="global-null", inner_steps=5, early_stop=1e9)
    assert sum(progress.gradient_rows for progress in seen) == 4


def test_the_embeddings_may_be_found_at_another_scale_than_edits_have(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = invert(model, source_guidance_scale=2.0, inner_steps=2)
    at_2 = invert(model, guidance_scale=2.0, inner_steps=2)
    assert torch.equal(source.trajectory, at_2.trajectory)
    assert (source.guidance_scale, at_2.guidance_scale) == (5.0, 2.0)
    assert edit(model, source, "a dog on a beach").report.guidance_scale == 5.0


def test_edits_after_it_may_be_proximal(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = invert(model, inner_steps=1, proximal="soft", proximal_quantile=0.6)
    plain = invert(model, inner_steps=1)
    assert isinstance(source.states, ProximalPath)
    assert torch.equal(source.trajectory, plain.trajectory)
    own = source.states.guidance(5.0)
    assert isinstance(own, ProximalGuidance) and own.is_soft and own.quantile == 0.6
    results = [edit(model, each, "a dog on a beach").trajectory for each in (source, plain)]
    assert (results[0] - results[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ablation": "random-caption"}, "random-caption needs a caption.*say ablation_caption"),
        (
            {"ablation_caption": OTHER},
            "ablation_caption is not read without an ablation, but by random-caption",
        ),
        (
            {"ablation_seed": 0},
            "ablation_seed is not read without an ablation.*random-pivot, textual-inversion",
        ),
        (
            {"ablation": "autoencoder", "inner_steps": 3},
            "inner_steps is not read by the ablation autoencoder",
        ),
        ({"ablation": "global-null", "early_stop_growth": 0.0}, "early_stop_growth is not read by"),
        ({"ablation": "textual-inversion", "early_stop": 0.0}, "early_stop is not read by"),
        (
            {"ablation": "random-pivot", "null_optimizer": "gauss-newton"},
            "random-pivot is of the published loop",
        ),
        ({"ablation": "random"}, "'ablation'"),
    ],
)
def test_options_that_an_ablation_does_not_read(options: dict[str, Any], says: str, tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=says):
        invert(tiny("sd1"), **options)


def test_every_ablation_is_an_option() -> None:
    for name in ABLATIONS:
        caption = {"ablation_caption": OTHER} if name == "random-caption" else {}
        assert null_text.decided(parse(Options, {"ablation": name, **caption})).ablation == name


@pytest.mark.slow
def test_on_a_rendered_scene_they_are_ordered_as_in_the_paper() -> None:
    """Figure 4: the autoencoder, null-text inversion, a random pivot, and a global null embedding and guided DDIM far
    behind. A random caption begins lower and rises fast."""
    model = Model.load("pocket", device="cpu")
    cases = split(777, 20)
    shown, other = cases[0], next(case for case in cases if case.scene != cases[0].scene)
    image = to_tensor(shown.picture)

    def error(z_0: torch.Tensor) -> float:
        return float(-10 * torch.log10(((model.decode(z_0) - image) / 2).square().mean()))

    def psnr(**options: Any) -> float:
        given = parse(Options, {"steps": 20, "guidance_scale": 7.5, **options})
        return error(drain(null_text.invert(model, image, shown.source_prompt, given)).z_0)

    caption = {"ablation": "random-caption", "ablation_caption": other.source_prompt}
    few = {"inner_steps": 3, "early_stop": 0.0}
    all_iterations = {**few, "early_stop_growth": 0.0}
    full, pivot = psnr(**all_iterations), psnr(**all_iterations, ablation="random-pivot")
    captions = [psnr(**{**all_iterations, **caption, "inner_steps": n}) for n in (1, 3)]
    shared = psnr(**few, ablation="global-null")
    given = SolvedOptions(steps=20, guidance_scale=7.5)
    guided = error(drain(ddim.invert(model, image, shown.source_prompt, given)).z_0)
    told = {"full": full, "pivot": pivot, "captions": captions, "one": shared, "ddim": guided}
    assert error(model.encode_image(image)) > full > pivot, told
    assert full > max(shared, guided) + 3 and shared > guided, told
    assert captions[1] > captions[0] + 3, told
