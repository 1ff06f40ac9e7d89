"""A concept's file: what goes in comes out, and what is none is refused."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from teaching import concept
from wordbrush.concept import Base, Concept, Placeholder, TrainingPicture, Use, applied
from wordbrush.concept.concept import words_of
from wordbrush.concept.weights import Difference, Full, LowRank, Shut, tensors
from wordbrush.errors import ConceptError, OutputError
from wordbrush.inputs import sha256
from wordbrush.model import Model

Tiny = Callable[..., Model]


def preview(colour: str = "red") -> bytes:
    file = BytesIO()
    Image.new("RGB", (8, 8), colour).save(file, "PNG")
    return file.getvalue()


def whole(model: Model, weights: type | None = LowRank) -> Concept:
    """A concept that has everything."""
    return replace(
        concept(model, ("<my-cat>", "<grün>"), weights=weights, vectors=2, seed=3),
        pictures=(TrainingPicture(name="1.png", sha256="0" * 64),),
        previews=(preview(), preview("blue")),
        options={"steps": 10, "learning_rate": 5e-4, "words": ["a", "b"], "nothing": None},
    )


def parts(concept: Concept) -> dict[str, torch.Tensor]:
    found = {f"{name} {own}": each for name, c in concept.weights.items() for own, each in tensors(c).items()}
    for token, own in concept.placeholders.items():
        found |= {f"{token} {i}": each for i, each in enumerate(own.vectors)}
        found |= {f"{token} before {i}": each for i, each in enumerate(own.initial or ())}
    return found


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
@pytest.mark.parametrize("kind", [None, LowRank, Difference, Full, Shut])
def test_a_concept_comes_back_bit_for_bit(shape: str, kind: type | None, tiny: Tiny, tmp_path: Path) -> None:
    before = whole(tiny(shape), kind)
    saved = before.save(tmp_path / "my.concept")
    after = Concept.load(tmp_path / "my.concept")
    assert parts(after).keys() == parts(before).keys()
    for name, own in parts(before).items():
        assert parts(after)[name].dtype == own.dtype and torch.equal(parts(after)[name], own), name
    for name in ("method", "prompt", "base", "options", "seed", "pictures", "previews"):
        assert getattr(after, name) == getattr(before, name), name
    assert list(after.placeholders) == ["<my-cat>", "<grün>"] and after.placeholders["<grün>"].count == 2
    assert {name: each.kind for name, each in after.weights.items()} == {
        name: each.kind for name, each in before.weights.items()
    }
    assert after.preview is not None and after.preview.getpixel((0, 0)) == (255, 0, 0)
    assert saved.file == after.file == after.record and after.record.sha256 == sha256(tmp_path / "my.concept")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_file_keeps_the_types_of_its_tensors(dtype: torch.dtype, tiny: Tiny, tmp_path: Path) -> None:
    before = replace(concept(tiny()), weights={"unet.a": Full(torch.randn(3, 3).to(dtype))})
    before.save(tmp_path / "my.concept")
    after = parts(Concept.load(tmp_path / "my.concept"))["unet.a weight"]
    assert after.dtype == dtype and torch.equal(after, parts(before)["unet.a weight"])


def test_equal_concepts_make_equal_files(tiny: Tiny, tmp_path: Path) -> None:
    one, two = whole(tiny()), whole(tiny())
    two = replace(two, weights=dict(reversed(list(two.weights.items()))))
    one.save(tmp_path / "one.concept")
    two.save(tmp_path / "two.concept")
    Concept.load(tmp_path / "one.concept").save(tmp_path / "again.concept")
    contents = {(tmp_path / f"{name}.concept").read_bytes() for name in ("one", "two", "again")}
    assert len(contents) == 1
    replace(one, seed=4).save(tmp_path / "other.concept")
    assert (tmp_path / "other.concept").read_bytes() not in contents


def test_a_concept_in_memory_has_the_hash_of_its_file(tiny: Tiny, tmp_path: Path) -> None:
    before = whole(tiny())
    assert before.record.path is None
    assert before.record.sha256 == before.save(tmp_path / "my.concept").record.sha256


def test_a_file_that_cannot_be_written_is_said(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a folder"):
        concept(tiny()).save(tmp_path)


def test_words_are_read_from_the_header_alone(tiny: Tiny, tmp_path: Path) -> None:
    whole(tiny()).save(tmp_path / "my.concept")
    assert words_of(tmp_path / "my.concept") == ("<my-cat>", "<grün>")
    content = bytearray((tmp_path / "my.concept").read_bytes())
    content[-1] ^= 1
    (tmp_path / "my.concept").write_bytes(content)
    assert words_of(tmp_path / "my.concept") == ("<my-cat>", "<grün>")


@pytest.mark.parametrize("text", ['{"placeholders": [1]}', "[" * 100_000, "word", "[]", '{"a": NaN}'])
def test_what_is_no_concept_has_no_words(text: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.concept", {"concept": text})
    (tmp_path / "text.concept").write_text(text)
    assert words_of(tmp_path / "odd.concept") == words_of(tmp_path / "text.concept") == ()
    assert words_of(tmp_path) == words_of(tmp_path / "none.concept") == ()


# Files that are none ----------------------------------------------------------------------------------------


def refused(path: Path, why: str) -> None:
    with pytest.raises(ConceptError, match=why):
        Concept.load(path)


@pytest.fixture
def file(tiny: Tiny, tmp_path: Path) -> Path:
    whole(tiny()).save(tmp_path / "my.concept")
    return tmp_path / "my.concept"


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.concept", "there is no concept file")
    refused(tmp_path, "is damaged or no wordbrush concept")


def test_wherever_a_file_is_cut_it_is_damaged(file: Path) -> None:
    content = file.read_bytes()
    for length in [0, 1, 7, 8, 100, *range(200, len(content), len(content) // 20), len(content) - 1]:
        file.write_bytes(content[:length])
        refused(file, "my.concept is damaged or no wordbrush concept")


def test_whatever_bit_of_a_file_turns_it_is_damaged(file: Path) -> None:
    content = file.read_bytes()
    for place in range(8, len(content), len(content) // 60):
        file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        refused(file, "my.concept")


def rewritten(file: Path, tensors: dict[str, torch.Tensor] | None = None, **changed: Any) -> None:
    """Write the file with a changed header and a checksum that fits: as from somewhere else."""
    from wordbrush.concept.concept import _checksum

    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    header = json.dumps({**json.loads(metadata["concept"]), **changed})
    own = load_file(file) | (tensors or {})
    metadata |= {"concept": header, "sha256": _checksum(header, own)}
    save_file(own, file, metadata)


def test_a_rewritten_file_is_one(file: Path) -> None:
    rewritten(file, seed=5)
    assert Concept.load(file).seed == 5


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"previews": 3}, "previews.2"),
        ({"previews": 10**9}, "previews"),
        ({"placeholders": ["<other>"]}, "expected vectors for '<other>'"),
        ({"placeholders": [1]}, "placeholders"),
        ({"weights": {"unet.no": "full"}}, "is damaged"),
        ({"weights": {"unet.no": "loha"}}, "expected a weight kept as"),
        ({"base": {"name": "a", "more": 1}}, "base.more"),
        ({"options": []}, "options"),
        ({"prompt": None}, "prompt"),
        ({"pictures": [{"name": "a"}]}, "sha256"),
    ],
)
def test_a_header_that_says_something_else_is_refused(file: Path, changed: dict[str, Any], why: str) -> None:
    rewritten(file, **changed)
    refused(file, why)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_numbers_that_are_none_are_refused(file: Path, value: float) -> None:
    name = "placeholders.<my-cat>.vectors.0"
    rewritten(file, {name: torch.full_like(load_file(file)[name], value)})
    refused(file, "is damaged: placeholders.<my-cat>.vectors.0 is not finite")


@pytest.mark.parametrize(
    ("places", "why"),
    [
        (torch.tensor([0.0, 1.0]), "a list of int32 places of shut entries, got torch.float32"),
        (torch.tensor([0, 1]), "got torch.int64"),
        (torch.zeros(1, 1).int(), r"got torch.int32 of shape \(1, 1\)"),
        (torch.tensor([1, 0]).int(), "places of shut entries that rise from 0, each once"),
        (torch.tensor([1, 1]).int(), "places of shut entries that rise"),
        (torch.tensor([-1, 1]).int(), "places of shut entries that rise"),
    ],
)
def test_shut_entries_that_are_none_are_refused(
    places: torch.Tensor, why: str, tiny: Tiny, tmp_path: Path
) -> None:
    file = tmp_path / "my.concept"
    own = concept(tiny(), weights=Shut)
    own.save(file)
    rewritten(file, {f"weights.{next(iter(own.weights))}.indices": places})
    refused(file, why)


def test_shut_entries_that_the_model_does_not_have_are_refused(tiny: Tiny, tmp_path: Path) -> None:
    file = tmp_path / "my.concept"
    own = concept(tiny(), (), weights=Shut)
    own.save(file)
    rewritten(file, {f"weights.{next(iter(own.weights))}.indices": torch.tensor([2**31 - 1]).int()})
    with pytest.raises(ConceptError, match="does not fit this model: expected places of shut entries below"):
        applied(tiny(), [Use(Concept.load(file))])


def test_vectors_of_other_shapes_are_refused(file: Path) -> None:
    rewritten(file, {"placeholders.<my-cat>.initial.0": torch.zeros(1, 24)})
    refused(file, "expected vectors for '<my-cat>', as many for each text encoder")


def test_a_file_of_a_newer_version_and_one_of_another_kind(file: Path, tmp_path: Path) -> None:
    own = load_file(file)
    save_file(own, file, {"format": "wordbrush-concept.3"})
    refused(file, r"written by a newer wordbrush \(format 3, this one reads up to 2\): update wordbrush")
    save_file(own, file, {"format": "wordbrush.source.2"})
    refused(file, "is not a wordbrush concept .its format is 'wordbrush.source.2'.: convert it first")
    save_file(own, file)
    refused(file, "is not a wordbrush concept")
    (tmp_path / "pickle.concept").write_bytes(b"\x80\x04.")
    refused(tmp_path / "pickle.concept", "is damaged or no wordbrush concept")


def test_tensors_that_share_memory_are_written_each(tmp_path: Path) -> None:
    row = torch.randn(2, 24)
    shared = Concept("x", "<a>", Base(), {"<a>": Placeholder((row,), (row,))}).save(tmp_path / "a.concept")
    apart = Concept("x", "<a>", Base(), {"<a>": Placeholder((row,), (row.clone(),))})
    assert shared.record.sha256 == apart.record.sha256
    assert torch.equal(Concept.load(tmp_path / "a.concept").placeholders["<a>"].vectors[0], row)
