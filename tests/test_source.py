"""Sources: from a seed, and on disk."""

import hashlib
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageCms
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from safetensors.torch import save as to_safetensors

from reference import conditions
from teaching import concept
from wordbrush import apply, images, invert, record
from wordbrush.concept.weights import LowRank
from wordbrush.denoise import denoise
from wordbrush.errors import ModelError, NumericsError, OptionsError, OutputError, PromptError, SourceError
from wordbrush.guidance import TextGuidance
from wordbrush.inversion import METHODS
from wordbrush.model import Model
from wordbrush.progress import drain
from wordbrush.sampling import initial_latents, sample
from wordbrush.source import Source

Tiny, Seeded = Callable[..., Model], Callable[..., Source]
SHAPES = ["sd1", "sd2", "sdxl"]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_seed_is_a_source(shape: str, tiny: Tiny) -> None:
    model = tiny(shape)
    stages = []
    source = drain(sample(model, "a cat on a beach", 11, steps=3, guidance_scale=4.0), stages.append)
    assert [(p.stage, p.step, p.total) for p in stages] == [("generating", k, 3) for k in (1, 2, 3)]
    assert stages[1].preview is not None and stages[1].preview().size == (32, 32)
    assert source.trajectory.shape == (4, 4, 16, 16) and source.steps == 3
    assert torch.equal(source.z_T, initial_latents(model, 11, 32, 32))
    text, null = model.encode_text(["a cat on a beach"]), model.encode_text([""])
    loop = denoise(model, source.z_T, conditions(text, null), model.schedule(3), TextGuidance(4.0))
    assert torch.equal(source.trajectory[1:], torch.cat([step.latents for step in loop]))
    assert source.image(model).size == (32, 32)
    again = drain(sample(model, "a cat on a beach", 11, steps=3, guidance_scale=4.0))
    assert torch.equal(again.trajectory, source.trajectory)
    other = drain(sample(model, "a cat on a beach", 12, steps=3, guidance_scale=4.0))
    assert not torch.equal(other.z_T, source.z_T)


def test_pictures_need_not_be_square(tiny: Tiny) -> None:
    source = drain(sample(tiny("sd1"), "a cat", 0, steps=1, height=30, width=22))
    assert source.trajectory.shape[-2:] == (15, 11)
    assert source.image(tiny("sd1")).size == (22, 30)


def test_latents_keep_their_precision(tiny: Tiny) -> None:
    """Half precision is for the network: the loop's own sums are float32 at least."""
    for dtype, kept in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        source = drain(sample(tiny("sd1", dtype), "a cat", 0, steps=1))
        assert source.trajectory.dtype == kept
        picture = torch.zeros(1, 3, 32, 32)
        assert tiny("sd1", dtype).encode_image(picture).dtype == kept


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_named(seed: int, tiny: Tiny) -> None:
    with pytest.raises(OptionsError, match=f"seed must be between.*got {seed}"):
        drain(sample(tiny("sd1"), "a cat", seed, steps=1))
    assert initial_latents(tiny("sd1"), 2**63 - 1, 32, 32).shape == (1, 4, 16, 16)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"height": 31}, ModelError, "multiples of 2 px, got 32×31"),
        ({"width": 0}, ModelError, "got 0×32"),
        ({"height": -2}, ModelError, "multiples of 2"),
        ({"steps": 0}, OptionsError, "steps must be between 1 and 1000.*got 0"),
        ({"steps": 1001}, OptionsError, "got 1001"),
        ({"guidance_scale": float("nan")}, OptionsError, "between 0 and 100, got nan"),
        ({"guidance_scale": -1.0}, OptionsError, "between 0 and 100"),
        ({"prompt": " ".join(["cat"] * 40)}, PromptError, "from 'cat cat"),
    ],
)
def test_what_cannot_be_made_is_said(
    options: dict[str, object], kind: type[Exception], said: str, tiny: Tiny
) -> None:
    with pytest.raises(kind, match=said):
        drain(sample(tiny("sd1"), **{"prompt": "a cat", "seed": 0, "steps": 1, **options}))


