"""Pickles: what they hold is read, and nothing that they ask for is done."""

import os
import pickle
import subprocess
import sys
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from wordbrush.concept import exchange
from wordbrush.concept.exchange import pickles, sandbox
from wordbrush.concept.weights import Full, LowRank
from wordbrush.errors import ConceptError
from wordbrush.model import Model

pytestmark = pytest.mark.slow  # each opens a process that imports torch

Tiny = Callable[..., Model]
L = torch.randn(2, 24)
LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"


def read(value: Any, path: Path, model: Model, **options: Any) -> Any:
    """A value that torch pickles, read as a concept."""
    torch.save(value, path, **options)
    folder = path.parent / "opened"
    folder.mkdir()
    return exchange.read(exchange.unpickled(path, folder), model)


def a1111() -> dict[str, Any]:
    return {
        "string_to_token": {"*": 265},
        "string_to_param": {"*": L},
        "name": "my-cat",
        "step": 500,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }


def rinongal() -> dict[str, Any]:
    parameters = torch.nn.ParameterDict({"*": torch.nn.Parameter(L)})
    return {"string_to_token": {"*": torch.tensor(265)}, "string_to_param": parameters}


WORDS = {
    "embeddings_gs-500.pt": (rinongal, "<embeddings_gs-500>"),
    "my-cat.pt": (a1111, "<my-cat>"),
    "learned_embeds.bin": (lambda: {"<cat>": L}, "<cat>"),
}


@pytest.mark.parametrize(
    ("name", "zipped"), [*((name, True) for name in WORDS), ("embeddings_gs-500.pt", False)]
)
def test_words_in_pickles(tiny: Tiny, tmp_path: Path, name: str, zipped: bool) -> None:
    make, token = WORDS[name]
    concept = read(make(), tmp_path / name, tiny("sd1"), _use_new_zipfile_serialization=zipped)
    assert list(concept.placeholders) == [token]
    assert torch.equal(concept.placeholders[token].vectors[0], L)


def test_custom_diffusion_of_its_authors(tiny: Tiny, tmp_path: Path) -> None:
    weight = torch.randn(16, 24)
    value = {"unet": {LAYER: weight}, "modifier_token": {"<new1>": L[0]}}
    concept = read(value, tmp_path / "delta.bin", tiny("sd1"))
    assert concept.method == "custom_diffusion" and list(concept.placeholders) == ["<new1>"]
    change = concept.weights[f"unet.{LAYER}"]
    assert isinstance(change, Full) and torch.equal(change.weight, weight)


def test_compressed_custom_diffusion_is_a_difference_of_low_rank(tiny: Tiny, tmp_path: Path) -> None:
    u, v = torch.randn(16, 3), torch.randn(3, 24)
    concept = read({"unet": {LAYER: {"u": u, "v": v}}}, tmp_path / "delta.bin", tiny("sd1"))
    change = concept.weights[f"unet.{LAYER}"]
    assert isinstance(change, LowRank)
    torch.testing.assert_close(change.delta(torch.zeros(16, 24)), u @ v)


def test_words_beside_a_pickle_are_opened_as_well(tiny: Tiny, tmp_path: Path) -> None:
    torch.save({"<new1>": L[0]}, tmp_path / "<new1>.bin")
    name = LAYER.replace("to_k.weight", "processor.to_k_custom_diffusion.weight")
    concept = read(
        {name: torch.randn(16, 24)}, tmp_path / "pytorch_custom_diffusion_weights.bin", tiny("sd1")
    )
    assert list(concept.placeholders) == ["<new1>"] and len(concept.weights) == 1


# Hostile files -------------------------------------------------------------------------------------------


