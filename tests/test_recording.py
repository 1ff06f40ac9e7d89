"""Recorded sources: the same edits, without the source's row."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import reference
import wordbrush
from wordbrush import images, recording
from wordbrush.attention import Heads, Site, plain
from wordbrush.editing.prompt_to_prompt.defaults import readable
from wordbrush.editing.prompt_to_prompt.options import Options
from wordbrush.errors import NumericsError, OptionsError, SourceError
from wordbrush.model import Conditioning, Model
from wordbrush.options import RecordOptions, parse
from wordbrush.progress import Progress, drain
from wordbrush.recording import Reads, Recording
from wordbrush.result import Result
from wordbrush.sampling import recorded
from wordbrush.source import Source

Tiny, Seeded = Callable[..., Model], Callable[..., Source]
SHAPES = ["sd1", "sd2", "sdxl"]
PROMPT, DOG, NIGHT = "a cat on a beach", "a dog on a beach", "a cat on a beach at night"
FULL = {"precision": "full"}


@cache
def made(model: Model, kind: str, steps: int = 4) -> Source:
    """A source from a seed, or of a picture by that inversion."""
    if kind == "seed":
        return wordbrush.from_seed(model, PROMPT, seed=7, steps=steps)
    noise = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 2 - 1
    return wordbrush.invert(model, noise, PROMPT, method=kind, options={"steps": steps})


def kept(source: Source) -> Recording:
    assert source.recording is not None
    return source.recording


def run(
    model: Model, source: Source, targets: Sequence[str], options: dict[str, Any]
) -> tuple[list[Result], int]:
    """The results, and the rows that went through the UNet."""
    with reference.counting(model) as passed:
        results = drain(reference.prompt_to_prompt(model, source, targets, parse(Options, options)))
    return results, passed.rows


def branches(source: Source, options: dict[str, Any]) -> int:
    """The rows of a target in all steps."""
    guidance = source.states.guidance(options.get("guidance_scale", source.guidance_scale))
    return sum(len(guidance.branches(i / source.steps)) for i in range(source.steps))


NO_BLEND = {"local_blend": "off", "blend_difference": 0.0, "hold": 0.0, "finish": 1.0}
KINDS: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "replace": ((DOG,), {**NO_BLEND, "self_replace_steps": 0.0}),
    "refine": ((NIGHT,), {**NO_BLEND, "word_edit": "refine"}),
    "reweight": ((NIGHT,), {**NO_BLEND, "reweight": {"night": 3.0, "beach": -0.5}}),
    "local blend": (
        (DOG,),
        {"finish": 1.0, "blend_threshold": 0.7, "spare": ("beach",), "spare_threshold": 0.95},
    ),
    "self-injection": ((DOG,), {**NO_BLEND, "self_replace_steps": 0.4, "self_limit": 64}),
    "several targets": ((DOG, NIGHT, "a fox on a beach"), {"finish": 1.0, "blend_threshold": 0.7}),
    "no guidance": ((DOG, NIGHT), {**NO_BLEND, "guidance_scale": 1.0}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "origin"),
    [*((s, o) for s in SHAPES for o in ("seed", "straight")), ("sd1", "direct"), ("sd1", "edit_friendly")],
)
def test_an_edit_of_a_recorded_source_is_the_edit_without_the_sources_row(
    shape: str, origin: str, kind: str, tiny: Tiny
) -> None:
    model = tiny(shape, torch.float64)
    source, (targets, options) = made(model, origin, 3), KINDS[kind]
    if kind == "several targets" and origin == "straight":
        options = {**options, "cross_replace_steps": 0.5, "self_replace_steps": 0.4, "hold": 0.3}
        options |= {"blend_difference": 0.1, "blend_start": 0.2}  # one batch
    plainly, before = run(model, source, targets, options)
    with_recording = wordbrush.record(model, source, **FULL)
    results, rows = run(model, with_recording, targets, options)
    own = branches(source, options) * len(targets)
    assert rows == own == results[0].report.unet_rows
    assert before > own, "without a recording the source is computed"
    for one, other in zip(results, plainly, strict=True):
        torch.testing.assert_close(one.trajectory, other.trajectory, atol=1e-10, rtol=0)
        assert (one.trajectory[-1] - source.z_0[0]).abs().max() > 1e-3, "nothing was edited"
        assert one.mask is not None and other.mask is not None and torch.equal(one.mask, other.mask)
        assert one.report.notices == other.report.notices


@pytest.mark.parametrize("origin", ["seed", "straight", "direct"])
@pytest.mark.parametrize("shape", SHAPES)
def test_in_float32_too(shape: str, origin: str, tiny: Tiny) -> None:
    model = tiny(shape)
    source = made(model, origin)
    options = {
        "blend_threshold": 0.7,
        "guidance_scale": 1.5,
        "finish": 1.0,
    }  # little that makes last bits larger
    (plainly,), _ = run(model, source, [DOG], options)
    (result,), _ = run(model, wordbrush.record(model, source, **FULL), [DOG], options)
    # On the straight path last bits are divided by the first levels' signal.
    atol = 1e-4 if origin == "straight" else 2e-5
    torch.testing.assert_close(result.trajectory, plainly.trajectory, atol=atol, rtol=0)


@pytest.mark.parametrize("origin", ["seed", "straight"])
@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (
            {**NO_BLEND, "cross_replace_steps": 1.0, "self_replace_steps": 0.0},
            (4,),
        ),  # ⌊0.8·(5 + 1)⌋ = 4 is the end
        ({**NO_BLEND, "cross_replace_steps": (0.5, 1.0), "self_replace_steps": 0.0}, (4,)),
        ({**NO_BLEND, "cross_replace_steps": 0.0, "self_replace_steps": (0.8, 1.0)}, (4,)),
        ({**NO_BLEND, "self_replace_steps": (0.2, 0.4), "self_limit": 10**6}, (1,)),
        ({**NO_BLEND, "cross_replace_steps": 0.5, "self_replace_steps": (0.2, 0.4), "self_limit": 10}, ()),
    ],
)
def test_what_is_not_recorded_is_computed(
    origin: str, options: dict[str, Any], missing: Sequence[int], tiny: Tiny
) -> None:
    """Windows and sites beyond the defaults': the source's row is there in those steps, and the edit is the same."""
    model = tiny("sd1", torch.float64)
    source = made(model, origin, steps=5)
    (plainly,), before = run(model, source, [DOG], options)
    (result,), rows = run(model, wordbrush.record(model, source, **FULL), [DOG], options)
    assert rows == branches(source, options) + len(missing) == result.report.unet_rows <= before
    torch.testing.assert_close(result.trajectory, plainly.trajectory, atol=1e-10, rtol=0)
    assert (result.trajectory[-1] - source.z_0[0]).abs().max() > 1e-3, "nothing was edited"


def test_an_edit_that_reads_nothing_but_its_own_maps(tiny: Tiny) -> None:
    """Without guidance and without the source no other row is in the batch."""
    model = tiny("sd1", torch.float64)
    options = {**NO_BLEND, "guidance_scale": 1.0, "self_replace_steps": 0.0, "cross_replace_steps": 0.0}
    options |= {"word_steps": {"night": 1.0}, "reweight": {"night": 3.0}, "word_edit": "refine"}
    (result,), rows = run(model, made(model, "seed"), [NIGHT], options)
    assert rows == 4 and result.report.edited_share == 1


@pytest.mark.parametrize("half", [True, False])
def test_a_recording_is_made_in_one_row_a_step_and_again_bit_for_bit(half: bool, tiny: Tiny) -> None:
    model = tiny("sd1")
    source = made(model, "straight")
    seen: list[Progress] = []
    with reference.counting(model) as passed:
        first = wordbrush.record(model, source, precision="half" if half else "full", on_progress=seen.append)
    assert passed.rows == 4 and [(p.stage, p.step, p.total, p.rows) for p in seen] == [
        ("recording", i, 4, 1) for i in (1, 2, 3, 4)
    ]
    assert source.recording is None and first.prompt == source.prompt
    again = wordbrush.record(model, first, precision="half" if half else "full")  # and of a recorded source
    one, two = kept(first).tensors, kept(again).tensors
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    types = {tensor.dtype for name, tensor in one.items() if not name.endswith(("clean", "noise"))}
    assert types == {torch.float16 if half else torch.float32}
    assert kept(first).prediction(0) is not None and one["0.clean"].dtype == torch.float32
    assert kept(wordbrush.record(model, made(model, "seed"))).prediction(0) is None  # nothing reads it


def test_half_precision_stays_the_models_own(tiny: Tiny) -> None:
    model = tiny("sd1", torch.bfloat16)
    tensors = kept(wordbrush.record(model, made(model, "seed", steps=1))).tensors
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_what_half_precision_is_too_small_for_is_said(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("sd1")
    source = made(model, "seed", steps=1)
    query = Heads.query
    monkeypatch.setattr(Heads, "query", lambda self, rows=slice(None): query(self, rows) * 1e6)
    with pytest.raises(NumericsError, match="float16 is too small.*'full'"):
        wordbrush.record(model, source)
    wordbrush.record(model, source, **FULL)


@pytest.mark.parametrize(
    ("shape", "size"),
    [("sd1", (16, 16)), ("sd1", (15, 9)), ("sd2", (16, 24)), ("sdxl", (13, 22))],
)
def test_the_sites_are_those_that_the_network_attends(shape: str, size: tuple[int, int], tiny: Tiny) -> None:
    model = tiny(shape)
    seen: dict[Site, tuple[int, int]] = {}

    def attend(site: Site, step: int, heads: Heads) -> torch.Tensor:
        query = heads.query()
        assert query.shape[2] == site.positions
        seen[site] = query.shape[1], query.shape[3]
        return plain(site, step, heads)

    text = Conditioning(model.encode_text(["a cat"]))
    model.predict(torch.zeros(1, 4, *size), model.schedule(1).levels[0], text, attend=attend)
    assert model.denoiser.sites(size) == seen


def test_what_is_read_covers_what_it_names() -> None:
    every = Reads(prediction=True, cross=True, maps=64, self_limit=64)
    parts = [Reads(), Reads(prediction=True), Reads(cross=True), Reads(maps=64), Reads(self_limit=64)]
    for part in parts:
        assert every.covers(part) and part.covers(part) and part.covers(Reads())
        assert bool(part) == (part != Reads())
        assert not part.covers(every)
    for one in parts[1:]:
        others = [other for other in parts[1:] if other != one and one.covers(other)]
        assert others == ([Reads(maps=64)] if one.cross else [])  # all cross sites, those of the maps too
    assert not Reads(maps=64).covers(Reads(maps=16)) and not Reads(self_limit=63).covers(parts[-1])
    assert Reads(self_limit=64).covers(Reads(self_limit=16))
    large, small = Site("a", True, 8, 8), Site("a", False, 4, 4)
    assert parts[3].has(large) and not parts[4].has(large) and parts[2].has(large)
    assert parts[4].has(small) and not parts[2].has(small) and not Reads(self_limit=15).has(small)


# Memory -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["seed", "straight"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.8, 1.0])
def test_a_recording_stays_within_its_memory(
    origin: str, share: float, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("sd1", torch.float64)
    source, options = made(model, origin, steps=5), {**NO_BLEND, "cross_replace_steps": 0.8}
    whole = wordbrush.record(model, source, **FULL)
    bound = int(kept(whole).size * share)
    monkeypatch.setattr(recording, "_MB", bound)
    part = wordbrush.record(model, source, memory=1, **FULL)
    assert kept(part).size <= bound
    assert kept(part).notices == [] if share == 1 else "more memory" in kept(part).notices[0]
    if share == 0.5:
        assert 0 < kept(part).share < 0.9
        assert kept(part).reads[0] == kept(whole).reads[0], "early steps come first"
    if share == 1:
        assert kept(part).size == bound and kept(part).share == 1
    (plainly,), before = run(model, source, [DOG], options)
    (result,), rows = run(model, part, [DOG], options)
    assert rows == result.report.unet_rows <= before and (rows < before) == (share >= 0.5)
    torch.testing.assert_close(result.trajectory, plainly.trajectory, atol=1e-10, rtol=0)


def test_steps_that_do_not_fit_are_not_computed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("sd1")
    source = made(model, "seed")
    monkeypatch.setattr(recording, "_MB", 0)
    with reference.counting(model) as passed:
        nothing = kept(wordbrush.record(model, source))
    assert passed.rows == 0 and nothing.tensors == {} and nothing.share == 0


def test_wrong_options_are_named(tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match="'memory'.*greater than or equal to 1, got 0"):
        wordbrush.record(tiny("sd1"), made(tiny("sd1"), "seed", 1), memory=0)
    with pytest.raises(OptionsError, match="'precision'.*'half' or 'full'"):
        parse(RecordOptions, {"precision": "quarter"})


# Whose it is ------------------------------------------------------------------------------------------------


def test_a_recording_is_for_its_model(tiny: Tiny, tmp_path: Path) -> None:
    model, other = tiny("sd1"), tiny("sd1", torch.float64)
    source = wordbrush.record(model, made(model, "seed", 1))
    with pytest.raises(SourceError, match="another model"):
        wordbrush.edit(other, source, DOG)
    with pytest.raises(SourceError, match="another model"):
        wordbrush.record(other, source)
    source.save(tmp_path / "a.source", recording=True)
    with pytest.raises(SourceError, match="another model"):
        Source.load(tmp_path / "a.source", other)


def test_two_edits_of_one_recording_in_turn_give_what_each_gives_alone(tiny: Tiny) -> None:
    model = tiny("sd1", torch.float64)
    source = wordbrush.record(model, made(model, "straight"))
    alone = [wordbrush.edit(model, source, target) for target in (DOG, NIGHT)]
    loops = [reference.prompt_to_prompt(model, source, [target], Options()) for target in (DOG, NIGHT)]
    ends: dict[int, Result] = {}
    while len(ends) < 2:
        for i, loop in enumerate(loops):
            try:
                next(loop)
            except StopIteration as end:
                ends.setdefault(i, end.value[0] if end.value else ends.get(i))
    for i in (0, 1):
        assert torch.equal(ends[i].trajectory, alone[i].trajectory)


# On disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("origin", ["seed", "straight"])
def test_a_recording_is_saved_when_asked(shape: str, origin: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(shape)
    source = made(model, origin)
    recorded_source = wordbrush.record(model, source, memory=7)
    source.save(tmp_path / "plain.source")
    recorded_source.save(tmp_path / "without.source")
    recorded_source.save(tmp_path / "with.source", recording=True)
    source.save(tmp_path / "nothing.source", recording=True)
    for name in ("without", "nothing"):
        assert (tmp_path / f"{name}.source").read_bytes() == (tmp_path / "plain.source").read_bytes()
    loaded = Source.load(tmp_path / "with.source", model)
    assert kept(loaded).options == RecordOptions(memory=7)
    assert kept(loaded).reads == kept(recorded_source).reads
    one, two = kept(loaded).tensors, kept(recorded_source).tensors
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    results = [wordbrush.edit(model, each, DOG) for each in (loaded, recorded_source)]
    assert torch.equal(results[0].trajectory, results[1].trajectory)
    assert results[0].report.unet_rows == results[1].report.unet_rows
    loaded.save(tmp_path / "again.source", recording=True)
    assert (tmp_path / "again.source").read_bytes() == (tmp_path / "with.source").read_bytes()


# Replay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["seed", "picture", "saved", "saved with its recording", "no longer used"])
def test_an_edit_of_a_recorded_source_is_made_again(start: str, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny("sd1")
    Image.effect_noise((32, 32), 90).convert("RGB").save(tmp_path / "photo.png")
    source = made(model, "seed")
    if start != "seed":
        options = {"steps": 3}
        source = wordbrush.invert(model, tmp_path / "photo.png", PROMPT, method="straight", options=options)
    source = wordbrush.record(model, source, memory=5, **FULL)
    if start not in ("seed", "picture"):
        source.save(tmp_path / "photo.source", recording=start != "saved")
        source = Source.load(tmp_path / "photo.source", model)
        if start == "saved":
            source = wordbrush.record(model, source, memory=5, **FULL)
    if start == "no longer used":
        source = replace(source, recording=None)
    results = wordbrush.edit(model, source, [DOG, NIGHT])
    results[1].save(tmp_path / "night.png")
    record = images.read_provenance(tmp_path / "night.png")["source"]
    said = None if start == "no longer used" else {"memory": 5, "precision": "full"}
    assert record.get("recording") == said
    stages: list[str] = []
    again = wordbrush.replay(
        tmp_path / "night.png", model=model, on_progress=lambda progress: stages.append(progress.stage)
    )
    assert again.differences == () and again.image.tobytes() == results[1].image.tobytes()
    assert ("recording" in stages) == (start in ("seed", "picture", "saved"))


def test_a_record_of_a_recording_with_default_options_says_so(tiny: Tiny) -> None:
    model = tiny("sd1")
    source = made(model, "seed", 1)
    plainly, result = (
        images.read_provenance(wordbrush.edit(model, each, DOG).image)["source"]
        for each in (source, wordbrush.record(model, source))
    )
    assert "recording" not in plainly and result["recording"] == {}


def test_a_spoiled_record_of_a_recording_is_refused(tiny: Tiny) -> None:
    model = tiny("sd1")
    picture = wordbrush.edit(model, wordbrush.record(model, made(model, "seed", 1)), DOG).image
    record = images.read_provenance(picture)
    for spoiled in ({"memory": 10**9}, [1], True):
        record["source"]["recording"] = spoiled
        picture.info["wordbrush"] = json.dumps(record)
        with pytest.raises(OptionsError, match="cannot be replayed.*recording"):
            wordbrush.replay(picture, model=model)


# The built-in model -----------------------------------------------------------------------------------------

EDITS = {
    "swap": "a dog on a beach",
    "recolour": "a red cat on a beach",
    "add": "a cat and a ball on a beach",
    "remove": "a beach",
    "place": "a cat in the snow",
    "style": "a pencil sketch of a cat on a beach",
}
CAT = Path(__file__).parents[1] / "examples" / "cat.png"


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["straight", "seed"])
def test_half_precision_changes_no_pixel_by_more_than_a_grey_level(origin: str) -> None:
    model = Model.load("pocket", device="cpu")
    if origin == "seed":
        source = wordbrush.from_seed(model, PROMPT, seed=7, steps=20)
    else:
        source = wordbrush.invert(model, CAT, PROMPT)
    with_recording = wordbrush.record(model, source)
    for kind, target in EDITS.items():
        plainly, result = (wordbrush.edit(model, each, target) for each in (source, with_recording))
        assert result.report.details["change"] == kind
        one, other = (np.asarray(each.image).astype(int) for each in (plainly, result))
        assert np.abs(one - other).max() <= 1, kind
        assert result.report.unet_rows < plainly.report.unet_rows
        assert result.report.notices == plainly.report.notices


@pytest.mark.slow
def test_a_picture_that_cannot_be_drawn_is_told_from_its_recording() -> None:
    """The notice follows from what the network predicts for the source."""
    model = Model.load("pocket", device="cpu")
    noise = Image.effect_noise((128, 128), 250).convert("RGB")
    source = wordbrush.invert(model, noise, PROMPT)
    options = {"cross_replace_steps": 0.0, "self_replace_steps": 0.0, "local_blend": "off"}
    for each in (source, wordbrush.record(model, source)):
        notices = wordbrush.edit(model, each, DOG, options=options).report.notices
        assert any("cannot draw this picture" in notice for notice in notices)


@pytest.mark.slow
def test_the_defaults_read_no_more_than_is_recorded(tiny: Tiny) -> None:
    """Whatever the words ask for, with default options every step finds the source in the recording."""
    model = Model.load("pocket", device="cpu")
    source = wordbrush.record(model, wordbrush.invert(model, CAT, PROMPT))
    assert kept(source).reads == tuple(readable(model, source))
    for target in EDITS.values():
        (request,) = drain(reference.prompt_to_prompt(model, replace(source), [target], Options()))
        finish = request.report.details["chosen"].get("finish", 1.0)
        alone, both = int(finish * source.steps), source.steps - int(finish * source.steps)
        assert request.report.unet_rows == alone + 2 * both
    drained = drain(recorded(model, source, [Reads()] * source.steps, RecordOptions()))
    assert kept(drained).tensors == {} and kept(drained).size == 0