def test_a_spoiled_weight_is_no_picture(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("sd1")
    bias = model.denoiser.unet.conv_out.bias
    with monkeypatch.context() as patch:
        patch.setattr(bias, "data", torch.full_like(bias, torch.nan))
        with pytest.raises(NumericsError, match="step 1 of 2"):
            drain(sample(model, "a cat", 0, steps=2))
    with pytest.raises(NumericsError, match="latents to decode"):
        model.decode(torch.full((1, 4, 16, 16), torch.nan))


# On disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_saved_is_loaded(shape: str, dtype: torch.dtype, tiny: Tiny, tmp_path: Path) -> None:
    model = tiny(shape, dtype)
    source = drain(sample(model, "a cat “on” a beach", 5, steps=2, guidance_scale=3.5))
    source = replace(source, null=model.encode_text(["", "a dog"]), method="null_text", options={"steps": 2})
    source.save(tmp_path / "cat.source")
    loaded = Source.load(tmp_path / "cat.source", model)
    assert torch.equal(loaded.trajectory, source.trajectory) and loaded.trajectory.dtype == dtype
    assert torch.equal(loaded.null.hidden, source.null.hidden)
    if shape == "sdxl":
        assert loaded.null.pooled is not None and source.null.pooled is not None
        assert torch.equal(loaded.null.pooled, source.null.pooled)
    else:
        assert loaded.null.pooled is None
    for name in ("prompt", "schedule", "guidance_scale", "method", "model_hash", "options", "steps"):
        assert getattr(loaded, name) == getattr(source, name)


def test_a_source_of_another_model_is_refused(tiny: Tiny, seeded: Seeded, tmp_path: Path) -> None:
    seeded("sd1", steps=1).save(tmp_path / "a.source")
    for other in (tiny("sd2", torch.float64), tiny("sd1", torch.float32)):
        with pytest.raises(SourceError, match=f"another model.*{other.name}"):
            Source.load(tmp_path / "a.source", other)
    Source.load(tmp_path / "a.source", tiny("sd1", torch.float64))


def test_a_damaged_source_is_refused(tiny: Tiny, seeded: Seeded, tmp_path: Path) -> None:
    model, path = tiny("sd1", torch.float64), tmp_path / "a.source"
    seeded("sd1", steps=1).save(path)
    whole = path.read_bytes()
    start = int.from_bytes(whole[:8], "little") + 8
    damaged = {
        "empty": b"",
        "cut in its header": whole[: start // 2],
        "cut in its tensors": whole[:-1],
        "lengthened": whole + b"\0",
        "one bit of a number": whole[: start + 100] + bytes([whole[start + 100] ^ 1]) + whole[start + 101 :],
        "its last bit": whole[:-1] + bytes([whole[-1] ^ 1]),
        "one letter of its prompt": whole.replace(b"a cat on", b"a bat on"),
        "another thing": b"\x89PNG\r\n" + bytes(100),
    }
    for what, content in damaged.items():
        assert content != whole, what
        path.write_bytes(content)
        with pytest.raises(SourceError, match="damaged|no wordbrush source"):
            Source.load(path, model)
    path.write_bytes(whole)
    Source.load(path, model)


def test_what_is_no_source_is_refused(tiny: Tiny, seeded: Seeded, tmp_path: Path) -> None:
    model = tiny("sd1", torch.float64)
    with pytest.raises(SourceError, match="there is no source file"):
        Source.load(tmp_path / "missing.source", model)
    with pytest.raises(SourceError, match="no wordbrush source"):
        Source.load(tmp_path, model)
    save_file({"weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(SourceError, match="is not a wordbrush source"):
        Source.load(tmp_path / "weights.safetensors", model)
    save_file({"weight": torch.zeros(3)}, tmp_path / "long.source", {"format": "x" * 10**4})
    with pytest.raises(SourceError, match="is not a wordbrush source") as caught:
        Source.load(tmp_path / "long.source", model)
    assert len(str(caught.value)) < 200 + len(str(tmp_path))
    seeded("sd1", steps=1).save(tmp_path / "a.source")
    tensors = load_file(tmp_path / "a.source")
    for header in ({}, [], {"prompt": "a cat"}):
        metadata = {"format": "wordbrush.source.1", "source": json.dumps(header)}
        save_file(tensors, tmp_path / "a.source", metadata)
        with pytest.raises(SourceError, match="damaged"):
            Source.load(tmp_path / "a.source", model)


def doctored(whole: Path, **changes: object) -> dict[str, Any]:
    """A source file with other entries in its header, or other tensors, and a checksum that fits."""
    with safe_open(whole, framework="pt") as file:
        header = json.loads(file.metadata()["source"])
    tensors = load_file(whole)
    for name, value in changes.items():
        name = name.replace("__", ".")
        (tensors if name in tensors else header)[name] = value
    text = json.dumps(header)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    digest = hashlib.sha256(text.encode() + to_safetensors(tensors)).hexdigest()
    return {
        "tensors": tensors,
        "metadata": {"format": "wordbrush.source.2", "source": text, "sha256": digest},
    }


DOCTORED: dict[str, Callable[[Source], dict[str, Any]]] = {
    "guidance below 0": lambda _: {"guidance_scale": -5},
    "guidance that is no number": lambda _: {"guidance_scale": "much"},
    "a timestep out of reach": lambda s: {"levels": [(10**6, x.signal, x.sigma) for x in s.schedule.levels]},
    "a timestep that is no whole number": lambda s: {
        "levels": [(x.t + 0.5, x.signal, x.sigma) for x in s.schedule.levels]
    },
    "a share above 1": lambda s: {"levels": [(x.t, 2.0, x.sigma) for x in s.schedule.levels]},
    "levels in the wrong order": lambda s: {
        "levels": [(x.t, x.signal, x.sigma) for x in reversed(s.schedule.levels)]
    },
    "a level of two numbers": lambda _: {"levels": [(1, 0.5), (0, 1.0)]},
    "one level": lambda s: {"levels": [(0, 1.0, 0.0)]},
    "a doubled trajectory": lambda s: {"trajectory": torch.cat([s.trajectory] * 2)},
    "a trajectory of another width": lambda s: {"trajectory": s.trajectory[:, :2]},
    "integers": lambda s: {"trajectory": s.trajectory.to(torch.int32)},
    "not a number": lambda s: {"trajectory": s.trajectory * math.nan},
    "null embeddings of another width": lambda s: {"null__hidden": s.null.hidden[..., :4]},
    "null embeddings of other steps": lambda s: {"null__hidden": s.null.hidden.repeat(9, 1, 1)},
    "states of an unknown kind": lambda _: {"states": "unknown"},
    "a prompt that is none": lambda _: {"prompt": 3},
    "options that are none": lambda _: {"options": [1]},
}


@pytest.mark.parametrize("name", DOCTORED)
def test_a_source_with_a_right_checksum_is_input_like_any_other(
    name: str, tiny: Tiny, seeded: Seeded, tmp_path: Path
) -> None:
    model, source, path = tiny("sd1", torch.float64), seeded("sd1", steps=2), tmp_path / "a.source"
    source.save(path)
    save_file(**doctored(path), filename=tmp_path / "same.source")
    assert torch.equal(Source.load(tmp_path / "same.source", model).trajectory, source.trajectory)
    save_file(**doctored(path, **DOCTORED[name](source)), filename=path)
    with pytest.raises(SourceError, match="is damaged"):
        Source.load(path, model)


Q = "query.down_blocks.0.attentions.0.transformer_blocks.0.attn2"
RECORDED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "reads that are none": lambda r: {"recording": {**r, "reads": [[True]]}},
    "reads of more parts": lambda r: {"recording": {**r, "reads": [[*reads, 1] for reads in r["reads"]]}},
    "reads of other kinds": lambda r: {"recording": {**r, "reads": [["x"] * 4 for _ in r["reads"]]}},
    "reads of fewer steps": lambda r: {"recording": {**r, "reads": r["reads"][:1]}},
    "reads of more steps": lambda r: {"recording": {**r, "reads": r["reads"] * 2}},
    "reads that were not recorded": lambda r: {
        "recording": {**r, "reads": [[True, *x[1:]] for x in r["reads"]]}
    },
    "fewer reads than recorded": lambda r: {"recording": {**r, "reads": [[False] * 2 + [0, 0]] * 2}},
    "no reads": lambda r: {"recording": {"options": r["options"]}},
    "options that are none": lambda r: {"recording": {**r, "options": [1]}},
    "a memory below 0": lambda r: {"recording": {**r, "options": {"memory": -1}}},
    "an unknown option": lambda r: {"recording": {**r, "options": {"magic": 1}}},
    "no mapping": lambda _: {"recording": [1]},
    "a query of another width": lambda _: {f"recording.0.{Q}": torch.zeros(1, 2, 256, 3)},
    "integers as a query": lambda _: {f"recording.0.{Q}": torch.zeros(1, 2, 256, 8, dtype=torch.int32)},
    "a query that is not a number": lambda _: {f"recording.0.{Q}": torch.full((1, 2, 256, 8), math.nan)},
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recording_in_a_file_is_input_like_any_other(
    name: str, tiny: Tiny, seeded: Seeded, tmp_path: Path
) -> None:
    model, path = tiny("sd1", torch.float64), tmp_path / "a.source"
    source = record(model, seeded("sd1", steps=2))
    source.save(path, recording=True)
    save_file(**doctored(path), filename=tmp_path / "same.source")
    assert Source.load(tmp_path / "same.source", model).recording is not None
    with safe_open(path, framework="pt") as file:
        found = json.loads(file.metadata()["source"])["recording"]
    changes = RECORDED[name](found)
    assert source.recording is not None
    tensors = source.recording.tensors
    assert changes.keys() <= {"recording", *(f"recording.{each}" for each in tensors)}
    save_file(**doctored(path, **changes), filename=path)
    with pytest.raises(SourceError, match="is damaged"):
        Source.load(path, model)


def test_saving_is_all_or_nothing(seeded: Seeded, tmp_path: Path) -> None:
    (tmp_path / "a.source").mkdir()
    with pytest.raises(OutputError, match="it is a folder"):
        seeded("sd1", steps=1).save(tmp_path / "a.source")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a.source"]


def test_a_file_of_another_kind_of_states_or_a_newer_version_is_refused(
    tiny: Tiny, seeded: Seeded, tmp_path: Path
) -> None:
    model, path = tiny("sd1", torch.float64), tmp_path / "a.source"
    seeded("sd1", steps=1).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"wordbrush.source.2", b"wordbrush.source.9"))
    with pytest.raises(SourceError, match="newer wordbrush.*format 9, this one reads up to 2"):
        Source.load(path, model)


VERSION_1 = Path(__file__).parent / "data" / "version-1.source"


@pytest.mark.filterwarnings("ignore:.*accelerate.*")
def test_the_first_version_of_the_file_still_loads() -> None:
    """Written by the first version: from_seed(pocket, "a cat on a beach", seed=7, steps=2)."""
    model = Model.load("pocket", device="cpu")
    source = Source.load(VERSION_1, model)
    assert (source.prompt, source.method, source.options) == ("a cat on a beach", "seed", {"seed": 7})
    assert source.schedule == model.schedule(2) and source.picture is None
    assert source.trajectory.sum().item() == pytest.approx(289.9149169921875)
    again = drain(sample(model, source.prompt, 7, steps=2))
    assert again.schedule == source.schedule and torch.equal(again.z_T, source.z_T)
    # Sums are taken in another order since: the last bits of float32.
    torch.testing.assert_close(again.trajectory, source.trajectory, atol=2e-5, rtol=0)


# The picture ------------------------------------------------------------------------------------------------


def test_a_source_keeps_the_file_that_it_was_made_of(tiny: Tiny, tmp_path: Path) -> None:
    """Bytes, name, colour profile, orientation and crop; from the file, and from the saved source."""
    model = tiny("sd1")
    image = Image.effect_noise((50, 30), 90).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "photo.jpg"
    image.save(path, exif=exif, icc_profile=profile)
    source = invert(model, path, "a cat", options={"steps": 1})
    source.save(tmp_path / "a.source")
    for each in (source, Source.load(tmp_path / "a.source", model)):
        picture = each.picture
        assert picture is not None
        assert picture.content == path.read_bytes() and picture.path == str(path)
        assert picture.orientation == 6 and picture.profile == profile
        assert picture.image.size == (30, 50) and picture.box == (0, 0, 30, 50)
        assert picture.image.tobytes() == images.load(path).tobytes()
        seen = images.to_image(picture.seen(32, 32)[0])
        assert seen.tobytes() == images.load(path).resize((32, 32), Image.Resampling.LANCZOS).tobytes()
        assert picture.notices == []
        part = picture.within((3.0, 4.0, 19.0, 20.0))
        assert images.to_image(part.seen(16, 16)[0]).tobytes() == picture.image.crop((3, 4, 19, 20)).tobytes()
        assert "sees 16 × 16 pixels at (3, 4)" in part.notices[0]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_a_picture_without_a_file_is_kept_too(mode: str, tiny: Tiny) -> None:
    image = Image.effect_noise((20, 44), 90).convert("RGB").convert(mode)
    picture = invert(tiny("sd1"), image, "a cat", options={"steps": 1}).picture
    assert picture is not None and picture.path is None and picture.orientation == 1
    assert picture.image.tobytes() == images.rgb(image).tobytes()
    assert picture.box == (0, 0, 20, 44)


def test_a_generated_source_has_no_picture(tiny: Tiny) -> None:
    assert drain(sample(tiny("sd1"), "a cat", 0, steps=1)).picture is None


# Concepts ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_source_says_with_which_concepts_it_was_made(tiny: Tiny, tmp_path: Path) -> None:
    base = tiny("sd1")
    saved = concept(base, weights=LowRank).save(tmp_path / "my cat.concept")
    model = apply(base, saved, strength=0.8)
    source = drain(sample(model, "<my-cat> on a beach", 3, steps=2))
    picture = images.to_image(torch.zeros(3, 32, 32))
    inverted = [
        invert(model, picture, "<my-cat> on a beach", method=method, options={"steps": 2})
        for method in METHODS
    ]
    for each in (source, *inverted):
        assert each.concepts == model.concepts
        each.save(tmp_path / "cat.source")
        again = Source.load(tmp_path / "cat.source", model)
        assert again.concepts == model.concepts and again.late(0.5, model).concepts == model.concepts
    typed = re.escape(f"--concept '{tmp_path}/my cat.concept=0.8'")
    with pytest.raises(SourceError, match=f"expected the concepts.*=0.8., got none: give {typed}"):
        Source.load(tmp_path / "cat.source", base)
    with pytest.raises(SourceError, match=f"got {re.escape(str(saved.record.path))}: give {typed}"):
        Source.load(tmp_path / "cat.source", apply(base, saved))
    with pytest.raises(SourceError, match=r"got a concept in memory: give"):
        source.check(apply(base, concept(base, ("<b>",))))
    retrained = concept(base, weights=LowRank, seed=1).save(tmp_path / "my cat.concept")
    with pytest.raises(
        SourceError, match=r"cat.concept is another file now, of other content: use the old one: give"
    ):
        source.check(apply(base, retrained, strength=0.8))


def test_a_source_without_concepts_is_no_source_of_a_model_that_has_some(tiny: Tiny) -> None:
    base = tiny("sd1")
    source = drain(sample(base, "a cat on a beach", 3, steps=2))
    with pytest.raises(
        SourceError, match=r"made with \(none\), got a concept in memory=2: leave --concept out"
    ):
        source.check(apply(base, concept(base), strength=2.0))
    source.check(apply(base, concept(base, (), weights=LowRank), strength=0.0))  # the weights are the base's


def test_the_same_concepts_on_another_base_are_not_the_difference(tiny: Tiny) -> None:
    own = concept(tiny("sd1"))
    source = drain(sample(apply(tiny("sd1"), own), "<my-cat>", 3, steps=1))
    with pytest.raises(SourceError, match="made with another model or dtype"):
        source.check(apply(tiny("sd2"), own))
    with pytest.raises(SourceError, match="one with 1: use model.with_chunks"):
        source.check(apply(tiny("sd1"), own).with_chunks(2))


def test_a_file_says_nothing_of_concepts_where_there_are_none(tiny: Tiny, tmp_path: Path) -> None:
    """The files of earlier versions, byte for byte."""
    drain(sample(tiny("sd1"), "a cat", 3, steps=1)).save(tmp_path / "cat.source")
    with safe_open(tmp_path / "cat.source", framework="pt") as file:
        assert "concepts" not in json.loads(file.metadata()["source"])