class Calls:
    """Something whose pickle calls a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def refused(path: Path, match: str) -> None:
    folder = path.parent / "opened"
    folder.mkdir()
    with pytest.raises(ConceptError, match=match):
        exchange.unpickled(path, folder)
    assert not list(folder.iterdir())


@pytest.mark.parametrize(
    ("function", "argument", "zipped"),
    [(os.system, "touch {}", True), (os.system, "touch {}", False), (exec, "open('{}', 'w')", True)],
    ids=["system", "old format", "exec"],
)
def test_a_call_is_refused(tmp_path: Path, function: Any, argument: str, zipped: bool) -> None:
    harm = tmp_path / "harm"
    value = {"<cat>": L, "x": Calls(function, argument.format(harm))}
    torch.save(value, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    refused(tmp_path / "x.pt", r"it wants to use \w+\.\w+, which is no tensor")
    assert not harm.exists()


def test_a_bare_pickle_is_refused(tmp_path: Path) -> None:
    harm = tmp_path / "harm"
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Calls(os.system, f"touch {harm}"), protocol=2))
    assert exchange.is_pickle(tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "expected tensors alone")
    assert not harm.exists()


def test_a_memory_bomb_is_ended(tmp_path: Path) -> None:
    """A tensor of one number that says it is of a million million: its copy would be."""
    torch.save({"<cat>": torch.zeros(1).expand(10**12)}, tmp_path / "x.pt")
    assert (tmp_path / "x.pt").stat().st_size < 5000
    refused(tmp_path / "x.pt", "memory")


def test_what_never_ends_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mapping with itself twice in each of thirty levels."""
    monkeypatch.setattr(pickles, "SECONDS", 5)
    value: dict[str, Any] = {"end": L}
    for _ in range(30):
        value = {"a": value, "b": value}
    torch.save(value, tmp_path / "x.pt")
    start = time.monotonic()
    refused(tmp_path / "x.pt", "too much time or memory")
    assert time.monotonic() - start < 120


def test_a_circle_and_a_depth_are_refused(tmp_path: Path) -> None:
    value: dict[str, Any] = {}
    value["x"] = value
    torch.save(value, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "deep")


@pytest.mark.parametrize(
    "value",
    [{"x": [L]}, {"a.b": L, "a": {"b": L}}, OrderedDict(x=1)],
    ids=["list", "twice", "none"],
)
def test_what_is_no_mapping_of_tensors_is_refused(tmp_path: Path, value: Any) -> None:
    torch.save(value, tmp_path / "x.pt")
    refused(tmp_path / "x.pt", "neither tensor|two of its tensors|no tensors")


def test_a_program_of_torch_is_refused(tmp_path: Path) -> None:
    torch.save({"<cat>": L}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("x/constants.pkl", b"")
    refused(tmp_path / "x.pt", "it is a program")


@pytest.mark.parametrize("content", [b"\x80\x02", b"PK\x03\x04"])
def test_damaged_files_are_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    refused(tmp_path / "x.pt", "expected tensors alone")


def test_a_pickle_is_not_read_as_it_is(tiny: Tiny, tmp_path: Path) -> None:
    torch.save({"<cat>": L}, tmp_path / "x.safetensors")
    with pytest.raises(ConceptError, match="--allow-pickle"):
        exchange.read(tmp_path / "x.safetensors", tiny("sd1"))


def test_programs_sockets_and_files_end_the_process(tmp_path: Path) -> None:
    """The program's own limits, tried in a process that takes them on."""

    def ends(code: str) -> subprocess.CompletedProcess[bytes]:
        setup = "import sys; sys.path.insert(0, sys.argv[1]); import sandbox, os, socket, subprocess; "
        folder = os.path.dirname(sandbox.__file__)
        return subprocess.run(
            [
                sys.executable,
                "-c",
                setup + "sys.addaudithook(sandbox._refuse); " + code,
                folder,
                str(tmp_path / "w"),
            ],
            capture_output=True,
            check=False,
        )

    for code in (
        "socket.create_connection(('127.0.0.1', 9))",
        "subprocess.run(['true'])",
        "os.system('true')",
        "open(sys.argv[2], 'w')",
        "os.fork()",
    ):
        assert ends(code).returncode == 13, code
    assert ends("open(sandbox.__file__).read()").returncode == 0
    assert not (tmp_path / "w").exists()
