"""The straight path: against an explicit restatement, and its laws."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import oracle
import reference
from wordbrush import edit, invert
from wordbrush.denoise import denoise
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.errors import OptionsError
from wordbrush.model import Conditioning, Model
from wordbrush.options import parse
from wordbrush.progress import drain
from wordbrush.rows import Rows
from wordbrush.sampling import initial_latents
from wordbrush.source import Source

Tiny = Callable[..., Model]
SHAPES = ("sd1", "sd2", "sdxl")
CAPTION, DOG, NIGHT = "a cat on a beach", "a dog on a beach", "a cat on a beach at night"
# Windows of the cross- and the self-attention, and a mask from the first steps on; no other option at work.
PLAIN: dict[str, Any] = {
    "cross_replace_steps": 0.6,
    "self_replace_steps": 0.4,
    "local_blend": ("cat", "dog"),
    "blend_start": 0.2,
    "blend_threshold": 0.7,
    "blend_difference": 0.0,
    "spare": (),
    "spare_threshold": 0.3,
    "hold": 0.0,
    "finish": 1.0,
}
PLAIN_OFF = PLAIN | {"local_blend": "off"}


def photo(seed: int = 0) -> Image.Image:
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.to(torch.uint8).numpy())


def inverted(model: Model, **options: Any) -> Source:
    return invert(model, photo(), CAPTION, method="straight", options={"steps": 6, **options})


def test_it_is_one_picture_and_one_noise_and_computes_nothing(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    rows: list[int] = []
    source = invert(
        model, photo(), CAPTION, method="straight", on_progress=lambda progress: rows.append(progress.rows)
    )
    assert rows == [0]
    assert [level.t for level in source.schedule.levels] == [999, 874, 749, 624, 499, 374, 249, 124, 0]
    assert source.schedule.levels[-1].signal == 1 and source.schedule.levels[-1].sigma == 0
    assert torch.equal(source.z_0, source.encoded(model))
    assert source.guidance_scale == 3 and source.method == "straight"
    other = inverted(model, noise_seed=5)
    assert not torch.equal(other.z_T, inverted(model).z_T) and torch.equal(other.z_0, source.z_0)
    torch.testing.assert_close(
        other.states.tensors()["noise"], initial_latents(model, 5, 32, 32).double(), atol=0, rtol=0
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [PLAIN, PLAIN_OFF], ids=["blended", "everywhere"])
def test_an_edit_equals_the_explicit_maps_and_the_formula(
    shape: str, options: dict[str, Any], tiny: Tiny
) -> None:
    model, prompts = tiny(shape, torch.float64), [CAPTION, DOG, NIGHT]
    source = inverted(model, guidance_scale=2.5)
    threshold = 0.9 if shape == "sdxl" else 0.7
    results = edit(model, source, prompts[1:], options=options | {"blend_threshold": threshold})
    tokenizer, length = model.text.tokenizers[0], model.tokens
    spans = [oracle.spans(tokenizer, prompt.split()) for prompt in prompts]
    alphas = oracle.word_alphas(6, length, (0.0, 0.6), [])
    swap = oracle.CrossEdit(alphas)
    swap.mapper = oracle.replace_mapper(spans[0], spans[1], [(i, i) for i in range(5)], length)
    added = oracle.CrossEdit(alphas)
    added.refine = oracle.refine_mapper(spans[0], spans[2], [(i, i) for i in range(5)], length)
    grid = (8, 8) if shape == "sdxl" else (16, 16)
    blend = None
    if options is PLAIN:
        column = torch.zeros(3, length, dtype=torch.float64)
        for i in range(3):
            column[i, spans[i][1]] = 1
        nothing = (torch.zeros(length), torch.zeros(length))
        pairs = [(column[0], column[1]), (column[0], column[2])]
        blend = oracle.Blend(pairs, [nothing] * 2, grid[0] * grid[1], grid, 1, threshold)
    control = oracle.Control(
        [swap, added], len(model.denoiser.unet.attn_processors), (0, 2), grid[0] * grid[1], blend
    )
    tensors = source.states.tensors()
    path, masks = oracle.straight(
        model, tensors["z_0"], tensors["noise"], prompts, control, steps=6, scale=2.5
    )
    for i, result in enumerate(results):
        torch.testing.assert_close(result.trajectory, path[:, i + 1], atol=1e-10, rtol=0)
        assert (result.trajectory[-1] - source.z_0[0]).abs().max() > 1e-3, "nothing was edited"
        if masks:
            assert result.report.edited_share == pytest.approx(float(masks[-1][i].double().mean()), abs=1e-6)
            assert 0.02 < result.report.edited_share < 1


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    scale=st.floats(0, 8),
    noise_seed=st.integers(0, 2**62),
    steps=st.integers(1, 6),
    targets=st.integers(1, 3),
)
def test_equal_captions_lead_back_for_any_network_noise_and_scale(
    shape: str, scale: float, noise_seed: int, steps: int, targets: int, tiny: Tiny
) -> None:
    """Run by the loop itself: an edit would see that nothing is asked for and not run."""
    model = tiny(shape, torch.float64)
    source = inverted(model, noise_seed=noise_seed, steps=steps)
    text = Conditioning(model.encode_text([CAPTION]))
    loop = denoise(
        model,
        source.z_T.expand(targets, -1, -1, -1),
        {"text": text},
        source.schedule,
        source.states.guidance(scale),
        rows=lambda _: Rows(targets, ("text",), source=True),
        source=source.row(model),
    )
    for step in loop:
        assert step.rows == 1 + targets
        # The rows are equal but for float64's last bits, which every step amplifies by the scale.
        state = source.states.at(step.index + 1).expand(targets, -1, -1, -1)
        torch.testing.assert_close(step.latents, state, atol=1e-8, rtol=0)


@pytest.mark.parametrize("method", ["straight", "direct", "ddim", "negative_prompt", "null_text"])
def test_after_every_inversion_equal_captions_give_the_encoded_picture_bit_for_bit(
    method: str, tiny: Tiny
) -> None:
    model = tiny("sd1", torch.float64)
    source = invert(model, photo(), CAPTION, method=method, options={"steps": 2})
    result = edit(model, source, CAPTION)
    assert torch.equal(result.trajectory[-1:], source.encoded(model))
    assert result.report.unet_rows == 0 and result.report.edited_share == 0
    assert any("say the same" in notice for notice in result.report.notices)


def test_several_targets_share_the_sources_row(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = inverted(model)
    for targets in ([DOG], [DOG, NIGHT, "a fox on a beach"]):
        results = edit(model, source, targets, options=PLAIN)
        assert {result.report.unet_rows for result in results} == {6 * (1 + len(targets))}


@pytest.mark.slow
def test_targets_whose_defaults_differ_are_the_edits_they_are_alone(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = inverted(model)
    targets = [
        DOG,
        "a red cat on a beach",
        CAPTION,
        "a cat and a dog on a beach",
        "a cat in a forest",
        "a fox on a beach",
        "a large cat on a beach",
        "a watercolor painting of a cat on a beach",
    ]
    together = edit(model, source, targets)
    assert len({result.report.details["change"] for result in together}) == 7
    for target, result in zip(targets, together, strict=True):
        alone = edit(model, source, target)
        torch.testing.assert_close(result.trajectory, alone.trajectory, atol=1e-9, rtol=0)
        assert result.report.edited_share == pytest.approx(alone.report.edited_share, abs=1e-6)


def test_it_is_finished_with_ordinary_guidance_in_a_mask_that_stays(tiny: Tiny) -> None:
    """Two rows a step from there on: no text, and the target; the outside is the source's own state."""
    model = tiny("sd1", torch.float64)
    source = inverted(model)
    steps = []
    loop = reference.prompt_to_prompt(
        model, source, [DOG], parse(Options, PLAIN | {"cross_replace_steps": 0.4, "finish": 0.5})
    )
    (result,) = drain(loop, lambda progress: steps.append(progress.rows))
    assert steps == [2, 2, 2, 2, 2, 2] and result.report.unet_rows == 12
    plain = edit(model, source, DOG, options=PLAIN | {"cross_replace_steps": 0.4})
    assert torch.equal(result.trajectory[:4], plain.trajectory[:4])
    assert (result.trajectory[-1] - plain.trajectory[-1]).abs().max() > 1e-3
    kept = [
        (result.trajectory[i] == source.states.at(i)[0]).all(0) for i in (3, 4, 5, 6)
    ]  # from the switch on the same places are the source's
    assert all(torch.equal(kept[0], later) for later in kept[1:])
    assert 0.02 < kept[0].double().mean() < 0.98
    # By hand, from the switch: eps_∅ + s (eps_text − eps_∅) at the model's own scale.
    z, null = result.trajectory[3:4], model.encode_text([""])
    text, scale = model.encode_text([DOG]), model.defaults.guidance_scale
    for i in (3, 4, 5):
        here, to = source.schedule.levels[i : i + 2]
        with torch.no_grad():
            free = reference.predict_eps(model, z, here.t, null)
            eps = free + scale * (reference.predict_eps(model, z, here.t, text) - free)
        moved = reference.ddim_step(z, eps, here.signal**2, to.signal**2)
        z = torch.where(kept[0], source.states.at(i + 1), moved)
        torch.testing.assert_close(result.trajectory[i + 1 : i + 2], z, atol=1e-9, rtol=0)


def test_a_mask_that_starts_after_the_finish_starts_just_before(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    late = PLAIN | {"finish": 0.5, "blend_start": 0.9}
    result = edit(model, inverted(model), DOG, options=late)
    assert 0.02 < result.report.edited_share < 0.98


@pytest.mark.slow
def test_hold_weighs_the_difference_where_the_things_that_stay_are(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source, forest = inverted(model), "a cat in a forest"
    free, held, tight = (
        edit(model, source, forest, options=PLAIN_OFF | {"hold": hold}) for hold in (0.0, 0.5, 1.0)
    )
    change = [(one.trajectory[-1] - source.z_0[0]).abs().mean() for one in (free, held, tight)]
    assert change[0] > change[1] > change[2] > 0
    # Nothing is held where no thing stays.
    for hold in (0.0, 0.9):
        other = edit(model, source, "a dog in a forest", options=PLAIN_OFF | {"hold": hold})
        assert (other.trajectory[-1] - source.z_0[0]).abs().max() > 1e-3
    with pytest.raises(OptionsError, match="straight path"):
        edit(
            model,
            invert(model, photo(), CAPTION, method="direct", options={"steps": 2}),
            forest,
            options={"hold": 0.5},
        )


def test_what_changed_little_is_kept(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    shares = [
        edit(model, inverted(model), DOG, options=PLAIN_OFF | {"blend_difference": share}).report.edited_share
        for share in (0.0, 0.3, 0.6, 0.9)
    ]
    assert shares[0] == 1 and shares == sorted(shares, reverse=True) and 0 < shares[-1] < shares[1]


def test_a_given_scale_is_not_overruled_by_the_words(tiny: Tiny) -> None:
    model, red = tiny("sd1", torch.float64), "a red cat on a beach"
    assert edit(model, inverted(model), red).report.guidance_scale == 2  # chosen for colours
    assert edit(model, inverted(model, guidance_scale=4.0), red).report.guidance_scale == 4
    assert edit(model, inverted(model), red, options={"guidance_scale": 5.0}).report.guidance_scale == 5


def test_it_is_saved_and_loaded(tiny: Tiny, tmp_path: Any) -> None:
    model = tiny("sd1", torch.float64)
    source = inverted(model, noise_seed=3)
    source.save(tmp_path / "a.source")
    again = Source.load(tmp_path / "a.source", model)
    assert again.states.kind == "straight" and again.options == source.options
    assert torch.equal(edit(model, again, DOG).trajectory[-1], edit(model, source, DOG).trajectory[-1])
